"""A progress line on a terminal, for gates that take more than a few seconds; nothing anywhere else."""

from __future__ import annotations

import math
import os
import time
from typing import Self

import pytest

from pytest_pot.plugin.pytest_internals import capture_suspended

__all__ = ["ProgressLine"]

_QUIET_S = 3.0
_REDRAW_S = 0.3


class ProgressLine:
    """Redraws ``pot: test_it: 12/32 prompts, 3 s left`` in one line, past pytest's capture, and wipes it at the end."""

    def __init__(self, config: pytest.Config, what: str, counted: str) -> None:
        self._config = config
        self._what = what
        self._counted = counted
        self._started = self._stage_started = self._drawn = time.monotonic()
        self._stage: str | None = None
        self._width = 0
        reporter = config.pluginmanager.getplugin("terminalreporter")
        wanted = reporter is not None and reporter.isatty and reporter.verbosity >= 0 and not os.environ.get("CI")
        self._reporter = reporter if wanted else None

    def __call__(self, done: int, total: int, stage: str | None = None, /) -> None:
        """See :class:`~pytest_pot.gates.base.Progress`."""
        now = time.monotonic()
        if stage != self._stage:
            self._stage, self._stage_started = stage, now
            self._drawn = -math.inf  # another text: show it at once
        if now - self._started < _QUIET_S or now - self._drawn < _REDRAW_S:
            return
        self._drawn = now
        steps = f"{done}/{total} {self._counted}" if stage is None else f"{stage}, {done} of {total} steps"
        if not total:
            steps = stage or self._counted
        left = f", {(now - self._stage_started) / done * (total - done):.0f} s left" if done else ""
        self._write(f"pot: {self._what}: {steps}{left}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Wipe the line, if one was drawn."""
        if self._width:
            self._write("")

    def _write(self, text: str) -> None:
        if self._reporter is None:
            return
        line = "\r" + text.ljust(self._width) + ("" if text else "\r")
        with capture_suspended(self._config):
            if not self._width:
                self._reporter.ensure_newline()  # the line that pytest has begun is not ours to wipe
            self._reporter.write(line, flush=True)
        self._width = len(text)
