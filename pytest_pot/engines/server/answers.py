"""From what a server said at each position to :class:`~pytest_pot.engines.distributions.TopK`, with every number checked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import chain

import numpy as np

from pytest_pot.engines.base import PositionError
from pytest_pot.engines.distributions import Flags, Floats, Ints, TopK, certainly_clear
from pytest_pot.engines.server.checks import (
    SAME,
    Wrong,
    check_vocabulary,
    numbers,
    refuse,
    top_k_from,
    whole_numbers,
)

__all__ = ["Row", "top_k_of"]


@dataclass(frozen=True)
class Row:
    """What a server said at one position."""

    ids: Sequence[int]
    """The k likeliest ids, in any order; the continuation's token may be there as one more."""
    log_probs: Sequence[float]
    """[k], natural logarithms, normalised over the whole vocabulary."""
    target: float
    """The log-probability of the continuation's token."""


def top_k_of(
    rows: Sequence[Row],
    k: int,
    vocab_size: int,
    where: Callable[[int], tuple[int, int]] | None = None,
    who: str = "the server",
) -> TopK:
    """The distributions at the positions that ``rows`` tell, most likely first, with the rest of each as its tail.

    Where ``k`` is the whole vocabulary, the ids are None, and there is no tail.

    Args:
        where: gives the index of a row's prompt in the batch, and the position in that prompt; None: the rows are the positions
            of one prompt.
        who: what the server is called in messages.

    Raises:
        PositionError: a number is missing, NaN, or no log-probability; an id is there twice or outside the vocabulary; a row
            has fewer than ``k`` ids; or the probabilities are not those of one distribution.
    """
    try:
        return _top_k(rows, min(k, vocab_size), vocab_size)
    except Wrong as error:
        prompt, position = (None, error.row) if where is None else where(error.row)
        raise PositionError(f"{who} {error.what}", position, prompt) from None


def _top_k(rows: Sequence[Row], k: int, vocab_size: int) -> TopK:
    widths = np.fromiter((len(row.ids) for row in rows), dtype=np.int64, count=len(rows))
    told = np.fromiter((len(row.log_probs) for row in rows), dtype=np.int64, count=len(rows))
    refuse(widths != told, lambda row: f"told {widths[row]} ids and {told[row]} log-probabilities")
    refuse(widths < k, lambda row: f"told {widths[row]} of the {k} likeliest ids that it was asked for")
    targets = numbers([row.target for row in rows], np.ones(len(rows), dtype=np.int64), "the continuation's token")[:, 0]
    log_probs = numbers(list(chain.from_iterable(row.log_probs for row in rows)), widths, "one of its likeliest ids")
    ids = whole_numbers(list(chain.from_iterable(row.ids for row in rows)), widths)
    there = np.arange(log_probs.shape[1]) < widths[:, None]
    _check_ids(ids, there, vocab_size)
    if (log_probs[:, 1:] > log_probs[:, :-1]).any():  # most servers sort them
        order = np.argsort(-log_probs, axis=1, kind="stable")
        ids, log_probs = np.take_along_axis(ids, order, axis=1), np.take_along_axis(log_probs, order, axis=1)
    ids, log_probs = ids[:, :k], log_probs[:, :k]
    top = top_k_from(ids, log_probs, targets, (ids[:, 0], log_probs[:, 0]), vocab_size)
    _check_among(log_probs, targets)
    # Whether rounding decided the first choice is known only for a lead that no precision explains.
    top = replace(top, clear=certainly_clear(top))
    return top.in_order() if k == vocab_size else top


def _check_ids(ids: Ints, there: Flags, vocab_size: int) -> None:
    check_vocabulary(ids, there, vocab_size)
    in_order = np.sort(np.where(there, ids, -1 - np.arange(ids.shape[1])), axis=1)  # what fills a row is no id, and none alike
    twice = in_order[:, 1:] == in_order[:, :-1]
    refuse(twice.any(axis=1), lambda row: f"told the id {in_order[row, 1:][twice[row]][0]} twice")


def _check_among(log_probs: Floats, targets: Floats) -> None:
    """``log_probs``: [n, k], most likely first."""
    among = targets > log_probs[:, -1] + SAME
    refuse(
        among & (np.abs(log_probs - targets[:, None]).min(axis=1) > SAME),
        lambda row: (
            f"told {targets[row]:.6g} as the log-probability of the continuation's token, which is more than that of the last "
            "of its likeliest ids, but none of theirs: one of them is missing, or the numbers are from different answers"
        ),
    )
