"""Do the same with many things, several at a time, in threads."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

__all__ = ["side_by_side"]

Item = TypeVar("Item")
Result = TypeVar("Result")

_WAKE_S = 0.2
"""How often the waiting thread looks up: on Windows, Ctrl-C does not interrupt a thread that waits without end."""
_LEAVE_S = 2.0
"""Seconds that all threads get to end once their requests were interrupted. They are daemons: one that does not end holds up
nobody."""


def side_by_side(
    function: Callable[[Item], Result], items: Iterable[Item], n_threads: int, interrupt: Callable[[], None]
) -> list[Result]:
    """``function`` of each item, at most ``n_threads`` at a time, results in the order of ``items``.

    Args:
        interrupt: makes what runs fail; it is called once one has failed, or when the waiting thread is interrupted.

    Raises:
        the first error that ``function`` raises. What has not begun by then is left out.
    """
    waiting = list(items)
    if min(n_threads, len(waiting)) < 2:
        return [function(item) for item in waiting]
    work = _Work(function, waiting)
    threads = [
        threading.Thread(target=work.run, name=f"pot-server-{index}", daemon=True)
        for index in range(min(n_threads, len(waiting)))
    ]
    try:
        for thread in threads:
            thread.start()
        while not work.ended.wait(_WAKE_S):
            pass
    finally:
        if not work.complete:
            work.stop()
            interrupt()
        until = time.monotonic() + _LEAVE_S
        for thread in threads:
            if thread.ident is not None:
                thread.join(max(0.0, until - time.monotonic()))
    if work.error is not None:
        raise work.error
    return work.results


class _Work:
    def __init__(self, function: Callable[[Any], Any], items: list[Any]) -> None:
        self._function = function
        self._items = items
        self._next = 0
        self._done = 0
        self._lock = threading.Lock()
        self.results: list[Any] = [None] * len(items)
        self.error: BaseException | None = None
        self.ended = threading.Event()

    @property
    def complete(self) -> bool:
        return self._done == len(self._items)

    def stop(self) -> None:
        """Begin nothing more."""
        with self._lock:
            self._next = len(self._items)

    def run(self) -> None:
        while (index := self._take()) is not None:
            try:
                result = self._function(self._items[index])
            except BaseException as error:  # whatever it is, it is raised where the results are waited for
                self._fail(error)
                return
            self._finish(index, result)

    def _take(self) -> int | None:
        with self._lock:
            if self._next == len(self._items):
                return None
            self._next += 1
            return self._next - 1

    def _finish(self, index: int, result: Any) -> None:
        with self._lock:
            self.results[index] = result
            self._done += 1
            if self.complete:
                self.ended.set()

    def _fail(self, error: BaseException) -> None:
        with self._lock:
            if self.error is None:
                self.error = error
            self._next = len(self._items)
        self.ended.set()
