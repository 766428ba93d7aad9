from __future__ import annotations

from collections.abc import Sequence

import pytest

from pytest_pot.engines.weights import ChangeKind, TensorChange
from pytest_pot.scoring.diagnosis.change_words import change_words


def words(kind: ChangeKind, whats: Sequence[str] = ("",), amounts: Sequence[float | None] = (None,)) -> str:
    changes = [TensorChange("a", kind, what, amount) for what in whats for amount in amounts]
    return change_words(changes, recorded=False)


@pytest.mark.parametrize(
    ("whats", "expected"),
    [
        (["1 of 48 rows"], " changed in 1 of 48 rows"),
        (["3 of 576 values"] * 4, " changed in 3 of 576 values"),
        (["1 of 48 rows", "7 of 48 rows", "2 of 48 rows"], " changed in 1 to 7 of 48 rows"),
        (["1 of 48 rows", "2 of 32 rows"], " changed in 1 to 2 rows of each"),
        (["1 of 48 rows", "1 of 32 rows"], " changed in 1 row of each"),
        (["1 of 48 rows", "2 of 32 columns"], " changed"),
        (["1 of 48 rows", ""], " changed"),
        ([""], " changed"),
    ],
)
def test_the_part_of_a_tensor_that_changed_is_told_where_it_is_of_one_kind(whats: list[str], expected: str) -> None:
    assert words(ChangeKind.CHANGED, whats) == expected


def test_the_part_is_told_of_other_kinds_too() -> None:
    assert words(ChangeKind.NOT_FINITE, ["1 of 1536 values"]) == ": NaN or infinite values in 1 of 1536 values"
    pruned = words(ChangeKind.PRUNED, ["6 of 48 rows"], [0.125])
    assert pruned == ": 12.5 % of the values are new zeros in 6 of 48 rows, as of pruning"


def test_rounding_that_came_with_another_change_is_told_behind_it() -> None:
    assert words(ChangeKind.PERMUTED, ["rows"]) == ": rows in another order (permuted)"
    also = words(ChangeKind.PERMUTED, ["rows, rounded to bfloat16"])
    assert also == ": rows in another order (permuted), rounded to bfloat16"
    assert words(ChangeKind.TRANSPOSED, ["rounded to float16"] * 2) == " transposed, rounded to float16"
    assert words(ChangeKind.TRANSPOSED, ["rounded to float16", ""]) == " transposed"
    assert words(ChangeKind.ROUNDED, ["bfloat16"]) == " rounded to bfloat16"


@pytest.mark.parametrize(
    ("factors", "expected"),
    [
        ([1.25], "1.25"),
        ([1.2498, 1.2501, 1.25], "1.25"),
        ([1.25, 1.5], "1.25 to 1.5"),
        ([1.001], "1.001"),
        ([1.0004, 1.0012], "1.0004 to 1.0012"),
        ([0.99998], "0.99998"),
        ([-1.0], "-1"),
        ([0.0625], "0.0625"),
    ],
)
def test_factors_have_three_digits_or_as_many_as_tell_them_from_one(factors: list[float], expected: str) -> None:
    assert words(ChangeKind.SCALED, [""], factors) == f" multiplied by {expected}"


def test_relative_changes_that_are_equal_to_three_digits_are_one() -> None:
    changes = [TensorChange("a", ChangeKind.CHANGED, relative=size) for size in (0.12298, 0.12301, 0.12302)]
    assert change_words(changes, recorded=False) == " changed (relative change 0.123)"


@pytest.mark.parametrize(("what", "part"), [("per row", "row"), ("per column", "column")])
def test_factors_of_rows_and_columns_are_told_without_a_figure(what: str, part: str) -> None:
    assert words(ChangeKind.SCALED, [what]) == f": each {part} multiplied by a factor of its own"


def test_a_kind_that_was_not_looked_for_is_not_told_as_none() -> None:
    change = TensorChange("a", ChangeKind.CHANGED, relative=0.5, searched=False)
    assert change_words([change], recorded=False) == " changed in a way that was not looked for (relative change 0.5)"


def test_what_else_happened_to_a_transposed_tensor_is_told() -> None:
    assert words(ChangeKind.TRANSPOSED, ["and changed"]) == " transposed and changed"
    assert words(ChangeKind.TRANSPOSED, ["multiplied by 2"]) == " transposed, multiplied by 2"
