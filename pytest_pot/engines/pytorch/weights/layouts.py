"""How a tensor is cut into groups of values that share a scale, and how to look at some of them or at all."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from pytest_pot.engines.pytorch.weights.pairs import layout as shape_as_matrices
from pytest_pot.engines.pytorch.weights.pairs import values_at_once

__all__ = ["Layout", "layouts", "rows_of", "spread"]

_SIZES = (256, 128, 64, 32, 16)
SAMPLE = 8192
"""How many values a sample has, about."""
LONGEST = 2**15
"""How much of a longer row is looked at in a sample."""


@dataclass(frozen=True)
class Layout:
    """Which values share a scale."""

    by: str
    """``"tensor"``, ``"row"``, ``"column"`` or ``"group"``."""
    size: int = 0

    @property
    def words(self) -> str:
        return f"in groups of {self.size}" if self.by == "group" else f"per {self.by}"

    def sample(self, rows: Tensor) -> Tensor:
        """Some groups, spread over the tensor, [groups, values], float32; a long group is cut. Groups of zeros are left out."""
        if self.by == "column":
            return Layout("row").sample(rows.T)
        n_rows, n_columns = rows.shape
        groups: Tensor
        if self.by == "group":
            per_row = n_columns // self.size
            chosen = spread(n_rows * per_row, max(SAMPLE // self.size, 1), rows.device)
            groups = rows[:, : per_row * self.size].unflatten(-1, (per_row, self.size))[chosen // per_row, chosen % per_row]
        else:
            length = min(n_columns, LONGEST)
            groups = rows[spread(n_rows, max(SAMPLE // length, 4), rows.device), :length]
        groups = groups.float().reshape(1, -1) if self.by == "tensor" else groups.float()
        return groups[(groups != 0).any(dim=-1)]

    def neighbours(self, rows: Tensor, n_values: int) -> Tensor | None:
        """About ``n_values`` in pairs of groups that are next to each other, [groups, values], float32; None where a row has
        no two groups, and of columns."""
        n_rows, n_columns = rows.shape
        if self.by == "row" and n_rows > 1:
            length = min(n_columns, LONGEST)
            chosen = spread(n_rows // 2, max(n_values // length // 2, 2), rows.device) * 2
            return torch.stack([rows[chosen, :length], rows[chosen + 1, :length]], dim=1).float().flatten(0, 1)
        per_row = n_columns // (2 * self.size) if self.by == "group" else 0
        if not per_row:
            return None
        pairs = rows[:, : per_row * 2 * self.size].unflatten(-1, (per_row, 2, self.size))
        chosen = spread(n_rows * per_row, max(n_values // self.size // 2, 2), rows.device)
        neighbours: Tensor = pairs[chosen // per_row, chosen % per_row].float().flatten(0, 1)
        return neighbours

    def blocks(self, rows: Tensor) -> Iterator[Tensor]:
        """All groups, in blocks [groups, values], float32. A tensor comes in parts."""
        if self.by == "column":
            yield from Layout("row").blocks(rows.T)
            return
        count = max(values_at_once(rows.device) // rows.shape[1], 1)
        for start in range(0, len(rows), count):
            block = rows[start : start + count].float()
            if self.by == "tensor":
                yield block.reshape(1, -1)
            elif self.by == "row":
                yield block
            else:
                whole = block.shape[1] // self.size * self.size
                yield block[:, :whole].reshape(-1, self.size)
                if whole < block.shape[1]:  # the last group of a row may be shorter
                    yield block[:, whole:]


def rows_of(values: Tensor) -> Tensor:
    """``values`` as rows, [rows, columns]: along the last dimension, or of a kernel for each output channel. A vector is one
    row."""
    _, _, n_columns = shape_as_matrices(tuple(values.shape))
    return values.reshape(1, -1) if n_columns == 1 else values.reshape(-1, n_columns)


def layouts(rows: Tensor) -> list[Layout]:
    """The layouts that a quantiser may have used for ``rows``, those with the largest groups first."""
    n_rows, n_columns = rows.shape
    lines = ["row", "column"] if n_rows > 1 < n_columns else []
    groups = [Layout("group", size) for size in _SIZES if size < n_columns]
    return [*(Layout(by) for by in ("tensor", *lines)), *groups]


def spread(total: int, count: int, device: torch.device) -> Tensor:
    """``count`` of ``total`` indices, spread evenly, but at no period that the tensor may have too."""
    if total <= count:
        return torch.arange(total, device=device)
    fractions = torch.arange(1, count + 1, dtype=torch.float64, device=device) * (math.sqrt(5) - 1) / 2 % 1
    return (fractions * total).long()
