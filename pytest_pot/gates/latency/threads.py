"""Timing with fewer CPU threads while other processes use some of the cores."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from pytest_pot.engines.base import CpuThreads
from pytest_pot.gates.latency.stopwatch import Stopwatch

__all__ = ["uncrowded"]

_RUNS = 5
_FASTER = 0.95
"""With half the threads, a run must take at most this share of the time. Normally it takes longer; if not, threads waited."""


@contextmanager
def uncrowded(run: Callable[[], object], watch: Stopwatch, threads: CpuThreads, most_s: float = math.inf) -> Iterator[None]:
    """Halve the number of threads repeatedly while that makes ``run`` faster; on exit, restore the number.

    A parallel loop ends when its last thread does. If another process computes on one of the cores, the thread there is
    suspended for whole time slices and the others wait for it. On two cores, beside one such process, forward passes of SmolLM2
    took 122 to 269 ms with two threads, and 103 to 107 ms with one. Even many ratios of such times say little.

    Args:
        run: the reference's work. With the candidate's, fewer threads could hide that the candidate is slow with many.
        most_s: the most seconds for choosing; if it takes longer, the number of threads does not change.
    """
    usual, start = threads.count, watch.now()

    def seconds(count: int) -> float:
        threads.count = count
        run()
        times: list[float] = []
        while len(times) < _RUNS and watch.now() - start < most_s:
            times.append(watch.time(run))
        return statistics.median(times) if len(times) == _RUNS else math.inf

    try:
        best, fastest = usual, seconds(usual) if usual > 1 else 0.0
        while best > 1 and math.isfinite(fastest) and (half_time := seconds(best // 2)) <= _FASTER * fastest:
            best, fastest = best // 2, half_time
        threads.count = best
        yield
    finally:
        threads.count = usual
