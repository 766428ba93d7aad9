"""Differences of low rank, as of an adapter that was merged into a matrix.

A stored sum W + BA is rounded, so that its difference from W has full rank: BA and the rounding error. We know the size of this
error from the format of the sum, and claim a low rank only where what is left beside a few singular values is no larger.
All arithmetic is in float64; in float32, its own rounding would be as large as that of a sum stored in float32.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from pytest_pot.engines.pytorch.weights.finding import Finding
from pytest_pot.engines.pytorch.weights.pairs import Differences, TensorPair, spread
from pytest_pot.engines.pytorch.weights.precisions import spacing, stored_dtype
from pytest_pot.engines.weights import ChangeKind

__all__ = ["low_rank"]

_MAX_RANK = 64
_MIN_SIZE_OVER_RANK = 2
"""How many times the rank a matrix has to have rows and columns. Any change of a small matrix has a rank that is not much above
that of an adapter."""
_MIN_CHANGED = 0.5
"""The share of rows and columns that have to differ. Any change of k rows has at most rank k, and it is the rows that matter;
an adapter changes all."""
_SPARE = 16
"""Directions beyond the largest rank that we look at, so that the last ones are found as well."""
_SAMPLED_ROWS, _SAMPLED_COLUMNS = 128, 1024
_ALLOWED = 1.5
"""How many times its expected norm the rounding error may have. Its norm hardly varies; but the product BA may have been
rounded once more before it was added."""
_SEED = 18


def low_rank(pair: TensorPair, differences: Differences) -> Finding | None:
    """The rank of the difference; of several matrices, the largest one."""
    largest = min(_MAX_RANK, min(pair.n_rows, pair.n_columns) // _MIN_SIZE_OVER_RANK)
    if largest == 0:
        return None
    rank = 0
    for matrix in range(pair.n_matrices):
        first = matrix * pair.n_rows
        changed = differences.difference[first : first + pair.n_rows].nonzero()[:, 0] + first
        if not len(changed):
            continue
        if len(changed) <= _MIN_CHANGED * pair.n_rows:
            return None
        stored = _stored_if_low(pair, changed, largest)
        if stored is None:
            return None
        own = _rank(_MatrixDifference(pair, first), stored, largest)
        if own is None:
            return None
        rank = max(rank, own)
    return Finding(ChangeKind.LOW_RANK, amount=float(rank)) if rank else None


def _stored_if_low(pair: TensorPair, changed: Tensor, largest: int) -> torch.dtype | None:
    """The format that one matrix was stored in, if a sample of its rows and columns may be from a difference of rank
    ``largest`` or less; else None."""
    columns = spread(torch.arange(pair.n_columns), _SAMPLED_COLUMNS)
    a, b = (values[:, columns.to(pair.device)] for values in pair.rows(spread(changed, _SAMPLED_ROWS)))
    stored = stored_dtype(b, pair.candidate_dtype)
    b = b.to(torch.float64)
    difference = b - a
    if int((difference != 0).any(0).sum()) <= _MIN_CHANGED * len(columns):
        return None
    squares = torch.linalg.eigvalsh(difference @ difference.T).flip(0).clamp_min(0.0)
    error = _largest_error(float(spacing(b, stored).square().sum()), stored, float(squares.sum()))
    return stored if float(squares[largest:].sum()) <= error**2 else None


def _largest_error(steps: float, stored: torch.dtype, square: float) -> float:
    """The largest norm of the error that rounding to the format ``stored`` explains, beside a difference of the squared norm
    ``square``.

    ``steps`` is the sum of the squares of the format's steps at all values. Errors are uniform within a step, and so each has a
    twelfth of its square on average. The product was rounded to no coarser format.
    """
    return _ALLOWED * math.sqrt(steps / 12) + torch.finfo(stored).eps * math.sqrt(square)


def _rank(part: _MatrixDifference, stored: torch.dtype, largest: int) -> int | None:
    """The rank of the difference of one matrix; None if it is above ``largest``.

    A randomised range finder (Halko, Martinsson and Tropp 2011) with one power iteration: a few passes, and the whole
    difference is never in memory.
    """
    generator = torch.Generator().manual_seed(_SEED)
    directions = torch.randn(part.n_columns, largest + _SPARE, generator=generator, dtype=torch.float64).to(part.device)
    for _ in range(2):
        basis = torch.linalg.qr(part.times(directions)).Q
        directions = part.transposed_times(basis)  # the difference is basis @ directions.T, and what is left
    sizes = torch.linalg.svdvals(directions)
    square, row_steps, column_steps = part.sums(stored)
    error = _largest_error(float(row_steps.sum()), stored, square)
    # Singular values of a matrix of independent errors are below the largest norm of a row plus that of a column.
    of_row, of_column = (_ALLOWED * math.sqrt(float(steps.max()) / 12) for steps in (row_steps, column_steps))
    rank = int((sizes > of_row + of_column).sum())
    left = square - float(sizes[:rank].square().sum())
    return rank if 0 < rank <= largest and left <= error**2 else None


class _MatrixDifference:
    """The difference of one matrix of a pair."""

    def __init__(self, pair: TensorPair, first: int) -> None:
        self._pair, self._first = pair.exact(), first
        self.n_rows, self.n_columns, self.device = pair.n_rows, pair.n_columns, pair.device

    def _chunks(self) -> Iterator[tuple[int, Tensor, Tensor]]:
        """The index of a chunk's first row, the difference, and the candidate."""
        for start, a, b in self._pair.chunks(self._first, self._first + self.n_rows):
            yield start - self._first, b - a, b

    def sums(self, stored: torch.dtype) -> tuple[float, Tensor, Tensor]:
        """The squared norm; and, per row and per column, the sum of the squares of the steps of the format ``stored``."""
        square = 0.0
        row_steps = torch.empty(self.n_rows, dtype=torch.float64, device=self.device)
        column_steps = torch.zeros(self.n_columns, dtype=torch.float64, device=self.device)
        for start, difference, candidate in self._chunks():
            square += float(difference.square().sum())
            steps = spacing(candidate, stored).square()
            row_steps[start : start + len(steps)] = steps.sum(1)
            column_steps += steps.sum(0)
        return square, row_steps, column_steps

    def times(self, matrix: Tensor) -> Tensor:
        product = torch.empty((self.n_rows, matrix.shape[1]), dtype=torch.float64, device=self.device)
        for start, difference, _ in self._chunks():
            product[start : start + len(difference)] = difference @ matrix
        return product

    def transposed_times(self, matrix: Tensor) -> Tensor:
        """[columns, the matrix's columns]"""
        product = torch.zeros((self.n_columns, matrix.shape[1]), dtype=torch.float64, device=self.device)
        for start, difference, _ in self._chunks():
            product += difference.T @ matrix[start : start + len(difference)]
        return product
