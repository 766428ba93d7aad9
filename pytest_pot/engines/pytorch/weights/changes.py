"""What happened to a tensor, by its values before and after.

The kinds are tried one after the other: first those that can be computed again and have to give the candidate exactly, then
those that estimate something. What no kind explains is CHANGED: a wrong name would send people in the wrong direction, and so
each kind has to explain every value.

Most tensors are equal, and comparing them is all that is done. A tensor that differs is read once more for its norms; after
that, samples reject most kinds, and only one that explains its sample reads all values again.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from pytest_pot.engines.pytorch.weights.extent import one_value, pruning, what_differs
from pytest_pot.engines.pytorch.weights.finding import Finding
from pytest_pot.engines.pytorch.weights.grids import GridSearch
from pytest_pot.engines.pytorch.weights.low_rank import low_rank
from pytest_pot.engines.pytorch.weights.pairs import Differences, TensorPair, spread
from pytest_pot.engines.pytorch.weights.precisions import dtype_name, stored_dtype
from pytest_pot.engines.pytorch.weights.rearrangements import rearrangement
from pytest_pot.engines.pytorch.weights.roundings import float_rounding, grid_rounding
from pytest_pot.engines.pytorch.weights.scalings import scaling
from pytest_pot.engines.weights import ChangeKind, TensorChange

__all__ = ["brief_change_between", "change_between"]

_UNRELATED = 0.5
"""Relative size of a change from which on a transposed tensor may as well hold other values."""
_FIRST = 4
"""Rows that are looked at before a sample."""


@torch.no_grad()
def change_between(
    reference: Tensor,
    candidate: Tensor,
    name: str = "",
    candidate_name: str | None = None,
    grids: GridSearch | None = None,
) -> TensorChange | None:
    """How ``candidate`` differs from ``reference``; None where all values are equal, whatever the two precisions.

    Nothing is copied but chunks of rows. Both tensors may be on different devices; the candidate's computes.

    Args:
        reference: a tensor of any type and shape.
        candidate: one of the same shape; or of two dimensions, with these exchanged.
        name: the reference's name for it.
        candidate_name: the candidate's name for it, if that may be another one.
        grids: the search for the grids of the candidate's tensors, which is faster for each if it is one search for all.

    Raises:
        ValueError: the shapes differ in another way.
    """
    candidate_name = None if candidate_name == name else candidate_name
    if reference.shape != candidate.shape:
        if reference.ndim != 2 or reference.T.shape != candidate.shape:
            raise ValueError(
                f"{name!r} has the shape {tuple(reference.shape)} in the reference and {tuple(candidate.shape)} in the "
                "candidate: only tensors of equal or transposed shapes can be compared by value"
            )
        finding = _transposed(reference, candidate)
        return TensorChange(name, finding.kind, finding.what, candidate_name=candidate_name)
    measured = _measured(reference, candidate)
    if measured is None:
        return None
    if isinstance(measured, Finding):
        return TensorChange(name, measured.kind, measured.what, candidate_name=candidate_name)
    pair, differences, candidate = measured
    finding = _finding(pair, differences, candidate, grids or GridSearch())
    return TensorChange(
        name, finding.kind, finding.what, finding.amount, differences.relative, candidate_name, detail=finding.detail
    )


@torch.no_grad()
def brief_change_between(reference: Tensor, candidate: Tensor) -> TensorChange | None:
    """As :func:`change_between`, without the search for the kind: two or three passes over both. Names are left empty."""
    if reference.shape != candidate.shape:
        return change_between(reference, candidate)  # it looks for one kind alone
    measured = _measured(reference, candidate)
    if measured is None:
        return None
    if isinstance(measured, Finding):
        return TensorChange("", measured.kind, measured.what)
    _, differences, _ = measured
    if not float(differences.candidate.sum()):
        return TensorChange("", ChangeKind.ZERO, relative=differences.relative)
    return TensorChange("", ChangeKind.CHANGED, relative=differences.relative, searched=False)


def _measured(reference: Tensor, candidate: Tensor) -> tuple[TensorPair, Differences, Tensor] | Finding | None:
    """Both tensors as a pair, how far they are apart, and the candidate in real numbers. None where all values are equal; a
    finding where some are not finite, so that there is no distance."""
    any_complex = reference.is_complex() or candidate.is_complex()
    reference, candidate = (_real(tensor, any_complex) for tensor in (reference, candidate))
    pair = TensorPair(reference, candidate)
    if not pair.n_values or pair.equal():
        return None
    differences = pair.differences()
    if not differences.known:
        count, in_reference = pair.count_not_finite()
        if count:
            return Finding(ChangeKind.NOT_FINITE, f"{count} of {pair.n_values} values")
        if in_reference:
            return Finding(ChangeKind.CHANGED)
        pair = pair.exact()
        differences = pair.differences()
    return pair, differences, candidate


def _real(tensor: Tensor, as_pairs: bool) -> Tensor:
    tensor = tensor.detach()
    if as_pairs and not tensor.is_complex():
        return torch.stack([tensor, torch.zeros_like(tensor)], dim=-1)
    return torch.view_as_real(tensor.resolve_conj()) if tensor.is_complex() else tensor


def _transposed(reference: Tensor, candidate: Tensor) -> Finding:
    """Of a tensor whose shape is the reference's, transposed."""
    pair = _as_stored(TensorPair(reference.T, candidate))
    if pair.equal():
        return Finding(ChangeKind.TRANSPOSED, _by_rounding(pair))
    relative = pair.differences().relative
    similar = relative is not None and relative < _UNRELATED
    return Finding(ChangeKind.TRANSPOSED, "and changed") if similar else Finding(ChangeKind.CHANGED)


def _finding(pair: TensorPair, differences: Differences, candidate: Tensor, grids: GridSearch) -> Finding:
    if not float(differences.candidate.sum()):
        return Finding(ChangeKind.ZERO)
    return next(finding for finding in _findings(pair, differences, candidate, grids) if finding is not None)


def _findings(pair: TensorPair, differences: Differences, candidate: Tensor, grids: GridSearch) -> Iterator[Finding | None]:
    if float(differences.reference.sum()):
        yield float_rounding(pair, differences)
        stored = _as_stored(pair)
        stored_differences = differences if stored is pair else stored.differences()
        for search in (pruning, rearrangement):
            found = search(stored, stored_differences)
            if found is not None:
                words = [word for word in (found.what, _by_rounding(stored)) if word]
                yield Finding(found.kind, ", ".join(words), found.amount, found.detail)
        yield scaling(pair, differences)
        yield grid_rounding(pair, differences, candidate, grids)
        yield low_rank(pair, differences)
    yield Finding(ChangeKind.CHANGED, what_differs(pair, differences), detail=one_value(candidate))


def _as_stored(pair: TensorPair) -> TensorPair:
    """The pair with the reference as it would be in the precision that the candidate was stored in.

    A conversion may permute and round at once, and pruning may come with rounding. Rounding commutes with both.
    """
    rows = torch.arange(pair.n_matrices * pair.n_rows)
    _, values = pair.rows(spread(rows, _FIRST))  # reject most formats
    if stored_dtype(values, pair.candidate_dtype) != pair.candidate_dtype:
        _, values = pair.sample(rows)
    stored = stored_dtype(values, pair.candidate_dtype)
    return pair if stored in (pair.reference_dtype, torch.float32, torch.float64) else pair.rounded(stored)


def _by_rounding(pair: TensorPair) -> str:
    """Words for the rounding of the reference, if it changed any value."""
    if pair.rounding is None or pair.reference_fits(pair.rounding):
        return ""
    return f"rounded to {dtype_name(pair.rounding)}"
