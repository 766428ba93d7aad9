"""Whether an answer is right about which first choices are clear, and about what was subtracted from the logits."""

from __future__ import annotations

import numpy as np

from pytest_pot.core.text import number
from pytest_pot.engines.distributions import Flags, TopK, certainly_clear
from pytest_pot.testing.oracle import Oracle
from pytest_pot.testing.structure import Call, named_row

__all__ = ["clear_problems", "normaliser_problems"]

_TIE = 2.0**-23
"""Two logits that differ by no more than this part of themselves are one number, or neighbours, in float32."""
_LOGIT_ROUNDING = 2.0**-6
"""By what part of itself a log-sum-exp may be off, in any precision that models run in: see ``distributions.leads``."""


def clear_problems(top: TopK, oracle: Oracle, call: Call) -> list[str]:
    """Whether ``clear`` is True where the likeliest id leads by more than rounding in any precision, and False in a tie.

    Between the two, it depends on the precision of the engine, and anything is right. ``top`` is an answer of ``top_k`` whose
    probabilities are right.
    """
    missed: Flags = certainly_clear(top) & ~top.clear
    tied: Flags = top.clear & _ties(top, oracle)
    for wrong, said, truth in (
        (missed, "False", "leads the second by far more than rounding, so that it has to be True"),
        (tied, "True", "has the same probability as the second, so that it has to be False"),
    ):
        if wrong.any():
            row = int(wrong.argmax())
            return [
                f"{call.name}: clear is wrong: at {named_row(call, row)} it is {said}, but the likeliest id, "
                f"{int(top.top_ids[row])}, {truth}; so at {int(wrong.sum())} of {call.n} positions. A changed likeliest token "
                "counts (top1_flip) only where clear is True"
            ]
    return []


def _ties(top: TopK, oracle: Oracle) -> Flags:
    """[n]: whether the two likeliest ids have the same probability, in the answer or, but for rounding, in the model."""
    if oracle.vocab_size < 2:
        return np.zeros(len(top), dtype=np.bool_)
    second, first = np.partition(oracle.logits(), -2, axis=1)[:, -2:].T
    ties: Flags = first - second <= _TIE * np.abs(first)
    if top.log_probs.shape[1] < 2:
        return ties
    own_second, own_first = np.partition(top.log_probs, -2, axis=1)[:, -2:].T
    # An engine may compute more finely than the model, and tell apart what is equal there.
    return np.asarray((own_first == own_second) | (ties & (own_first - own_second <= _TIE * np.abs(first))))


def normaliser_problems(top: TopK, oracle: Oracle, call: Call, tolerance: float) -> list[str]:
    """Whether ``log_normalisers`` is 0 everywhere, or the log-sum-exp of the model's logits.

    ``tolerance``: by how much it may be off in the mean, in nats, beside the rounding of the logits.
    """
    if not top.log_normalisers.any():
        return []
    own = np.logaddexp.reduce(oracle.logits(), axis=1)
    apart = np.abs(top.log_normalisers - own)
    excess = apart - _LOGIT_ROUNDING * np.maximum(np.abs(own), np.abs(oracle.logits().max(axis=1)))
    if excess.mean() <= tolerance:
        return []
    row = int(apart.argmax())
    return [
        f"{call.name}: log_normalisers is wrong: at {named_row(call, row)} it says {number(top.log_normalisers[row])}, and the "
        f"log-sum-exp of the model's logits is {number(own[row])}. It is what was subtracted from the logits; return zeros if "
        "that is not known"
    ]
