"""How long a diagnosis may search."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["TimeBudget"]


class TimeBudget:
    """Seconds for searches. What any diagnosis reads once, such as all weights, does not count."""

    def __init__(self, seconds: float | None = None) -> None:
        """``seconds``: None for as many as it takes."""
        self._seconds = math.inf if seconds is None else seconds
        self._used = 0.0

    @contextmanager
    def counted(self) -> Iterator[None]:
        """Count the time until the context ends."""
        started = time.monotonic()
        try:
            yield
        finally:
            self._used += time.monotonic() - started

    def spent(self, share: float = 1.0) -> bool:
        """Whether that ``share`` of the time, 0..1, is over."""
        return self._used >= share * self._seconds
