"""Fewer CPU threads where the others only wait, by a clock that a made-up run moves on."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from pytest_pot.engines.pytorch.threads import TorchThreads
from pytest_pot.gates.latency.stopwatch import Stopwatch
from pytest_pot.gates.latency.threads import uncrowded


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


class Machine:
    """A clock that a run moves on by what ``seconds`` says of the number of threads."""

    def __init__(self, seconds: dict[int, float]) -> None:
        self.seconds, self.now = seconds, 0.0
        self.tried: list[int] = []

    def run(self) -> None:
        self.tried.append(TorchThreads().count)
        self.now += self.seconds[TorchThreads().count]

    @property
    def watch(self) -> Stopwatch:
        return Stopwatch(lambda: self.now)


@pytest.mark.parametrize(
    ("seconds", "chosen"),
    [
        ({8: 1.0, 4: 2.0}, 8),
        ({8: 1.0, 4: 1.0}, 8),
        ({8: 1.0, 4: 0.97}, 8),
        ({8: 1.0, 4: 0.9, 2: 0.9}, 4),
        ({8: 1.0, 4: 0.5, 2: 0.3, 1: 0.2}, 1),
        ({3: 1.0, 1: 0.4}, 1),
        ({1: 1.0}, 1),
    ],
)
def test_half_the_threads_where_that_is_faster(seconds: dict[int, float], chosen: int) -> None:
    torch.set_num_threads(max(seconds))
    machine = Machine(seconds)
    with uncrowded(machine.run, machine.watch, TorchThreads()):
        assert TorchThreads().count == chosen
    assert TorchThreads().count == max(seconds)
    assert set(machine.tried) == (set(seconds) if len(seconds) > 1 else set())


def test_two_slow_runs_decide_nothing() -> None:
    torch.set_num_threads(2)
    machine = Machine({2: 1.0, 1: 1.6})

    def run() -> None:
        machine.now += 30.0 * (len(machine.tried) in (2, 3))  # two of the five that are timed
        machine.run()

    with uncrowded(run, machine.watch, TorchThreads()):
        assert TorchThreads().count == 2


def test_threads_are_put_back_after_an_error() -> None:
    torch.set_num_threads(2)
    machine = Machine({2: 1.0, 1: 0.1})
    with pytest.raises(ZeroDivisionError), uncrowded(machine.run, machine.watch, TorchThreads()):
        1 / (TorchThreads().count - 1)
    assert TorchThreads().count == 2


def test_threads_are_put_back_where_the_run_itself_fails() -> None:
    torch.set_num_threads(2)

    machine = Machine({2: 1.0})  # with one thread it cannot run
    with pytest.raises(KeyError), uncrowded(machine.run, machine.watch, TorchThreads()):
        pass
    assert TorchThreads().count == 2


def test_there_is_no_time_to_find_out() -> None:
    torch.set_num_threads(2)
    machine = Machine({2: 1.0, 1: 0.5})
    with uncrowded(machine.run, machine.watch, TorchThreads(), most_s=4):
        assert TorchThreads().count == 2
    assert machine.now < 6
