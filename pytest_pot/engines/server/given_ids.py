"""The distributions at ids that we chose, from what a server said about them, with every number checked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np

from pytest_pot.core.errors import PotError
from pytest_pot.engines.base import PositionError
from pytest_pot.engines.distributions import Ints, TopK
from pytest_pot.engines.server.checks import SAME, Wrong, check_vocabulary, numbers, refuse, top_k_from, whole_numbers
from pytest_pot.engines.server.engine import ServerEngine
from pytest_pot.engines.tokens import Tokens

__all__ = ["GivenRows", "read_at"]


@dataclass(frozen=True)
class GivenRows:
    """What a server said at the n positions of one prompt, as it came: anything may be in the place of a number."""

    log_probs: Any
    """[n, m]: of the ids that were asked for, in their order."""
    targets: Sequence[Any]
    """[n]: of the continuation's token."""
    top_ids: Sequence[Any]
    """[n]: the likeliest id."""
    top_log_probs: Sequence[Any]
    """[n]"""


def read_at(engine: ServerEngine, batch: Sequence[Tokens], ids: Ints, rows_at: Callable[[Tokens, Ints], GivenRows]) -> TopK:
    """The distributions at ``ids`` [positions of all prompts, m], with the rest of each as its tail.

    ``rows_at``: asks the server of ``engine`` about one prompt, at its rows of ``ids``.

    Raises:
        PotError: an id is outside the vocabulary; or what ``rows_at`` raises.
        PositionError: a number is missing, NaN, or no log-probability; or the probabilities are not those of one distribution.
    """
    outside = (ids < 0) | (ids >= engine.vocab_size)
    if outside.any():
        raise PotError(f"id {ids[outside][0]} is outside the vocabulary of {engine.vocab_size} tokens of {engine.label}")
    ends = np.cumsum([tokens.n_positions for tokens in batch])

    def one(index: int) -> TopK:
        tokens = batch[index]
        own = ids[ends[index] - tokens.n_positions : ends[index]]
        try:
            return _of_prompt(rows_at(tokens, own), own, engine.vocab_size)
        except Wrong as error:
            raise PositionError(f"the {engine.role}, {engine.label}, {error.what}", error.row, index) from None
        except PositionError as error:
            raise PositionError(error.what, error.position, index) from None

    return TopK.concatenate(engine.client.side_by_side(one, range(len(batch))))


def _of_prompt(rows: GivenRows, ids: Ints, vocab_size: int) -> TopK:
    n, m = ids.shape
    one = np.ones(n, dtype=np.int64)
    asked = rows.log_probs.ravel() if isinstance(rows.log_probs, np.ndarray) else list(chain.from_iterable(rows.log_probs))
    log_probs = numbers(asked, m * one, "an id that it was asked for")
    targets = numbers(list(rows.targets), one, "the continuation's token")[:, 0]
    best = numbers(list(rows.top_log_probs), one, "its likeliest id")[:, 0]
    top_ids = whole_numbers(list(rows.top_ids), one)
    check_vocabulary(top_ids, np.ones((n, 1), dtype=np.bool_), vocab_size)
    top = top_k_from(ids, log_probs, targets, (top_ids[:, 0], best), vocab_size)
    likeliest = log_probs.max(axis=1)
    refuse(
        likeliest > best + SAME,
        lambda row: (
            f"told {likeliest[row]:.6g} as the log-probability of an id that it was asked for, and {best[row]:.6g} for its "
            "likeliest id: the numbers are from different answers"
        ),
    )
    return top
