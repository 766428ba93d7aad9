"""How many CPU threads torch computes with, and fewer of them while other processes hold some of the cores."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from pytest_pot.gates.latency.stopwatch import Stopwatch

__all__ = ["cpu_threads", "uncrowded"]

_RUNS = 5
_FASTER = 0.95
"""Half the threads have to take at most this share of the time, where they should take more: then the others only waited."""


def cpu_threads() -> int:
    """Threads that torch computes with on the CPU."""
    return torch.get_num_threads()


@contextmanager
def uncrowded(run: Callable[[], object], watch: Stopwatch, most_s: float = math.inf) -> Iterator[None]:
    """Half as many threads, and half of those again, for as long as that makes ``run`` faster; afterwards as before.

    A parallel loop ends when its last thread does. Where another process computes on one of the cores, that thread is put
    aside for whole time slices, and the others wait: on two cores beside one such process, forwards of SmolLM2 took 122 to
    269 ms with two threads, and 103 to 107 ms with one. Ratios of such times say little, however many there are.

    Args:
        run: the work of a model that is known to be sound: one that is slow with many threads would only be found out by them.
        most_s: seconds to find that out in; what is not known by then is left as it is.
    """
    threads, started = cpu_threads(), watch.now()

    def seconds(n: int) -> float:
        torch.set_num_threads(n)
        run()
        taken: list[float] = []
        while len(taken) < _RUNS and watch.now() - started < most_s:
            taken.append(watch.time(run))
        return statistics.median(taken) if len(taken) == _RUNS else math.inf

    try:
        chosen, fastest = threads, seconds(threads) if threads > 1 else 0.0
        while chosen > 1 and math.isfinite(fastest) and (halved := seconds(chosen // 2)) <= _FASTER * fastest:
            chosen, fastest = chosen // 2, halved
        torch.set_num_threads(chosen)
        yield
    finally:
        torch.set_num_threads(threads)
