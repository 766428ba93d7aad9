"""From what a server said at each position to :class:`~pytest_pot.engines.distributions.TopK`, with every number checked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pytest_pot.engines.distributions import TopK

__all__ = ["UNKNOWN_VOCAB", "Row", "top_k_of"]

UNKNOWN_VOCAB = 2**31 - 1
"""The size of a vocabulary that the server does not tell."""


@dataclass(frozen=True)
class Row:
    """What a server said at one position."""

    ids: Sequence[int]
    """The k likeliest ids, in any order."""
    log_probs: Sequence[float]
    """[k], natural logarithms, normalised over the whole vocabulary."""
    target: float
    """The log-probability of the continuation's token."""


def top_k_of(rows: Sequence[Row], k: int, vocab_size: int) -> TopK:
    """The distributions at the positions that ``rows`` tell, most likely first, with the rest of each as its tail.

    Raises:
        PotError: a number is missing, NaN, or no log-probability; an id is there twice or outside the vocabulary; a row has
            fewer than ``k`` ids.
    """
    order = [np.argsort(-np.asarray(row.log_probs), kind="stable")[:k] for row in rows]
    ids = np.array([np.asarray(row.ids)[each] for row, each in zip(rows, order, strict=True)], dtype=np.int64)
    log_probs = np.array([np.asarray(row.log_probs)[each] for row, each in zip(rows, order, strict=True)], dtype=np.float64)
    rest = np.maximum(-np.expm1(np.log(np.exp(log_probs).sum(axis=1))), np.finfo(np.float64).tiny)
    return TopK(
        ids=ids,
        log_probs=log_probs,
        log_tail=np.log(rest) if k < vocab_size else None,
        targets=np.array([row.target for row in rows]),
        top_ids=ids[:, 0],
        top_log_probs=log_probs[:, 0],
        clear=np.zeros(len(rows), dtype=np.bool_),
        log_normalisers=np.zeros(len(rows)),
        vocab_size=vocab_size,
    )
