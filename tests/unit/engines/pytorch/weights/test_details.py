"""What is told of a change beyond its kind: which rows moved, to which order, and the one value of a tensor that was reset."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from pytest_pot.engines.pytorch.weights.changes import change_between
from pytest_pot.engines.pytorch.weights.prints import print_of
from pytest_pot.engines.pytorch.weights.recorded_changes import change_since
from pytest_pot.engines.weights import ChangeKind, TensorChange, TensorInfo
from pytest_pot.scoring.diagnosis.change_words import change_words

from .test_grids import normal

HALVES, PAIRS = "halves (as in Hugging Face's RoPE)", "pairs (as in Meta's and llama.cpp's RoPE)"


def live(reference: Tensor, candidate: Tensor) -> TensorChange:
    change = change_between(reference, candidate)
    assert change is not None
    return change


def from_a_print(reference: Tensor, candidate: Tensor) -> TensorChange:
    change = change_since(print_of(reference, TensorInfo(tuple(reference.shape), "float32")), candidate)
    assert change is not None
    return change


def to_pairs(matrix: Tensor, size: int) -> Tensor:
    """Row by row: row 2 i of a head is row i of its first half, and row 2 i + 1 row i of its second half."""
    rows = []
    for head in range(0, len(matrix), size):
        for i in range(size // 2):
            rows += [matrix[head + i], matrix[head + size // 2 + i]]
    return torch.stack(rows)


each_comparison = pytest.mark.parametrize("compare", [live, from_a_print])


@each_comparison
@pytest.mark.parametrize("size", [16, 32, 64, 128])
@pytest.mark.parametrize("shape", [(256, 96), (256,)], ids=["matrix", "bias"])
def test_the_two_orders_of_rotary_encodings_are_told_apart(
    compare: Callable[[Tensor, Tensor], TensorChange], size: int, shape: tuple[int, ...]
) -> None:
    halves = normal(*shape, seed=1)
    pairs = to_pairs(halves, size)
    there, back = compare(halves, pairs), compare(pairs, halves)
    assert (there.kind, there.what, there.detail) == (ChangeKind.PERMUTED, "rows", f"from {HALVES} to {PAIRS} of each {size}")
    assert (back.kind, back.what, back.detail) == (ChangeKind.PERMUTED, "rows", f"from {PAIRS} to {HALVES} of each {size}")


def test_a_few_rows_that_moved_are_named() -> None:
    reference = normal(300, 64, seed=2)

    def moved(*pairs: tuple[int, int]) -> str:
        candidate = reference.clone()
        for one, other in pairs:
            candidate[[one, other]] = reference[[other, one]]
        return live(reference, candidate).detail

    assert moved((253, 260)) == "only 253 and 260 of 300"
    assert moved((0, 299), (5, 7)) == "only 0, 5, 7 and 299 of 300"
    assert moved((0, 299), (5, 7), (8, 9)) == "only 6 of 300"
    assert live(reference, reference.flip(0)).detail == ""
    assert live(reference[:2], reference[:2].flip(0)).detail == "", "both moved"


def test_a_transposed_tensor_that_was_permuted_as_well_has_no_detail() -> None:
    halves = normal(64, 96, seed=4)
    change = from_a_print(halves, to_pairs(halves, 16).T.contiguous())
    assert change.detail == ""


def test_an_equal_tensor_of_one_value_is_not_told_by_its_norm() -> None:
    """Sums of equal values are as far off as they can be."""
    for value in (0.1, 1.0, 1 / 3):
        constant = torch.full((70 * 4096 + 5,), value)
        assert change_since(print_of(constant, TensorInfo(tuple(constant.shape), "float32")), constant.clone()) is None


@each_comparison
@pytest.mark.parametrize("value", [1.0, -0.5])
def test_a_tensor_that_was_reset_is_told_by_its_value(compare: Callable[[Tensor, Tensor], TensorChange], value: float) -> None:
    norm = 0.5 + 25 * normal(96, 1, seed=3)[:, 0].abs()
    change = compare(norm, torch.full_like(norm, value))
    assert (change.kind, change.what, change.detail) == (ChangeKind.CHANGED, "", f"all values are {value:g}")
    nearly = torch.full_like(norm, value)
    nearly[50] += 0.01
    assert compare(norm, nearly).detail == ""


def test_the_details_are_in_the_words_if_all_tensors_share_them() -> None:
    def words(kind: ChangeKind, *details: str, what: str = "") -> str:
        changes = [TensorChange("a", kind, what, relative=0.5, detail=detail) for detail in details]
        return change_words(changes, recorded=False)

    assert words(ChangeKind.CHANGED, "all values are 1") == " changed: all values are 1 (relative change 0.5)"
    assert words(ChangeKind.CHANGED, "all values are 1", "") == " changed (relative change 0.5)"
    assert words(ChangeKind.PERMUTED, "only 3 and 4 of 9", what="rows, rounded to bfloat16") == (
        ": rows in another order (permuted), only 3 and 4 of 9, rounded to bfloat16"
    )
