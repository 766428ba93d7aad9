"""Grids are found where values lie on them, whatever they are kept in, and are not found by chance."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from pytest_pot.calibration.perturbations import perturb
from pytest_pot.engines.pytorch.weights.grids import GridSearch, find_grid
from pytest_pot.engines.pytorch.weights.lattices import Evenly, fit, fit_at_once
from pytest_pot.engines.pytorch.weights.layouts import spread

DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def grid_of(values: Tensor) -> str | None:
    grid = find_grid(values)
    return grid.name if grid else None


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * 0.02


def in_groups(values: Tensor, size: int | None) -> Tensor:
    """[..., groups, size]; one group for the whole tensor if the size is None."""
    return values.reshape(1, -1) if size is None else values.reshape(-1, size)


def symmetric(values: Tensor, size: int | None, largest: int) -> Tensor:
    groups = in_groups(values, size)
    step = groups.abs().amax(dim=-1, keepdim=True) / largest
    return ((groups / step).round() * step).view_as(values)


def with_minimum(values: Tensor, size: int | None, levels: int) -> Tensor:
    """As Q4_1 of llama.cpp: a step and a minimum in float16."""
    groups = in_groups(values, size)
    low, high = groups.aminmax(dim=-1, keepdim=True)
    step = ((high - low) / levels).half().float()
    return (((groups - low) / step).round().clamp(0, levels) * step + low.half().float()).view_as(values)


def with_zero_point(values: Tensor, size: int | None, levels: int) -> Tensor:
    groups = in_groups(values, size)
    low, high = groups.aminmax(dim=-1, keepdim=True)
    step = (high - low) / levels
    zero = (-low / step).round()
    return (((groups / step).round() + zero).clamp(0, levels) - zero).mul(step).view_as(values)


def words(size: int | None, columns: int) -> str:
    return "per tensor" if size is None else "per row" if size == columns else f"in groups of {size}"


@pytest.mark.parametrize("largest", [7, 127])
def test_groups_that_fit_at_once_fit(largest: int) -> None:
    groups = symmetric(normal(300, 64), 64, largest)
    groups[7, 3] *= 1.001
    groups[8] = 0.0
    groups[9, 5] = math.nan
    groups[10, 5] = (groups[10:, 5].view(torch.int32)[0] + 6).view(torch.float32)  # six float32 numbers further
    choices = fit(groups[:7], Evenly(), 2.0**-24).choices.unique()
    quick = fit_at_once(groups, Evenly(), 2.0**-24, choices)
    whole = fit(groups, Evenly(), 2.0**-24, choices=choices)
    assert quick is not None
    fitting = quick.fitting
    assert not fitting[7:11].any()
    assert int(fitting.sum()) >= 290
    assert bool(whole.fitting[fitting].all())
    torch.testing.assert_close(quick.scales[fitting], whole.scales[fitting], rtol=3e-7, atol=0)
    assert torch.equal(quick.highest[fitting], whole.highest[fitting])
    assert torch.equal(quick.lowest[fitting], whole.lowest[fitting])
    assert fit_at_once(groups, Evenly(with_offset=True), 2.0**-24, choices) is None


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("size", [None, 512, 128, 64, 32])
@pytest.mark.parametrize("largest", [3, 7, 8, 15, 31, 127, 128])
def test_symmetric(largest: int, size: int | None, dtype: torch.dtype) -> None:
    values = symmetric(normal(64, 512), size, largest).to(dtype)
    bits = math.ceil(math.log2(largest)) + 1
    assert grid_of(values) == f"{bits} bits {words(size, 512)}"


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("size", [None, 512, 128, 64, 32])
@pytest.mark.parametrize("bits", [3, 4, 6, 8])
def test_zero_point(bits: int, size: int | None, dtype: torch.dtype) -> None:
    values = with_zero_point(normal(64, 512), size, 2**bits - 1).to(dtype)
    assert grid_of(values) == f"{bits} bits {words(size, 512)}"


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("size", [128, 64, 32])
def test_minimum(size: int, dtype: torch.dtype) -> None:
    assert grid_of(with_minimum(normal(64, 512), size, 15).to(dtype)) == f"4 bits in groups of {size} with offset"


def float8(values: Tensor, size: int | None) -> Tensor:
    groups = in_groups(values, size)
    scale = groups.abs().amax(dim=-1, keepdim=True) / 448
    return ((groups / scale).to(torch.float8_e4m3fn).float() * scale).view_as(values)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("size", [None, 512, 128])
def test_float8_with_scales(size: int | None, dtype: torch.dtype) -> None:
    assert grid_of(float8(normal(64, 512), size).to(dtype)) == f"float8_e4m3fn {words(size, 512)}"


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2, torch.bfloat16, torch.float16], ids=str)
def test_precisions_kept_in_float32(dtype: torch.dtype) -> None:
    assert grid_of(normal(64, 512).to(dtype).float()) == str(dtype).removeprefix("torch.")
    assert grid_of(normal(64, 512).to(dtype)) == str(dtype).removeprefix("torch.")


def to_codes(values: Tensor, size: int, codes: Tensor) -> Tensor:
    """The nearest of ``codes`` times the largest value of a group over the largest code."""
    groups = in_groups(values, size)
    scale = groups.abs().amax(dim=-1, keepdim=True) / codes.max()
    return (codes[(groups / scale)[..., None].sub(codes).abs().argmin(dim=-1)] * scale).view_as(values)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("size", [64, 128])
def test_code_books(size: int, dtype: torch.dtype) -> None:
    """16 codes that are not evenly spaced, as those of NF4."""
    quantiles = torch.distributions.Normal(0.0, 1.0).icdf(torch.linspace(0.03, 0.97, 16))
    values = to_codes(normal(64, 512), size, quantiles / quantiles.max()).to(dtype)
    assert grid_of(values) == f"4 bits in groups of {size}"


def test_float4() -> None:
    """As MXFP4: scales that are powers of two, so that bfloat16 holds all values."""
    codes = torch.tensor([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0])
    codes = torch.cat([-codes.flip(0)[:-1], codes])
    groups = normal(64, 512).reshape(-1, 32)
    scale = torch.exp2(groups.abs().amax(dim=-1, keepdim=True).log2().floor() - 2)
    values = (codes[(groups / scale)[..., None].sub(codes).abs().argmin(dim=-1)] * scale).view(64, 512)
    assert grid_of(values) == grid_of(values.bfloat16()) == "float4_e2m1fn in groups of 32"


def test_columns_kernels_and_three_levels() -> None:
    values = normal(64, 512)
    assert grid_of(symmetric(values.T.contiguous(), 64, 127).T) == "8 bits per column"
    kernel = normal(64, 16, 3, 3)
    assert grid_of(symmetric(kernel.flatten(1), 144, 127).view_as(kernel)) == "8 bits per row"
    signs = (values / values.abs().mean()).round().clamp(-1, 1)
    assert grid_of(signs * values.abs().mean()) == "2 bits per tensor"


def test_a_single_value_off_the_grid() -> None:
    values = symmetric(normal(64, 512), 512, 127)
    values[41, 17] *= 1.003
    assert grid_of(values) is None


@pytest.mark.parametrize("size", [None, 512, 64])
def test_the_error_of_rounding(size: int | None) -> None:
    exact = normal(64, 512)
    for rounded in (symmetric(exact, size, 7), with_zero_point(exact, size, 15), float8(exact, size), exact.bfloat16()):
        grid = find_grid(rounded)
        assert grid is not None
        assert grid.rounding_error(rounded) == pytest.approx(float((rounded.float() - exact).norm()), rel=0.1)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    shape=st.sampled_from([(64, 512), (7, 100), (300, 4), (40, 3, 17), (1, 1024), (1000,), (12,), (1,), ()]),
    dtype=st.sampled_from(DTYPES),
    centre=st.sampled_from([0.0, 0.02, 1.0]),
    pruned=st.sampled_from([0.0, 0.5, 0.98]),
)
def test_none_by_chance(seed: int, shape: tuple[int, ...], dtype: torch.dtype, centre: float, pruned: float) -> None:
    """Nor where most values are 0, or near one value as a norm's."""
    values = (normal(*shape, seed=seed) + centre).to(dtype)
    values[torch.rand(shape, generator=torch.Generator().manual_seed(seed)) < pruned] = 0.0
    expected = [None] if dtype == torch.float32 else [str(dtype).removeprefix("torch."), "bfloat16"]
    assert grid_of(values) in expected


@pytest.mark.parametrize("value", [0.0, 1.0, 0.3])
def test_a_constant_shows_nothing(value: float) -> None:
    assert grid_of(torch.full((64, 64), value)) is None
    assert grid_of(torch.full((64,), value)) is None


@pytest.mark.parametrize("change", ["int8 per row", "int8 per tensor", "int4 in groups"])
def test_the_quantisers_of_the_ladder(change: str) -> None:
    linear = nn.Linear(300, 64)
    with torch.no_grad():
        linear.weight.copy_(normal(64, 300))
    weight = perturb(nn.Sequential(linear), change).get_parameter("0.weight")
    expected = {"int8 per row": "8 bits per row", "int8 per tensor": "8 bits per tensor"}
    assert grid_of(weight) == expected.get(change, "4 bits in groups of 32")


def test_rows_of_different_sizes_do_not_look_like_groups() -> None:
    """The sampled groups may be of rows with larger steps than those of the sampled rows."""
    for seed in range(8):
        sizes = torch.exp(2 * torch.randn(300, 1, generator=torch.Generator().manual_seed(seed)))
        values = normal(300, 576, seed=seed) * sizes
        assert grid_of(symmetric(values, 576, 127)) == "8 bits per row"
        assert grid_of(symmetric(values, 64, 127)) == "8 bits in groups of 64"


def powers_of_two(values: Tensor, size: int) -> Tensor:
    """4 bits, with steps that are powers of two and far apart: all values are multiples of the smallest step."""
    groups = values.reshape(-1, size)
    groups = groups * torch.exp2(torch.arange(len(groups)) % 3)[:, None]
    step = torch.exp2((groups.abs().amax(dim=-1, keepdim=True) / 7).log2().ceil())
    return ((groups / step).round() * step).view_as(values)


QUANTILES = torch.distributions.Normal(0.0, 1.0).icdf(torch.linspace(0.03, 0.97, 16))
ON_GRIDS: dict[str, Callable[[Tensor], Tensor]] = {
    "8 bits per tensor": lambda values: symmetric(values, None, 127),
    "8 bits per row": lambda values: symmetric(values, 512, 127),
    "4 bits per row": lambda values: symmetric(values, 512, 7),
    "8 bits in groups of 64": lambda values: symmetric(values, 64, 127),
    "8 bits in groups of 32": lambda values: symmetric(values, 32, 127),
    "4 bits in groups of 64": lambda values: symmetric(values, 64, 7),
    "4 bits in groups of 32": lambda values: symmetric(values, 32, 7),
    "4 bits in groups of 32 with offset": lambda values: with_minimum(values, 32, 15),
    "float8_e4m3fn per row": lambda values: float8(values, 512),
    "powers of two": lambda values: powers_of_two(values, 32),
    "quantiles": lambda values: to_codes(values, 64, QUANTILES),
}
ALL: dict[str, Callable[[Tensor], Tensor]] = {
    **ON_GRIDS,
    "none": lambda values: values,
    "bfloat16": lambda values: values.bfloat16().float(),
}


@lru_cache
def expected(name: str, dtype: torch.dtype) -> tuple[Tensor, str | None]:
    values = ALL[name](normal(64, 512)).to(dtype)
    return values, grid_of(values)


@pytest.mark.parametrize("dtype", [pytest.param(torch.float32, marks=pytest.mark.slow), torch.bfloat16], ids=str)
@pytest.mark.parametrize("before", ON_GRIDS)
def test_what_was_found_before_changes_no_name(before: str, dtype: torch.dtype) -> None:
    """All of a model's tensors are of one search, which tries the grids of those before first."""
    earlier = GridSearch().find(ON_GRIDS[before](normal(64, 512, seed=1)).to(dtype))
    assert earlier is not None
    for name in ALL:
        values, grid = expected(name, dtype)
        search = GridSearch()
        search.earlier = [earlier]
        found = search.find(values)
        assert (found.name if found else None) == grid, name
        search.earlier = [earlier]
        assert search.name(values) == grid, name


def test_of_all_values_only_a_sample_is_named() -> None:
    values = symmetric(normal(512, 512), 64, 7)
    row = next(row for row in range(512) if row not in spread(512, 32, values.device))
    values[row, int(values[row].argmax())] *= 1.003
    assert grid_of(values) is None
    assert GridSearch().name(values) == "4 bits in groups of 64"


def test_a_value_off_the_grid_of_the_tensor_before() -> None:
    search = GridSearch()
    assert search.find(symmetric(normal(64, 512), 64, 7)) is not None
    values = symmetric(normal(64, 512, seed=1), 64, 7)
    values[41, int(values[41].argmax())] *= 1.003
    assert search.find(values) is None


def test_the_lattice_of_a_vector_is_not_named() -> None:
    vector = symmetric(normal(1, 4096), None, 7)[0]
    assert grid_of(vector) == "4 bits per tensor"
    assert GridSearch().name(vector) is None
    assert GridSearch().name(vector.bfloat16().float()) == "bfloat16"


def test_the_grid_of_a_sample_leads_to_that_of_the_tensor() -> None:
    search = GridSearch()
    first = search.find(symmetric(normal(400, 256), 256, 127))
    same, other = symmetric(normal(400, 256, seed=1), 256, 127), symmetric(normal(400, 256, seed=2), 32, 7)
    off = same.clone()
    off[200, 200] *= 1.001
    assert first is not None
    for values, name in ((same, first.name), (other, "4 bits in groups of 32"), (off, None), (normal(400, 256), None)):
        grid = search.find_other(values, ())
        assert (grid.name if grid else None) == name
        assert search.find_other(values, ("8 bits per row", "4 bits in groups of 32")) is None
        if grid is not None:
            assert grid.error is not None
            assert grid.error == pytest.approx(grid.rounding_error(values))
