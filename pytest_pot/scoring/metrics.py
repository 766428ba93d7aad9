"""The six metrics: how much two next-token distributions differ at each position, computed in float64.

p is the reference and q the candidate. Both have the same cells: the reference's top-k tokens and, as one more cell, the tail.
Every metric is exactly 0 for equal distributions, because it sums terms that are 0 where ``ln p`` and ``ln q`` are the same
number. Merging cells can only lower a divergence (data-processing inequality), so with ``tail="bucket"`` each divergence is a
lower bound of the one over the whole vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from math import log

import numpy as np

from pytest_pot.core.names import METRICS
from pytest_pot.engines.distributions import Floats, TopK

__all__ = ["Cells", "position_divergences", "renormalised"]

_CELLS_PER_CHUNK = 1 << 18
"""Half a dozen float64 temporaries of this size fit into a CPU's cache."""

_ROUNDING = 1e-12
"""Far above the rounding error of a sum of a thousand probabilities; far below that of a log-probability in float32."""


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

    We sum ``p ln(p/q) − p + q``, whose terms are never negative (Csiszár's form; the added terms sum to 0), so that rounding
    cannot make a small divergence negative.
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
    ``½ m [ln(1 − r²) + r ln(q/p)]``, because ``p = m (1 − r)``, ``q = m (1 + r)``: nothing cancels
    where p and q are close.
    """
    total = cells.p + cells.q
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio = np.where(total > 0.0, (cells.q - cells.p) / total, 0.0)
    # Where one of p and q is far larger than the other, 1 - r² would cancel, so we compute it as p q / m².
    far = np.abs(ratio) > 0.9
    log_one_minus_r2 = np.log1p(-np.square(np.where(far, 0.0, ratio)))
    if far.any():
        log_one_minus_r2[far] = log(4.0) + cells.log_p[far] + cells.log_q[far] - 2.0 * np.log(total[far])
    terms = 0.25 * total * (log_one_minus_r2 + ratio * (cells.log_q - cells.log_p))
    return np.asarray(np.clip(terms.sum(axis=-1) / log(2.0), 0.0, 1.0))


def delta_ce(reference: TopK, candidate: TopK) -> Floats:
    """Change of the cross-entropy of the continuation's token y, ``|ln p(y) − ln q(y)|``, nats.

    With ``tail="renormalise"``, both logarithms are relative to the mass of the reference's top-k S:
    ``|ln p(y)/p(S) − ln q(y)/q(S)|``, where each term is the logit of y minus the log-sum-exp of the logits in S. If y is
    outside S, these terms are not log-probabilities and may be above 0, but the metric still shows how much the odds of y
    against S changed.
    """
    return np.abs(reference.targets - candidate.targets)


def top1_flip(reference: TopK, candidate: TopK) -> Floats:
    """1 where the likeliest token differs and the reference's margin is above rounding error, else 0.

    With ``tail="renormalise"``, only the reference's top-k can be the likeliest token.
    """
    differs = reference.top_ids != candidate.top_ids
    return np.asarray(differs & reference.clear, dtype=np.float64)


_CELL_METRICS: Mapping[str, Callable[[Cells], Floats]] = {"tv": tv, "jsd": jsd, "kl": kl, "kl_reverse": kl_reverse}
_TOKEN_METRICS: Mapping[str, Callable[[TopK, TopK], Floats]] = {"delta_ce": delta_ce, "top1_flip": top1_flip}


def position_divergences(reference: TopK, candidate: TopK, tail: str) -> dict[str, Floats]:
    """Every metric by name, each [n]; ``candidate`` must have the same ids as ``reference``.

    ``tail`` is ``"bucket"`` or ``"renormalise"``. With the latter, all log-probabilities of both models are relative to the
    mass of the reference's top-k: a softmax over these ids alone.
    """
    if tail == "renormalise":
        reference, candidate = renormalised(reference), renormalised(candidate)
    chunk = max(1, _CELLS_PER_CHUNK // (reference.log_probs.shape[1] + 1))
    parts: dict[str, list[Floats]] = {name: [] for name in _CELL_METRICS}
    for start in range(0, len(reference), chunk):
        stop = start + chunk
        cells = Cells.of(*(_cells(top.rows(start, stop), tail) for top in (reference, candidate)))
        for name, metric in _CELL_METRICS.items():
            parts[name].append(metric(cells))
    divergences = {name: np.concatenate(part) for name, part in parts.items()}
    divergences.update({name: metric(reference, candidate) for name, metric in _TOKEN_METRICS.items()})
    return {name: divergences[name] for name in METRICS}


def renormalised(top: TopK) -> TopK:
    """Turn ``top`` into the softmax over its own ids alone; its first choice is then the likeliest of these ids.

    ``log_tail`` does not change: it is still the mass of all other ids in the whole vocabulary. If ``top`` is renormalised
    already, we return it unchanged.
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
    """Log-probabilities of the cells, [n, cells]: those of the ids and, if there is a tail and it counts, of the tail."""
    if top.log_tail is None or tail == "renormalise":
        return top.log_probs
    return np.concatenate([top.log_probs, top.log_tail[:, None]], axis=1)
