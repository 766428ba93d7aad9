"""Prompts in batches of like length, halved when memory runs out: one loop for scoring and for recording."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Generic, TypeVar

from pytest_pot.core.config import ScoringConfig
from pytest_pot.core.errors import PotError
from pytest_pot.engines.base import Engine, OutOfMemory, Room
from pytest_pot.engines.tokens import Tokens

__all__ = ["Batches", "Progress", "cheapest", "does_not_fit"]

_ROOM = Room(most=1024, per_forward=32)
"""Of an engine that does not say."""

_BEGINNING, _ALIKE = 32, 4
"""So many prompts that share so many first tokens stand together: engines may read what they share once."""

_WINDOW = (4, 16)
"""Of prompts in a random order, at least and at most so many at once with the batch size ``"auto"``. They are read sorted by
length, in as many forwards as cost least, and looked at together; a verdict may come at any time."""

Progress = Callable[[int, int], None]
"""Called with (prompts done, prompts in all)."""

Result = TypeVar("Result")


class Batches(Generic[Result]):
    """Does some work on every prompt, batch by batch.

    Which prompts share a batch follows from their lengths and the batch size alone: other shapes round differently, and a
    candidate that is compared with a recording must be at distance 0 from it where it is the same model. With the batch size
    ``"auto"`` it also follows from the room that the engines have, which on a GPU depends on the memory that is free.
    """

    def __init__(
        self,
        config: ScoringConfig,
        tokens: Sequence[Tokens] | Mapping[int, Tokens],
        progress: Progress | None = None,
        engines: Sequence[Engine] = (),
        total: int | None = None,
    ) -> None:
        """``tokens`` by prompt index; those that :meth:`run` is asked for have to be there by then.

        ``engines``: those that the work runs. ``total``: how many prompts there are, where ``tokens`` has not all of them.
        """
        self._config = config
        self._tokens = tokens
        self._progress = progress
        self._engines = engines
        self._total = len(tokens) if total is None else total
        self._done = 0
        self.most: int | None = None if config.batch_size == "auto" else config.batch_size
        """The most prompts per forward; halved whenever a batch does not fit into memory. None: as the lengths have it."""
        self._largest = 0

    @property
    def size(self) -> int:
        """Prompts per forward; with ``"auto"``, in the largest batch since memory last ran out."""
        return self._largest if self._config.batch_size == "auto" or self.most is None else self.most

    def run(self, work: Callable[[Sequence[int]], list[Result]], indices: Sequence[int] | None = None) -> dict[int, Result]:
        """``work(prompt indices)``, which returns a result per prompt; the results by prompt index, in the prompts' order.

        Args:
            indices: of the prompts to run, all by default.

        Raises:
            PotError: one prompt alone does not fit into memory.
        """
        # The longest first: neighbours are padded least, and if memory is short, it is known at once.
        todo = longest_first(self._tokens, range(len(self._tokens)) if indices is None else indices)
        results: dict[int, Result] = {}
        plan: list[int] = []
        planned_for = None
        while todo:
            circumstances = self.most, self._room()
            if not plan or circumstances != planned_for:
                plan, planned_for = self._plan(todo), circumstances
            batch = todo[: plan[0]]
            try:
                found = work(batch)
            except (OutOfMemory, MemoryError) as error:  # of an engine, or of what is made of its numbers
                if len(batch) == 1:
                    tokens = self._tokens[batch[0]]
                    raise does_not_fit(self._config, batch[0], len(tokens.ids), tokens.n_positions, error) from error
                self.most, self._largest = len(batch) // 2, 0
                continue
            self._largest = max(self._largest, len(batch))
            results.update(zip(batch, found, strict=True))
            todo, plan = todo[len(batch) :], plan[1:]
            self._done += len(batch)
            if self._progress is not None:
                self._progress(self._done, self._total)
        return {index: results[index] for index in sorted(results)}

    def _room(self) -> Room:
        rooms = [room for engine in self._engines if (room := getattr(engine, "room", None)) is not None] or [_ROOM]
        return Room(min(room.most for room in rooms), max(room.per_forward for room in rooms))

    def _plan(self, todo: Sequence[int]) -> list[int]:
        """How many of ``todo`` share the next forward, the one after it, and so on; at least the next."""
        if self._config.batch_size != "auto":
            assert self.most is not None
            return [self.most]
        return cheapest([len(self._tokens[index].ids) for index in todo], self._room(), self.most)

    def window(self, wanted: int | None) -> int:
        """How many prompts of a random order to run next, before what they say is looked at.

        A batch; with ``"auto"``, as many as have been run, so that there are never twice as many as were needed, and within
        limits no more than ``wanted`` (None: there is no telling).
        """
        if self._config.batch_size != "auto":
            return self._config.batch_size
        least, most = _WINDOW
        return max(least, min(most, self._done, most if wanted is None else wanted))


def longest_first(tokens: Sequence[Tokens] | Mapping[int, Tokens], indices: Sequence[int]) -> list[int]:
    """``indices`` of ``tokens``, by length; those that begin alike, with a few dozen tokens, stand together."""
    beginnings = {index: _beginning(tokens[index]) for index in indices}
    members = Counter(beginning for beginning in beginnings.values() if len(beginning) == _BEGINNING)
    # A few that begin alike gain less by it than they lose beside others that are longer or shorter.
    groups = {index: beginning if members[beginning] >= _ALIKE else () for index, beginning in beginnings.items()}
    lengths = {index: len(tokens[index].ids) for index in indices}
    longest: dict[tuple[int, ...], int] = {}
    for index, group in groups.items():
        longest[group] = max(lengths[index], longest.get(group, 0))
    return sorted(indices, key=lambda index: (-longest[groups[index]], groups[index], -lengths[index]))


def _beginning(tokens: Tokens) -> tuple[int, ...]:
    return tokens.ids[: min(_BEGINNING, tokens.prompt_len - 1)]


def cheapest(lengths: Sequence[int], room: Room, most: int | None = None) -> list[int]:
    """Sizes of batches of neighbours, in the order of ``lengths``, that cost least: padded tokens, and a price per forward.

    Args:
        lengths: of sequences, in tokens.
        most: the most sequences in a batch.
    """
    # cost[j]: of the cheapest batches for the first j sequences, the last of which begins at begin[j].
    cost, begin = [0], [0]
    for j in range(1, len(lengths) + 1):
        best, longest = None, 0
        for i in range(j - 1, -1, -1):
            longest = max(longest, lengths[i])
            tokens = longest * (j - i)
            if j - i > 1 and (tokens > room.most or (most is not None and j - i > most)):
                break
            if best is None or cost[i] + tokens < best:
                best, start = cost[i] + tokens, i
        assert best is not None
        cost.append(best + room.per_forward)
        begin.append(start)
    sizes, j = [], len(lengths)
    while j:
        sizes.append(j - begin[j])
        j = begin[j]
    return sizes[::-1]


def does_not_fit(config: ScoringConfig, index: int, length: int, n_positions: int, error: Exception) -> PotError:
    """The error of one prompt, ``length`` tokens with its continuation, that alone is too much."""
    reason = str(error) or "There is no memory to compare them"
    return PotError(
        f"out of memory with a single prompt: prompt {index} has {length} tokens and {n_positions} positions "
        f"(max_length={config.max_length}, top_k={config.top_k}). {reason}. Lower max_length or positions_per_prompt, set a "
        "top_k, or use a smaller dtype or another device"
    )
