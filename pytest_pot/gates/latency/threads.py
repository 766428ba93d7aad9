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
"""Half the threads must take at most this share of the time, where they should take more: then some threads only waited."""


@contextmanager
def uncrowded(run: Callable[[], object], watch: Stopwatch, threads: CpuThreads, most_s: float = math.inf) -> Iterator[None]:
    """Halve the number of threads, again and again, for as long as that makes ``run`` faster; afterwards it is as before.

    A parallel loop ends when its last thread does. Where another process computes on one of the cores, that thread is suspended
    for whole time slices, and the others wait: on two cores beside one such process, forwards of SmolLM2 took 122 to 269 ms
    with two threads, and 103 to 107 ms with one. Ratios of such times say little, however many there are.

    Args:
        run: the work of the reference. A candidate that is slow with many threads would be excused by fewer of them.
        most_s: seconds for finding that out; if it takes longer, the number of threads stays as it is.
    """
    usual, started = threads.count, watch.now()

    def seconds(count: int) -> float:
        threads.count = count
        run()
        times: list[float] = []
        while len(times) < _RUNS and watch.now() - started < most_s:
            times.append(watch.time(run))
        return statistics.median(times) if len(times) == _RUNS else math.inf

    try:
        chosen, fastest = usual, seconds(usual) if usual > 1 else 0.0
        while chosen > 1 and math.isfinite(fastest) and (halved := seconds(chosen // 2)) <= _FASTER * fastest:
            chosen, fastest = chosen // 2, halved
        threads.count = chosen
        yield
    finally:
        threads.count = usual
