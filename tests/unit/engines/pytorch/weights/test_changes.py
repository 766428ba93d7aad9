"""What happened to a tensor is named rightly, whatever the reference is like, and nothing is claimed that is not so."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pytest_pot.engines.pytorch.weights.changes import change_between
from pytest_pot.engines.weights import ChangeKind, TensorChange

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
HALVES = (torch.bfloat16, torch.float16)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def gaussian(*shape: int, seed: int = 0) -> Tensor:
    return 0.1 * random(*shape, seed=seed)


def in_bfloat16(*shape: int, seed: int = 0) -> Tensor:
    return gaussian(*shape, seed=seed).bfloat16()


def on_4_bits(*shape: int, seed: int = 0) -> Tensor:
    """As from a file of the format Q4_1: 16 levels with an offset in groups of 32, both in float16."""
    groups = gaussian(*shape, seed=seed).reshape(-1, 32)
    lowest, highest = groups.aminmax(dim=-1, keepdim=True)
    step = ((highest - lowest) / 15).half().float()
    rounded = ((groups - lowest) / step).round().clamp(0, 15) * step + lowest.half().float()
    return rounded.reshape(shape)


def with_outliers(*shape: int, seed: int = 0) -> Tensor:
    """Each row of another size, and a few columns that are 30 times as large."""
    values = gaussian(*shape, seed=seed) * (0.1 + random(shape[0], *[1] * (len(shape) - 1), seed=seed + 1).abs())
    values[..., ::50] *= 30
    return values


REFERENCES: dict[str, Callable[..., Tensor]] = {
    "gaussian": gaussian,
    "bfloat16": in_bfloat16,
    "4 bits": on_4_bits,
    "outliers": with_outliers,
}
each_reference = pytest.mark.parametrize("make", REFERENCES.values(), ids=REFERENCES)
each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)


def change(reference: Tensor, candidate: Tensor) -> TensorChange:
    """With the relative change checked against float64."""
    before = reference.clone(), candidate.clone()
    result = change_between(reference, candidate, "a tensor")
    for copy, tensor in zip(before, (reference, candidate), strict=True):
        torch.testing.assert_close(tensor, copy, rtol=0, atol=0, equal_nan=True)
    assert result is not None
    assert result.name == "a tensor"
    if reference.shape == candidate.shape and bool(candidate.isfinite().all() & reference.isfinite().all()):
        a, b = reference.double(), candidate.double()
        size = float((b - a).norm() / a.norm()) if float(a.norm()) else None
        assert result.relative == (None if size is None else pytest.approx(size, rel=1e-5))
    else:
        assert result.relative is None
    return result


def told(reference: Tensor, candidate: Tensor) -> tuple[ChangeKind, str]:
    result = change(reference, candidate)
    return result.kind, result.what


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


# --- values in another place ---


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


@each_reference
def test_all_values_in_another_order(make: Callable[..., Tensor]) -> None:
    """As after a reshape in the wrong order."""
    reference = make(96, 160)
    assert change(reference, reference.reshape(160, 96).T.reshape(96, 160)).kind == ChangeKind.REORDERED


# --- rounded ---


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


def adapter(rows: int, columns: int, rank: int, size: float, seed: int = 5) -> Tensor:
    """Of the given norm, relative to that of a matrix of normal numbers of deviation 0.1."""
    product = random(rows, rank, seed=seed) @ random(rank, columns, seed=seed + 1)
    return product * (size * 0.1 * math.sqrt(rows * columns) / float(product.norm()))


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
