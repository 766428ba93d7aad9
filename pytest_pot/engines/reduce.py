"""From logits to :class:`~pytest_pot.distributions.TopK`, on the device: only what is compared leaves it."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from pytest_pot.distributions import Floats, Ints, TopK

__all__ = ["reduce_logits"]

_CHUNK_ELEMENTS = 1 << 22
"""Logits handled at once: bounds the float64 working set to 32 MiB a tensor, whatever the batch and the vocabulary."""

_SUMMING_STEPS = 16
"""Rounding error of a logit as a sum, in units in the last place of the sum's precision: matrix products of another shape
moved SmolLM2's by up to 15. Sums are kept in float32 or better, also by models in half precision."""

_STORING_STEPS = 2
"""The same of what is stored between sums, in the model's own precision: the logit, and what it is computed from.
Of SmolLM2 in bf16, one first choice in 512 changed with the batch's shape; it was ahead by 1.6 of these."""


def reduce_logits(
    logits: Tensor, targets: Tensor, *, select: int | Ints | None, first: int | None, temperature: float, eps: float
) -> TopK:
    """The distributions behind ``logits`` at the ids that ``select`` or ``first`` name.

    Args:
        logits: [n, vocab], any floating dtype, any device.
        targets: [n], the continuation's token at each position.
        select: an int: the ``select`` likeliest ids at each position; an array [n, m]: those ids.
        first: m: the ids 0 .. m-1 at every position, in place of ``select``.
        temperature: divides the logits.
        eps: the machine epsilon of the precision that the model's numbers have; what ``TopK.clear`` allows for follows.

    The log-sum-exp is taken in float64 where the device has it: the sums of a divergence cancel, and float32 would leave
    1e-7 per cell in a figure that should be 1e-9.
    """
    rows = max(1, _CHUNK_ELEMENTS // logits.shape[-1])
    rounding = max(_STORING_STEPS * eps, _SUMMING_STEPS * min(eps, torch.finfo(torch.float32).eps))
    parts: list[TopK] = []
    for start in range(0, len(logits), rows):
        stop = start + rows
        chunk = logits[start:stop]
        # Of the logits as they came: float64 would only be slower, and the order is the same.
        wanted = select if isinstance(select, int) else 2
        top = chunk.topk(min(max(wanted, 2), chunk.shape[-1]), dim=-1).indices
        if first is not None:
            ids = None
        elif isinstance(select, int):
            ids = top[:, :select]
        else:
            assert select is not None
            ids = torch.from_numpy(select[start:stop]).to(chunk.device)
        parts.append(_reduce_chunk(chunk, targets[start:stop], top[:, :2], ids, first, temperature, rounding))
    return TopK.concatenate(parts)


def _reduce_chunk(
    logits: Tensor, targets: Tensor, top: Tensor, ids: Tensor | None, first: int | None, temperature: float, rounding: float
) -> TopK:
    """``top`` [n, 2]: the two likeliest ids; ``rounding``: the relative error of a logit."""
    vocab = logits.shape[-1]
    wide = logits.to(torch.float32 if logits.device.type == "mps" else torch.float64)
    if temperature != 1.0:
        wide = wide * (1.0 / temperature)  # by the inverse: a recording must come to the same bits on any device
    top_logits = wide.gather(-1, top)
    peak = top_logits[:, :1]
    exps = (wide - peak).exp_()
    log_sum = exps.sum(-1, keepdim=True).log_() + peak
    chosen = wide[:, :first] if ids is None else wide.gather(-1, ids)
    log_tail = None
    if chosen.shape[-1] < vocab:
        rest = exps[:, first:] if ids is None else exps.scatter_(-1, ids, 0.0)
        # A tail that underflows is not an infinite log-probability: hold it at the least normal number.
        floor = torch.finfo(exps.dtype).tiny
        log_tail = _floats((rest.sum(-1, keepdim=True).clamp_min_(floor).log_() + peak - log_sum)[:, 0])
    lead = top_logits[:, 0] - top_logits[:, -1] if vocab > 1 else torch.full_like(top_logits[:, 0], torch.inf)
    return TopK(
        ids=None if ids is None else _ints(ids),
        log_probs=_floats(chosen - log_sum),
        log_tail=log_tail,
        targets=_floats((wide.gather(-1, targets[:, None]) - log_sum)[:, 0]),
        top_ids=_ints(top[:, 0]),
        top_log_probs=_floats((peak - log_sum)[:, 0]),
        clear=(lead > peak[:, 0].abs() * rounding).cpu().numpy(),
        # In float32 a log-probability is rounded once more, and cannot be made from the logit again.
        log_normalisers=_floats(log_sum[:, 0] if wide.dtype == torch.float64 else torch.zeros_like(log_sum[:, 0])),
        vocab_size=vocab,
    )


def _floats(tensor: Tensor) -> Floats:
    return np.asarray(tensor.cpu().numpy(), dtype=np.float64)


def _ints(tensor: Tensor) -> Ints:
    return np.asarray(tensor.cpu().numpy(), dtype=np.int64)
