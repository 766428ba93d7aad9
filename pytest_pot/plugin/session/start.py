"""When the session began, to tell files that this run has written from older ones."""

from __future__ import annotations

import time

import pytest

__all__ = ["note_start", "session_start"]

_START = pytest.StashKey[float]()


def note_start(config: pytest.Config) -> None:
    """The session begins now."""
    config.stash[_START] = time.time()


def session_start(config: pytest.Config) -> float:
    """When it began, in seconds since the epoch, as files' times are."""
    return config.stash[_START]
