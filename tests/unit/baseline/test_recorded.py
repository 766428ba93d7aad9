"""The distributions of a suite are collected prompt by prompt, in any order."""

from __future__ import annotations

from dataclasses import replace
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from pytest_pot import PotError
from pytest_pot.baseline.recorded import Recorded, RecordedSuite
from pytest_pot.engines.tokens import Tokens

COUNTS = (3, 1, 5, 2)
TOKENS = [Tokens(tuple(range(2 + n)), 2) for n in COUNTS]
BY_SIZE = (2, 0, 3, 1)


def part(n: int, seed: int, *, whole: bool = False) -> Recorded:
    draw = np.random.default_rng(seed)
    return Recorded(
        ids=None if whole else draw.integers(0, 90, size=(n, 7)).astype(np.uint16),
        values=draw.normal(size=(n, 7)).astype(np.float32),
        target_values=draw.normal(size=n).astype(np.float32),
        log_normalisers=draw.normal(size=n),
        log_tail=None if whole else draw.normal(size=n),
        clear=draw.integers(0, 2, size=n).astype(bool),
    )


def collected(parts: list[Recorded]) -> Recorded:
    suite = RecordedSuite(TOKENS)
    for index in BY_SIZE:
        suite.put(index, parts[index])
    return suite.recorded()


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("wide", [0, 1, 2, 3, None])
def test_prompts_may_come_in_any_order_and_in_two_precisions(whole: bool, wide: int | None) -> None:
    parts = [part(n, seed, whole=whole) for seed, n in enumerate(COUNTS)]
    if wide is not None:  # values that do not fit into float32
        values = np.random.default_rng(9).normal(size=parts[wide].values.shape)
        parts[wide] = replace(parts[wide], values=values)
    recorded = collected(parts)
    for name, array in recorded.arrays().items():
        arrays = [getattr(one, name) for one in parts]
        if array is None:
            assert arrays == [None] * len(parts)
        else:
            expected = np.concatenate(arrays)
            assert array.dtype == expected.dtype
            np.testing.assert_array_equal(array, expected, err_msg=name)
    assert (recorded.ids is None) == (recorded.log_tail is None) == whole
    assert recorded.values.dtype == (np.float32 if wide is None else np.float64)


def test_a_prompt_that_runs_again_replaces_what_it_returned_before() -> None:
    parts = [part(n, seed) for seed, n in enumerate(COUNTS)]
    suite = RecordedSuite(TOKENS)
    suite.put(2, part(COUNTS[2], 7))
    for index in BY_SIZE:
        suite.put(index, parts[index])
    np.testing.assert_array_equal(suite.recorded().values, np.concatenate([one.values for one in parts]))


@pytest.mark.parametrize(
    ("index", "wrong", "message"),
    [
        (0, part(1, 0), r"ids of shape \(1, 7\) for prompt 0, but must return \(3, 7\)"),
        (1, part(2, 0), r"ids of shape \(2, 7\) for prompt 1, but must return \(1, 7\)"),
        (0, replace(part(3, 0), values=np.ones((3, 1), np.float32)), r"values of shape \(3, 1\) for prompt 0"),
        (0, replace(part(3, 0), log_tail=None), r"log_tail of shape None for prompt 0, but must return \(3,\)"),
        (2, part(5, 0, whole=True), r"ids of shape None for prompt 2, but must return \(5, 7\)"),
    ],
)
def test_a_prompt_with_another_number_of_positions_or_ids_is_an_error(index: int, wrong: Recorded, message: str) -> None:
    suite = RecordedSuite(TOKENS)
    suite.put(3, part(COUNTS[3], 3))
    with pytest.raises(PotError, match=message):
        suite.put(index, wrong)


def test_a_copy_does_not_keep_the_arrays_alive_that_it_was_a_view_of() -> None:
    whole = part(9, 0, whole=True)
    copy = whole.rows(2, 5).copy()
    np.testing.assert_array_equal(copy.values, whole.values[2:5])
    assert copy.ids is None
    assert copy.values.base is None


def test_memory_that_was_never_written_to_is_not_converted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Converting what ``np.empty`` returns may warn of invalid values: it holds what was in that memory before."""
    narrow, wide = part(COUNTS[2], 2), part(COUNTS[0], 0)
    wide = replace(wide, values=np.random.default_rng(9).normal(size=wide.values.shape))

    def signalling_nan(shape: tuple[int, ...], dtype: np.dtype[Any]) -> npt.NDArray[Any]:
        return np.frombuffer(b"\x01\x00\xa0\x7f" * (2 * prod(shape)), dtype, prod(shape)).reshape(shape).copy()

    monkeypatch.setattr(np, "empty", signalling_nan)
    suite = RecordedSuite(TOKENS)
    suite.put(2, narrow)
    suite.put(0, wide)
