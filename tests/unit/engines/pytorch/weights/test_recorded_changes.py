"""A print and a later tensor tell how large a change is, and what it is where that is certain."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from pytest_pot.engines.pytorch.weights.grids import GridSearch, grid_of
from pytest_pot.engines.pytorch.weights.prints import print_of
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
    assert result.relative == pytest.approx(exact, rel=0.4)


def test_equal_values_of_another_precision_are_no_change() -> None:
    values = normal(64, 64).to(BFLOAT16)
    assert change(values, values.float()) is None
    assert change(values.float(), values) is None


@pytest.mark.parametrize("kept", [torch.float32, BFLOAT16])
def test_a_grid_that_the_reference_was_on_explains_no_change(kept: torch.dtype) -> None:
    reference = symmetric(normal(256, 256), 64, 7).to(kept)
    other = symmetric(reference.float() + 0.1 * normal(256, 256, seed=1), 64, 7).to(kept)
    assert grid_of(other) == grid_of(reference) == "4 bits in groups of 64"
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
