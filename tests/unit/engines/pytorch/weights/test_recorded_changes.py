"""A print and a later tensor tell how large a change is, and what it is where that is certain."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from pytest_pot.engines.pytorch.weights.changes import change_between
from pytest_pot.engines.pytorch.weights.grids import GridSearch, find_grid
from pytest_pot.engines.pytorch.weights.prints import digest_of, print_of
from pytest_pot.engines.pytorch.weights.recorded_changes import change_since
from pytest_pot.engines.weights import ChangeKind, TensorChange, TensorInfo, TensorPrint

from .test_grids import normal, symmetric, with_minimum

BFLOAT16 = torch.bfloat16


def recorded(values: Tensor) -> TensorPrint:
    info = TensorInfo(tuple(values.shape), str(values.dtype).removeprefix("torch."))
    return print_of(values, info, GridSearch().name(values))


def change(reference: Tensor, candidate: Tensor) -> TensorChange | None:
    return change_since(recorded(reference), candidate, "weight")


def pruned(values: Tensor, share: float) -> Tensor:
    threshold = values.abs().flatten().kthvalue(int(values.numel() * share)).values
    return torch.where(values.abs() <= threshold, 0.0, values)


def with_rows(values: Tensor, rows: slice, new: Tensor | float) -> Tensor:
    values = values.clone()
    values[rows] = new
    return values


def permuted(values: Tensor, size: int) -> Tensor:
    result: Tensor = values.unflatten(0, (-1, 2, size // 2)).transpose(1, 2).flatten(0, 2)
    return result


def low_rank(values: Tensor, rank: int, size: float) -> Tensor:
    product = normal(values.shape[0], rank, seed=8) @ normal(rank, values.shape[1], seed=9)
    result: Tensor = values + product * (size * values.norm() / product.norm())
    return result


CHANGES: dict[str, tuple[Callable[[Tensor], Tensor], ChangeKind, str, float | None]] = {
    "bf16": (lambda w: w.to(BFLOAT16), ChangeKind.ROUNDED, "bfloat16", None),
    "bf16 kept in float32": (lambda w: w.to(BFLOAT16).float(), ChangeKind.ROUNDED, "bfloat16", None),
    "fp16": (lambda w: w.half(), ChangeKind.ROUNDED, "float16", None),
    "fp8": (lambda w: w.to(torch.float8_e4m3fn).float(), ChangeKind.ROUNDED, "float8_e4m3fn", None),
    "int8 per row": (lambda w: symmetric(w, 256, 127), ChangeKind.ROUNDED, "8 bits per row", None),
    "int8 per row in bf16": (lambda w: symmetric(w, 256, 127).to(BFLOAT16), ChangeKind.ROUNDED, "8 bits per row", None),
    "int8 per tensor": (lambda w: symmetric(w, None, 127), ChangeKind.ROUNDED, "8 bits per tensor", None),
    "int4 in groups": (lambda w: symmetric(w, 64, 7), ChangeKind.ROUNDED, "4 bits in groups of 64", None),
    "Q4_1": (lambda w: with_minimum(w, 32, 15), ChangeKind.ROUNDED, "4 bits in groups of 32 with offset", None),
    "pruned 20 %": (lambda w: pruned(w, 0.2), ChangeKind.PRUNED, "", 0.2),
    "pruned 1 %": (lambda w: pruned(w, 0.01), ChangeKind.PRUNED, "", 0.01),
    "rows lost": (lambda w: with_rows(w, slice(0, 32), 0.0), ChangeKind.PRUNED, "", 1 / 8),
    "scaled": (lambda w: w * 1.25, ChangeKind.SCALED, "", 1.25),
    "scaled in bf16": (lambda w: (w * 1.25).to(BFLOAT16), ChangeKind.SCALED, "", 1.25),
    "negated": (lambda w: -w, ChangeKind.SCALED, "", -1.0),
    "scaled a little": (lambda w: w * 1.001, ChangeKind.SCALED, "", 1.001),
    "zero": (torch.zeros_like, ChangeKind.ZERO, "", None),
    "transposed": (lambda w: w.T.contiguous(), ChangeKind.TRANSPOSED, "", None),
    "heads permuted": (lambda w: permuted(w, 64), ChangeKind.PERMUTED, "rows", None),
    "low rank": (lambda w: low_rank(w, 8, 0.05), ChangeKind.CHANGED, "", None),
    "noise": (lambda w: w + 0.01 * normal(256, 256, seed=5), ChangeKind.CHANGED, "", None),
    "noise and bf16": (lambda w: (w + 0.01 * normal(256, 256, seed=5)).to(BFLOAT16), ChangeKind.CHANGED, "", None),
    "other weights": (lambda w: normal(256, 256, seed=6), ChangeKind.CHANGED, "", None),
    "other weights in bf16": (lambda w: normal(256, 256, seed=6).to(BFLOAT16), ChangeKind.CHANGED, "", None),
    "other weights in 4 bits": (lambda w: symmetric(normal(256, 256, seed=6), 64, 7), ChangeKind.CHANGED, "", None),
    "other weights, many of them 0": (lambda w: pruned(normal(256, 256, seed=6), 0.3), ChangeKind.CHANGED, "", None),
    "pruned and noise": (lambda w: pruned(w + 0.3 * normal(256, 256, seed=5), 0.2), ChangeKind.CHANGED, "", None),
    "scaled rows": (lambda w: w * (1 + 0.1 * normal(256, 1, seed=7) / 0.02), ChangeKind.CHANGED, "", None),
    "rotated": (lambda w: w @ torch.linalg.qr(normal(256, 256, seed=4)).Q, ChangeKind.CHANGED, "", None),
    "a row": (lambda w: with_rows(w, slice(3, 4), normal(1, 256, seed=3)), ChangeKind.CHANGED, "", None),
    "one value": (lambda w: with_rows(w, slice(3, 4), w[3:4] * torch.eye(256)[:1] + w[3:4]), ChangeKind.CHANGED, "", None),
}


@pytest.mark.parametrize("name", CHANGES)
def test_kinds(name: str) -> None:
    make, kind, what, amount = CHANGES[name]
    reference = normal(256, 256)
    candidate = make(reference)
    result = change(reference, candidate)
    assert result is not None
    assert (result.name, result.kind, result.what) == ("weight", kind, what)
    assert result.amount == (None if amount is None else pytest.approx(amount, rel=1e-3))
    exact = float((candidate.double() - reference.double()).norm() / reference.double().norm())
    assert result.relative == pytest.approx(exact, rel=0.6)  # three standard deviations


def test_equal_values_of_another_precision_are_no_change() -> None:
    values = normal(64, 64).to(BFLOAT16)
    assert change(values, values.float()) is None
    assert change(values.float(), values) is None


@pytest.mark.parametrize("kept", [torch.float32, BFLOAT16])
def test_a_grid_that_the_reference_was_on_explains_no_change(kept: torch.dtype) -> None:
    reference = symmetric(normal(256, 256), 64, 7).to(kept)
    other = symmetric(reference.float() + 0.1 * normal(256, 256, seed=1), 64, 7).to(kept)
    grids = [find_grid(values) for values in (other, reference)]
    assert [grid.name for grid in grids if grid] == ["4 bits in groups of 64"] * 2
    result = change(reference, other)
    assert result is not None
    assert result.kind is ChangeKind.CHANGED


def test_a_precision_that_the_reference_had_explains_no_change() -> None:
    reference = normal(256, 256).to(BFLOAT16)
    result = change(reference, (reference.float() + 2e-3 * normal(256, 256, seed=1)).to(BFLOAT16))
    assert result is not None
    assert result.kind is ChangeKind.CHANGED


def test_rounding_a_quantised_tensor_to_a_precision() -> None:
    """It is still on the quantiser's grid, but that is not what happened."""
    reference = with_minimum(normal(256, 256), 32, 15)
    result = change(reference, reference.to(BFLOAT16))
    assert result is not None
    assert (result.kind, result.what) == (ChangeKind.ROUNDED, "bfloat16")


def test_the_same_numbers_in_another_order_are_told_by_their_grid() -> None:
    reference = normal(256, 256).to(BFLOAT16)
    result = change(reference, reference[torch.randperm(256, generator=torch.Generator().manual_seed(0))])
    assert result is not None
    assert result.kind is ChangeKind.REORDERED


def test_transposed_shapes() -> None:
    reference = normal(64, 256)
    result = change(reference, reference.T)
    assert result is not None
    assert result.kind is ChangeKind.TRANSPOSED
    other = change(reference, normal(256, 64, seed=1))
    assert other is not None
    assert other.kind is ChangeKind.CHANGED


@pytest.mark.parametrize("shape", [(64, 256), (128, 128), (3, 64, 64)])
def test_what_else_happened_to_a_transposed_tensor(shape: tuple[int, ...]) -> None:
    reference = normal(*shape)
    cases = {
        "rounded to bfloat16": reference.to(BFLOAT16),
        "rounded to float16": reference.half().float(),
        "multiplied by 1.25": reference * 1.25,
        "with new zeros": pruned(reference, 0.05),
        "and changed": reference + 0.1 * normal(*shape, seed=1),
    }
    for what, candidate in cases.items():
        if len(shape) == 3:  # of matrices of experts, the shape tells nothing
            assert candidate.mT.shape == reference.shape
        result = change(reference, candidate.mT.contiguous())
        assert result is not None
        assert (result.kind, result.what, result.amount) == (ChangeKind.TRANSPOSED, what, None)


def dtypes() -> list[torch.dtype]:
    """All types that torch can convert numbers to."""
    found = []
    for dtype in {value for value in vars(torch).values() if isinstance(value, torch.dtype)}:
        try:
            with warnings.catch_warnings(action="ignore"):  # complex numbers of 16 bits warn
                torch.ones(4).to(dtype)
        except (RuntimeError, NotImplementedError):
            continue
        found.append(dtype)
    return sorted(found, key=str)


@pytest.mark.filterwarnings("ignore:ComplexHalf support is experimental:UserWarning")
@pytest.mark.parametrize("dtype", dtypes(), ids=str)
def test_any_type(dtype: torch.dtype) -> None:
    """Of buffers and parameters, on either side, live and recorded."""
    values = 3 * normal(32, 32) / 0.02
    if not dtype.is_signed:
        values = values.abs()
    zeroed = with_rows(values, slice(0, 8), 0.0)
    before, after = values.to(dtype), zeroed.to(dtype)
    expected = ChangeKind.CHANGED if dtype == torch.float8_e8m0fnu else ChangeKind.PRUNED  # it has no 0
    for result in (change(before, after), change_between(before, after)):
        assert result is not None
        assert result.kind is expected
    for one, other in ((values, after), (before, zeroed)):
        assert change(one, other) is not None
        assert change_between(one, other) is not None
    broken = zeroed.clone()
    broken[20] = torch.nan
    if (dtype.is_floating_point or dtype.is_complex) and not bool(torch.isfinite(broken.to(dtype).to(torch.complex64)).all()):
        result = change(values, broken.to(dtype))
        assert result is not None
        assert (result.kind, result.what) == (ChangeKind.NOT_FINITE, "32 of 1024 values")


@pytest.mark.parametrize(
    ("before", "after"), [(BFLOAT16, torch.float16), (torch.float64, torch.float32)], ids=["to float16", "to float32"]
)
def test_a_cast_that_changes_too_little_to_tell(before: torch.dtype, after: torch.dtype) -> None:
    reference = normal(256, 256).to(before) if before == BFLOAT16 else normal(256, 256).double() * (1 + 1e-10)
    result = change(reference, reference.to(after))
    assert result == TensorChange("weight", ChangeKind.ROUNDED, str(after).removeprefix("torch."))
    damaged = change(reference, (reference + 1e-3 * normal(256, 256, seed=1)).to(after))
    assert damaged is not None
    assert damaged.kind is ChangeKind.CHANGED


def test_a_cast_of_values_that_the_new_type_can_hardly_hold() -> None:
    """bfloat16 has numbers that are too small for float16."""
    reference = (normal(256, 256) * 1e-4).to(BFLOAT16)
    result = change(reference, reference.half())
    assert result is not None
    assert (result.kind, result.what) == (ChangeKind.ROUNDED, "float16")
    exact = float((reference.half().double() - reference.double()).norm() / reference.double().norm())
    assert result.relative == pytest.approx(exact, rel=0.6)


def test_a_few_new_zeros_are_not_pruning() -> None:
    reference = normal(64, 64)
    for n, kind in ((1, ChangeKind.CHANGED), (2, ChangeKind.PRUNED)):
        result = change(reference, reference.index_put((torch.arange(n), torch.arange(n)), torch.tensor(0.0)))
        assert result is not None
        assert result.kind is kind


def test_values_that_need_few_digits_are_rounded_by_less() -> None:
    """Those of a grid may be near to numbers of a coarser precision; the error is estimated, not assumed."""
    sizes = []
    for seed in range(20):
        reference = normal(256, 256, seed=seed).to(BFLOAT16).float()
        reference = torch.where(normal(256, 256, seed=100 + seed) > 0.02, normal(256, 256, seed=200 + seed), reference)
        candidate = reference.to(BFLOAT16)
        result = change(reference, candidate)
        assert result is not None
        assert (result.kind, result.what) == (ChangeKind.ROUNDED, "bfloat16")
        assert result.relative is not None
        exact = float((candidate.double() - reference.double()).norm() / reference.double().norm())
        assert exact < 0.45 * 1.66e-3  # which it is of values all over
        sizes.append(result.relative / exact)
    assert sum(0.6 <= size <= 1.4 for size in sizes) >= 18


def test_the_size_of_a_rounded_tensor_is_estimated() -> None:
    """Damage before the rounding is in it."""
    ratios = []
    for seed in range(20):
        reference = normal(256, 256, seed=seed)
        candidate = symmetric(reference + 0.005 * normal(256, 256, seed=100 + seed), 256, 127)
        result = change(reference, candidate)
        assert result is not None
        assert result.relative is not None
        exact = float((candidate.double() - reference.double()).norm() / reference.double().norm())
        ratios.append(result.relative / exact)
    assert sum(0.6 <= ratio <= 1.4 for ratio in ratios) >= 18
    assert sum(ratios) / len(ratios) == pytest.approx(1, abs=0.12)


def test_not_finite() -> None:
    reference = normal(64, 64)
    broken = with_rows(reference, slice(0, 1), torch.nan)
    result = change(reference, broken)
    assert result is not None
    assert (result.kind, result.what, result.relative) == (ChangeKind.NOT_FINITE, "64 of 4096 values", None)
    back = change(broken, reference)
    assert back is not None
    assert (back.kind, back.relative) == (ChangeKind.CHANGED, None)


def test_nothing_is_said_of_a_size_that_projections_do_not_resolve() -> None:
    reference = normal(256, 256)
    result = change(reference, reference * (1 + 1e-6 * normal(256, 256, seed=1) / 0.02))
    assert result == TensorChange("weight", ChangeKind.CHANGED)


def test_sizes_are_within_40_percent() -> None:
    changes: list[Callable[[Tensor, Tensor], Tensor]] = [
        lambda w, noise: w + 1e-3 * noise,
        lambda w, noise: w + 1e-4 * noise,
        lambda w, noise: torch.where(noise > 0.06, noise, w),  # sparse
        lambda w, noise: w + noise[:1] * noise[:, :1],  # rank 1
        lambda w, noise: w + 1e-3,
        lambda w, noise: torch.cat([w[:-1], noise[:1]]),
        lambda w, noise: torch.cat([w[:, :-1], noise[:, :1]], dim=1),
        lambda w, noise: w.roll(1, 0),
    ]
    n_right = n_cases = 0
    for seed in range(25):
        reference, noise = normal(96, 160, seed=seed), normal(96, 160, seed=1000 + seed)
        before = recorded(reference)
        for make in changes:
            candidate = make(reference, noise)
            result = change_since(before, candidate)
            assert result is not None
            assert result.kind in (ChangeKind.CHANGED, ChangeKind.REORDERED)
            assert result.relative is not None
            exact = float((candidate.double() - reference.double()).norm() / reference.double().norm())
            n_cases += 1
            n_right += 0.6 * exact <= result.relative <= 1.4 * exact
    assert n_right / n_cases >= 0.95


@pytest.mark.parametrize("size", [1e-30, 1e-22, 1.0, 1e30])
def test_equal_values_of_any_size_are_equal(size: float) -> None:
    values = normal(9, 5000) * size
    assert change(values, values.clone()) is None
    assert change(values, values.double()) is None


def test_another_norm_tells_that_values_differ() -> None:
    reference = normal(96, 160)
    asked: list[bool] = []

    def digest_was_read(candidate: Tensor) -> bool:
        def digest() -> bytes:
            asked.append(True)
            return digest_of(candidate)

        asked.clear()
        change_since(recorded(reference), candidate, digest=digest)
        return bool(asked)

    assert not digest_was_read(reference * 1.001)
    for candidate in (reference, reference.flip(0), with_rows(reference, slice(1), torch.nan)):
        assert digest_was_read(candidate)
