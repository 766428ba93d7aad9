"""Tensors that were rounded: to a float format, or to a quantiser's grid.

That a tensor lies on a grid is not enough. The reference may lie on one as well, and tensors that were permuted or scaled stay
on theirs. So the grid also has to explain the difference.

Rounding to a float format is computed again, and has to give the candidate. A quantiser's scales are not known; but it rounds
to the nearest number of its grid, and most of these occur in the candidate. So we ask how many of the reference's values went
to the nearest of the candidate's values in the same row or group. With rounding to nearest, nearly all do. Quantisers that
compensate errors (GPTQ) send half of them further, but not far. A reference that is on the grid already has distance 0 to it,
and so every change of it is further than the nearest number.
"""

from __future__ import annotations

import re

import numpy as np
import torch
from torch import Tensor

from pytest_pot.engines.pytorch.weights.finding import Finding
from pytest_pot.engines.pytorch.weights.grids import Grid, GridSearch, find_grid
from pytest_pot.engines.pytorch.weights.pairs import Differences, TensorPair
from pytest_pot.engines.pytorch.weights.precisions import FORMATS, dtype_name, to_format
from pytest_pot.engines.weights import ChangeKind

__all__ = ["float_rounding", "grid_rounding"]

_MIN_SHARE_TO_NEAREST = 0.3
_LEAST_ERROR, _MOST_ERROR = 0.3, 3.0
"""Norm of the difference over that of errors spread evenly within a step. Rounding to nearest has 1, and quantisers that
compensate errors have up to 2. Other weights that were rounded to 2 bits, the coarsest grid, have 3.5."""
_MIN_ERROR = 1e-3
"""Root mean square of the difference over the standard deviation from which on a grid is searched for. 256 levels that span two
standard deviations, the least, make errors of 2.3e-3; half of that leaves room for values that lie on the grid already."""
_WORST_ROWS, _COMPARED_ROWS, _FIRST_ROWS = 8, 16, 4
_LOOKED_AT = 5
"""Of so many values, one is looked for among all."""


def float_rounding(pair: TensorPair, differences: Differences) -> Finding | None:
    """The float format that gives the candidate when the reference is rounded to it."""
    a, b = pair.sample(differences.changed_rows)
    first = slice(_FIRST_ROWS)  # they reject most formats
    for dtype in sorted(FORMATS, key=lambda dtype: dtype != pair.candidate_dtype):
        explains = all(torch.equal(to_format(a[part], dtype), b[part]) for part in (first, slice(None)))
        if explains and pair.rounded(dtype).equal():
            return Finding(ChangeKind.ROUNDED, dtype_name(dtype))
    if pair.arithmetic == torch.float32 and torch.equal(_cut_off(a[first]), b[first]) and torch.equal(_cut_off(a), b):
        cut_off = all(torch.equal(_cut_off(a), b) for _, a, b in pair.chunks())
        return Finding(ChangeKind.ROUNDED, "bfloat16 by truncation") if cut_off else None
    return None


def _cut_off(values: Tensor) -> Tensor:
    """The first 16 bits of float32 ``values``: what programs do that know no bfloat16."""
    return (values.view(torch.int32) & -(1 << 16)).view(torch.float32)


def grid_rounding(pair: TensorPair, differences: Differences, values: Tensor, grids: GridSearch) -> Finding | None:
    """The quantiser's grid on which all ``values`` of the candidate lie, if rounding to it explains the difference."""
    rows = differences.changed_rows
    a, b = pair.sample(rows)
    if float((b - a).square().mean().sqrt()) < _MIN_ERROR * float(b.std(correction=0)):
        return None
    few = len(rows) <= len(differences.difference) / 2
    if few and pair.n_columns > 1 and find_grid(b) is None:
        return None  # the other rows may lie on a grid, which takes long to confirm
    grid = grids.find(values)
    if grid is None or grid.lattice is None or not _explains(grid, a, b, _LEAST_ERROR):
        return None
    if pair.n_columns > 1:
        ratios = differences.difference[rows] / differences.reference[rows].clamp_min(torch.finfo(torch.float64).tiny)
        a, b = pair.rows(rows[ratios.topk(min(_WORST_ROWS, len(rows))).indices])
        if not _explains(grid, a, b, 0.0):
            return None
    return Finding(ChangeKind.ROUNDED, grid.name)


def _explains(grid: Grid, a: Tensor, b: Tensor, least: float) -> bool:
    """Whether rounding to ``grid`` explains the difference of some rows."""
    if a.shape[1] == 1:
        a, b = a.T, b.T
    elif "per column" not in grid.name:
        step = -(-len(a) // _COMPARED_ROWS)  # sorting takes long
        a, b = a[::step], b[::step]
    error = float((b - a).to(torch.float64).norm())
    expected = grid.rounding_error(b)
    if not least * expected <= error <= _MOST_ERROR * expected:
        return False
    a, b = (_units(values, grid.name) for values in (a, b))
    return _share_to_nearest(a, b) >= _MIN_SHARE_TO_NEAREST


def _sorted(values: Tensor) -> Tensor:
    """Along the last dimension; on CPUs, numpy is four to seven times as fast."""
    return values.sort(dim=-1).values if values.device.type != "cpu" else torch.from_numpy(np.sort(values.numpy(), axis=-1))


def _units(values: Tensor, grid: str) -> Tensor:
    """``values`` [rows, columns] as [units, values]: each unit has its own numbers on the grid."""
    if values.shape[1] == 1 or "per tensor" in grid:
        return values.reshape(1, -1)
    if "per column" in grid:
        return values.T.contiguous()
    group = re.search(r"in groups of (\d+)", grid)
    if group is None or values.shape[1] < int(group[1]):
        return values
    size = int(group[1])
    return values[:, : values.shape[1] // size * size].reshape(-1, size)


def _share_to_nearest(a: Tensor, b: Tensor) -> float:
    """Of the values of ``a`` [units, values] that changed, the share that went to the nearest value in their unit of ``b``.
    One in five is looked at."""
    levels = _sorted(b)
    a, b = (values[:, ::_LOOKED_AT].contiguous() for values in (a, b))
    above = torch.searchsorted(levels, a).clamp_max(levels.shape[-1] - 1)
    below = (above - 1).clamp_min(0)
    distances = torch.minimum((a - levels.gather(-1, above)).abs(), (a - levels.gather(-1, below)).abs())
    changes = (b - a).abs()
    return float((changes <= 1.001 * distances)[changes > 0].double().mean())
