"""Reduce logits to :class:`~pytest_pot.engines.tensors.Distributions` on the device that has them.

We use two precisions. The compared cells are exponentiated in float64, because they cancel in a divergence: float32 would leave
1e-7 per cell in a divergence that should be 1e-9. All other ids are one cell, the tail, whose mass is summed in float32, which
is ten times as fast. The log-sum-exp is taken over the cells and this mass. So its error is 1e-7 of the tail at temperature 1
(we saw 1e-5 at other temperatures, where logits and peak are scaled separately), the cells sum to 1, and equal logits give
numbers that are equal to the last bit. Where float32 underflows, a flag says so: to look at it here would make the host wait
for the device.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pytest_pot.engines.pytorch.output_layer import Rows
from pytest_pot.engines.pytorch.rounding import relative_rounding
from pytest_pot.engines.tensors import Distributions, wide_dtype

__all__ = ["Softmax", "reduce_over_choice", "reduce_rows", "whole_vocabulary"]

_LOGITS_PER_CPU_BLOCK = 1 << 19
"""Logits that are reduced at a time on a CPU: each is read five times, and 2 MiB stay in the cache meanwhile."""

_WIDE_LOGITS = 1 << 22
"""Logits that are held in float64 at a time on other devices, to limit memory."""

_SMALL_VOCABULARY = 1 << 12
"""Up to this vocabulary size we compute everything in float64, at no extra cost."""

_MIN_FLOAT32_TAIL = 1e-25
"""The smallest tail mass that float32, whose smallest number is 1e-38, still sums to seven digits."""

_STRIP_LENGTH = 32
"""Ids per strip: the search for the likeliest ids first looks only at the largest logit of each strip."""


@dataclass(frozen=True)
class Softmax:
    """How logits become probabilities."""

    temperature: float
    """Divides the logits."""
    eps: float
    """Machine epsilon of the model's dtype, from which ``Distributions.clear`` takes its allowance for rounding."""
    wide_tail: bool = False
    """Whether the tail is summed in float64."""


def reduce_rows(rows: Rows, targets: Tensor, select: int | Tensor, softmax: Softmax) -> Distributions:
    """The softmax of the logits in ``rows``, with cells for the ids that ``select`` names.

    Args:
        rows: logits [n, vocab], any floating dtype, any device.
        targets: [n], the continuation's token at each position.
        select: an int k: the k likeliest ids at each position, fewer than the vocabulary has; a tensor [n, m]: these ids.
            With a tensor, ``Distributions.clear`` says nothing, because we skip the slow search for the second likeliest id.
        softmax: temperature and precision.
    """
    parts: list[Distributions] = []
    start = 0
    for logits in _blocks(rows):
        stop = start + len(logits)
        if isinstance(select, int):
            top = _likeliest(logits, max(select, 2))
            ids = top[:, :select]
        else:
            ids = select[start:stop]
            top = _likeliest(logits, 1)
        parts.append(_reduce_block(logits, targets[start:stop], top[:, :2], ids, softmax))
        start = stop
    return Distributions.concatenate(parts)


def whole_vocabulary(rows: Rows, targets: Tensor, first: int, height: int, softmax: Softmax) -> Iterator[Distributions]:
    """The softmax of the logits in ``rows``, with cells for the ids 0 .. ``first`` - 1, everything in float64.

    Yields ``height`` positions at a time, as long as the logits of the next ones need not exist yet.
    """
    start = 0
    for logits in rows.chunks(height):
        stop = start + len(logits)
        yield _whole_block(logits, targets[start:stop], first, softmax)
        start = stop


def reduce_over_choice(logits: Tensor, targets: Tensor, ids: Tensor, softmax: Softmax, vocab_size: int) -> Distributions:
    """The softmax over some ids alone.

    Args:
        logits: [n, m] at ``ids`` [n, m].
        targets: [n], logits of the continuation's tokens, which may or may not be in ``ids``.
        ids: the ids at each position.
        softmax: the temperature.
        vocab_size: of the model, for the result.

    Returns:
        a distribution whose ``targets`` and first choices are relative to ``ids`` too. Its ``log_tail`` is None, because the
        other logits are not known.
    """
    wide = _wide(logits, softmax)
    two, best = wide.topk(min(2, wide.shape[-1]), dim=-1)
    peak = two[:, :1]
    log_sum = (wide - peak).exp_().sum(-1, keepdim=True).log_() + peak
    return _distributions(
        ids=ids,
        logits=logits,
        wide=wide,
        log_sum=log_sum,
        log_tail=None,
        targets=_wide(targets, softmax) - log_sum[:, 0],
        top_ids=ids.gather(-1, best[:, :1])[:, 0],
        top_log_probs=(peak - log_sum)[:, 0],
        clear=_clear(two, softmax, logits.dtype),
        softmax=softmax,
        vocab_size=vocab_size,
    )


def _blocks(rows: Rows) -> Iterator[Tensor]:
    for chunk in rows.chunks():
        yield from (
            torch.split(chunk, max(1, _LOGITS_PER_CPU_BLOCK // rows.vocab_size)) if chunk.device.type == "cpu" else (chunk,)
        )


def _likeliest(logits: Tensor, k: int) -> Tensor:
    """[n, min(k, vocab)]: the likeliest ids of ``logits`` [n, vocab], most likely first.

    On a CPU we cut the vocabulary into strips of 32 ids and search only the k strips with the largest maxima. They contain the
    k largest logits, because each of those is at most the maximum of its strip.
    """
    n, vocab = logits.shape
    k = min(k, vocab)
    n_strips = vocab // _STRIP_LENGTH
    if logits.device.type != "cpu" or n_strips < 4 * k:
        return logits.topk(k, dim=-1).indices if k > 1 else logits.max(dim=-1, keepdim=True).indices
    # Strip s has the ids s, s + n_strips, s + 2 n_strips, …: then we take the maxima over whole rows, which is fastest.
    stacked = logits[:, : n_strips * _STRIP_LENGTH].view(n, _STRIP_LENGTH, n_strips)
    best = stacked.amax(1).topk(k, dim=-1, sorted=False).indices
    ids = (best[:, None, :] + n_strips * torch.arange(_STRIP_LENGTH)[:, None]).flatten(1)
    if vocab > n_strips * _STRIP_LENGTH:
        ids = torch.cat([ids, torch.arange(n_strips * _STRIP_LENGTH, vocab).expand(n, -1)], dim=-1)
    best = logits.gather(-1, ids).topk(k, dim=-1).indices
    return ids.gather(-1, best)


def _reduce_block(logits: Tensor, targets: Tensor, top: Tensor, ids: Tensor, softmax: Softmax) -> Distributions:
    """As :func:`reduce_rows`, of ``logits`` [n, vocab]; ``top`` [n, 1 or 2]: the likeliest ids; ``ids`` [n, m]."""
    vocab = logits.shape[-1]
    top_logits = _wide(logits.gather(-1, top), softmax)
    peak = top_logits[:, :1]
    cell_logits = logits.gather(-1, ids)
    wide = _wide(cell_logits, softmax)
    tail, underflows = _tail(logits, ids, peak, softmax) if ids.shape[-1] < vocab else (None, None)
    if tail is not None and vocab > _SMALL_VOCABULARY:
        mass = (wide - peak).exp_().sum(-1, keepdim=True) + tail
    else:  # summed in the order of the ids, so that rounding does not depend on the order of the cells
        mass = (_wide(logits, softmax) - peak).exp_().sum(-1, keepdim=True)
    log_sum = mass.log_() + peak
    return _distributions(
        ids=ids,
        logits=cell_logits,
        wide=wide,
        log_sum=log_sum,
        log_tail=None if tail is None else (tail.log() + peak - log_sum)[:, 0],
        targets=(_wide(logits.gather(-1, targets[:, None]), softmax) - log_sum)[:, 0],
        top_ids=top[:, 0],
        top_log_probs=(peak - log_sum)[:, 0],
        clear=_clear(top_logits, softmax, logits.dtype),
        softmax=softmax,
        vocab_size=vocab,
        tail_underflows=underflows,
    )


def _whole_block(logits: Tensor, targets: Tensor, first: int, softmax: Softmax) -> Distributions:
    """As :func:`whole_vocabulary`, of ``logits`` [n, vocab]."""
    vocab = logits.shape[-1]
    top = _likeliest(logits, 2)
    top_logits = _wide(logits.gather(-1, top), softmax)
    peak = top_logits[:, :1]
    mass, tail = torch.empty_like(peak), torch.empty_like(peak)
    height = max(1, (_LOGITS_PER_CPU_BLOCK if logits.device.type == "cpu" else _WIDE_LOGITS) // vocab)
    for start in range(0, len(logits), height):
        part = slice(start, start + height)
        exps = _wide(logits[part], softmax).sub_(peak[part]).exp_()
        torch.sum(exps, -1, keepdim=True, out=mass[part])
        if first < vocab:
            torch.sum(exps[:, first:], -1, keepdim=True, out=tail[part])
    log_sum = mass.log_() + peak
    cells = logits[:, :first]
    return _distributions(
        ids=None,
        logits=cells,
        wide=None if wide_dtype(logits.device) == torch.float64 else _wide(cells, softmax),
        log_sum=log_sum,
        log_tail=(_positive(tail).log() + peak - log_sum)[:, 0] if first < vocab else None,
        targets=(_wide(logits.gather(-1, targets[:, None]), softmax) - log_sum)[:, 0],
        top_ids=top[:, 0],
        top_log_probs=(peak - log_sum)[:, 0],
        clear=_clear(top_logits, softmax, logits.dtype),
        softmax=softmax,
        vocab_size=vocab,
    )


def _tail(logits: Tensor, ids: Tensor, peak: Tensor, softmax: Softmax) -> tuple[Tensor, Tensor | None]:
    """[n, 1]: the sum of ``exp(logit - peak)`` over all ids but ``ids`` [n, m]; the logits are divided by the temperature.

    Also whether float32 was too small for it, [n].
    """
    narrow = logits.shape[-1] > _SMALL_VOCABULARY and not softmax.wide_tail
    rows = logits.to(torch.promote_types(logits.dtype, torch.float32) if narrow else peak.dtype)
    peak_here = peak.to(rows.dtype)
    exps = rows - peak_here if softmax.temperature == 1.0 else rows * (1.0 / softmax.temperature) - peak_here
    tail = exps.exp_().scatter_(-1, ids, 0.0).sum(-1, keepdim=True).to(peak.dtype)
    return _positive(tail), (tail < _MIN_FLOAT32_TAIL)[:, 0] if narrow and peak.dtype == torch.float64 else None


def _positive(tail: Tensor) -> Tensor:
    """``tail``, raised to the smallest normal number where it underflows to 0: its log would be infinite."""
    return tail.clamp_min(torch.finfo(tail.dtype).tiny)


def _clear(top: Tensor, softmax: Softmax, dtype: torch.dtype) -> Tensor:
    """[n]: whether the first of the logits ``top`` [n, 1 or more], most likely first, exceeds the second by more than rounding.

    ``dtype``: of the model's own logits.
    """
    if top.shape[-1] == 1:
        return torch.ones(len(top), dtype=torch.bool, device=top.device)
    rounding = relative_rounding(max(softmax.eps, torch.finfo(dtype).eps))
    return top[:, 0] - top[:, 1] > top[:, 0].abs() * rounding


def _wide(logits: Tensor, softmax: Softmax) -> Tensor:
    """``logits`` divided by the temperature, in float64, or in float32 on MPS, which has no float64; a tensor of its own."""
    wide = logits.to(wide_dtype(logits.device), copy=True)
    # Multiply by the inverse, so that a baseline gives the same bits on every device.
    return wide if softmax.temperature == 1.0 else wide.mul_(1.0 / softmax.temperature)


def _distributions(
    *, logits: Tensor, wide: Tensor | None, log_sum: Tensor, softmax: Softmax, vocab_size: int, **per_position: Any
) -> Distributions:
    """``logits`` [n, m] with what is subtracted from them; on MPS log-probabilities, ``wide`` - ``log_sum``.

    In float32, further rounding means that log-probabilities do not follow from logits.
    """
    if log_sum.dtype == torch.float64:
        values, scale, normalisers = logits, 1.0 / softmax.temperature, log_sum[:, 0]
    else:
        assert wide is not None
        values, scale, normalisers = wide - log_sum, 1.0, torch.zeros_like(log_sum[:, 0])
    return Distributions(values=values, scale=scale, log_normalisers=normalisers, vocab_size=vocab_size, **per_position)
