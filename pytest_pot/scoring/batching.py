"""Run prompts in batches of similar length, and halve a batch when memory runs out; used for scoring and recording."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Generic, TypeVar

from pytest_pot.core.config import ScoringConfig
from pytest_pot.core.errors import PotError
from pytest_pot.engines.base import Engine, OutOfMemory, Room
from pytest_pot.engines.tokens import Tokens

__all__ = ["Batches", "Progress", "cheapest", "does_not_fit"]

_DEFAULT_ROOM = Room(most=1024, per_forward=32)
"""Used if no engine tells its own room."""

_PREFIX_TOKENS, _MIN_GROUP = 32, 4
"""Group at least 4 prompts that share their first 32 tokens, because engines may compute what they share only once."""

_WINDOW = (4, 16)
"""Minimum and maximum number of prompts in a random order that run before we evaluate their scores, with the batch size
``"auto"``. We sort them by length and run them in the batches that cost least; a verdict may come after any window."""

Progress = Callable[[int, int], None]
"""A callback that gets the number of prompts done, and of all prompts."""

Result = TypeVar("Result")


class Batches(Generic[Result]):
    """Does some work on every prompt, batch by batch.

    Which prompts share a batch depends only on their token ids and the batch size, because batches of another shape round
    differently, and an unchanged candidate must be at distance 0 from its baseline. With the batch size ``"auto"``, it also
    depends on the engines' room, which on a GPU depends on the free memory.
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

    @property
    def size(self) -> int:
        """Prompts per forward pass; with ``"auto"``, those of the largest batch since memory last ran out."""
        return self._largest if self._config.batch_size == "auto" or self.most is None else self.most

    def run(self, work: Callable[[Sequence[int]], list[Result]], indices: Sequence[int] | None = None) -> dict[int, Result]:
        """Call ``work`` on batches of prompts and collect the results.

        Args:
            work: gets the prompt indices of a batch and returns one result per prompt.
            indices: the prompts to run, all by default.

        Returns:
            the results by prompt index, in increasing order.

        Raises:
            PotError: a single prompt does not fit into memory.
        """
        # Longest first: neighbours need the least padding, and if memory is too small, we find out at once.
        remaining = longest_first(self._tokens, range(len(self._tokens)) if indices is None else indices)
        results: dict[int, Result] = {}
        plan: list[int] = []
        plan_limits = None
        while remaining:
            limits = self.most, self._room()
            if not plan or limits != plan_limits:
                plan, plan_limits = self._plan(remaining), limits
            batch = remaining[: plan[0]]
            try:
                batch_results = work(batch)
            except (OutOfMemory, MemoryError) as error:  # from an engine, or from the arithmetic after it
                if len(batch) == 1:
                    tokens = self._tokens[batch[0]]
                    raise does_not_fit(self._config, batch[0], len(tokens.ids), tokens.n_positions, error) from error
                self.most, self._largest = len(batch) // 2, 0
                continue
            self._largest = max(self._largest, len(batch))
            results.update(zip(batch, batch_results, strict=True))
            remaining, plan = remaining[len(batch) :], plan[1:]
            self._done += len(batch)
            if self._progress is not None:
                self._progress(self._done, self._total)
        return {index: results[index] for index in sorted(results)}

    def _room(self) -> Room:
        rooms = [room for engine in self._engines if (room := getattr(engine, "room", None)) is not None] or [_DEFAULT_ROOM]
        return Room(min(room.most for room in rooms), max(room.per_forward for room in rooms))

    def _plan(self, remaining: Sequence[int]) -> list[int]:
        """The sizes of the next batches of ``remaining``, in order; at least of the first one."""
        if self._config.batch_size != "auto":
            assert self.most is not None
            return [self.most]
        return cheapest([len(self._tokens[index].ids) for index in remaining], self._room(), self.most)

    def window(self, wanted: int | None) -> int:
        """How many prompts in a random order to run before we evaluate their scores.

        A batch. With ``"auto"``, as many as have run already, so that we run less than twice the prompts that were needed;
        within ``_WINDOW``, and at most ``wanted`` (None: unknown) unless that is below its minimum.
        """
        if self._config.batch_size != "auto":
            return self._config.batch_size
        least, most = _WINDOW
        return max(least, min(most, self._done, most if wanted is None else wanted))


def longest_first(tokens: Sequence[Tokens] | Mapping[int, Tokens], indices: Sequence[int]) -> list[int]:
    """Sort ``indices`` by the length of their ``tokens``, but keep groups that share their first tokens together."""
    prefixes = {index: _first_tokens(tokens[index]) for index in indices}
    group_sizes = Counter(prefix for prefix in prefixes.values() if len(prefix) == _PREFIX_TOKENS)
    # Smaller groups gain less from a shared prefix than they lose in padding, because their lengths differ.
    groups = {index: prefix if group_sizes[prefix] >= _MIN_GROUP else () for index, prefix in prefixes.items()}
    lengths = {index: len(tokens[index].ids) for index in indices}
    longest: dict[tuple[int, ...], int] = {}
    for index, group in groups.items():
        longest[group] = max(lengths[index], longest.get(group, 0))
    return sorted(indices, key=lambda index: (-longest[groups[index]], groups[index], -lengths[index]))


def _first_tokens(tokens: Tokens) -> tuple[int, ...]:
    return tokens.ids[: min(_PREFIX_TOKENS, tokens.prompt_len - 1)]


def cheapest(lengths: Sequence[int], room: Room, most: int | None = None) -> list[int]:
    """Split sequences into batches of neighbours so that the cost is least: padded tokens, plus a cost per forward pass.

    Args:
        lengths: of the sequences, in tokens; the batches keep their order.
        room: maximum padded tokens per batch, and the cost of a forward pass. A longer sequence gets a batch of its own.
        most: maximum number of sequences per batch.

    Returns:
        the size of each batch.
    """
    # Dynamic programming. cost[j]: least cost of the first j sequences; begin[j]: where the last of their batches begins.
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
    """The error for a single prompt, with ``length`` tokens including its continuation, that does not fit into memory."""
    reason = str(error) or "No memory is left to process the distributions"
    return PotError(
        f"out of memory with a single prompt: prompt {index} has {length} tokens and {n_positions} positions "
        f"(max_length={config.max_length}, top_k={config.top_k}). {reason}. Lower max_length or positions_per_prompt, set a "
        "top_k, or use a smaller dtype or another device"
    )
