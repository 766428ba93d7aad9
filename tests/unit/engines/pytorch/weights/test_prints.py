"""The print of a tensor: equal for equal values, and a fair estimate of how far two tensors are apart."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from pytest_pot.engines.pytorch.weights import prints
from pytest_pot.engines.pytorch.weights.prints import digest_of, print_of, projection_of, sums_of
from pytest_pot.engines.weights import TensorInfo

SHAPES = [(576,), (192, 576), (1000, 301), (49, 4096), (4096,), (1, 3000, 11), (70, 8192)]


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def signs_by_hand(n: int) -> np.ndarray:
    """[n, 16]: the sign of each value, from the definition."""

    def bits(label: str, count: int) -> np.ndarray:
        raw = hashlib.shake_256(f"pytest-pot weights 1 {label}".encode()).digest(count // 8)
        return np.array([1.0 - 2.0 * (raw[index // 8] >> index % 8 & 1) for index in range(count)])

    n_blocks = -(-n // (64 * 4096))
    mixing = bits("mixing", 64 * 4096).reshape(64, 4096)
    columns = bits("columns", 4096 * 16).reshape(4096, 16)
    rows = np.concatenate([bits(f"rows {block}", 64 * 16).reshape(64, 16) for block in range(n_blocks)])
    index = np.arange(n)
    r, c = index // 4096, index % 4096
    signs: np.ndarray = mixing[r % 64, c][:, None] * columns[c] * rows[r]
    return signs


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", [(5,), (1000, 301), (67, 4096), (130, 4100)])
def test_sums_are_those_of_the_definition(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    values = normal(*shape).to(dtype)
    values.view(-1)[::7] = 0
    plain = values.to(torch.float64).numpy().reshape(-1)
    sums = sums_of(values)
    assert sums.norm == pytest.approx(math.sqrt((plain**2).sum()), rel=1e-12)
    assert sums.zeros == (plain == 0).sum()
    np.testing.assert_allclose(sums.projection, plain @ signs_by_hand(plain.size), rtol=0, atol=1e-11 * sums.norm)


def test_the_signs_are_the_same_everywhere() -> None:
    """Recordings of other machines and versions are compared with these."""
    values = torch.arange(1.0, 600_001.0).reshape(600, 1000)
    assert digest_of(values) == hashlib.sha256(np.arange(1, 600_001, dtype="<f4").tobytes()).digest()[:8]
    exact = np.arange(1, 600_001) @ signs_by_hand(600_000)
    np.testing.assert_array_equal(projection_of(values), exact)
    assert exact[:3].tolist() == [-498786782.0, -272064068.0, -116451078.0]


def one_row(shape: tuple[int, ...], seed: int) -> Tensor:
    difference = torch.zeros(shape)
    difference.reshape(-1, shape[-1])[seed % math.prod(shape[:-1])] = normal(shape[-1], seed=seed)
    return difference


def one_column(shape: tuple[int, ...], seed: int) -> Tensor:
    difference = torch.zeros(shape)
    difference[..., seed % shape[-1]] = 0.5
    return difference


def one_element(shape: tuple[int, ...], seed: int) -> Tensor:
    difference = torch.zeros(shape)
    difference.view(-1)[seed * 7919 % difference.numel()] = -3.0
    return difference


def rank_one(shape: tuple[int, ...], seed: int) -> Tensor:
    n_rows = math.prod(shape[:-1])
    return (normal(n_rows, seed=seed)[:, None] * normal(shape[-1], seed=seed + 1000)).reshape(shape)


def constant_row(shape: tuple[int, ...], seed: int) -> Tensor:
    difference = torch.zeros(shape)
    difference.reshape(-1, shape[-1])[seed % math.prod(shape[:-1])] = 0.1
    return difference


def sparse(shape: tuple[int, ...], seed: int) -> Tensor:
    return normal(*shape, seed=seed) * (torch.rand(shape, generator=torch.Generator().manual_seed(seed)) < 0.02)


def step(shape: tuple[int, ...], seed: int) -> Tensor:
    """Constant on a part, such as a range of rows that was overwritten."""
    difference = torch.zeros(shape)
    start = seed * 997 % difference.numel()
    difference.view(-1)[start : start + 1 + difference.numel() // 5] = 1.0
    return difference


DIFFERENCES: dict[str, Callable[[tuple[int, ...], int], Tensor]] = {
    "dense noise": lambda shape, seed: normal(*shape, seed=seed),
    "one row": one_row,
    "one column": one_column,
    "one element": one_element,
    "a constant": lambda shape, seed: torch.full(shape, 1.0 + seed),
    "alternating": lambda shape, seed: (torch.arange(math.prod(shape)) % (2 + seed % 5)).reshape(shape).float(),
    "rank 1": rank_one,
    "a constant row": constant_row,
    "a sparse set": sparse,
    "a range": step,
    "repeated rows": lambda shape, seed: normal(shape[-1], seed=seed).expand(shape).contiguous(),
}


@pytest.mark.parametrize("kind", DIFFERENCES)
def test_the_norm_of_a_difference_is_estimated(kind: str) -> None:
    """For 16 independent normal numbers, 2.2 % of the estimates are off by more than 40 %."""
    ratios = []
    for shape in SHAPES:
        for seed in range(20):
            reference = normal(*shape, seed=10_000 + seed)
            info = TensorInfo(shape, "float32")
            difference = DIFFERENCES[kind](shape, seed)
            apart = print_of(reference + difference, info).projection - print_of(reference, info).projection
            ratios.append(float(np.sqrt((apart**2).mean()) / difference.norm()))
    assert np.mean(np.abs(np.array(ratios) - 1) > 0.4) <= 0.05
    assert np.mean(ratios) == pytest.approx(1, abs=0.1)


EQUAL = [normal(300, 7).bfloat16(), normal(300, 7).bfloat16().float(), normal(300, 7).bfloat16().double()]


def test_equal_values_have_equal_digests_in_each_precision() -> None:
    assert len({digest_of(values) for values in EQUAL}) == 1
    assert len({digest_of(values) for values in (*EQUAL, normal(300, 7))}) == 2
    assert digest_of(torch.tensor([0.0, -0.0])) == digest_of(torch.zeros(2))
    assert digest_of(torch.tensor([1, 2], dtype=torch.int8)) == digest_of(torch.tensor([1, 2]))
    assert digest_of(torch.tensor([True, False])) == digest_of(torch.tensor([1, 0]))
    assert digest_of(torch.tensor([1.0, 0.0])) != digest_of(torch.tensor([1, 0]))


def test_a_digest_sees_each_change_that_float64_holds() -> None:
    values = normal(5).double()
    nearby = values.clone()
    nearby[4] += 1e-12
    assert digest_of(values) != digest_of(nearby)
    assert digest_of(torch.tensor([2.0**53]).double()) == digest_of(torch.tensor([2.0**53]))
    assert digest_of(torch.tensor([math.nan, 1.0]).double()) == digest_of(torch.tensor([math.nan, 1.0]))


@pytest.mark.parametrize("layout", ["transposed", "strided", "part", "expanded"])
def test_the_layout_in_memory_does_not_count(layout: str) -> None:
    values = {
        "transposed": normal(700, 900).T,
        "strided": normal(1_000_000)[::3],
        "part": normal(600, 1000)[:, 3:903],
        "expanded": normal(900).expand(700, 900),
    }[layout]
    assert not values.is_contiguous()
    copy = values.contiguous()
    assert digest_of(values) == digest_of(copy)
    np.testing.assert_array_equal(projection_of(values), projection_of(copy))


@pytest.mark.parametrize("values", [torch.zeros(0), torch.zeros(3, 0), torch.tensor(0.0), torch.zeros(5)])
def test_nothing_and_zeros_have_a_norm_of_zero(values: Tensor) -> None:
    made = print_of(values, TensorInfo(tuple(values.shape), "float32"))
    assert (made.norm, made.zeros, made.projection.tolist()) == (0.0, values.numel(), [0.0] * 16)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_what_is_not_finite_has_no_norm(bad: float, dtype: torch.dtype) -> None:
    values = normal(3, 5000).to(dtype)
    values[1, 1:3] = torch.tensor([bad, 0.0])
    made = print_of(values, TensorInfo((3, 5000), "any"))
    assert math.isnan(made.norm)
    assert np.isnan(made.projection).all()
    assert made.zeros == 1
    assert made.digest != digest_of(torch.where(values.isfinite(), values, 1.0))


def test_huge_values_are_finite() -> None:
    """A mask may hold the lowest number of its type."""
    for dtype in (torch.float32, torch.float64):
        made = print_of(torch.full((9, 9), torch.finfo(dtype).min, dtype=dtype), TensorInfo((9, 9), "any"))
        assert made.norm == float(np.finfo(np.float32).max)
        assert np.isfinite(made.projection).all()


@pytest.mark.parametrize(
    "values",
    [
        torch.arange(300).to(torch.int8),
        torch.arange(300) % 3 == 1,
        torch.arange(300) - 150,
        normal(300).to(torch.float8_e4m3fn),
    ],
)
def test_other_types_have_norms_too(values: Tensor) -> None:
    plain = values.to(torch.float64)
    sums = sums_of(values)
    assert sums.norm == pytest.approx(float(plain.norm()), rel=1e-12)
    assert sums.zeros == int((plain == 0).sum())
    np.testing.assert_allclose(sums.projection, plain.numpy() @ signs_by_hand(300), atol=1e-9)


def test_complex_values_are_pairs() -> None:
    pairs = normal(50, 2)
    values = torch.view_as_complex(pairs)
    assert digest_of(values) == digest_of(pairs)
    assert digest_of(values.conj()) == digest_of(pairs * torch.tensor([1.0, -1.0]))
    assert sums_of(values).norm == sums_of(pairs).norm


def test_a_print_is_rounded_and_rounding_it_again_changes_nothing() -> None:
    for seed in range(20):
        values = normal(40, 100 + seed, seed=seed) * 10.0 ** (seed - 10)
        exact, made = sums_of(values), print_of(values, TensorInfo((40, 100 + seed), "float32"))
        assert made.norm == float(np.float32(exact.norm))
        error = np.abs(made.projection - exact.projection).max()
        assert 0 < error <= 1.6e-5 * np.abs(exact.projection).max()
        assert error < 5e-5 * exact.norm


def test_the_number_of_threads_does_not_matter() -> None:
    values, n_threads = normal(200, 4097), torch.get_num_threads()
    first = sums_of(values)
    torch.set_num_threads(2 if n_threads == 1 else 1)
    try:
        second = sums_of(values)
    finally:
        torch.set_num_threads(n_threads)
    np.testing.assert_allclose(first.projection, second.projection, rtol=0, atol=1e-12 * first.norm)
    assert first.norm == pytest.approx(second.norm, rel=1e-13)


@pytest.mark.parametrize("n_blocks", [2, 3, 64])
def test_the_size_of_a_step_does_not_matter(n_blocks: int) -> None:
    """GPUs take many blocks at a time."""
    values = normal(4 * 64 + 7, 4096).view(-1)[:-11]
    one, many = sums_of(values), prints._sums(values, torch.device("cpu"), n_blocks)
    assert many.norm == pytest.approx(one.norm, rel=1e-13)
    assert many.zeros == one.zeros
    np.testing.assert_allclose(many.projection, one.projection, rtol=0, atol=1e-12 * one.norm)


@pytest.mark.cuda
@pytest.mark.parametrize("precision", ["highest", "medium"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64, torch.int64])
def test_a_gpu_makes_the_same_print(dtype: torch.dtype, precision: str) -> None:
    """Whatever precision products of float32 matrices have there."""
    values = (normal(70 * 64, 4096) * 100).to(dtype)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        there = values.cuda()
        sums, digest = sums_of(there), digest_of(there)
    finally:
        torch.set_float32_matmul_precision(before)
    here = sums_of(values)
    assert digest == digest_of(values)
    assert sums.norm == pytest.approx(here.norm, rel=1e-12)
    assert sums.zeros == here.zeros
    np.testing.assert_allclose(sums.projection, here.projection, rtol=0, atol=1e-11 * here.norm)


@pytest.mark.parametrize("precision", ["highest", "medium"])
def test_the_precision_of_float32_products_does_not_matter(precision: str) -> None:
    """Some processors round to bfloat16 if a user allows it."""
    values, before = normal(100, 4096), torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        projection = projection_of(values)
    finally:
        torch.set_float32_matmul_precision(before)
    np.testing.assert_array_equal(projection, projection_of(values))
