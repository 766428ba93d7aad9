"""The next batch starts before the results of the last one are waited for, and no error loses or doubles a result."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_pot import PotError, ScoringConfig
from pytest_pot.engines.base import OutOfMemory
from pytest_pot.engines.tokens import Tokens
from pytest_pot.scoring.batching import Batches

Event = tuple[str, tuple[int, ...]]


@dataclass
class Work:
    """Gives prompt i the result 10 i; the calls in ``fails``, by number, raise ``error``."""

    fails: frozenset[int] = frozenset()
    error: type[Exception] = OutOfMemory
    needs: int | None = None
    """How many prompts fit, those that wait included; None: any number."""
    held: int = 0
    events: list[Event] = field(default_factory=list)

    def __call__(self, batch: Sequence[int]) -> Pending:
        self.note("start", batch)
        if self.needs is not None and self.held + len(batch) > self.needs:
            raise self.error(f"{self.held} + {len(batch)} prompts do not fit")
        self.held += len(batch)
        return Pending(self, tuple(batch))

    def note(self, what: str, batch: Sequence[int]) -> None:
        number = len(self.events)
        assert number < 300, "runs for ever"
        self.events.append((what, tuple(batch)))
        if number in self.fails:
            raise self.error(f"call {number}")


@dataclass
class Pending:
    work: Work
    batch: tuple[int, ...]

    def results(self) -> list[int]:
        self.work.held -= len(self.batch)
        self.work.note("results", self.batch)
        return [10 * index for index in self.batch]


def batches(n: int, size: int, progress: list[tuple[int, int]] | None = None) -> Batches[int]:
    tokens = [Tokens(tuple(range(40 - index)), 30 - index) for index in range(n)]  # the longest first, as they run
    note = (lambda done, total: progress.append((done, total))) if progress is not None else None
    return Batches(ScoringConfig(batch_size=size), tokens, note)


def test_a_batch_starts_before_the_results_of_the_last_one_are_waited_for() -> None:
    work, progress = Work(), list[tuple[int, int]]()
    todo = batches(5, 2, progress)
    assert todo.run(work) == {0: 0, 1: 10, 2: 20, 3: 30, 4: 40}
    first, second, last = (0, 1), (2, 3), (4,)
    assert work.events == [
        ("start", first),
        ("start", second),
        ("results", first),
        ("start", last),
        ("results", second),
        ("results", last),
    ]
    assert todo.ran == [first, second, last]
    assert progress == [(2, 5), (4, 5), (5, 5)]


def test_results_that_wait_are_kept_where_the_next_batch_does_not_fit() -> None:
    work = Work(needs=4)
    todo = batches(8, 4)
    assert todo.run(work) == {index: 10 * index for index in range(8)}
    assert todo.ran == [(0, 1, 2, 3), (4, 5, 6, 7)]  # neither is halved: each fits alone
    assert [event for event in work.events if event[0] == "results"] == [("results", batch) for batch in todo.ran]


def test_one_prompt_is_too_much_only_where_nothing_else_waits() -> None:
    todo = batches(3, 1)
    assert todo.run(Work(needs=1)) == {0: 0, 1: 10, 2: 20}
    with pytest.raises(PotError, match="out of memory with a single prompt: prompt 0 has 40 tokens"):
        batches(3, 1).run(Work(needs=0))


def test_a_batch_whose_results_do_not_fit_runs_again_in_halves_before_the_next() -> None:
    work = Work(frozenset({2}))  # the results of the first batch, while the second one waits
    todo = batches(8, 4)
    assert todo.run(work) == {index: 10 * index for index in range(8)}
    assert todo.ran == [(0, 1), (2, 3), (4, 5), (6, 7)]
    assert todo.size == 2


def test_the_results_of_the_last_batch_may_fail_too() -> None:
    work = Work(frozenset({3}))
    todo = batches(4, 2)
    assert todo.run(work) == {0: 0, 1: 10, 2: 20, 3: 30}
    assert todo.ran == [(0, 1), (2,), (3,)]
    assert [event for event in work.events if event[0] == "start"] == [("start", b) for b in ((0, 1), (2, 3), (2,), (3,))]


@pytest.mark.parametrize("call", range(6))
def test_no_batch_starts_after_another_error(call: int) -> None:
    work, progress = Work(frozenset({call}), error=PotError), list[tuple[int, int]]()
    with pytest.raises(PotError, match=f"call {call}"):
        batches(6, 2, progress).run(work)
    assert len(work.events) == call + 1
    assert [done for done, _ in progress] == [
        2 * i for i in range(1, sum(what == "results" for what, _ in work.events[:-1]) + 1)
    ]


@given(
    n=st.integers(1, 9),
    size=st.integers(1, 5),
    fails=st.frozensets(st.integers(0, 30), max_size=6),
    needs=st.none() | st.integers(1, 9),
    error=st.sampled_from([OutOfMemory, MemoryError]),
)
def test_no_failure_loses_or_doubles_a_result(
    n: int, size: int, fails: frozenset[int], needs: int | None, error: type[Exception]
) -> None:
    work, progress = Work(fails, error, needs), list[tuple[int, int]]()
    todo = batches(n, size, progress)
    try:
        results = todo.run(work)
    except PotError:
        failed = work.events[-1][1]
        assert len(failed) == 1  # a single prompt
        assert not [index for batch in todo.ran for index in batch if index in failed]
    else:
        assert list(results.items()) == [(index, 10 * index) for index in range(n)]
        assert [index for batch in todo.ran for index in batch] == list(range(n))
    done = 0
    for batch, (count, total) in zip(todo.ran, progress, strict=True):
        done += len(batch)
        assert (count, total) == (done, n)
