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

__all__ = ["Cuts", "Parts", "flattest_contexts"]

_SHARES = tuple(round(0.05 * step, 2) for step in range(2, 20))
_NUMBERS = (2, 3, 5, 10, 20, 40, 50, 64, 100)
_SLACK = 0.005
"""By how much of the probability rounding may shift what a share holds."""
_FALSE_ALARM = 5e-7
"""How likely it is, at most, that a right sampler looks as if it was cut in any of these ways."""
_NEEDED = -float(np.log(_FALSE_ALARM / (len(_SHARES) + len(_NUMBERS))))
"""The nats of evidence that one way needs."""
_MILDEST = len(_NUMBERS) + _SHARES.index(0.9)
"""The mildest cut that has to be found, among all."""
_ENOUGH = 1.25
"""How many times the evidence that is needed should be collected: the parts are coarse, and rounding takes some of it."""
_MOST_ROUNDS = 12


class Parts:
    """What each cut leaves of the vocabulary at n positions. Ids of the same probability are left, or not, together: so it does
    not matter in which order an engine sorts them."""

    def __init__(self, log_probs: Floats) -> None:
        """``log_probs``: [n, vocab]"""
        self._probabilities = np.exp(log_probs)
        self._masses = np.stack([_masses(row) for row in self._probabilities], axis=1)

    def above(self, sampled: Sequence[int]) -> tuple[Floats, Ints]:
        """[n] each: the total probability of the ids that are likelier than the sampled one, and their number."""
        own = self._probabilities[np.arange(len(sampled)), np.asarray(sampled, dtype=np.int64)]
        likelier = self._probabilities > own[:, None]
        return np.asarray((self._probabilities * likelier).sum(axis=1)), np.asarray(likelier.sum(axis=1))

    def nats(self, rounding: float) -> Floats:
        """[cuts, n]: minus the log of the probability that a token is inside."""
        return np.asarray(-np.log(np.clip(self._masses + rounding, 1e-300, 1.0)))


def _masses(probabilities: Floats) -> Floats:
    """[cuts]: the probability of what each cut leaves of ``probabilities`` [vocab]."""
    values = -np.sort(-probabilities)
    sums = np.concatenate([[0.0], np.cumsum(values)])
    shares = np.searchsorted(sums[:-1], np.array(_SHARES) + _SLACK)
    sizes = np.minimum(np.concatenate([np.array(_NUMBERS), shares]), len(values))
    sizes = np.searchsorted(-values, -values[sizes - 1], side="right")  # with the ids that are as likely as the last
    return np.asarray(sums[sizes])


class Cuts:
    """Sampled tokens, and which cuts of the vocabulary they rule out."""

    def __init__(self, rounding: float) -> None:
        """``rounding``: how far the engine's distributions may be from the model's, in total variation."""
        self._rounding = rounding
        self._holds: Flags = np.ones(len(_NUMBERS) + len(_SHARES), dtype=np.bool_)
        """By cut: whether all tokens are inside."""
        self._nats: Floats = np.zeros(len(self._holds))
        """How improbable that is."""
        self._n = 0

    def add(self, parts: Parts, sampled: Sequence[int]) -> None:
        """``sampled``: a token for each position of ``parts``."""
        shares, numbers = parts.above(sampled)
        self._n += len(sampled)
        self._holds &= np.concatenate(
            [
                (numbers[None] < np.array(_NUMBERS)[:, None]).all(axis=1),
                (shares[None] < np.array(_SHARES)[:, None] + _SLACK).all(axis=1),
            ]
        )
        self._nats += parts.nats(self._rounding).sum(axis=1)

    @property
    def known(self) -> float:
        """The nats of evidence against the mildest cut that has to be found; infinite where a token rules it out."""
        return float(self._nats[_MILDEST]) if self._holds[_MILDEST] else float("inf")

    def problem(self) -> str | None:
        """What is wrong, with the cut that explains the tokens best; None if nothing is."""
        names = [f"among the {k} likeliest" for k in _NUMBERS]
        names += [f"among the likeliest that make up {number(share)} of the probability" for share in _SHARES]
        nats = np.where(self._holds, self._nats, 0.0)
        best = int(nats.argmax())
        if nats[best] <= _NEEDED:
            return None
        return (
            f"sample does not follow the model at temperature 1: all {self._n} tokens are {names[best]}, and of the "
            f"model's own samples all would be with a probability of {number(float(np.exp(-nats[best])))}. Is the vocabulary "
            "cut (top-k, top-p, min-p), or the temperature lower than 1?"
        )


def flattest_contexts(oracle: Oracle, most: int, rounding: float, known: float) -> tuple[list[list[int]], Parts, int]:
    """The different contexts after which the next token is least certain, and how often to continue each by one token.

    One token after each tells most of a cut, and the model has already read these contexts. ``known``: the nats of evidence
    against the mildest cut that there are already.
    """
    log_probs = oracle.log_probs()
    rows: dict[tuple[int, ...], int] = {}
    for row, (index, j) in enumerate(oracle.places):
        tokens = oracle.batch[index]
        rows.setdefault(tokens.ids[: tokens.prompt_len + j], row)
    contexts, chosen = [list(context) for context in rows], np.array(list(rows.values()))
    nats = Parts(log_probs[chosen]).nats(rounding)[_MILDEST]
    order = np.argsort(-nats, kind="stable")[:most]
    rounds = (_ENOUGH * _NEEDED - known) / max(float(nats[order].sum()), 1e-9)
    n_rounds = max(0, min(_MOST_ROUNDS, int(np.ceil(rounds))))
    return [contexts[int(index)] for index in order], Parts(log_probs[chosen[order]]), n_rounds
