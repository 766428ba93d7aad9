"""Tensors like those of models, and what is told of a change of one."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from pytest_pot.engines.pytorch.weights.changes import change_between
from pytest_pot.engines.weights import ChangeKind, TensorChange

__all__ = [
    "DTYPES",
    "HALVES",
    "REFERENCES",
    "adapter",
    "change",
    "each_dtype",
    "each_reference",
    "gaussian",
    "in_bfloat16",
    "on_4_bits",
    "random",
    "told",
    "with_outliers",
]

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


def adapter(rows: int, columns: int, rank: int, size: float, seed: int = 5) -> Tensor:
    """Of the given norm, relative to that of a matrix of normal numbers of deviation 0.1."""
    product = random(rows, rank, seed=seed) @ random(rank, columns, seed=seed + 1)
    return product * (size * 0.1 * math.sqrt(rows * columns) / float(product.norm()))
