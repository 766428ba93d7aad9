"""Tensors with the values of the reference in another place: rows or columns permuted, a matrix transposed, all reordered.

Rows are compared by 64-bit hashes of their values, so that any permutation is found, and confirmed, in one pass over both
tensors and a sort of the hashes. Equal sets of hashes with different rows are next to impossible (for a million rows, 1e-7).
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from pytest_pot.engines.pytorch.weights.finding import Finding
from pytest_pot.engines.pytorch.weights.pairs import Differences, TensorPair, spread
from pytest_pot.engines.pytorch.weights.rotary_orders import rotary_order
from pytest_pot.engines.weights import ChangeKind

__all__ = ["is_transposed", "rearrangement"]

_MAX_NORM_CHANGE = 1e-5
"""Relative change of a squared norm that the order of summation in float32 explains. Tensors, rows and columns that only moved
have equal norms: that rejects nearly all other changes before anything is hashed."""
_MIN_RELATIVE = 0.1
"""Relative change from which on we look for values in another order: most of them move, if a reshape or a fusion went wrong."""
_FEW_ROWS = 4
"""Rows up to which each that moved is named: of embeddings, these are token ids."""
_SEED = 18


def rearrangement(pair: TensorPair, differences: Differences) -> Finding | None:
    """Rows or columns in another order, a transposed square matrix, or all values in another order."""
    norms = differences.reference, differences.candidate
    if not _close(norms[0].sum(), norms[1].sum()):
        return None
    vector = pair.n_columns == 1
    if is_transposed(pair):
        return Finding(ChangeKind.TRANSPOSED)
    if _close(*(values.sort().values for values in norms)) and _equal_sets(*(hashes := _row_hashes(pair))):
        return Finding(ChangeKind.PERMUTED, "rows", detail=_which_rows(*hashes))
    if not vector and _close(*norms) and all(_equal_sets(*hashes) for hashes in _column_hashes(pair)):
        return Finding(ChangeKind.PERMUTED, "columns")
    if not vector and (differences.relative or 0.0) >= _MIN_RELATIVE and _same_values(pair):
        return Finding(ChangeKind.REORDERED)
    return None


def is_transposed(pair: TensorPair) -> bool:
    """Whether each matrix of the candidate is the reference's, transposed; only square ones can be."""
    n = pair.n_columns
    if pair.n_rows != n or n == 1:
        return False
    for matrix in range(pair.n_matrices):
        first = matrix * n
        few = spread(torch.arange(n), 8)  # rejects nearly all others
        for indices in (few, *torch.arange(n).split(256)):
            if not torch.equal(pair.columns(indices, first, first + n).T, pair.rows(first + indices)[1]):
                return False
    return True


def _close(a: Tensor, b: Tensor) -> bool:
    return bool(torch.allclose(a, b, rtol=_MAX_NORM_CHANGE, atol=0.0))


def _equal_sets(a: Tensor, b: Tensor) -> bool:
    return torch.equal(a.sort().values, b.sort().values)


def _which_rows(before: Tensor, after: Tensor) -> str:
    """Which rows moved, by the hashes of all, where a few did; how, where it is a known order. Empty otherwise."""
    moved = (before != after).nonzero()[:, 0].tolist()
    if len(moved) > len(before) / 2:
        return rotary_order(before, after) or ""
    if len(moved) > _FEW_ROWS:
        return f"only {len(moved)} of {len(before)}"
    *others, last = map(str, moved)
    return f"only {', '.join(others)} and {last} of {len(before)}"


def _row_hashes(pair: TensorPair) -> tuple[Tensor, Tensor]:
    factors = _random(pair.n_columns, pair.device)
    hashes = torch.empty((2, pair.n_matrices * pair.n_rows), dtype=torch.int64, device=pair.device)
    for start, *values in pair.chunks():
        for sums, part in zip(hashes, values, strict=True):
            sums[start : start + len(part)] = (_bits(part) * factors).sum(1)
    return hashes[0], hashes[1]


def _column_hashes(pair: TensorPair) -> Iterator[tuple[Tensor, Tensor]]:
    """The hashes of the columns of each matrix."""
    factors = _random(pair.n_rows, pair.device)[:, None]
    for matrix in range(pair.n_matrices):
        first = matrix * pair.n_rows
        sums = torch.zeros((2, pair.n_columns), dtype=torch.int64, device=pair.device)
        for start, a, b in pair.chunks(first, first + pair.n_rows):
            part = factors[start - first : start - first + len(a)]
            sums[0] += (_bits(a) * part).sum(0)
            sums[1] += (_bits(b) * part).sum(0)
        yield sums[0], sums[1]


def _same_values(pair: TensorPair) -> bool:
    """Whether both hold the same values, each as often: by the sum of a hash of each value."""
    difference = 0
    for _, a, b in pair.chunks():
        difference += int(_mixed(_bits(a)).sum() - _mixed(_bits(b)).sum())
    return difference % 2**64 == 0


def _bits(values: Tensor) -> Tensor:
    """The bits of each value as an integer; 0.0 and -0.0 have the same."""
    return (values + 0.0).view(torch.int32 if values.dtype == torch.float32 else torch.int64).to(torch.int64)


def _mixed(bits: Tensor) -> Tensor:
    """The finaliser of SplitMix64, but for shifts that keep the sign: sums of these tell sets of integers apart."""
    bits = (bits + -7046029254386353131) * -4658895280553007687
    bits = (bits ^ (bits >> 27)) * -7723592293110705685
    return bits ^ (bits >> 31)


def _random(n: int, device: torch.device) -> Tensor:
    """``n`` random 64-bit integers, the same on every device. Sums with them wrap around, as intended."""
    generator = torch.Generator().manual_seed(_SEED)
    return torch.randint(-(2**63), 2**63 - 1, (n,), generator=generator, dtype=torch.int64).to(device)
