"""We use fewer CPU threads if that is faster, tested with a simulated clock."""

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
    """A simulated clock that a run advances by ``seconds[number of threads]``."""

    def __init__(self, seconds: dict[int, float]) -> None:
        self.seconds, self.now = seconds, 0.0
        self.thread_counts: list[int] = []

    def run(self) -> None:
        self.thread_counts.append(TorchThreads().count)
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
def test_threads_are_halved_as_long_as_that_is_faster(seconds: dict[int, float], chosen: int) -> None:
    torch.set_num_threads(max(seconds))
    machine = Machine(seconds)
    with uncrowded(machine.run, machine.watch, TorchThreads()):
        assert TorchThreads().count == chosen
    assert TorchThreads().count == max(seconds)
    assert set(machine.thread_counts) == (set(seconds) if len(seconds) > 1 else set())


def test_two_slow_runs_do_not_change_the_number_of_threads() -> None:
    torch.set_num_threads(2)
    machine = Machine({2: 1.0, 1: 1.6})

    def run() -> None:
        machine.now += 30.0 * (len(machine.thread_counts) in (2, 3))  # two of the five timed runs
        machine.run()

    with uncrowded(run, machine.watch, TorchThreads()):
        assert TorchThreads().count == 2


def test_an_error_restores_the_number_of_threads() -> None:
    torch.set_num_threads(2)
    machine = Machine({2: 1.0, 1: 0.1})
    with pytest.raises(ZeroDivisionError), uncrowded(machine.run, machine.watch, TorchThreads()):
        1 / (TorchThreads().count - 1)
    assert TorchThreads().count == 2


def test_a_failing_run_restores_the_number_of_threads() -> None:
    torch.set_num_threads(2)

    machine = Machine({2: 1.0})  # with one thread it cannot run
    with pytest.raises(KeyError), uncrowded(machine.run, machine.watch, TorchThreads()):
        pass
    assert TorchThreads().count == 2


def test_without_enough_time_the_number_of_threads_does_not_change() -> None:
    torch.set_num_threads(2)
    machine = Machine({2: 1.0, 1: 0.5})
    with uncrowded(machine.run, machine.watch, TorchThreads(), most_s=4):
        assert TorchThreads().count == 2
    assert machine.now < 6
