"""Values in another place: permuted, transposed, in another order."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pytest_pot.engines.pytorch.weights.changes import change_between
from pytest_pot.engines.weights import ChangeKind

from .tensors import (
    REFERENCES,
    change,
    each_dtype,
    each_reference,
    gaussian,
    told,
)


@each_reference
@each_dtype
@pytest.mark.parametrize("along", ["rows", "columns"])
def test_permuted(make: Callable[..., Tensor], dtype: torch.dtype, along: str) -> None:
    reference = make(96, 160)
    order = torch.randperm(96 if along == "rows" else 160, generator=torch.Generator().manual_seed(1))
    candidate = (reference[order] if along == "rows" else reference[:, order]).to(dtype)
    rounded = not torch.equal(reference.to(dtype).float(), reference.float())
    suffix = f", rounded to {str(dtype).removeprefix('torch.')}" if rounded else ""
    assert told(reference, candidate) == (ChangeKind.PERMUTED, along + suffix)


@given(
    st.sampled_from(list(REFERENCES.values())),
    st.sampled_from([(64, 32), (9, 64), (4, 16, 32), (96,), (2, 160)]),
    st.randoms(use_true_random=False),
    st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_permuting_rows_is_reported_as_nothing_else(
    make: Callable[..., Tensor], shape: tuple[int, ...], random: object, few: bool
) -> None:
    reference = make(*shape)
    flat = reference.reshape(-1, shape[-1]) if len(shape) > 1 else reference
    order = list(range(len(flat)))
    if few:
        order[0], order[-1] = order[-1], order[0]
    else:
        random.shuffle(order)  # type: ignore[attr-defined]
    result = change_between(reference, flat[order].reshape(shape))
    if result is None:
        assert torch.equal(flat[order], flat)
    else:
        assert (result.kind, result.what) == (ChangeKind.PERMUTED, "rows")


@each_dtype
@pytest.mark.parametrize("each", [True, False], ids=["each", "all alike"])
@pytest.mark.parametrize("along", ["rows", "columns"])
def test_the_matrices_of_experts_may_be_permuted(dtype: torch.dtype, each: bool, along: str) -> None:
    reference = gaussian(4, 48, 64).to(dtype)
    size = 48 if along == "rows" else 64
    orders = [torch.randperm(size, generator=torch.Generator().manual_seed(seed if each else 0)) for seed in range(4)]
    permuted = [matrix[order] if along == "rows" else matrix[:, order] for matrix, order in zip(reference, orders, strict=True)]
    assert told(reference, torch.stack(permuted)) == (ChangeKind.PERMUTED, along)


def test_kernels_of_a_convolution_are_permuted_by_channel() -> None:
    reference = gaussian(64, 1, 4)
    assert told(reference, reference.flip(0)) == (ChangeKind.PERMUTED, "rows")


def test_rows_of_which_one_was_changed_as_well_are_not_permuted() -> None:
    reference = gaussian(600, 576)
    candidate = reference.flip(0).contiguous()
    candidate[300, 5] += 1e-4
    assert change(reference, candidate).kind == ChangeKind.CHANGED


@each_reference
@each_dtype
def test_transposed(make: Callable[..., Tensor], dtype: torch.dtype) -> None:
    for reference in (make(320, 320), make(96, 160)):
        rounded = not torch.equal(reference.to(dtype).float(), reference.float())
        what = f"rounded to {str(dtype).removeprefix('torch.')}" if rounded else ""
        assert told(reference, reference.T.to(dtype)) == (ChangeKind.TRANSPOSED, what)
        assert told(reference, reference.T.contiguous().to(dtype)) == (ChangeKind.TRANSPOSED, what)


def test_the_matrices_of_experts_may_be_transposed() -> None:
    reference = gaussian(3, 48, 48)
    assert told(reference, reference.transpose(1, 2)) == (ChangeKind.TRANSPOSED, "")
    mixed = reference.transpose(1, 2).clone()
    mixed[1] = gaussian(48, 48, seed=9)
    assert change(reference, mixed).kind == ChangeKind.CHANGED


def test_other_values_in_the_transposed_shape_are_not_transposed() -> None:
    reference = gaussian(96, 160)
    candidate = reference.T.clone()
    candidate[5, 5] += 1e-3
    assert told(reference, candidate) == (ChangeKind.TRANSPOSED, "and changed")
    assert told(reference, gaussian(160, 96, seed=9)) == (ChangeKind.CHANGED, "")


@each_reference
def test_all_values_in_another_order(make: Callable[..., Tensor]) -> None:
    """As after a reshape in the wrong order."""
    reference = make(96, 160)
    assert change(reference, reference.reshape(160, 96).T.reshape(96, 160)).kind == ChangeKind.REORDERED
