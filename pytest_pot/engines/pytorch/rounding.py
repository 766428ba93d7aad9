"""How far numbers may be apart that would be equal if nothing were rounded."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["relative_rounding", "same_distributions", "same_logits"]

_SUMMING_STEPS = 16
"""Rounding error of a logit as a sum, in units in the last place of the sum's precision: matrix products of another shape
moved SmolLM2's by up to 15. Sums are kept in float32 or better, also by models in half precision."""

_STORING_STEPS = 2
"""The same of what is stored between sums, in the model's own precision: the logit, and what it is computed from.
Of SmolLM2 in bf16, one first choice in 512 changed with the batch's shape; it was ahead by 1.6 of these."""

_SAME_SCORE = 1e-5
"""How far distributions may be apart, in total variation, when the same tokens are read another way; rounding: 1e-7."""


def relative_rounding(eps: float) -> float:
    """The largest rounding error of a logit, relative to it; ``eps``: the machine epsilon of the model's precision."""
    return max(_STORING_STEPS * eps, _SUMMING_STEPS * min(eps, torch.finfo(torch.float32).eps))


def same_logits(first: Tensor, second: Tensor) -> bool:
    """Whether two sets of logits, of one shape, are the same product but for rounding, which goes with the largest of them."""
    allowed = relative_rounding(torch.finfo(second.dtype).eps) * second.abs().max()
    return bool((first - second).abs().max() <= allowed)


def same_distributions(first: Tensor, second: Tensor, eps: float) -> bool:
    """Whether the distributions of two sets of logits, [n, vocab] each, are the same but for rounding.

    ``eps``: the machine epsilon of the model's precision, where the logits' own does not tell it.
    """
    eps = max(eps, torch.finfo(first.dtype).eps)
    p, q = (logits.to(torch.float32).softmax(-1) for logits in (first, second))
    apart = float(0.5 * (p - q).abs_().sum(-1).max())
    return apart <= max(_SAME_SCORE, 2 * eps * (eps > torch.finfo(torch.float32).eps))
