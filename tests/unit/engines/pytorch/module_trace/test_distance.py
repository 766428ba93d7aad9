from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from pytest_pot.engines.pytorch.module_trace import distance
from pytest_pot.engines.pytorch.module_trace.distance import relative_difference

INF, NAN = math.inf, math.nan


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", [(), (1,), (3, 7), (2, 3, 1500)])
@pytest.mark.parametrize("chunk", [4, 1 << 22])
def test_it_is_the_norm_of_the_difference_over_the_norm(
    dtype: torch.dtype, shape: tuple[int, ...], chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(distance, "_CHUNK", chunk)
    generator = torch.Generator().manual_seed(1)
    first = torch.randn(shape, generator=generator).to(dtype)
    second = (first + 0.1 * torch.randn(shape, generator=generator)).to(dtype)
    a, b = first.double().numpy(), second.double().numpy()
    expected = np.sqrt(((a - b) ** 2).sum()) / np.sqrt((a**2).sum())
    assert relative_difference(first, second) == pytest.approx(expected, rel=1e-5)
    assert relative_difference(first, first.clone()) == 0


def test_precisions_and_strides_may_differ() -> None:
    first = torch.randn(5, 6, generator=torch.Generator().manual_seed(0))
    assert relative_difference(first, first.to(torch.bfloat16)) == pytest.approx(0.0015, rel=0.5)
    assert relative_difference(first.t(), first.t().contiguous()) == 0


@pytest.mark.parametrize("size", [1e-30, 1e30])
def test_very_small_and_very_large_values_are_compared_too(size: float) -> None:
    first = torch.tensor([3.0, 4.0]) * size
    assert relative_difference(first, first * 1.1) == pytest.approx(0.1, rel=1e-4)


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ([0.0, 0.0], [0.0, 0.0], 0.0),
        ([0.0, 0.0], [0.0, 1e-9], 1.0),
        ([3.0, 4.0], [3.0, NAN], INF),
        ([3.0, 4.0], [3.0, INF], INF),
        ([3.0, NAN], [3.0, 4.0], INF),
        ([3.0, NAN], [3.0, NAN], 0.0),
        ([3.0, INF], [3.0, INF], 0.0),
        ([3.0, INF], [3.3, INF], 0.1),
        ([3.0, INF], [3.0, -INF], INF),
        ([0.0, -INF, -INF], [0.0, -INF, -INF], 0.0),
        ([0.0, -INF, -INF], [0.0, torch.finfo(torch.float32).min, -INF], 0.0),
        ([0.0, -INF, -INF, -INF, -INF], [0.0, 0.0, -INF, -INF, -INF], 0.5),
    ],
)
def test_values_that_are_not_finite_and_masks(first: list[float], second: list[float], expected: float) -> None:
    assert relative_difference(torch.tensor(first), torch.tensor(second)) == pytest.approx(expected)


def test_masks_of_two_precisions_are_equal() -> None:
    hidden = torch.tensor([[False, True], [False, False]])
    masks = [torch.zeros(2, 2, dtype=d).masked_fill(hidden, torch.finfo(d).min) for d in (torch.float32, torch.float16)]
    assert relative_difference(*masks) == 0


def test_of_integers_and_booleans_the_unequal_share_counts() -> None:
    assert relative_difference(torch.tensor([1, 2, 3, 4]), torch.tensor([1, 2, 4, 3])) == 0.5
    assert relative_difference(torch.tensor([True, False]), torch.tensor([True, True])) == 0.5
    assert relative_difference(torch.empty(0, dtype=torch.int64), torch.empty(0, dtype=torch.int64)) == 0
    assert relative_difference(torch.empty(0), torch.empty(0)) == 0


def test_complex_numbers_are_compared() -> None:
    first = torch.tensor([3 + 4j, 0j])
    assert relative_difference(first, first * 1.1) == pytest.approx(0.1, rel=1e-5)
