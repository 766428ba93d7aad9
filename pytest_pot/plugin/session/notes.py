"""What a run says once, however many of its tests it is true of, and only with ``-v``."""

from __future__ import annotations

from typing import Any

import pytest

__all__ = ["NOTES", "SessionNotes"]

_OUTPUT = "pot_notes"


class SessionNotes:
    """Collects lines, in this process and, under xdist, in its workers."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._lines: dict[str, None] = {}  # a set in the order of its lines

    @property
    def lines(self) -> list[str]:
        """Each line once, in the order in which they came."""
        return list(self._lines)

    def add(self, line: str) -> None:
        self._lines[line] = None

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self) -> None:
        output = getattr(self._config, "workeroutput", None)
        if output is not None:
            output[_OUTPUT] = self.lines

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        for line in getattr(node, "workeroutput", {}).get(_OUTPUT, []):
            self.add(line)


NOTES = pytest.StashKey[SessionNotes]()
"""Where a session's :class:`SessionNotes` are kept in ``config.stash``."""
