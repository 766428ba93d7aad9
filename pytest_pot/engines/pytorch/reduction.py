"""Reduce logits to a :class:`~pytest_pot.engines.distributions.TopK` on the device; copy only the compared cells to the host.

We use two precisions. The compared cells are exponentiated in float64, because they cancel in a divergence: float32 would leave
1e-7 per cell in a divergence that should be 1e-9. All other ids are one cell, the tail, whose mass is summed in float32, which
is ten times as fast. The log-sum-exp is taken over the cells and this mass. So its error is 1e-7 of the tail at temperature 1
(we saw 1e-5 at other temperatures, where logits and peak are scaled separately), the cells sum to 1, and equal logits give
numbers that are equal to the last bit.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from pytest_pot.engines.distributions import Flags, Floats, Ints, TopK
from pytest_pot.engines.pytorch.output_layer import Rows
from pytest_pot.engines.pytorch.rounding import relative_rounding

__all__ = ["reduce_over_choice", "reduce_rows"]

_LOGITS_PER_CPU_BLOCK = 1 << 19
"""Logits that are reduced at a time on a CPU: each is read five times, and 2 MiB stay in the cache meanwhile."""

_SMALL_VOCABULARY = 1 << 12
"""Up to this vocabulary size we compute everything in float64, at no extra cost."""

_MIN_FLOAT32_TAIL = 1e-25
"""The smallest tail mass that float32, whose smallest number is 1e-38, still sums to seven digits."""

_STRIP_LENGTH = 32
"""Ids per strip: the search for the likeliest ids first looks only at the largest logit of each strip."""


@dataclass(frozen=True)
class _Cells:
    """The ids that get a cell of their own at each of n positions; all others are the tail."""

    ids: Tensor | None
    """[n, m], or None: the same ids, 0 .. ``first`` - 1, at every position."""
    first: int | None
    """Used only if ``ids`` is None."""

    def logits(self, logits: Tensor) -> Tensor:
        """The logits [n, m] of the cells, from ``logits`` [n, vocab]."""
        return logits[:, : self.first] if self.ids is None else logits.gather(-1, self.ids)

    def tail_sum(self, exps: Tensor) -> Tensor:
        """[n, 1]: the sum of ``exps`` [n, vocab] over the tail. May overwrite ``exps``."""
        tail = exps[:, self.first :] if self.ids is None else exps.scatter_(-1, self.ids, 0.0)
        return tail.sum(-1, keepdim=True)

    def rows(self, index: Tensor) -> _Cells:
        """The cells of the positions in ``index``."""
        return self if self.ids is None else _Cells(self.ids[index], None)


def reduce_rows(
    rows: Rows, targets: Tensor, *, select: int | Tensor | None, first: int | None, temperature: float, eps: float
) -> TopK:
    """The softmax of the logits in ``rows``, with cells for the ids that ``select`` or ``first`` names.

    Args:
        rows: logits [n, vocab], any floating dtype, any device.
        targets: [n], the continuation's token at each position.
        select: an int k: the k likeliest ids at each position; a tensor [n, m]: these ids.
        first: m: the ids 0 .. m-1 at every position; with ``select=None``.
        temperature: divides the logits.
        eps: machine epsilon of the model's dtype, from which ``TopK.clear`` takes its allowance for rounding. With a tensor
            ``select``, ``TopK.clear`` says nothing, because we skip the slow search for the second likeliest id.
    """
    parts: list[TopK] = []
    log_probs: Floats | None = None
    start = 0
    for logits in _blocks(rows):
        stop = start + len(logits)
        ids = select[start:stop] if isinstance(select, Tensor) else None
        top = _likeliest(logits, max(select, 2) if isinstance(select, int) else 1 if ids is not None else 2)
        if isinstance(select, int):
            ids = top[:, :select]
        part = _reduce_block(logits, targets[start:stop], top[:, :2], _Cells(ids, first), temperature, eps)
        # A whole vocabulary of these is large: copy each block into the final array now, instead of all blocks at the end.
        log_probs = np.empty((len(rows), part.log_probs.shape[1])) if log_probs is None else log_probs
        log_probs[start:stop] = part.log_probs
        parts.append(replace(part, log_probs=np.empty((stop - start, 0))))
        start = stop
    assert log_probs is not None
    return replace(TopK.concatenate(parts), log_probs=log_probs)


def reduce_over_choice(logits: Tensor, targets: Tensor, ids: Tensor, temperature: float, eps: float, vocab_size: int) -> TopK:
    """The softmax over some ids alone.

    Args:
        logits: [n, m] at ``ids`` [n, m].
        targets: [n], logits of the continuation's tokens, which may or may not be in ``ids``.
        ids: the ids at each position.
        temperature: divides the logits.
        eps: machine epsilon of the model's dtype.
        vocab_size: of the model, for the result.

    Returns:
        a distribution whose ``targets`` and first choices are relative to ``ids`` too. Its ``log_tail`` is None, because the
        other logits are not known.
    """
    wide = _wide(logits, temperature)
    two, best = wide.topk(min(2, wide.shape[-1]), dim=-1)
    peak = two[:, :1]
    log_sum = (wide - peak).exp_().sum(-1, keepdim=True).log_() + peak
    return TopK(
        ids=_ints(ids),
        log_probs=_floats(wide - log_sum),
        log_tail=None,
        targets=_floats(_wide(targets, temperature) - log_sum[:, 0]),
        top_ids=_ints(ids.gather(-1, best[:, :1])[:, 0]),
        top_log_probs=_floats((peak - log_sum)[:, 0]),
        clear=_clear(two[:, 0], two[:, 1] if two.shape[-1] > 1 else None, eps, logits.dtype),
        log_normalisers=_normalisers(log_sum),
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
        return logits.topk(k, dim=-1).indices
    # Strip s has the ids s, s + n_strips, s + 2 n_strips, …: then we take the maxima over whole rows, which is fastest.
    stacked = logits[:, : n_strips * _STRIP_LENGTH].view(n, _STRIP_LENGTH, n_strips)
    best = stacked.amax(1).topk(k, dim=-1, sorted=False).indices
    ids = (best[:, None, :] + n_strips * torch.arange(_STRIP_LENGTH)[:, None]).flatten(1)
    if vocab > n_strips * _STRIP_LENGTH:
        ids = torch.cat([ids, torch.arange(n_strips * _STRIP_LENGTH, vocab).expand(n, -1)], dim=-1)
    best = logits.gather(-1, ids).topk(k, dim=-1).indices
    return ids.gather(-1, best)


def _reduce_block(logits: Tensor, targets: Tensor, top: Tensor, cells: _Cells, temperature: float, eps: float) -> TopK:
    """As :func:`reduce_rows`, of ``logits`` [n, vocab]; ``top`` [n, 1 or 2]: the likeliest ids."""
    vocab = logits.shape[-1]
    top_logits = _wide(logits.gather(-1, top), temperature)
    peak = top_logits[:, :1]
    cell_logits = _wide(cells.logits(logits), temperature)
    tail = _tail(logits, cells, peak, temperature) if cell_logits.shape[-1] < vocab else None
    if tail is not None and vocab > _SMALL_VOCABULARY:
        mass = (cell_logits - peak).exp_().sum(-1, keepdim=True) + tail
    else:  # summed in the order of the ids, so that rounding does not depend on the order of the cells
        mass = (_wide(logits, temperature) - peak).exp_().sum(-1, keepdim=True)
    log_sum = mass.log_() + peak
    return TopK(
        ids=None if cells.ids is None else _ints(cells.ids),
        log_probs=_floats(cell_logits - log_sum),
        log_tail=None if tail is None else _floats((tail.log() + peak - log_sum)[:, 0]),
        targets=_floats((_wide(logits.gather(-1, targets[:, None]), temperature) - log_sum)[:, 0]),
        top_ids=_ints(top[:, 0]),
        top_log_probs=_floats((peak - log_sum)[:, 0]),
        clear=_clear(top_logits[:, 0], top_logits[:, 1] if top.shape[-1] > 1 else None, eps, logits.dtype),
        log_normalisers=_normalisers(log_sum),
        vocab_size=vocab,
    )


def _tail(logits: Tensor, cells: _Cells, peak: Tensor, temperature: float) -> Tensor:
    """[n, 1]: the sum of ``exp(logit - peak)`` over all ids without a cell; the logits are divided by the temperature."""

    def mass(rows: Tensor, peak: Tensor, cells: _Cells) -> Tensor:
        exps = rows - peak.to(rows.dtype) if temperature == 1.0 else rows * (1.0 / temperature) - peak.to(rows.dtype)
        exps.exp_()
        return cells.tail_sum(exps).to(peak.dtype)

    if logits.shape[-1] > _SMALL_VOCABULARY:
        tail = mass(logits.to(torch.promote_types(logits.dtype, torch.float32)), peak, cells)
        small = (tail < _MIN_FLOAT32_TAIL)[:, 0].nonzero()[:, 0]
        if len(small):
            tail[small] = mass(logits[small].to(peak.dtype), peak[small], cells.rows(small))
    else:
        tail = mass(logits.to(peak.dtype), peak, cells)
    # If the tail underflows to 0, its log would be infinite: raise it to the smallest normal number.
    return tail.clamp_min_(torch.finfo(tail.dtype).tiny)


def _clear(first: Tensor, second: Tensor | None, eps: float, dtype: torch.dtype) -> Flags:
    """[n]: whether logits ``first`` exceed ``second`` by more than rounding error; ``dtype``: of the model's own logits."""
    rounding = relative_rounding(max(eps, torch.finfo(dtype).eps))
    if second is None:
        return np.ones(len(first), dtype=np.bool_)
    return np.asarray((first - second > first.abs() * rounding).cpu().numpy())


def _wide(logits: Tensor, temperature: float) -> Tensor:
    """``logits`` divided by the temperature, in float64, or in float32 on MPS, which has no float64."""
    wide = logits.to(torch.float32 if logits.device.type == "mps" else torch.float64)
    # Multiply by the inverse, so that a baseline gives the same bits on every device.
    return wide if temperature == 1.0 else wide * (1.0 / temperature)


def _normalisers(log_sum: Tensor) -> Floats:
    """[n]: ``log_sum`` [n, 1]; 0 in float32, where further rounding means that log-probabilities do not follow from logits."""
    return _floats(log_sum[:, 0] if log_sum.dtype == torch.float64 else torch.zeros_like(log_sum[:, 0]))


def _floats(tensor: Tensor) -> Floats:
    return np.asarray(tensor.cpu().numpy(), dtype=np.float64)


def _ints(tensor: Tensor) -> Ints:
    return np.asarray(tensor.cpu().numpy(), dtype=np.int64)
