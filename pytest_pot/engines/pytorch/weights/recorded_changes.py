"""What happened to a tensor of which only a print is known.

The print tells the norm, the number of zeros, the grid and 16 random projections of the values before. The projections of the
difference are known exactly enough to estimate its size, down to some 2e-5 of the tensor. A kind is named where all of these
agree with it; what else may have happened is CHANGED.

What cannot be told:

- LOW_RANK. A matrix of rank r has r times (rows + columns - r) free numbers, and 16 sums of all values say nothing about its
  rank: about r^2 sums that are chosen for it are needed to tell rank r from r + 1, and even these depend on its size.
- Which rows or columns were PERMUTED, apart from the usual reorderings for rotary encodings: those, and TRANSPOSED, are tried,
  and the digest confirms them.
- REORDERED, of values that lie on no grid: a rotation keeps the norm as well.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from pytest_pot.engines.pytorch.weights.extent import is_pruning, one_value
from pytest_pot.engines.pytorch.weights.grids import Grid, GridSearch, find_precision
from pytest_pot.engines.pytorch.weights.layouts import rows_of
from pytest_pot.engines.pytorch.weights.plain_values import count_not_finite, largest_of
from pytest_pot.engines.pytorch.weights.precisions import cast_error, dtype_name, dtype_of, includes
from pytest_pot.engines.pytorch.weights.prints import Sums, digest_of, norms_differ, sums_of
from pytest_pot.engines.pytorch.weights.rotary_orders import rotary_orders
from pytest_pot.engines.weights import ChangeKind, TensorChange, TensorPrint

__all__ = ["brief_change_since", "change_since"]

_STEPS = 2**15 - 1
"""The projections of a print are multiples of the largest over this."""
_RESOLVED = 4.0
"""The mean square of the projections' differences, over that of their rounding, from which on a size is told."""
_SQUARES = (0.2, 3.0)
"""The mean square of 16 normal numbers over their variance; others are rarer than one in a thousand."""
_MIN_SCALING = 5.0
"""How far a factor has to be from 1, in units of the error with which it explains the candidate."""
_LATTICE_ERRORS, _PRECISION_ERRORS = (0.3, 2.0), (0.25, 1.7)
"""An estimated change over the one that a grid explains. Estimates scatter by 18 %. Quantisers may err by more than half a step
to balance other errors; most values of a coarse grid may be 0, and err by less. Values that were on a grid before need fewer
digits, and some of them no rounding. One tensor alone is not judged more strictly; many that were rounded alike can be."""
_UNRELATED = 0.5
"""Relative size of a change from which on a transposed tensor may as well hold other values."""
_MIN_REORDERED = 0.02
"""Relative size from which on a reordering is thought of; a small change keeps the norm by chance."""
_SAME_NORM = 2.0**-23
_PRECISIONS = ("float8_e5m2", "float8_e4m3fn", "bfloat16", "float16", "float32", "float64")
"""From coarse to fine."""
_TOO = {
    ChangeKind.ROUNDED: "rounded to {what}",
    ChangeKind.SCALED: "multiplied by {amount}",
    ChangeKind.PRUNED: "with new zeros",
    ChangeKind.ZERO: "all values are 0",
    ChangeKind.NOT_FINITE: "with NaN or infinite values",
}
"""What happened to a transposed tensor too."""


@torch.no_grad()
def change_since(
    reference: TensorPrint,
    candidate: Tensor,
    name: str = "",
    candidate_name: str | None = None,
    digest: Callable[[], bytes] | None = None,
    grids: GridSearch | None = None,
) -> TensorChange | None:
    """How ``candidate`` differs from the tensor that ``reference`` is a print of; None where all values are equal, whatever the
    two precisions.

    Args:
        reference: the print.
        candidate: a tensor of the same shape, or of the transposed one.
        name: the reference's name for it.
        candidate_name: the candidate's, where it is another one.
        digest: tells the candidate's digest, if it may be known already.
        grids: the search for the grids of the candidate's tensors, which is faster for each if it is one search for all.
    """
    candidate = candidate.detach()
    same_shape = tuple(candidate.shape) == tuple(reference.info.shape)
    if same_shape and _are_equal(reference, candidate, digest):
        return None
    comparison = _Comparison(reference, candidate if same_shape else candidate.mT, grids or GridSearch())
    change = comparison.result() if same_shape else comparison.as_transposed() or comparison.change(ChangeKind.CHANGED)
    return replace(change, name=name, candidate_name=candidate_name)


def _are_equal(reference: TensorPrint, candidate: Tensor, digest: Callable[[], bytes] | None) -> bool:
    if norms_differ(candidate, reference):
        return False
    return (digest_of(candidate) if digest is None else digest()) == reference.digest


@dataclass(frozen=True, eq=False)
class _Comparison:
    reference: TensorPrint
    candidate: Tensor
    """In the reference's shape."""
    grids: GridSearch = field(default_factory=GridSearch)

    def result(self) -> TensorChange:
        """The first kind that explains the change; the last one always does."""
        return next(change for change in self._changes() if change is not None)

    def as_transposed(self) -> TensorChange | None:
        """Of a candidate that had to be transposed: TRANSPOSED, with what else happened. None if its values are others."""
        if digest_of(self.candidate) == self.reference.digest:
            return self.change(ChangeKind.TRANSPOSED)
        change = self.result()
        if change.kind is ChangeKind.CHANGED and not (change.relative is not None and change.relative < _UNRELATED):
            return None
        amount = "some" if change.amount is None else f"{change.amount:.4g}"
        what = _TOO.get(change.kind, "and changed").format(what=change.what, amount=amount)
        return replace(change, kind=ChangeKind.TRANSPOSED, what=what, amount=None, expected=None, detail="")

    def _changes(self) -> Iterator[TensorChange | None]:
        yield from self.at_once()
        yield self._scaled()
        yield self._reordered()
        yield self._rounded()
        yield self._pruned()
        yield replace(self.change(ChangeKind.CHANGED), detail=one_value(self.candidate))

    def at_once(self) -> Iterator[TensorChange | None]:
        """Of these, what one pass shows."""
        yield self._not_finite()
        yield self._zero()

    def change(
        self, kind: ChangeKind, what: str = "", amount: float | None = None, *, relative: float | None = None
    ) -> TensorChange:
        return TensorChange("", kind, what, amount, self.relative if relative is None else relative)

    # --- figures ---

    @cached_property
    def _sums(self) -> Sums:
        return sums_of(self.candidate)

    @cached_property
    def _noise(self) -> float:
        """The standard deviation that rounding adds to a projection of the print."""
        return float(np.abs(self.reference.projection).max()) / _STEPS / math.sqrt(12)

    @cached_property
    def _square(self) -> float | None:
        """The estimated squared norm of the difference; None if it is too small to tell, or unknown."""
        mean = float(np.mean((self._sums.projection - self.reference.projection) ** 2))
        if not mean >= _RESOLVED * self._noise**2 or mean == 0:
            return None
        return mean - self._noise**2

    @cached_property
    def relative(self) -> float | None:
        """The size of the change, to within some 35 %; None if it is too small to tell, or unknown."""
        square = self._square
        if square is None or not self.reference.norm > 0:
            return None
        return math.sqrt(square) / self.reference.norm

    @cached_property
    def _grid(self) -> Grid | None:
        return self.grids.find(self.candidate)

    @cached_property
    def _precision(self) -> Grid | None:
        return find_precision(self.candidate)

    @cached_property
    def _new_lattice(self) -> Grid | None:
        """That of the candidate, if the reference's values are on another one or none. Prints do not tell that of vectors."""
        if len(rows_of(self.candidate)) == 1:
            return None
        # The print knows a sample only, which may lie on a coarser grid than all values; and samples are quickly compared.
        grid = self.grids.find_other(self.candidate, (None, "bfloat16", "float16", self.reference.grid))
        return grid if grid is not None and grid.lattice is not None and grid.name != self.reference.grid else None

    @cached_property
    def _new_precision(self) -> Grid | None:
        """That of the candidate, if the reference's is known to be finer."""
        grid = self._precision
        if grid is None:
            return None
        before = [_PRECISIONS.index(name) for name in (self.reference.grid, self.reference.info.dtype) if name in _PRECISIONS]
        return grid if before and _PRECISIONS.index(grid.name) < min(before) else None

    # --- kinds ---

    def _not_finite(self) -> TensorChange | None:
        if not math.isnan(self._sums.norm):
            return self.change(ChangeKind.CHANGED) if math.isnan(self.reference.norm) else None
        if math.isnan(self.reference.norm):
            return self.change(ChangeKind.CHANGED)
        what = f"{count_not_finite(self.candidate)} of {self.candidate.numel()} values"
        return self.change(ChangeKind.NOT_FINITE, what)

    def _zero(self) -> TensorChange | None:
        if self._sums.norm == 0:
            return self.change(ChangeKind.ZERO, relative=1.0)
        return self.change(ChangeKind.CHANGED) if self.reference.norm == 0 else None

    def _scaled(self) -> TensorChange | None:
        before, after = self.reference.projection, self._sums.projection
        factor = math.copysign(self._sums.norm / self.reference.norm, float(before @ after))
        rounding = self._precision.rounding_error(self.candidate) if self._precision else self._cast_error or 0.0
        variance = (factor * self._noise) ** 2 + rounding**2
        residual = float(np.mean((after - factor * before) ** 2))
        distance = abs(factor - 1)
        if residual > _SQUARES[1] * variance or distance * self.reference.norm < _MIN_SCALING * math.sqrt(variance):
            return None
        return self.change(ChangeKind.SCALED, amount=factor, relative=distance)

    def _reordered(self) -> TensorChange | None:
        norm = self.reference.norm
        if self.relative is None or self.relative < _MIN_REORDERED:
            return None
        values = self.candidate
        if values.ndim >= 2 and values.shape[-2] == values.shape[-1] and self.relative >= _UNRELATED:
            transposed = _Comparison(self.reference, values.mT, self.grids)
            alike = transposed.relative is None or transposed.relative < _UNRELATED * self.relative
            if alike and (change := transposed.as_transposed()) is not None:
                return replace(change, relative=self.relative)
        if abs(self._sums.norm - norm) > _SAME_NORM * norm or self._sums.zeros != self.reference.zeros:
            return None
        for order in rotary_orders(values):
            if digest_of(order.rows) == self.reference.digest:
                return replace(self.change(ChangeKind.PERMUTED, "rows"), detail=order.back)
        if self._grid is not None and self._grid.name == self.reference.grid:
            return self.change(ChangeKind.REORDERED)
        return None

    def _rounded(self) -> TensorChange | None:
        least, most = _PRECISION_ERRORS
        error, estimate = self._cast_error, math.sqrt(self._square or 0.0)
        if error and least * error <= estimate <= most * error:  # nothing more is needed to explain it
            return replace(self._cast_to_dtype(), expected=error / self.reference.norm)
        for grid, (least, most) in ((self._new_lattice, _LATTICE_ERRORS), (self._new_precision, _PRECISION_ERRORS)):
            if grid is None or self._square is None:
                continue
            expected = grid.own_rounding_error(self.candidate)
            if least * min(expected, self.reference.norm) <= estimate <= most * expected:
                return replace(self.change(ChangeKind.ROUNDED, grid.name), expected=expected / self.reference.norm)
        if error is None or estimate > _PRECISION_ERRORS[1] * error:
            return None
        return self._cast_to_dtype()  # it may leave most values as they were

    def _cast_to_dtype(self) -> TensorChange:
        return self.change(ChangeKind.ROUNDED, dtype_name(self.candidate.dtype))

    @cached_property
    def _cast_error(self) -> float | None:
        """The error that the candidate's type explains; None if it holds all values that the reference's has."""
        names = (self.reference.grid, self.reference.info.dtype)
        before = [dtype for name in names if name is not None and (dtype := dtype_of(name)) is not None]
        after = self.candidate.dtype
        if not before or not after.is_floating_point or any(includes(after, dtype) for dtype in before):
            return None
        return cast_error(self.candidate, after, before[0])

    def _pruned(self) -> TensorChange | None:
        new = self._sums.zeros - self.reference.zeros
        share = new / self.candidate.numel()
        if not is_pruning(new, self.candidate.numel()) or self._new_lattice is not None:
            return None
        # Setting values to zero takes their squares from the squared norm, and changes nothing else.
        before, after, estimate = self.reference.norm**2, self._sums.norm**2, self._square or 0.0
        missing = before - after
        largest = largest_of(self.candidate)
        slack = 2 * _SAME_NORM * before
        least, most = (bound * missing + sign * slack for bound, sign in zip(_SQUARES, (-1, 1), strict=True))
        if not least <= estimate <= most or estimate > 2 * new * largest**2:
            return None
        exact = missing > 100 * _SAME_NORM * before
        return self.change(ChangeKind.PRUNED, amount=share, relative=math.sqrt(missing / before) if exact else None)


@torch.no_grad()
def brief_change_since(reference: TensorPrint, candidate: Tensor, digest: Callable[[], bytes]) -> TensorChange | None:
    """As :func:`change_since`, without the search for the kind: one pass, and one for the candidate's ``digest`` where that is
    needed. Names are left empty."""
    candidate = candidate.detach()
    same_shape = tuple(candidate.shape) == tuple(reference.info.shape)
    if same_shape and _are_equal(reference, candidate, digest):
        return None
    comparison = _Comparison(reference, candidate if same_shape else candidate.mT)
    found = next((change for change in comparison.at_once() if change is not None), None)
    if not same_shape and digest_of(comparison.candidate) == reference.digest:
        found = comparison.change(ChangeKind.TRANSPOSED)
    return replace(comparison.change(ChangeKind.CHANGED), searched=False) if found is None else found
