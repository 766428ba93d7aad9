"""Tolerances for numbers that only rounding can make different."""

from __future__ import annotations

import torch
from torch import Tensor

from pytest_pot.engines.tensors import Distributions

__all__ = ["largest_difference", "relative_rounding", "same_cells", "same_distributions", "same_logits"]

_SUMMING_ULPS = 16
"""Rounding error of a logit from summing, in units in the last place (ULP) of the precision of the sum. Matrix products of
another shape changed SmolLM2's logits by up to 15. Models in half precision sum in float32 or better too."""

_STORING_ULPS = 2
"""Rounding error of a logit from storing it and the values it is computed from, in ULP of the model's own precision. In
SmolLM2 in bf16, one first choice in 512 changed with the shape of the batch; it had led by 1.6 ULP."""

_SAME_TV = 1e-5
"""Largest total variation between distributions of the same tokens, computed in two ways; rounding alone gives 1e-7."""


def relative_rounding(eps: float) -> float:
    """The largest rounding error of a logit, relative to the logit; ``eps``: machine epsilon of the model's dtype."""
    return max(_STORING_ULPS * eps, _SUMMING_ULPS * min(eps, torch.finfo(torch.float32).eps))


def same_logits(first: Tensor, second: Tensor) -> bool:
    """Whether two tensors of logits, of the same shape, differ only by rounding, which grows with the largest logit."""
    allowed = relative_rounding(torch.finfo(second.dtype).eps) * second.abs().max()
    return bool((first - second).abs().max() <= allowed)


def same_distributions(first: Tensor, second: Tensor, eps: float) -> bool:
    """Whether the distributions of two tensors of logits, both [n, vocab], differ only by rounding.

    ``eps``: machine epsilon of the model's dtype, which the logits may not have.
    """
    eps = max(eps, torch.finfo(first.dtype).eps)
    p, q = (logits.to(torch.float32).softmax(-1) for logits in (first, second))
    distance = float(0.5 * (p - q).abs_().sum(-1).max())
    return distance <= _largest_distance(eps)


def same_cells(first: Distributions, second: Distributions, eps: float, *, or_within: float = 0.0) -> bool:
    """Whether the distributions of two results with the same cells differ only by rounding; False if one is not finite.

    Args:
        eps: machine epsilon of the model's dtype.
        or_within: a total variation that rounding is known to reach.
    """
    return largest_difference(first, second) <= max(_largest_distance(eps), or_within)


def largest_difference(first: Distributions, second: Distributions) -> float:
    """The largest total variation, over positions, between two results with the same cells; NaN if one is not finite."""
    distances = (first.log_probs().exp_() - second.log_probs().exp_()).abs_().sum(-1)
    if first.log_tail is not None and second.log_tail is not None:
        distances += (first.log_tail.exp() - second.log_tail.exp()).abs_()
    return 0.5 * float(distances.max())


def _largest_distance(eps: float) -> float:
    return max(_SAME_TV, 2 * eps * (eps > torch.finfo(torch.float32).eps))
