"""Which part of a tensor changed: values that became zero, or a few rows, columns or values."""

from __future__ import annotations

import torch
from torch import Tensor

from pytest_pot.core.text import number
from pytest_pot.engines.pytorch.weights.finding import Finding
from pytest_pot.engines.pytorch.weights.pairs import Differences, TensorPair
from pytest_pot.engines.weights import ChangeKind

__all__ = ["is_pruning", "one_value", "pruning", "what_differs"]

_MIN_PRUNED = 1e-4
"""The share of new zeros from which on pruning is thought of."""
_FIRST = 4
"""Rows of a sample that are looked at first."""
_FEW_VALUES = 0.1
"""The share of scattered values up to which their number is worth telling."""


def is_pruning(new_zeros: int, n_values: int) -> bool:
    """Whether so many new zeros are more than a few values that changed."""
    return new_zeros >= 2 and new_zeros >= _MIN_PRUNED * n_values


def pruning(pair: TensorPair, differences: Differences) -> Finding | None:
    """The share of values that became zero, if all others are equal."""
    a, b = pair.sample(differences.changed_rows)
    for part in (slice(_FIRST), slice(None)):  # most tensors are rejected by the first rows
        if not bool(((a[part] == b[part]) | (b[part] == 0)).all()):
            return None
    count = 0
    for _, a, b in pair.chunks():
        zeroed = (b == 0) & (a != 0)
        if not bool(((a == b) | zeroed).all()):
            return None
        count += int(torch.count_nonzero(zeroed))
    if not is_pruning(count, pair.n_values):
        return None
    return Finding(ChangeKind.PRUNED, _whole_rows_zeroed(pair, differences), count / pair.n_values)


def _whole_rows_zeroed(pair: TensorPair, differences: Differences) -> str:
    changed = differences.difference > 0
    if pair.n_columns == 1 or bool(differences.candidate[changed].any()):
        return ""
    return f"{int(changed.sum())} of {len(changed)} rows"


def what_differs(pair: TensorPair, differences: Differences) -> str:
    """``"3 of 576 rows"``; also of matrices, columns or values. Empty if the change is all over the tensor."""
    rows = len(differences.difference)
    changed_rows = differences.changed_rows
    n_changed = differences.n_changed
    if pair.n_columns == 1:
        return f"{n_changed} of {rows} values" if n_changed <= rows / 2 else ""
    if len(changed_rows) <= rows / 2 and n_changed >= len(changed_rows) * pair.n_columns / 2:
        n_matrices = len((changed_rows // pair.n_rows).unique())
        if pair.n_matrices > 1 and len(changed_rows) >= n_matrices * pair.n_rows / 2:
            return f"{n_matrices} of {pair.n_matrices} matrices"
        return f"{len(changed_rows)} of {rows} rows"
    if n_changed > pair.n_values / 2:
        return ""
    columns = _changed_columns(pair)
    if columns <= pair.n_columns / 2 and n_changed >= columns * rows / 2:
        return f"{columns} of {pair.n_columns} columns"
    return f"{n_changed} of {pair.n_values} values" if n_changed <= _FEW_VALUES * pair.n_values else ""


def one_value(candidate: Tensor) -> str:
    """That all values are one, as of weights that were never loaded: ``"all values are 1"``. Empty if they are not."""
    values = candidate.detach().flatten()
    if len(values) < 2 or values.is_complex() or not bool((values == values[0]).all()):
        return ""
    return f"all values are {number(float(values[0]))}"


def _changed_columns(pair: TensorPair) -> int:
    changed = torch.zeros(pair.n_columns, dtype=torch.bool, device=pair.device)
    for _, a, b in pair.chunks():
        changed |= (a != b).any(0)
    return int(changed.sum())
