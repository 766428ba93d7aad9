"""What happened to a tensor is named rightly, whatever the reference is like, and nothing is claimed that is not so."""

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
    HALVES,
    REFERENCES,
    adapter,
    change,
    each_dtype,
    each_reference,
    gaussian,
    random,
    told,
)

# --- equal, and lost ---


@each_reference
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_equal_values_in_another_precision_are_no_change(make: Callable[..., Tensor], dtype: torch.dtype) -> None:
    reference = make(96, 160).to(torch.bfloat16)
    assert change_between(reference, reference.to(dtype)) is None
    assert change_between(reference.to(dtype), reference.clone()) is None


@pytest.mark.parametrize("shape", [(), (1,), (0,), (0, 5), (7,), (1, 1), (3, 1, 4), (2, 3, 4, 5)], ids=str)
def test_tensors_of_any_shape_can_be_compared(shape: tuple[int, ...]) -> None:
    reference = random(*shape)
    assert change_between(reference, reference.clone()) is None
    if reference.numel():
        candidate = reference.clone()
        candidate.view(-1)[-1] += 1
        assert change(reference, candidate).kind == ChangeKind.CHANGED


def test_zeros_of_both_signs_and_nan_in_both_are_equal() -> None:
    reference = torch.tensor([0.0, torch.nan, -torch.inf, 1.0])
    assert change_between(reference, torch.tensor([-0.0, torch.nan, -torch.inf, 1.0])) is None
    assert change_between(reference, reference.to(torch.bfloat16)) is None


@each_reference
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_values_that_are_not_finite_are_counted(make: Callable[..., Tensor], value: float) -> None:
    reference = make(600, 576)
    candidate = reference.clone()
    candidate[-1, -1] = candidate[3, 4] = value
    assert told(reference, candidate) == (ChangeKind.NOT_FINITE, "2 of 345600 values")


def test_of_a_reference_that_is_not_finite_only_new_values_count() -> None:
    reference = random(8, 8)
    reference[0] = -torch.inf
    candidate = reference.clone()
    candidate[1, 1] = 5.0
    assert told(reference, candidate) == (ChangeKind.CHANGED, "")
    candidate[1, 1] = torch.inf
    assert told(reference, candidate) == (ChangeKind.NOT_FINITE, "1 of 64 values")
    assert told(reference, random(8, 8)) == (ChangeKind.CHANGED, "")


@each_reference
@each_dtype
def test_zero(make: Callable[..., Tensor], dtype: torch.dtype) -> None:
    assert change(make(96, 160), torch.zeros(96, 160, dtype=dtype)).kind == ChangeKind.ZERO


def test_nothing_is_said_of_the_size_where_the_reference_is_zero() -> None:
    result = change(torch.zeros(64, 64), random(64, 64))
    assert (result.kind, result.what, result.relative) == (ChangeKind.CHANGED, "", None)


@pytest.mark.parametrize("size", [1e-30, 1e25])
def test_values_whose_squares_float32_cannot_hold_are_compared(size: float) -> None:
    reference = size * random(64, 64)
    assert change(reference, reference + 0.01 * size * random(64, 64, seed=1)).kind == ChangeKind.CHANGED
    assert change(reference, 2 * reference).kind == ChangeKind.SCALED


def test_integers_are_compared_exactly() -> None:
    reference = torch.arange(2**40, 2**40 + 100)
    assert change_between(reference, reference.clone()) is None
    candidate = reference.clone()
    candidate[7] += 1
    assert told(reference, candidate) == (ChangeKind.CHANGED, "1 of 100 values")
    assert told(torch.ones(9, dtype=torch.bool), torch.arange(9) > 1) == (ChangeKind.PRUNED, "")


def test_complex_numbers_are_compared() -> None:
    reference = torch.complex(random(8, 9), random(8, 9, seed=1))
    candidate = reference.clone()
    assert change_between(reference, candidate) is None
    candidate[2, 3] += 1j
    result = change_between(reference, candidate)
    assert result is not None
    assert result.kind == ChangeKind.CHANGED


def test_other_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"'w' has the shape \(3, 4\) in the reference and \(4, 4\) in the candidate"):
        change_between(random(3, 4), random(4, 4), "w")


# --- scaled ---


@each_reference
@each_dtype
@pytest.mark.parametrize("factor", [1.25, -1.0, 0.7, 3.0, 1.01])
def test_scaled(make: Callable[..., Tensor], dtype: torch.dtype, factor: float) -> None:
    reference = make(96, 160)
    candidate = (reference.float() * factor).to(dtype)
    result = change(reference, candidate)
    assert (result.kind, result.what) == (ChangeKind.SCALED, "")
    assert result.amount == pytest.approx(factor, rel=1e-5 if dtype == torch.float32 else 1e-3)


@each_dtype
def test_vectors_may_be_scaled_if_they_have_enough_values(dtype: torch.dtype) -> None:
    reference = 1 + gaussian(64)
    assert change(reference, (1.5 * reference).to(dtype)).kind == ChangeKind.SCALED
    assert change(reference[:5], 1.5 * reference[:5]).kind == ChangeKind.CHANGED


@each_reference
@each_dtype
@pytest.mark.parametrize("along", ["per row", "per column"])
def test_each_row_or_column_may_have_its_own_factor(make: Callable[..., Tensor], dtype: torch.dtype, along: str) -> None:
    """As where the weight of a norm is folded into the next matrix."""
    reference = make(96, 160)
    factors = 1 + 0.5 * random(96, 1).abs() if along == "per row" else 1 + 0.5 * random(160).abs()
    result = change(reference, (reference.float() * factors).to(dtype))
    assert (result.kind, result.what, result.amount) == (ChangeKind.SCALED, along, None)


def test_a_few_scaled_rows_are_rows_that_changed() -> None:
    reference = gaussian(96, 160)
    candidate = reference.clone()
    candidate[:4] *= 1.5
    assert told(reference, candidate) == (ChangeKind.CHANGED, "4 of 96 rows")


def test_one_value_that_the_factor_does_not_explain_is_enough_to_name_none() -> None:
    reference = gaussian(600, 576)
    candidate = 1.25 * reference
    candidate[77, 78] *= 1.01
    assert change(reference, candidate).kind == ChangeKind.CHANGED


# --- pruned ---


@each_reference
@pytest.mark.parametrize("share", [0.01, 0.05, 0.5, 0.9])
def test_pruned(make: Callable[..., Tensor], share: float) -> None:
    reference = make(96, 160)
    candidate = reference.clone()
    smallest = reference.float().abs().flatten().argsort()[: int(share * reference.numel())]
    candidate.view(-1)[smallest] = 0
    result = change(reference, candidate)
    assert (result.kind, result.what) == (ChangeKind.PRUNED, "")
    already = int((reference.view(-1)[smallest] == 0).sum())
    assert result.amount == (len(smallest) - already) / reference.numel()


def test_pruned_rows() -> None:
    reference = gaussian(96, 160)
    candidate = reference.clone()
    candidate[:24] = 0
    result = change(reference, candidate)
    assert (result.kind, result.what, result.amount) == (ChangeKind.PRUNED, "24 of 96 rows", 0.25)


@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_pruned_and_rounded(dtype: torch.dtype) -> None:
    reference = gaussian(96, 160)
    candidate = reference.masked_fill(reference.abs() < 0.02, 0).to(dtype)
    result = change(reference, candidate)
    assert (result.kind, result.what) == (ChangeKind.PRUNED, f"rounded to {str(dtype).removeprefix('torch.')}")
    assert result.amount == float((candidate == 0).double().mean())


def test_a_few_new_zeros_are_not_pruning() -> None:
    reference = gaussian(96, 160)
    candidate = reference.clone()
    candidate[5, 5] = 0
    assert told(reference, candidate) == (ChangeKind.CHANGED, "1 of 15360 values")
    candidate[5, 7] = 0
    assert change(reference, candidate).kind == ChangeKind.PRUNED  # a share of 1.3e-4
    large = gaussian(384, 160)
    candidate = large.clone()
    candidate[5, 5:10] = 0
    assert told(large, candidate) == (ChangeKind.CHANGED, "5 of 61440 values")


# --- changed ---


@given(
    st.sampled_from(list(REFERENCES.values())),
    st.sampled_from([(96, 160), (320, 64), (64, 64), (4, 32, 64), (160,)]),
    st.floats(-4, 0.3),
    st.sampled_from([torch.float32, torch.float16, torch.bfloat16]),
    st.integers(0, 1000),
)
@settings(max_examples=150, deadline=None)
def test_noise_has_no_other_name(
    make: Callable[..., Tensor], shape: tuple[int, ...], exponent: float, dtype: torch.dtype, seed: int
) -> None:
    reference = make(*shape, seed=seed)
    # Noise that is smaller than the rounding of the result cannot be told from it.
    size = max(10**exponent, 0.02 if dtype != torch.float32 and dtype != reference.dtype else 0.0)
    candidate = (reference.float() + size * reference.float().std() * random(*shape, seed=seed + 1)).to(dtype)
    result = change_between(reference, candidate)
    assert result is not None
    assert result.kind == ChangeKind.CHANGED


@each_reference
@each_dtype
def test_other_weights_have_no_name(make: Callable[..., Tensor], dtype: torch.dtype) -> None:
    assert told(make(192, 320), make(192, 320, seed=7).to(dtype)) == (ChangeKind.CHANGED, "")


@each_reference
def test_a_few_rows_columns_or_values(make: Callable[..., Tensor]) -> None:
    reference = make(600, 576)
    for index, what in (
        ((slice(1, 500, 200),), "3 of 600 rows"),
        ((slice(None), slice(1, 500, 200)), "3 of 576 columns"),
        ((torch.tensor([1, 70, 599]), torch.tensor([9, 2, 575])), "3 of 345600 values"),
    ):
        candidate = reference.clone()
        candidate[index] += (0.2 + gaussian(600, 576, seed=3).abs()).to(candidate.dtype)[index]
        assert told(reference, candidate) == (ChangeKind.CHANGED, what)


def test_a_few_values_of_a_vector_and_a_few_experts() -> None:
    reference = gaussian(64)
    candidate = reference.clone()
    candidate[7:9] += torch.tensor([0.3, 0.4])
    assert told(reference, candidate) == (ChangeKind.CHANGED, "2 of 64 values")
    experts = gaussian(8, 32, 64)
    changed = experts.clone()
    changed[5] += 0.1 * gaussian(32, 64, seed=4)
    assert told(experts, changed) == (ChangeKind.CHANGED, "1 of 8 matrices")


def test_tensors_may_be_in_any_order_in_memory() -> None:
    reference = gaussian(160, 96).T
    candidate = reference.clone() + gaussian(96, 160, seed=1)
    assert change(reference, candidate).kind == ChangeKind.CHANGED
    assert change_between(reference, reference.contiguous()) is None
    experts = gaussian(4, 64, 48).transpose(1, 2)
    assert told(experts, experts.flip(1)) == (ChangeKind.PERMUTED, "rows")


def test_nothing_global_changes() -> None:
    reference = gaussian(96, 160)
    state, threads = torch.random.get_rng_state(), torch.get_num_threads()
    parameter = torch.nn.Parameter(reference.clone())
    assert change_between(parameter, reference + adapter(96, 160, 3, 0.1)) is not None
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.get_num_threads() == threads
    assert parameter.grad is None
