"""From logits to :class:`~pytest_pot.engines.distributions.TopK`, on the device: only what is compared leaves it.

Two precisions make a figure exact where it matters. The compared cells are exponentiated in float64: they cancel in a
divergence, and float32 would leave 1e-7 per cell in a figure that should be 1e-9. All other ids are one cell, whose mass is
summed in float32, ten times as fast; the log-sum-exp is of the cells and that mass. So its error is 1e-7 of the tail at
temperature 1 (1e-5 was seen at others, where logits and peak are scaled apart), the cells sum to 1, and for equal logits all
numbers are equal to the last bit.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from pytest_pot.engines.distributions import Flags, Floats, Ints, TopK
from pytest_pot.engines.pytorch.output_layer import Rows
from pytest_pot.engines.pytorch.rounding import relative_rounding

__all__ = ["reduce_over_choice", "reduce_rows"]

_CACHED = 1 << 19
"""Logits that are reduced at once on a CPU: each is read five times, and 2 MiB stay in the cache meanwhile."""

_SMALL_VOCABULARY = 1 << 12
"""Up to here everything is in float64: it costs nothing."""

_LEAST_TAIL = 1e-25
"""The mass of a tail that float32, whose least number is 1e-38, can still sum to seven digits."""

_STRIP = 32
"""Ids of which only the largest logit is looked at first, when the likeliest are searched."""


def reduce_rows(
    rows: Rows, targets: Tensor, *, select: int | Tensor | None, first: int | None, temperature: float, eps: float
) -> TopK:
    """The distributions behind the logits of ``rows`` at the ids that ``select`` or ``first`` name.

    Args:
        rows: logits [n, vocab], any floating dtype, any device.
        targets: [n], the continuation's token at each position.
        select: an int: the ``select`` likeliest ids at each position; ids [n, m]: those.
        first: m: the ids 0 .. m-1 at every position, in place of ``select``.
        temperature: divides the logits.
        eps: the machine epsilon of the precision that the model's numbers have; what ``TopK.clear`` allows for follows.
            Of ids that are given it says nothing: the second choice, which takes long to find, is not looked for.
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
        part = _reduce_block(logits, targets[start:stop], top[:, :2], ids, first, temperature, eps)
        # Of a whole vocabulary these are large: each block's are moved to where they will stay, not all at the end.
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
        targets: [n], logits of the continuation's tokens, in ``ids`` or not.

    Returns:
        ``targets`` and first choices are relative to those ids too; there is no ``log_tail``, because nothing is known of it.
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
        yield from torch.split(chunk, max(1, _CACHED // rows.vocab_size)) if chunk.device.type == "cpu" else (chunk,)


def _likeliest(logits: Tensor, k: int) -> Tensor:
    """[n, k']: the k likeliest ids of ``logits`` [n, vocab], most likely first; k' is less where the vocabulary is.

    On a CPU, a vocabulary is cut into strips of 32 ids, and only the k strips with the largest maxima are sorted: any of the k
    largest logits is the largest of its strip, or has that one above it.
    """
    n, vocab = logits.shape
    k = min(k, vocab)
    strips = vocab // _STRIP
    if logits.device.type != "cpu" or strips < 4 * k:
        return logits.topk(k, dim=-1).indices
    # Strip s is the ids s, s + strips, s + 2 strips, …: maxima of whole rows are the fastest to take.
    stacked = logits[:, : strips * _STRIP].view(n, _STRIP, strips)
    best = stacked.amax(1).topk(k, dim=-1, sorted=False).indices
    ids = (best[:, None, :] + strips * torch.arange(_STRIP)[:, None]).flatten(1)
    if vocab > strips * _STRIP:
        ids = torch.cat([ids, torch.arange(strips * _STRIP, vocab).expand(n, -1)], dim=-1)
    best = logits.gather(-1, ids).topk(k, dim=-1).indices
    return ids.gather(-1, best)


def _reduce_block(
    logits: Tensor, targets: Tensor, top: Tensor, ids: Tensor | None, first: int | None, temperature: float, eps: float
) -> TopK:
    """``top`` [n, 1 or 2]: the likeliest ids."""
    vocab = logits.shape[-1]
    top_logits = _wide(logits.gather(-1, top), temperature)
    peak = top_logits[:, :1]
    chosen = _wide(logits[:, :first] if ids is None else logits.gather(-1, ids), temperature)
    tail = _tail(logits, ids, first, peak, temperature) if chosen.shape[-1] < vocab else None
    if tail is not None and vocab > _SMALL_VOCABULARY:
        mass = (chosen - peak).exp_().sum(-1, keepdim=True) + tail
    else:  # in the order of the ids, whatever the order of those compared
        mass = (_wide(logits, temperature) - peak).exp_().sum(-1, keepdim=True)
    log_sum = mass.log_() + peak
    return TopK(
        ids=None if ids is None else _ints(ids),
        log_probs=_floats(chosen - log_sum),
        log_tail=None if tail is None else _floats((tail.log() + peak - log_sum)[:, 0]),
        targets=_floats((_wide(logits.gather(-1, targets[:, None]), temperature) - log_sum)[:, 0]),
        top_ids=_ints(top[:, 0]),
        top_log_probs=_floats((peak - log_sum)[:, 0]),
        clear=_clear(top_logits[:, 0], top_logits[:, 1] if top.shape[-1] > 1 else None, eps, logits.dtype),
        log_normalisers=_normalisers(log_sum),
        vocab_size=vocab,
    )


def _tail(logits: Tensor, ids: Tensor | None, first: int | None, peak: Tensor, temperature: float) -> Tensor:
    """[n, 1]: the sum of ``exp(logit - peak)`` over all ids but those compared."""

    def summed(rows: Tensor, peak: Tensor, ids: Tensor | None) -> Tensor:
        exps = rows - peak.to(rows.dtype) if temperature == 1.0 else rows * (1.0 / temperature) - peak.to(rows.dtype)
        exps.exp_()
        rest = exps[:, first:] if ids is None else exps.scatter_(-1, ids, 0.0)
        return rest.sum(-1, keepdim=True).to(peak.dtype)

    if logits.shape[-1] > _SMALL_VOCABULARY:
        tail = summed(logits.to(torch.promote_types(logits.dtype, torch.float32)), peak, ids)
        small = (tail < _LEAST_TAIL)[:, 0].nonzero()[:, 0]
        if len(small):
            tail[small] = summed(logits[small].to(peak.dtype), peak[small], None if ids is None else ids[small])
    else:
        tail = summed(logits.to(peak.dtype), peak, ids)
    # A tail that underflows is not an infinite log-probability: hold it at the least normal number.
    return tail.clamp_min_(torch.finfo(tail.dtype).tiny)


def _clear(first: Tensor, second: Tensor | None, eps: float, dtype: torch.dtype) -> Flags:
    """[n]: whether logits ``first`` are ahead of ``second`` by more than rounding, ``dtype`` being what they came in."""
    rounding = relative_rounding(max(eps, torch.finfo(dtype).eps))
    if second is None:
        return np.ones(len(first), dtype=np.bool_)
    return np.asarray((first - second > first.abs() * rounding).cpu().numpy())


def _wide(logits: Tensor, temperature: float) -> Tensor:
    """In float64 where the device has it, over the temperature."""
    wide = logits.to(torch.float32 if logits.device.type == "mps" else torch.float64)
    # By the inverse: a recording must come to the same bits on any device.
    return wide if temperature == 1.0 else wide * (1.0 / temperature)


def _normalisers(log_sum: Tensor) -> Floats:
    """[n]: 0 in float32, where a log-probability is rounded once more and cannot be made from the logit again."""
    return _floats(log_sum[:, 0] if log_sum.dtype == torch.float64 else torch.zeros_like(log_sum[:, 0]))


def _floats(tensor: Tensor) -> Floats:
    return np.asarray(tensor.cpu().numpy(), dtype=np.float64)


def _ints(tensor: Tensor) -> Ints:
    return np.asarray(tensor.cpu().numpy(), dtype=np.int64)
