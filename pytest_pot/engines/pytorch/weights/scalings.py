"""Tensors that were multiplied: by one factor, or each row or column by its own."""

from __future__ import annotations

import torch
from torch import Tensor

from pytest_pot.engines.pytorch.weights.finding import Finding
from pytest_pot.engines.pytorch.weights.pairs import Differences, TensorPair
from pytest_pot.engines.pytorch.weights.precisions import spacing, stored_dtype
from pytest_pot.engines.weights import ChangeKind

__all__ = ["scaling"]

_MAX_ERROR = 0.55
"""How far a product may be off, in steps of the format. Rounding to nearest is off by at most 0.5; a second rounding to a finer
format before it adds a little. A change to the next number of the format is off by 1, and so a factor does not explain it."""
_FIRST = 16
"""Rows and columns of a sample that are looked at first."""
_MIN_VALUES = 8
"""Nonzero values that each factor has to explain. Fewer may be multiples of each other by chance."""


def scaling(pair: TensorPair, differences: Differences) -> Finding | None:
    """One factor for all values; or that each row or column has its own, if most rows changed and most factors are not 1."""
    a, b = pair.sample(differences.changed_rows)
    stored = stored_dtype(b, pair.candidate_dtype)
    factors = _fitting(a.reshape(1, -1), b.reshape(1, -1), 1, stored)
    if factors is not None:
        return Finding(ChangeKind.SCALED, amount=float(factors)) if _all_close(pair, factors, stored) else None
    if len(differences.changed_rows) <= len(differences.difference) / 2:
        return None  # that these rows changed says more
    if _fitting(a, b, 1, stored) is not None:
        return Finding(ChangeKind.SCALED, "per row") if _all_close(pair, None, stored) else None
    factors = _fitting(a, b, 0, stored)
    if factors is not None:
        return Finding(ChangeKind.SCALED, "per column") if _all_close(pair, factors, stored) else None
    return None


def _fitting(a: Tensor, b: Tensor, dim: int, stored: torch.dtype) -> Tensor | None:
    """Factors along ``dim`` that explain a sample, if there are such and rounding does not explain it."""
    first, first_of_b = (values[:_FIRST, :_FIRST].to(torch.float64) for values in (a, b))
    if not bool(_factors(first, first_of_b, dim, stored).isfinite().all()):  # most fail on the first few values
        return None
    a, b = a.to(torch.float64), b.to(torch.float64)
    factors = _factors(a, b, dim, stored)
    if not bool(factors.isfinite().all()):
        return None
    counts = torch.count_nonzero(a, dim=dim)
    enough = bool(((counts >= _MIN_VALUES) | (counts == 0)).all())
    other_than_one = bool(((factors - 1).abs() > torch.finfo(stored).eps).to(torch.float64).mean() > 0.5)
    return factors if enough and other_than_one else None


def _factors(a: Tensor, b: Tensor, dim: int, stored: torch.dtype) -> Tensor:
    """A factor along ``dim`` that explains all values: by least squares, within the bounds that each value sets. NaN where
    there is none, and 1 where all are 0."""
    steps = spacing(b, stored)
    nonzero = a != 0
    bounds = torch.stack([b - _MAX_ERROR * steps, b + _MAX_ERROR * steps]) / torch.where(nonzero, a, 1.0)
    lowest = torch.where(nonzero, bounds.amin(0), -torch.inf).amax(dim, keepdim=True)
    highest = torch.where(nonzero, bounds.amax(0), torch.inf).amin(dim, keepdim=True)
    squares = (a / steps).square().sum(dim, keepdim=True)
    factors = torch.where(squares > 0, (a * b / steps.square()).sum(dim, keepdim=True) / squares, 1.0)
    zeros = ((b == 0) | nonzero).all(dim, keepdim=True)
    return torch.where((lowest <= highest) & zeros, factors.clamp(lowest, highest), torch.nan)


def _all_close(pair: TensorPair, factors: Tensor | None, stored: torch.dtype) -> bool:
    """Whether ``factors`` explain all values, not only the sampled ones; None: each row's own.

    The products here are rounded as well, and so may be off by twice as much.
    """
    info = torch.finfo(stored)
    for _, a, b in pair.chunks():
        own = _factors(a.to(torch.float64), b.to(torch.float64), 1, stored) if factors is None else factors
        if not bool(((b - own.to(a.dtype) * a).abs() <= 2 * info.eps * (b.abs() + info.smallest_normal)).all()):
            return False
    return True
