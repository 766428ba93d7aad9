"""Run prompts in batches of similar length, and halve a batch when memory runs out; used for scoring and recording."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Generic, Protocol, TypeVar

from pytest_pot.core.config import ScoringConfig
from pytest_pot.core.errors import PotError
from pytest_pot.engines.base import Engine, OutOfMemory, Restartable, Room
from pytest_pot.engines.tokens import Tokens
from pytest_pot.scoring.batch_plan import cheapest, joint_room, longest_first, remaining_sizes, worth_repeating

__all__ = ["Batches", "Progress", "Started", "does_not_fit"]

_WINDOW = (4, 16)
"""Minimum and maximum number of prompts in a random order that run before we evaluate their scores, with the batch size
``"auto"``. We sort them by length and run them in the batches that cost least; a verdict may come after any window."""

_MOST_TRIALS = 8
"""How often at most an engine that measures its device runs a batch for that alone."""

Progress = Callable[[int, int], None]
"""A callback that gets the number of prompts done, and of all prompts."""

Result = TypeVar("Result")


class Started(Protocol[Result]):
    """Work on a batch that a device may still be doing."""

    def results(self) -> list[Result]:
        """One result per prompt of the batch, in order; waits for them."""


class Batches(Generic[Result]):
    """Does some work on every prompt, batch by batch.

    Which prompts share a batch depends only on their token ids and the batch size, because batches of another shape round
    differently, and an unchanged candidate must be at distance 0 from its baseline. With the batch size ``"auto"``, it also
    depends on the engines' room, which on a GPU depends on the free memory and on measured times; so a recording keeps its
    batches, and :meth:`repeat` runs them again.
    """

    def __init__(
        self,
        config: ScoringConfig,
        tokens: Sequence[Tokens] | Mapping[int, Tokens],
        progress: Progress | None = None,
        engines: Sequence[Engine] = (),
        total: int | None = None,
    ) -> None:
        """Prepare to run prompts.

        Args:
            config: sets the batch size.
            tokens: by prompt index; may grow, as long as it has the prompts that :meth:`run` is asked for.
            progress: called after each batch.
            engines: those that the work runs; the one with the least room counts.
            total: how many prompts there are, for ``progress``; by default the length of ``tokens``.
        """
        self._config = config
        self._tokens = tokens
        self._progress = progress
        self._engines = engines
        self._total = len(tokens) if total is None else total
        self._done = 0
        self.most: int | None = None if config.batch_size == "auto" else config.batch_size
        """Maximum prompts per forward pass, halved when a batch does not fit into memory. None: only the room limits it."""
        self._largest = 0
        self._recorded: Sequence[Sequence[int]] | None = None
        self.ran: list[tuple[int, ...]] = []
        """The prompts of each batch, in the order in which they ran."""

    @property
    def size(self) -> int:
        """Prompts per forward pass; with ``"auto"``, those of the largest batch since memory last ran out."""
        return self._largest if self._config.batch_size == "auto" or self.most is None else self.most

    @property
    def planned(self) -> bool:
        """Whether the room decides what a batch is, and neither a given size nor a recording."""
        return self._config.batch_size == "auto" and self._recorded is None

    def run(self, work: Callable[[Sequence[int]], Started[Result]], indices: Sequence[int] | None = None) -> dict[int, Result]:
        """Call ``work`` on batches of prompts and collect the results.

        The next batch is started before the results of the last one are waited for, so that the host prepares a batch while
        the device computes another.

        Args:
            work: gets the prompt indices of a batch, and starts to compute one result per prompt.
            indices: the prompts to run, all by default.

        Returns:
            the results by prompt index, in increasing order.

        Raises:
            PotError: a single prompt does not fit into memory.
        """
        remaining = self._order(indices)
        results: dict[int, Result] = {}
        plan: list[int] = []
        plan_limits = None
        waiting: tuple[Sequence[int], Started[Result]] | None = None
        may_start = True
        while remaining or waiting is not None:
            started: tuple[Sequence[int], Started[Result]] | None = None
            batch: Sequence[int] = ()
            try:
                if remaining and may_start:
                    limits = self.most, self.room
                    if not plan or limits != plan_limits:
                        plan, plan_limits = self._plan(remaining), limits
                    batch = remaining[: plan[0]]
                    started = batch, work(batch)
                    remaining, plan = remaining[len(batch) :], plan[1:]
                may_start = True
                if waiting is not None:
                    batch, pending = waiting
                    results.update(zip(batch, pending.results(), strict=True))
                    self._count(batch)
                waiting = started
            except (OutOfMemory, MemoryError) as error:  # from an engine, or from the arithmetic after it
                if waiting is not None and batch is not waiting[0]:
                    may_start = False  # first collect what waits: it may hold the memory, and is no work to lose
                    continue
                self._halve(batch, error)
                # What was not collected runs again, in the order of before.
                again = [index for part in (waiting, started) if part is not None for index in part[0] if index not in results]
                remaining, plan, waiting = [*again, *remaining], [], None
        return {index: results[index] for index in sorted(results)}

    def _count(self, batch: Sequence[int]) -> None:
        self._largest = max(self._largest, len(batch))
        self.ran.append(tuple(batch))
        self._done += len(batch)
        if self._progress is not None:
            self._progress(self._done, self._total)

    def _halve(self, batch: Sequence[int], error: Exception) -> None:
        """Run at most half as many prompts at a time as in ``batch``, which did not fit."""
        if len(batch) == 1:
            tokens = self._tokens[batch[0]]
            raise does_not_fit(self._config, batch[0], len(tokens.ids), tokens.n_positions, error) from error
        self.most, self._largest = len(batch) // 2, 0

    def planned_batches(self, indices: Sequence[int] | None = None) -> list[list[int]]:
        """The batches that :meth:`run` would run of ``indices``, by default of all prompts, as far as is known now."""
        order, batches = self._order(indices), []
        while order:
            for size in self._plan(order):
                batches.append(order[:size])
                order = order[size:]
        return batches

    def repeat(self, recorded: Sequence[Sequence[int]], *, at_any_cost: bool) -> None:
        """Let :meth:`run` run the batches of a recording where it runs all prompts; batches that do not fit are halved.

        Args:
            recorded: prompt indices of each batch; each prompt once.
            at_any_cost: even if batches of our own would be much cheaper.
        """
        if at_any_cost or worth_repeating(recorded, self._tokens, self.room):
            self._recorded = recorded

    def settle(self, work: Callable[[Sequence[int]], object]) -> None:
        """With the batch size ``"auto"``, let engines measure their device if they have not.

        We run the first batch and drop its results, until the costs are known or all prompts are in the batch. Where nothing
        has to be measured, nothing runs.
        """
        size, ran = 0, 0
        while self._config.batch_size == "auto" and ran < _MOST_TRIALS and not self.room.settled:
            order = self._order(None)
            batch = order[: self._plan(order)[0]]
            if len(batch) == size == len(order):  # no larger batch can be run
                break
            size, ran = len(batch), ran + 1
            try:
                work(batch)
            except (OutOfMemory, MemoryError):  # the run finds out itself what fits
                break
        for engine in self._engines if ran else ():
            if isinstance(engine, Restartable):
                engine.restart()  # the other model has no such batches behind it

    @property
    def room(self) -> Room:
        """How much fits into a batch, and what it costs, for the engines together."""
        return joint_room([getattr(engine, "room", None) for engine in self._engines])

    def _order(self, indices: Sequence[int] | None) -> list[int]:
        """The order in which ``indices``, by default all prompts, run."""
        if self._recorded is not None and indices is None:
            return [index for batch in self._recorded for index in batch]
        # Longest first: neighbours need the least padding, and if memory is too small, we find out at once.
        return longest_first(self._tokens, range(len(self._tokens)) if indices is None else indices)

    def _plan(self, remaining: Sequence[int]) -> list[int]:
        """The sizes of the next batches of ``remaining``, in order; at least of the first one."""
        if self._recorded is not None:
            return remaining_sizes(self._recorded, len(remaining), self.most)
        if self._config.batch_size != "auto":
            assert self.most is not None
            return [self.most]
        return cheapest([len(self._tokens[index].ids) for index in remaining], self.room, self.most)

    def window(self, wanted: int | None) -> int:
        """How many prompts in a random order to run before we evaluate their scores.

        A batch. With ``"auto"``, as many as have run already, so that we run less than twice the prompts that were needed;
        within ``_WINDOW``, and at most ``wanted`` (None: unknown) unless that is below its minimum.
        """
        if self._config.batch_size != "auto":
            return self._config.batch_size
        least, most = _WINDOW
        return max(least, min(most, self._done, most if wanted is None else wanted))


def does_not_fit(config: ScoringConfig, index: int, length: int, n_positions: int, error: Exception) -> PotError:
    """The error for a single prompt, with ``length`` tokens including its continuation, that does not fit into memory."""
    reason = str(error) or "No memory is left to process the distributions"
    return PotError(
        f"out of memory with a single prompt: prompt {index} has {length} tokens and {n_positions} positions "
        f"(max_length={config.max_length}, top_k={config.top_k}). {reason}. Lower max_length or positions_per_prompt, set a "
        "top_k, or use a smaller dtype or another device"
    )
