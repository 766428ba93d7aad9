"""Whether an engine samples from a part of the vocabulary only: some likeliest ids (top-k), or a share of all (top-p).

A sampler of the model itself takes a token outside any such part sooner or later. How likely it is that it has not yet is the
product of the parts' probabilities at all positions, so that a cut is certain after enough tokens.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pytest_pot.core.text import number
from pytest_pot.engines.distributions import Flags, Floats, Ints
from pytest_pot.testing.oracle import Oracle

__all__ = ["Cuts", "flattest_contexts"]

_SHARES = tuple(round(0.05 * step, 2) for step in range(2, 20))
_NUMBERS = (2, 3, 5, 10, 20, 40, 50, 64, 100)
_SLACK = 0.005
"""By how much of the probability rounding may shift what a share holds."""
_FALSE_ALARM = 5e-7
"""How likely it is, at most, that a right sampler looks as if it was cut in any of these ways."""
_NEEDED = -float(np.log(_FALSE_ALARM / (len(_SHARES) + len(_NUMBERS))))
"""The nats of evidence that one way needs."""
_COMMON_SHARE = 0.9
"""The mildest top-p that has to be found."""
_ENOUGH = 1.4
"""How many times the evidence that is needed should be collected: the parts are coarse, and rounding takes some of it."""
_MOST_ROUNDS = 12


class Cuts:
    """Sampled tokens, and which cuts of the vocabulary they rule out."""

    def __init__(self, rounding: float) -> None:
        """``rounding``: how far the engine's distributions may be from the model's, in total variation."""
        self._rounding = rounding
        self._shares = _Evidence(len(_SHARES))
        self._numbers = _Evidence(len(_NUMBERS))
        self._n = 0

    def add(self, log_probs: Floats, sampled: Sequence[int]) -> None:
        """``sampled``: a token for each row of ``log_probs`` [n, vocab]."""
        probabilities = np.exp(log_probs)
        ids: Ints = np.asarray(sampled, dtype=np.int64)
        self._n += len(ids)
        shares, numbers = _above(probabilities)
        rows = np.arange(len(ids))
        kept_shares = shares[None] < np.array(_SHARES)[:, None, None] + _SLACK
        self._shares.add(kept_shares, kept_shares[:, rows, ids], probabilities, self._rounding)
        kept_numbers = numbers[None] < np.array(_NUMBERS)[:, None, None]
        self._numbers.add(kept_numbers, kept_numbers[:, rows, ids], probabilities, self._rounding)

    def problem(self) -> str | None:
        """What is wrong, with the cut that explains the tokens best; None if nothing is."""
        names = [f"among the {k} likeliest" for k in _NUMBERS]
        names += [f"among the likeliest that make up {number(share)} of the probability" for share in _SHARES]
        holds = np.concatenate([self._numbers.holds, self._shares.holds])
        nats = np.where(holds, np.concatenate([self._numbers.nats, self._shares.nats]), 0.0)
        best = int(nats.argmax())
        if nats[best] <= _NEEDED:
            return None
        return (
            f"sample does not follow the model at temperature 1: all {self._n} tokens are {names[best]}, and of the "
            f"model's own samples all would be with a probability of {number(float(np.exp(-nats[best])))}. Is the vocabulary cut (top-k, "
            "top-p, min-p), or the temperature lower than 1?"
        )


class _Evidence:
    """By cut: whether all tokens are inside, and how improbable that is."""

    def __init__(self, n: int) -> None:
        self.holds: Flags = np.ones(n, dtype=np.bool_)
        self.nats: Floats = np.zeros(n)

    def add(self, kept: Flags, inside: Flags, probabilities: Floats, rounding: float) -> None:
        """``kept`` [cuts, n, vocab]: what each cut leaves; ``inside`` [cuts, n]: whether the token is in it."""
        mass = np.einsum("cnv,nv->cn", kept, probabilities)
        self.holds &= inside.all(axis=1)
        self.nats -= np.log(np.clip(mass + rounding, 1e-300, 1.0)).sum(axis=1)


def _above(probabilities: Floats) -> tuple[Floats, Ints]:
    """[n, vocab] each: the total probability of the ids that are likelier than each, and their number.

    Ids of the same probability have the same figures, so that the order in which they are sorted does not matter.
    """
    order = np.argsort(-probabilities, axis=1, kind="stable")
    sorted_ = np.take_along_axis(probabilities, order, axis=1)
    before = np.cumsum(sorted_, axis=1) - sorted_
    new = np.ones(sorted_.shape, dtype=np.bool_)
    new[:, 1:] = sorted_[:, 1:] < sorted_[:, :-1]
    first = np.maximum.accumulate(np.where(new, np.arange(sorted_.shape[1]), 0), axis=1)
    shares, numbers = np.empty_like(before), np.empty(before.shape, dtype=np.int64)
    np.put_along_axis(shares, order, np.take_along_axis(before, first, axis=1), axis=1)
    np.put_along_axis(numbers, order, first, axis=1)
    return shares, numbers


def flattest_contexts(oracle: Oracle, most: int, rounding: float) -> tuple[list[list[int]], Floats, int]:
    """The different contexts after which the next token is least certain, their log-probabilities [n, vocab], and how many
    tokens after each tell a cut: one sample of each is worth the most, and the model has already read them."""
    log_probs = oracle.log_probs()
    rows: dict[tuple[int, ...], int] = {}
    for row, (index, j) in enumerate(oracle.places):
        tokens = oracle.batch[index]
        rows.setdefault(tokens.ids[: tokens.prompt_len + j], row)
    chosen = np.array(list(rows.values()))
    probabilities = np.exp(log_probs[chosen])
    kept = np.where(_above(probabilities)[0] < _COMMON_SHARE + _SLACK, probabilities, 0.0).sum(axis=1)
    nats = -np.log(np.clip(kept + rounding, 1e-300, 1.0))
    order = np.argsort(-nats, kind="stable")[:most]
    contexts = [list(context) for context in rows]
    total = float(nats[order].sum())
    n_rounds = _MOST_ROUNDS if total * _MOST_ROUNDS < _ENOUGH * _NEEDED else int(np.ceil(_ENOUGH * _NEEDED / total))
    return [contexts[int(index)] for index in order], log_probs[chosen[order]], n_rounds
