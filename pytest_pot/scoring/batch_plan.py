"""Choose which prompts share a forward pass: in which order they run, and where one batch ends and the next begins."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import accumulate

import numpy as np

from pytest_pot.engines.base import Room
from pytest_pot.engines.tokens import Tokens

__all__ = ["cheapest", "cost_of", "joint_room", "longest_first", "remaining_sizes", "worth_repeating"]

_DEFAULT_ROOM = Room(most=1024, fixed=32)
"""Used if no engine tells its own room."""

_PREFIX_TOKENS, _MIN_GROUP = 32, 4
"""Group at least 4 prompts that share their first 32 tokens, because engines may compute what they share only once."""

_DEARER = 1.1
"""How many times the cost of our own batches those of a recording may have, so that we repeat them."""


def joint_room(rooms: Sequence[Room | None]) -> Room:
    """The room of engines that run the same batches, one after the other; None: the engine does not tell its own.

    The least memory decides how much fits. The slowest engine decides what a batch costs: it takes the longest per token, so
    that its overheads are worth the fewest tokens.
    """
    known = [room for room in rooms if room is not None] or [_DEFAULT_ROOM]
    slowest = min(known, key=lambda room: (room.launch, room.fixed))
    return Room(
        most=min(room.most for room in known),
        fixed=slowest.fixed,
        launch=slowest.launch,
        padded=any(room.padded for room in known),
        settled=all(room.settled for room in known),
    )


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
    """Split sequences into batches of neighbours so that the sum of their costs is least.

    Args:
        lengths: of the sequences, in tokens; the batches keep their order.
        room: maximum padded tokens per batch, and what a batch costs. A longer sequence gets a batch of its own.
        most: maximum number of sequences per batch.

    Returns:
        the size of each batch. Of plans that cost the same, always the same one: its last batch is the smallest, then the one
        before it, and so on.
    """
    n = len(lengths)
    if not room.padded:
        return _fewest(lengths, room.most, most)
    longest = np.array(lengths, dtype=np.int64)  # longest[i]: the longest of the sequences i to j - 1
    ends = np.arange(n + 1, dtype=np.int64)
    # Dynamic programming. cost[j]: least cost of the first j sequences; begin[j]: where the last of their batches begins.
    cost = np.zeros(n + 1, dtype=np.int64)
    begin = [0] * (n + 1)
    least = max(0, room.launch - room.fixed)  # tokens that a batch costs at least, above its fixed cost
    low = 0  # a batch that begins before it does not fit, neither now nor with more sequences
    for j in range(1, n + 1):
        width = longest[low:j]
        np.maximum(width, lengths[j - 1], out=width)
        tokens = width * (j - ends[low:j])
        too_large = int(np.searchsorted(-tokens, -room.most))  # tokens fall from the longest batch to the shortest
        if most is not None:
            too_large = max(too_large, j - low - most)
        skipped = min(too_large, j - low - 1)
        low += skipped
        costs = np.maximum(tokens[skipped:], least)
        costs += cost[low:j]
        start = j - 1 - int(costs[::-1].argmin())
        cost[j] = costs[start - low] + room.fixed
        begin[j] = start
    sizes, j = [], n
    while j:
        sizes.append(j - begin[j])
        j = begin[j]
    return sizes[::-1]


def _fewest(lengths: Sequence[int], most_tokens: int, most: int | None) -> list[int]:
    """The sizes of the fewest batches without padding: as full as they can be, one after the other."""
    sizes: list[int] = []
    total = 0
    for length in lengths:
        total += length
        if sizes and total <= most_tokens and sizes[-1] != most:
            sizes[-1] += 1
        else:
            sizes.append(1)
            total = length
    return sizes


def cost_of(sizes: Sequence[int], lengths: Sequence[int], room: Room) -> int:
    """What batches of these sizes cost, in tokens; ``lengths``: of all sequences, in the order of the batches."""
    starts = accumulate(sizes, initial=0)
    return sum(room.cost(room.tokens(lengths[i : i + size])) for i, size in zip(starts, sizes, strict=False))


def worth_repeating(recorded: Sequence[Sequence[int]], tokens: Sequence[Tokens] | Mapping[int, Tokens], room: Room) -> bool:
    """Whether to run the batches of a recording, in which the same model is rounded alike, instead of our own.

    We do where they fit and cost about as much as our own. While the engine has not measured what a batch costs, the recording
    knows better.
    """
    if not room.settled:
        return True
    lengths = [len(tokens[index].ids) for batch in recorded for index in batch]
    sizes = [len(batch) for batch in recorded]
    if any(len(batch) > 1 and room.tokens([len(tokens[i].ids) for i in batch]) > room.most for batch in recorded):
        return False
    own = [len(tokens[index].ids) for index in longest_first(tokens, range(len(tokens)))]
    return cost_of(sizes, lengths, room) <= _DEARER * cost_of(cheapest(own, room), own, room)


def remaining_sizes(recorded: Sequence[Sequence[int]], n_remaining: int, most: int | None) -> list[int]:
    """The sizes of the recorded batches of the last ``n_remaining`` prompts, cut into parts of at most ``most`` prompts."""
    sizes: list[int] = []
    ends = list(accumulate(map(len, recorded)))
    done = ends[-1] - n_remaining
    for end in ends:
        size = end - done
        if size > 0:
            part = size if most is None else min(size, most)
            sizes += [part] * (size // part) + [size % part] * (size % part > 0)
            done = end
    return sizes
