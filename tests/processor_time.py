"""How long this thread computes: other processes do not count, and a slow processor is slow with the yardstick too."""

from __future__ import annotations

import time
from collections.abc import Callable

__all__ = ["in_yardsticks", "least_s"]

_ROUNDS = 3


def least_s(run: Callable[[], object], rounds: int = _ROUNDS) -> float:
    """The seconds that ``run`` computes, the least of some rounds."""
    seconds = []
    for _ in range(rounds):
        started = time.thread_time()
        run()
        seconds.append(time.thread_time() - started)
    return min(seconds)


def in_yardsticks(run: Callable[[], object], rounds: int = _ROUNDS) -> float:
    """What ``run`` computes, in multiples of a loop of Python that takes about 10 ms."""
    return least_s(run, rounds) / least_s(_yardstick)


def _yardstick() -> int:
    return sum(i * i for i in range(200_000))
