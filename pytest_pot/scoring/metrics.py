"""The six metrics: how much two next-token distributions differ at each position, in float64, on the device that has them.

p is the reference and q the candidate. Both have the same cells: the reference's top-k tokens and, as one more cell, the tail.
Every metric is exactly 0 for equal distributions, because it sums terms that are 0 where ``ln p`` and ``ln q`` are the same
number. Merging cells can only lower a divergence (data-processing inequality), so with ``tail="bucket"`` each divergence is a
lower bound of the one over the whole vocabulary.

======================  ================================================================================================
metric                  at one position
======================  ================================================================================================
``tv``                  total variation distance, ``½ Σ |p − q|``, in 0..1: the share of sampled tokens that would differ
``jsd``                 Jensen-Shannon divergence, base 2, in 0..1 (Lin 1991)
``kl``                  Kullback-Leibler divergence of the candidate from the reference, ``Σ p ln(p/q)``, nats
``kl_reverse``          of the reference from the candidate, ``Σ q ln(q/p)``, nats
``delta_ce``            change of the cross-entropy of the continuation's token y, ``|ln p(y) − ln q(y)|``, nats
``top1_flip``           1 where the likeliest token differs and the reference's margin is above rounding error, else 0
======================  ================================================================================================

With ``d = ln(q/p)`` and ``J = Σ (q − p) d``: ``kl`` is ``J/2 − X`` and ``kl_reverse`` is ``J/2 + X``, where
``X = Σ [(p + q) d/2 − (q − p)]``. This is Csiszár's form: ``q − p`` sums to 0, and with it an error of a normaliser counts only
to second order. ``jsd`` sums ``¼ [(q − p) d − 2 (p + q) ln cosh(d/2)] / ln 2``. All of it follows from the larger of p and q
and from ``u = exp(−|d|) − 1``, whatever the sign and size of d: ``|q − p| = −u max(p, q)``, ``p + q = (2 + u) max(p, q)`` and
``ln cosh(d/2) = |d|/2 + ln(1 + u/2)``. So q − p, which would cancel where p and q are close, keeps all its digits, and nothing
overflows where one of them underflows.

With ``tail="renormalise"``, all log-probabilities are relative to the mass of the reference's top-k S, for ``delta_ce`` too:
``|ln p(y)/p(S) − ln q(y)/q(S)|``. If y is outside S, these terms are not log-probabilities and may be above 0, but the metric
still shows how much the odds of y against S changed. Only a token in S can then be the likeliest.

Where several tokens are equally likely, an engine names any of them first; see :func:`with_shared_choice`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import log

import torch
from torch import Tensor

from pytest_pot.core.names import METRICS
from pytest_pot.engines.distributions import Floats, TopK
from pytest_pot.engines.tensors import Distributions, as_distributions

__all__ = ["divergences", "position_divergences", "renormalised", "renormalised_top", "with_shared_choice"]

_CELLS_PER_CHUNK = {"cpu": 1 << 16}
_CELLS_PER_CHUNK_ELSEWHERE = 1 << 21
"""Cells that are compared at a time, by device type: half a dozen float64 temporaries of this size fit into a CPU's cache, and
into 100 MB elsewhere."""

_ROUNDING = 1e-12
"""Far above the rounding error of a sum of a thousand probabilities; far below that of a log-probability in float32."""
_TIE = 1e-9
"""Log-probabilities that differ by less are of equal logits: far below what one step of a float32 logit is, and above the
rounding of sums in float64."""


def divergences(reference: Distributions, candidate: Distributions, tail: str) -> Tensor:
    """Every metric, in the order of :data:`~pytest_pot.core.names.METRICS`: [6, n] float64, on the device of both.

    ``candidate`` must have the same ids as ``reference``. ``tail`` is ``"bucket"``, or ``"renormalise"`` where both are
    :func:`renormalised`.
    """
    sums = _sums(reference, candidate, with_tail=tail == "bucket" and reference.log_tail is not None)
    by_name = {
        "tv": (0.5 * sums.absolute).clamp_max(1.0),
        "jsd": ((0.5 * sums.diff_d - sums.log_cosh) / (2.0 * log(2.0))).clamp(0.0, 1.0),
        "kl": (0.5 * sums.diff_d - (0.5 * sums.total_d - sums.diff)).clamp_min(0.0),
        "kl_reverse": (0.5 * sums.diff_d + (0.5 * sums.total_d - sums.diff)).clamp_min(0.0),
        "delta_ce": (reference.targets - candidate.targets).abs(),
        "top1_flip": (reference.top_ids != candidate.top_ids) & reference.clear,
    }
    return torch.stack([by_name[name].to(torch.float64) for name in METRICS])


def position_divergences(reference: TopK, candidate: TopK, tail: str) -> dict[str, Floats]:
    """Every metric by name, each [n], of distributions on the host; see :func:`divergences`."""
    p, q = (as_distributions(top, torch.device("cpu")) for top in (reference, candidate))
    if tail == "renormalise":
        p, q = renormalised(p), renormalised(q)
    values = divergences(p, q, tail)
    return dict(zip(METRICS, values.numpy(), strict=True))


def renormalised(distributions: Distributions) -> Distributions:
    """The softmax over the ids of ``distributions`` alone; its first choice is then the likeliest of these ids.

    ``log_tail`` does not change: it is still the mass of all other ids in the whole vocabulary. A position that is renormalised
    already stays as it is.
    """
    mass = distributions.log_probs().logsumexp(-1)
    mass = torch.where(mass.abs() < _ROUNDING, torch.zeros_like(mass), mass)
    best = distributions.values.argmax(-1, keepdim=True)
    first = best if distributions.ids is None else distributions.ids.gather(-1, best)
    changed = mass != 0.0
    top = (distributions.log_probs().gather(-1, best))[:, 0] - mass
    return replace(
        distributions,
        log_normalisers=distributions.log_normalisers + mass,
        targets=distributions.targets - mass,
        top_ids=torch.where(changed, first[:, 0], distributions.top_ids),
        top_log_probs=torch.where(changed, top, distributions.top_log_probs),
    )


def with_shared_choice(reference: Distributions, candidate: Distributions) -> tuple[Distributions, Distributions]:
    """Both distributions, with the same first choice wherever one token is the likeliest in both.

    Several tokens may be equally likely, which is common where logits are bfloat16. Which of them an engine names first is
    arbitrary: it depends on how the largest logits are searched for. Both distributions must be over the same cells.
    """
    likeliest = _is_first(reference) & _is_first(candidate)
    column = likeliest.to(torch.uint8).argmax(-1, keepdim=True)
    shared = (column if reference.ids is None else reference.ids.gather(-1, column))[:, 0]
    found = likeliest.any(-1)
    return (
        replace(reference, top_ids=torch.where(found, shared, reference.top_ids)),
        replace(candidate, top_ids=torch.where(found, shared, candidate.top_ids)),
    )


def _is_first(distributions: Distributions) -> Tensor:
    """[n, m]: whether no id of the whole vocabulary is likelier than that of the cell."""
    d = distributions
    largest = d.values.amax(-1, keepdim=True)
    factor = d.scale if isinstance(d.scale, float) else d.scale[:, 0]
    log_prob = largest[:, 0].to(d.log_normalisers.dtype) * factor - d.log_normalisers
    return (d.values == largest) & (d.top_log_probs - log_prob < _TIE)[:, None]


def renormalised_top(top: TopK) -> TopK:
    """:func:`renormalised` of distributions on the host."""
    changed = renormalised(as_distributions(top, torch.device("cpu")))
    mass = changed.log_normalisers.numpy()
    return replace(
        top,
        log_probs=top.log_probs - mass[:, None],
        targets=top.targets - mass,
        top_ids=changed.top_ids.numpy(),
        top_log_probs=changed.top_log_probs.numpy(),
        log_normalisers=top.log_normalisers + mass,
    )


@dataclass
class _Sums:
    """Sums over the cells of n positions, each [n]; with d = ln(q/p)."""

    absolute: Tensor
    """Σ |q − p|"""
    diff: Tensor
    """Σ (q − p)"""
    diff_d: Tensor
    """Σ (q − p) d"""
    total_d: Tensor
    """Σ (p + q) d"""
    log_cosh: Tensor
    """Σ (p + q) ln cosh(d/2)"""

    def __add__(self, other: _Sums) -> _Sums:
        return _Sums(**{name: getattr(self, name) + getattr(other, name) for name in vars(self)})

    @staticmethod
    def concatenate(parts: list[_Sums]) -> _Sums:
        if len(parts) == 1:
            return parts[0]
        return _Sums(**{name: torch.cat([getattr(part, name) for part in parts]) for name in vars(parts[0])})


def _sums(reference: Distributions, candidate: Distributions, *, with_tail: bool) -> _Sums:
    """In chunks of cells, so that little is held in float64: some positions, or a part of the ids of one."""
    n, m = reference.values.shape
    most = _CELLS_PER_CHUNK.get(reference.device.type, _CELLS_PER_CHUNK_ELSEWHERE)
    width = -(-m // max(1, -(-m // most)))
    height = max(1, most // max(1, width))
    parts = []
    for start in range(0, n, height):
        p, q = (each.rows(start, min(start + height, n)) for each in (reference, candidate))
        columns = [slice(left, left + width) for left in range(0, m, width)]
        total: _Sums | None = None
        for part in columns:
            log_p, log_q = p.log_probs(part), q.log_probs(part)
            if with_tail and part is columns[-1]:
                assert p.log_tail is not None
                assert q.log_tail is not None
                log_p, log_q = (
                    torch.cat([log, tail[:, None]], dim=1) for log, tail in ((log_p, p.log_tail), (log_q, q.log_tail))
                )
            sums = _sums_of_chunk(log_p, log_q)
            total = sums if total is None else total + sums
        assert total is not None
        parts.append(total)
    return _Sums.concatenate(parts)


def _sums_of_chunk(log_p: Tensor, log_q: Tensor) -> _Sums:
    """The sums over the cells with these log-probabilities, both [n, cells]; overwrites both."""
    d = log_q - log_p
    larger = torch.maximum(log_p, log_q, out=log_p).exp_()
    distance = torch.abs(d, out=log_q)
    u = distance.neg().expm1_()
    log_cosh = (0.5 * u).log1p_().add_(distance, alpha=0.5)
    diff = u.mul_(larger)  # still -|q - p|
    absolute = diff.sum(-1).abs()
    total = larger.mul_(2.0).add_(diff)
    diff = diff.copysign_(d)
    sum_of_diff = diff.sum(-1)
    diff_d, total_d = diff.mul_(d).sum(-1), d.mul_(total).sum(-1)
    return _Sums(absolute, sum_of_diff, diff_d, total_d, log_cosh.mul_(total).sum(-1))
