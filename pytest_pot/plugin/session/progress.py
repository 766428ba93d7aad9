"""A progress line on a terminal, for gates that take more than a few seconds; nothing anywhere else."""

from __future__ import annotations

import os
import time
from typing import Self

import pytest

from pytest_pot.plugin.pytest_internals import capture_suspended

__all__ = ["ProgressLine"]

_QUIET_S = 3.0
_REDRAW_S = 0.3


class ProgressLine:
    """Redraws ``pot: 12/32 prompts`` in one line, past pytest's capture, and wipes it at the end."""

    def __init__(self, config: pytest.Config, what: str, counted: str) -> None:
        self._config = config
        self._what = what
        self._counted = counted
        self._started = self._drawn = time.monotonic()
        self._width = 0
        reporter = config.pluginmanager.getplugin("terminalreporter")
        wanted = reporter is not None and reporter.isatty and reporter.verbosity >= 0 and not os.environ.get("CI")
        self._reporter = reporter if wanted else None

    def __call__(self, done: int, total: int) -> None:
        now = time.monotonic()
        if now - self._started < _QUIET_S or now - self._drawn < _REDRAW_S:
            return
        self._drawn = now
        left = (now - self._started) / done * (total - done)
        self._write(f"pot: {self._what}: {done}/{total} {self._counted}, {left:.0f} s left")

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
