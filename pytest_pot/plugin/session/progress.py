"""A line that shows how far a slow gate is, on a terminal; nothing anywhere else."""

from __future__ import annotations

import math
import os
import sys
import time
from typing import Self

import pytest

from pytest_pot.core.text import columns, cut_middle, printable
from pytest_pot.plugin.pytest_internals import capture_suspended, terminal_width

__all__ = ["ProgressLine"]

_QUIET_S = 3.0
_REDRAW_S = 0.3
_BELOW = "\x1bD\x1b[A\x1b7\x1b[B\r"
"""Make room for a line below, save the cursor, and go there. ``ESC D`` scrolls where the cursor is in the last line, so that
the saved place is right there too, and keeps the column, which a line feed would not."""
_BACK = "\x1b[K\x1b8"
"""Wipe the rest of the line, and go back to the saved place."""


class ProgressLine:
    """Draws ``pot: test_it: candidate 12/32 prompts, 3 s left`` past pytest's capture, and wipes it at the end.

    It is in the line below the one that pytest has begun, ``test_it.py ..``, which pytest then continues as if nothing had been
    drawn. Drawn in a line of its own, it would make pytest begin another one, with the name of the file, for each gate; drawn
    over pytest's, it would have to know what is written there, which other plugins and the tests themselves (``-s``) write to
    as well. Terminals have understood the sequences since the VT100. The console of Windows may not, and gets no line.
    """

    def __init__(self, config: pytest.Config, what: str, counted: str) -> None:
        """``what``: the name of the test. ``counted``: see :attr:`~pytest_pot.gates.base.Gate.counted`."""
        self._config = config
        self._what = what
        self._counted = counted
        self._started = self._stage_started = time.monotonic()
        self._drawn = -math.inf
        self._stage: str | None = None
        self._is_drawn = False
        reporter = config.pluginmanager.getplugin("terminalreporter")
        wanted = reporter is not None and reporter.isatty and reporter.verbosity >= 0 and _understands_sequences()
        self._reporter = reporter if wanted and not os.environ.get("CI") else None

    def __call__(self, done: int, total: int, stage: str | None = None, /, *, at_most: bool = False) -> None:
        """See :class:`~pytest_pot.gates.base.Progress`."""
        now = time.monotonic()
        if stage != self._stage:
            self._stage, self._stage_started = stage, now
            self._drawn = -math.inf  # another text: show it at once
        if self._reporter is None or now - self._started < _QUIET_S or now - self._drawn < _REDRAW_S:
            return
        self._drawn = now
        steps = _steps(done, total, stage, self._counted, at_most)
        left = "" if at_most else _left(now - self._stage_started, done, total)
        self._write(steps + left)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Wipe the line, if one was drawn."""
        if self._is_drawn:
            self._send("")

    def _write(self, steps: str) -> None:
        width = terminal_width(self._config) - 1  # in its last column, terminals differ
        name = cut_middle(printable(self._what), max(8, width - columns(f"pot: : {steps}")))
        self._send(cut_middle(f"pot: {name}: {steps}", width))
        self._is_drawn = True

    def _send(self, text: str) -> None:
        assert self._reporter is not None
        with capture_suspended(self._config):
            self._reporter.write_raw(f"{_BELOW}{text}{_BACK}", flush=True)


def _understands_sequences() -> bool:
    return sys.platform != "win32" and os.environ.get("TERM") != "dumb"


def _steps(done: int, total: int, stage: str | None, counted: str, at_most: bool) -> str:
    of = f"{done} of at most {total}" if at_most else f"{done}/{total}"
    if not total:
        return stage or counted
    return f"{of} {counted}" if stage is None else f"{stage} {of}"


def _left(seconds: float, done: int, total: int) -> str:
    """The time for the rest, at the speed so far; empty before and after."""
    if not 0 < done < total:
        return ""
    left = seconds / done * (total - done)
    return f", {left / 60:.0f} min left" if left >= 100 else f", {max(1, math.ceil(left))} s left"
