"""Several things at a time, in threads."""

from __future__ import annotations

import threading
import time

import pytest

from pytest_pot.engines.server.side_by_side import side_by_side

from .local_server import HANGS_S


def test_results_come_in_the_order_of_the_items() -> None:
    def wait(i: int) -> int:
        time.sleep(0.001 * (7 - i % 7))
        return -i

    assert side_by_side(wait, iter(range(50)), 8, lambda: None) == [-i for i in range(50)]


def test_one_at_a_time_needs_no_thread() -> None:
    here = threading.get_ident()
    assert side_by_side(lambda _: threading.get_ident(), range(3), 1, lambda: None) == [here] * 3
    assert side_by_side(lambda _: threading.get_ident(), [1], 8, lambda: None) == [here]
    assert here not in side_by_side(lambda _: threading.get_ident(), range(3), 2, lambda: None)


def test_threads_are_named_and_joined() -> None:
    meeting = threading.Barrier(3)

    def name(_: int) -> str:
        meeting.wait(HANGS_S)
        return threading.current_thread().name

    names = set(side_by_side(name, range(9), 3, lambda: None))
    assert names == {"pot-server-0", "pot-server-1", "pot-server-2"}
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("pot-server")]


@pytest.mark.parametrize("error", [ValueError("x"), SystemExit(3), KeyboardInterrupt()])
def test_the_first_error_comes_out_as_it_is(error: BaseException) -> None:
    interrupts: list[int] = []
    begun: list[int] = []
    interrupted = threading.Event()

    def fail(i: int) -> None:
        begun.append(i)
        if i == 2:
            raise error
        interrupted.wait(HANGS_S)

    def interrupt() -> None:
        interrupts.append(1)
        interrupted.set()

    with pytest.raises(type(error)) as raised:
        side_by_side(fail, range(100), 4, interrupt)
    assert raised.value is error
    assert interrupts == [1]
    assert len(begun) <= 4


def test_no_interrupt_where_all_went_well() -> None:
    interrupts: list[int] = []
    side_by_side(lambda i: i, range(9), 3, lambda: interrupts.append(1))
    assert interrupts == []
