"""How far a tensor is from the one that it should be."""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["relative_difference"]

_CHUNK = 1 << 22
"""Values that are compared at a time, so that large logits need no second copy of themselves."""

_ROW = 1024
"""Values whose squares are summed in the tensors' own precision; the sums of rows are added in float64, which is slow."""

_LARGE = 3e4
"""Where a norm is below this, no value is the lowest of any dtype, which masks use for "hidden"."""


def relative_difference(reference: Tensor, other: Tensor) -> float:
    """‖reference - other‖ / ‖reference‖ of two tensors of one shape; of integers and booleans, the share that is unequal.

    Values that are not finite in the same way are equal; where only one of two is not finite, the difference is infinite. The
    lowest values of a mask of attention, which stand for "hidden", count as -1 in both. Of zeros, everything else differs by 1.
    """
    reference = reference.to(other.device)
    if not (reference.is_floating_point() or reference.is_complex()):
        return float((reference != other).sum()) / max(1, reference.numel())
    lowest = tuple(torch.finfo(tensor.dtype).min / 2 for tensor in (reference, other))
    first, second = (_flat(tensor) for tensor in (reference, other))
    parts = list(zip(first.split(_CHUNK), second.split(_CHUNK), strict=True))
    difference, size = _norms(parts, torch.float32)
    if not math.isfinite(difference) or not 0 < size <= _LARGE:  # squares may be too large or too small for float32
        parts = [_unmasked(*part, *lowest) for part in parts]
        difference, size = _norms(parts, torch.float64)
    if not math.isfinite(difference):
        return math.inf
    if size == 0:
        return float(difference > 0)
    return difference / size


def _flat(tensor: Tensor) -> Tensor:
    return (torch.view_as_real(tensor) if tensor.is_complex() else tensor).reshape(-1)


def _norms(parts: list[tuple[Tensor, Tensor]], precision: torch.dtype) -> tuple[float, float]:
    """‖first - second‖ and ‖first‖ over all parts."""
    differences, sizes = [], []
    for first, second in parts:
        wide = torch.promote_types(torch.promote_types(first.dtype, second.dtype), precision)
        if first.device.type == "mps":  # it has no float64
            wide = torch.float32
        reference = first.to(wide)
        differences.append(_norm(reference - second.to(wide)))
        sizes.append(_norm(reference))
    return math.hypot(*differences), math.hypot(*sizes)


def _norm(values: Tensor) -> float:
    whole = len(values) // _ROW * _ROW
    rows = torch.linalg.vector_norm(values[:whole].view(-1, _ROW), dim=-1).tolist()
    return math.hypot(*rows, float(torch.linalg.vector_norm(values[whole:])))


def _unmasked(first: Tensor, second: Tensor, first_lowest: float, second_lowest: float) -> tuple[Tensor, Tensor]:
    hidden = first <= first_lowest
    if hidden.any():
        first, second = first.masked_fill(hidden, -1), second.masked_fill(second <= second_lowest, -1)
    same = (first == second) | (first.isnan() & second.isnan())
    return first.masked_fill(same & ~first.isfinite(), 0), second.masked_fill(same & ~second.isfinite(), 0)
