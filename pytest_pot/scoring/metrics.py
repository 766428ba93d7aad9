"""The six metrics: how far apart two next-token distributions are, position by position, in float64.

With p the reference and q the candidate over the same cells (the reference's top-k and, as one more cell, the tail), every
metric is 0 for equal distributions, exactly and not only nearly: each is a sum of terms that vanish where ``ln p`` and
``ln q`` are the same number. Merging cells can only lower a divergence (the data-processing inequality), so with the tail
as a bucket each figure is a lower bound of the one over the whole vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from math import log

import numpy as np

from pytest_pot.core.names import METRICS
from pytest_pot.engines.distributions import Floats, TopK

__all__ = ["Cells", "position_divergences", "renormalised"]

_CELLS_AT_ONCE = 1 << 18
"""Cells per chunk: half a dozen float64 temporaries of this size stay within a CPU's cache."""

_ROUNDING = 1e-12
"""Of the sum of a thousand probabilities, far above; of a log-probability in float32, far below."""


@dataclass(frozen=True)
class Cells:
    """Two distributions over the same cells at n positions: natural log-probabilities and probabilities, [n, cells]."""

    log_p: Floats
    log_q: Floats
    p: Floats
    q: Floats

    @staticmethod
    def of(log_p: Floats, log_q: Floats) -> Cells:
        return Cells(log_p, log_q, np.exp(log_p), np.exp(log_q))


def tv(cells: Cells) -> Floats:
    """Total variation distance, ``½ Σ |p − q|``, in 0..1: the share of sampled tokens that would differ."""
    return np.asarray(0.5 * np.abs(cells.p - cells.q).sum(axis=-1))


def kl(cells: Cells) -> Floats:
    """Kullback-Leibler divergence of the candidate from the reference, ``Σ p ln(p/q)``, nats.

    Summed as ``p ln(p/q) − p + q``, whose terms are never negative (Csiszár's form; the added terms sum to 0), so that
    rounding cannot make a small divergence negative.
    """
    return _kl(cells.log_p, cells.log_q, cells.p, cells.q)


def kl_reverse(cells: Cells) -> Floats:
    """Kullback-Leibler divergence of the reference from the candidate, ``Σ q ln(q/p)``, nats."""
    return _kl(cells.log_q, cells.log_p, cells.q, cells.p)


def _kl(log_a: Floats, log_b: Floats, a: Floats, b: Floats) -> Floats:
    return np.asarray(np.maximum((a * (log_a - log_b) + (b - a)).sum(axis=-1), 0.0))


def jsd(cells: Cells) -> Floats:
    """Jensen-Shannon divergence, base 2, in 0..1 (Lin 1991).

    With ``m = (p + q) / 2`` and ``r = (q − p) / (p + q)``, the term ``½ p ln(p/m) + ½ q ln(q/m)`` is
    ``½ m [ln(1 − r²) + r ln(q/p)]``, because ``p = m (1 − r)``, ``q = m (1 + r)``: no cancellation where p and q are near.
    """
    total = cells.p + cells.q
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio = np.where(total > 0.0, (cells.q - cells.p) / total, 0.0)
    # Where one side is nearly all of m, 1 - r² is computed from the product of both sides: 1 - r² = p q / m².
    far = np.abs(ratio) > 0.9
    log_one_minus_r2 = np.log1p(-np.square(np.where(far, 0.0, ratio)))
    if far.any():
        log_one_minus_r2[far] = log(4.0) + cells.log_p[far] + cells.log_q[far] - 2.0 * np.log(total[far])
    terms = 0.25 * total * (log_one_minus_r2 + ratio * (cells.log_q - cells.log_p))
    return np.asarray(np.clip(terms.sum(axis=-1) / log(2.0), 0.0, 1.0))


def delta_ce(reference: TopK, candidate: TopK) -> Floats:
    """``|ln p(y) − ln q(y)|``, y the continuation's token: the change of its cross-entropy, nats.

    With a renormalised tail, S being the reference's top-k, both logarithms are relative to its mass:
    ``|ln p(y)/p(S) − ln q(y)/q(S)|``, y's logit less the log-sum-exp of those in S. For a token outside S these are no
    probabilities, and may be above 0; the figure still says by how much the token's odds against S as a whole changed.
    """
    return np.abs(reference.targets - candidate.targets)


def top1_flip(reference: TopK, candidate: TopK) -> Floats:
    """1 where the likeliest token differs and the reference's margin is above rounding error, else 0.

    With a renormalised tail, the likeliest of the reference's top-k.
    """
    differs = reference.top_ids != candidate.top_ids
    return np.asarray(differs & reference.clear, dtype=np.float64)


_ON_CELLS: Mapping[str, Callable[[Cells], Floats]] = {"tv": tv, "jsd": jsd, "kl": kl, "kl_reverse": kl_reverse}
_ON_TOKENS: Mapping[str, Callable[[TopK, TopK], Floats]] = {"delta_ce": delta_ce, "top1_flip": top1_flip}


def position_divergences(reference: TopK, candidate: TopK, tail: str) -> dict[str, Floats]:
    """Every metric at every position, by name, each [n]; ``candidate`` is seen at the ids of ``reference``.

    ``tail`` is ``"bucket"`` or ``"renormalise"``. The latter is the softmax over the reference's top-k alone: for both
    models, every log-probability is taken relative to the mass of those ids.
    """
    if tail == "renormalise":
        reference, candidate = renormalised(reference), renormalised(candidate)
    chunk = max(1, _CELLS_AT_ONCE // (reference.log_probs.shape[1] + 1))
    parts: dict[str, list[Floats]] = {name: [] for name in _ON_CELLS}
    for start in range(0, len(reference), chunk):
        stop = start + chunk
        cells = Cells.of(*(_cells(top.rows(start, stop), tail) for top in (reference, candidate)))
        for name, metric in _ON_CELLS.items():
            parts[name].append(metric(cells))
    found = {name: np.concatenate(part) for name, part in parts.items()}
    found.update({name: metric(reference, candidate) for name, metric in _ON_TOKENS.items()})
    return {name: found[name] for name in METRICS}


def renormalised(top: TopK) -> TopK:
    """``top`` as the softmax over its own ids only; its first choice is the likeliest among them.

    ``log_tail`` stays what it was, the share of the whole that is left out. What is so already is given back as it is.
    """
    peak = top.log_probs.max(axis=-1, keepdims=True)
    mass = (peak + np.log(np.exp(top.log_probs - peak).sum(axis=-1, keepdims=True)))[:, 0]
    if np.abs(mass).max(initial=0.0) < _ROUNDING:
        return top
    rows = np.arange(len(top))
    first = top.log_probs.argmax(axis=-1)
    return replace(
        top,
        log_probs=top.log_probs - mass[:, None],
        targets=top.targets - mass,
        top_ids=first if top.ids is None else top.ids[rows, first],
        top_log_probs=top.log_probs[rows, first] - mass,
        log_normalisers=top.log_normalisers + mass,
    )


def _cells(top: TopK, tail: str) -> Floats:
    """The cells of a distribution, [n, cells]: its ids and, where there is one and it counts, the tail."""
    if top.log_tail is None or tail == "renormalise":
        return top.log_probs
    return np.concatenate([top.log_probs, top.log_tail[:, None]], axis=1)
