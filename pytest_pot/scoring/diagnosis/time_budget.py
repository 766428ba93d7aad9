"""How long a diagnosis may search."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["TimeBudget"]


class TimeBudget:
    """Seconds for searches. What any diagnosis reads once, such as all weights, does not count.

    They are seconds of the processor, in the thread that searches: on a machine with nothing else to do, as many as the clock
    shows. On a busy one, the clock would cut a search off that takes no more work than elsewhere. The time of the whole process
    would grow with the number of threads that compute for this one, which differs between a gate and a search. (Waiting for a
    GPU counts: the thread spins meanwhile, unless CUDA is told not to.)
    """

    def __init__(self, seconds: float | None = None) -> None:
        """``seconds``: None for as many as it takes."""
        self._seconds = math.inf if seconds is None else seconds
        self._used = 0.0

    @contextmanager
    def counted(self) -> Iterator[None]:
        """Count the time until the context ends."""
        started = time.thread_time()
        try:
            yield
        finally:
            self._used += time.thread_time() - started

    def spent(self, share: float = 1.0) -> bool:
        """Whether that ``share`` of the time, 0..1, is over."""
        return self._used >= share * self._seconds
