"""Two tensors of one shape, read as matrices, a few rows at a time.

Only *long* dimensions count, those of more than one item. A tensor with two of them is a matrix; with three, a stack of
matrices (one per expert), whose rows are read one after the other. A vector is a matrix with one column. Kernels of a
convolution are matrices with one row per output channel.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from pytest_pot.engines.pytorch.weights.plain_values import count_zeros
from pytest_pot.engines.pytorch.weights.precisions import to_format

__all__ = ["Differences", "TensorPair", "layout", "spread", "values_at_once"]

_CHUNK, _CHUNK_ON_GPU = 1 << 18, 1 << 24
_MIN_STACKED = 8
"""Rows and columns from which on the last two of three dimensions are a matrix, and not a kernel of a convolution."""
_SAMPLED, _MIN_SAMPLED_ROWS = 1 << 16, 32
"""Values and rows of a sample. We reject most kinds of change on a sample, and read all values only to confirm one."""


def values_at_once(device: torch.device) -> int:
    """How many values to read at a time: what fits into a processor's cache, or what keeps a GPU busy."""
    return _CHUNK if device.type == "cpu" else _CHUNK_ON_GPU


def layout(shape: tuple[int, ...]) -> tuple[int, int, int]:
    """How many matrices a tensor of that ``shape`` has, and their rows and columns."""
    sizes = [size for size in shape if size != 1]
    if len(sizes) == 3 and min(sizes[1:]) >= _MIN_STACKED:
        return sizes[0], sizes[1], sizes[2]
    return 1, sizes[0] if sizes else 1, math.prod(sizes[1:])


@dataclass(frozen=True)
class Differences:
    """Sums over two tensors, in float64 on the CPU."""

    reference: Tensor
    """The squared norm of each row: [rows]."""
    candidate: Tensor
    difference: Tensor
    n_changed: int
    """How many values differ."""

    @cached_property
    def changed_rows(self) -> Tensor:
        """The indices of the rows that differ."""
        return self.difference.nonzero()[:, 0]

    @property
    def relative(self) -> float | None:
        """The norm of the difference over that of the reference; None where that is 0 or a value is not finite."""
        reference, difference = float(self.reference.sum()), float(self.difference.sum())
        if not 0 < reference < math.inf or not math.isfinite(difference):
            return None
        return math.sqrt(difference / reference)

    @property
    def known(self) -> bool:
        """Whether no square was too large or too small for the arithmetic, and no value NaN or infinite."""
        sums = float(self.reference.sum() + self.candidate.sum())
        return math.isfinite(sums) and float(self.difference.sum()) > 0


class TensorPair:
    """A tensor of the reference and one of the candidate, of one shape.

    Values are read in float32; in float64 if one of the two is of integers or float64, or ``exact`` asks for it.
    """

    def __init__(self, reference: Tensor, candidate: Tensor, exact: bool = False, rounding: torch.dtype | None = None) -> None:
        self.n_matrices, self.n_rows, self.n_columns = layout(tuple(candidate.shape))
        self.reference_dtype, self.candidate_dtype = reference.dtype, candidate.dtype
        self.n_values = candidate.numel()
        self._tensors = reference, candidate
        # A view, but for tensors whose rows do not follow each other in memory.
        self._reference = reference.detach().reshape(-1, self.n_columns)
        self._candidate = candidate.detach().reshape(-1, self.n_columns)
        self.rounding = rounding
        self._sampled: tuple[Tensor, tuple[Tensor, Tensor]] | None = None
        # Apple's GPUs have no float64 and share the CPU's memory.
        self.device = torch.device("cpu") if candidate.device.type == "mps" else candidate.device
        short = all(dtype.is_floating_point and dtype.itemsize <= 4 for dtype in (reference.dtype, candidate.dtype))
        self.arithmetic = torch.float32 if short and not exact else torch.float64

    def rounded(self, dtype: torch.dtype) -> TensorPair:
        """The same pair, with the reference rounded to ``dtype``."""
        return TensorPair(*self._tensors, self.arithmetic == torch.float64, dtype)

    def exact(self) -> TensorPair:
        """The same pair, read in float64."""
        return TensorPair(*self._tensors, True, self.rounding)

    def chunks(self, first: int = 0, last: int | None = None) -> Iterator[tuple[int, Tensor, Tensor]]:
        """The rows from ``first`` to before ``last`` of both, in chunks: the index of a chunk's first row, and both values."""
        last = len(self._candidate) if last is None else last
        step = self._step()
        for start in range(first, last, step):
            part = slice(start, min(start + step, last))
            yield start, self._read(self._reference[part], self.rounding), self._read(self._candidate[part])

    def _step(self) -> int:
        """Rows per chunk."""
        return max(1, values_at_once(self.device) // self.n_columns)

    def rows(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Some rows of both."""
        reference = self._reference[indices.to(self._reference.device)]
        return self._read(reference, self.rounding), self._read(self._candidate[indices.to(self._candidate.device)])

    def columns(self, indices: Tensor, first: int, last: int) -> Tensor:
        """Some columns of the rows from ``first`` to before ``last`` of the reference: [rows, indices]."""
        return self._read(self._reference[first:last, indices.to(self._reference.device)], self.rounding)

    def sample(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Up to some 60 000 values of both, in whole rows that are spread over ``rows``. The last sample is kept, because each
        search asks for the same one."""
        if self._sampled is None or self._sampled[0] is not rows:
            self._sampled = rows, self.rows(spread(rows, max(_MIN_SAMPLED_ROWS, _SAMPLED // self.n_columns)))
        return self._sampled[1]

    def _read(self, values: Tensor, rounding: torch.dtype | None = None) -> Tensor:
        values = values.to(self.device).to(self.arithmetic)
        return values if rounding is None else to_format(values, rounding)

    def equal(self) -> bool:
        """Whether all values are equal; NaN equals NaN here."""
        return all(torch.equal(a, b) or (_all_same(a[:1], b[:1]) and _all_same(a, b)) for a, b in self._plain_chunks())

    def _plain_chunks(self) -> Iterator[tuple[Tensor, Tensor]]:
        """All chunks; as they are kept where they can be compared like that, which is fastest."""
        alike = self.reference_dtype == self.candidate_dtype and self.rounding is None
        comparable = self.reference_dtype.itemsize > 1 or not self.reference_dtype.is_floating_point
        if alike and comparable and self._reference.device == self._candidate.device:
            size = self._step()
            yield from zip(self._reference.split(size), self._candidate.split(size), strict=True)
        else:
            yield from ((a, b) for _, a, b in self.chunks())

    def reference_fits(self, dtype: torch.dtype) -> bool:
        """Whether ``dtype`` holds all values of the reference."""
        parts = (self._read(part) for part in self._reference.split(self._step()))
        return all(torch.equal(to_format(part, dtype), part) for part in parts)

    def differences(self) -> Differences:
        """One pass over both."""
        # One tensor for all sums: small ones, kept between chunks, would keep the memory of chunks from being used again.
        squares = torch.empty((3, len(self._candidate)), dtype=torch.float64)
        n_changed = 0
        for start, a, b in self.chunks():
            difference = b - a
            n_changed += difference.numel() - int(count_zeros(difference))
            for sums, values in zip(squares, (a, b, difference), strict=True):
                sums[start : start + len(a)] = torch.linalg.vector_norm(values, dim=1)
        squares.square_()
        return Differences(squares[0], squares[1], squares[2], n_changed)

    def count_not_finite(self) -> tuple[int, bool]:
        """How many values of the candidate are NaN or infinite where the reference's are not the same, and whether the
        reference has such values."""
        count, in_reference = 0, False
        for _, a, b in self.chunks():
            count += int((~torch.isfinite(b) & ~_same(a, b)).sum())
            in_reference = in_reference or not bool(torch.isfinite(a).all())
        return count, in_reference


def spread(indices: Tensor, count: int) -> Tensor:
    """Up to ``count`` of ``indices``, evenly spread from the first to the last."""
    if len(indices) <= count:
        return indices
    return indices[torch.linspace(0, len(indices) - 1, count, dtype=torch.float64).round().long()]


def _all_same(a: Tensor, b: Tensor) -> bool:
    return bool(_same(a, b).all())


def _same(a: Tensor, b: Tensor) -> Tensor:
    return (a == b) | (a.isnan() & b.isnan())
