"""Tensors that were rounded, or to which a matrix of low rank was added."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from pytest_pot.engines.pytorch.weights.changes import change_between
from pytest_pot.engines.weights import ChangeKind

from .tensors import (
    adapter,
    change,
    each_dtype,
    each_reference,
    gaussian,
    in_bfloat16,
    on_4_bits,
    told,
    with_outliers,
)


@each_reference
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float8_e4m3fn, torch.float8_e5m2], ids=str)
def test_rounded_to_a_float_format(make: Callable[..., Tensor], dtype: torch.dtype) -> None:
    reference = make(96, 160).float()
    candidate = reference.to(dtype)
    if torch.equal(candidate.float(), reference):
        assert change_between(reference, candidate) is None
        return
    name = str(dtype).removeprefix("torch.")
    assert told(reference, candidate.float()) == (ChangeKind.ROUNDED, name)
    assert (
        told(reference, candidate.to(torch.float32).to(torch.bfloat16)) == (ChangeKind.ROUNDED, name) or dtype == torch.float16
    )
    result = change_between(reference, candidate)
    assert result is not None
    assert (result.kind, result.what) == (ChangeKind.ROUNDED, name)


def test_float64_is_rounded_to_float32() -> None:
    reference = torch.randn(64, 64, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert told(reference, reference.float()) == (ChangeKind.ROUNDED, "float32")


def test_a_bfloat16_that_was_cut_off() -> None:
    reference = gaussian(96, 160)
    candidate = (reference.view(torch.int32) & -65536).view(torch.float32)
    assert told(reference, candidate) == (ChangeKind.ROUNDED, "bfloat16 by truncation")


def integers(values: Tensor, bits: int, group: int | None, offset: bool = False) -> Tensor:
    """``values`` rounded to integers of ``bits``, one scale per ``group`` values of a row, per row (0), or for all (None)."""
    groups = values.float().reshape(1, -1) if group is None else values.float().reshape(-1, group or values.shape[-1])
    if offset:
        lowest, highest = groups.aminmax(dim=-1, keepdim=True)
        step = (highest - lowest) / (2**bits - 1)
        rounded = torch.round((groups - lowest) / step) * step + lowest
    else:
        step = groups.abs().amax(dim=-1, keepdim=True) / (2 ** (bits - 1) - 1)
        rounded = torch.round(groups / step) * step
    result: Tensor = rounded.reshape(values.shape)
    return result


QUANTISED = [
    (8, 0, "8 bits per row"),
    (8, None, "8 bits per tensor"),
    (8, 32, "8 bits in groups of 32"),
    (4, 32, "4 bits in groups of 32"),
    (4, 64, "4 bits in groups of 64"),
    (4, 0, "4 bits per row"),
]


@pytest.mark.parametrize("make", [gaussian, in_bfloat16, on_4_bits], ids=["gaussian", "bfloat16", "4 bits"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("bits", "group", "name"), QUANTISED, ids=[name for *_, name in QUANTISED])
def test_rounded_to_integers(make: Callable[..., Tensor], dtype: torch.dtype, bits: int, group: int | None, name: str) -> None:
    reference = make(192, 576)
    assert told(reference, integers(reference, bits, group).to(dtype)) == (ChangeKind.ROUNDED, name)


def test_rounding_does_not_explain_rows_that_are_other_ones_on_the_same_grid() -> None:
    """Each row lies on its own grid, before and after."""
    reference = integers(gaussian(192, 576), 8, 0)
    other = integers(gaussian(192, 576, seed=1), 8, 0)
    assert told(reference, other) == (ChangeKind.CHANGED, "")
    rounded = integers(gaussian(192, 576), 8, 0)
    rounded[5] = other[5]
    assert told(gaussian(192, 576), rounded) == (ChangeKind.CHANGED, "")


# --- low rank ---


@each_reference
@each_dtype
@pytest.mark.parametrize("rank", [1, 8, 32, 64])
def test_low_rank(make: Callable[..., Tensor], dtype: torch.dtype, rank: int) -> None:
    reference = make(192, 320)
    candidate = (reference.float() + adapter(192, 320, rank, 0.1)).to(dtype)
    result = change(reference, candidate)
    if (make, dtype, rank) == (with_outliers, torch.bfloat16, 64):  # some directions are below the rounding of the outliers
        assert result.kind in (ChangeKind.CHANGED, ChangeKind.LOW_RANK)
        return
    assert (result.kind, result.what, result.amount) == (ChangeKind.LOW_RANK, "", rank)


@each_dtype
def test_adapters_of_experts_have_the_rank_of_one(dtype: torch.dtype) -> None:
    reference = gaussian(4, 96, 128)
    candidate = reference + torch.stack([adapter(96, 128, 4, 0.1, seed=seed) for seed in range(4)])
    result = change(reference, candidate.to(dtype))
    assert (result.kind, result.amount) == (ChangeKind.LOW_RANK, 4)


def test_no_low_rank_is_claimed_of_small_matrices_or_few_rows() -> None:
    small = gaussian(8, 8)
    assert change(small, small + adapter(8, 8, 5, 0.1)).kind == ChangeKind.CHANGED
    reference = gaussian(96, 160)
    candidate = reference.clone()
    candidate[[3, 5, 8]] += adapter(3, 160, 1, 0.1)
    assert told(reference, candidate) == (ChangeKind.CHANGED, "3 of 96 rows")
    candidate = reference.clone()
    candidate[:, [3, 5]] += adapter(96, 2, 1, 0.1)
    assert told(reference, candidate) == (ChangeKind.CHANGED, "2 of 160 columns")


@each_dtype
def test_a_low_rank_with_noise_that_rounding_does_not_explain_is_not_named(dtype: torch.dtype) -> None:
    reference = gaussian(192, 320)
    candidate = reference + adapter(192, 320, 4, 0.1) + 0.01 * gaussian(192, 320, seed=9)
    assert change(reference, candidate.to(dtype)).kind == ChangeKind.CHANGED
