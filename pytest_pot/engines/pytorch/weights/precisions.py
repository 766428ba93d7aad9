"""Float formats: which one values were rounded to, and how far apart its numbers are."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pytest_pot.engines.pytorch.weights.plain_values import plain_chunks

__all__ = ["FORMATS", "cast_error", "dtype_name", "dtype_of", "includes", "spacing", "stored_dtype", "to_format"]

FORMATS = (torch.float8_e5m2, torch.float8_e4m3fn, torch.bfloat16, torch.float16, torch.float32)
"""From the coarsest to the finest."""
_FIRST = 4
"""Rows that are looked at before all of a sample: they reject most formats."""


def dtype_name(dtype: torch.dtype) -> str:
    """``"bfloat16"``."""
    return str(dtype).removeprefix("torch.")


def to_format(values: Tensor, dtype: torch.dtype) -> Tensor:
    """``values`` rounded to ``dtype``, in the dtype that they have. With 8 bits, too large ones become the largest."""
    if dtype.itemsize == 1:
        largest = torch.finfo(dtype).max
        values = values.clamp(-largest, largest)
    return values.to(dtype).to(values.dtype)


def stored_dtype(values: Tensor, dtype: torch.dtype) -> torch.dtype:
    """The format that sampled ``values`` of a tensor of ``dtype`` were rounded to when they were stored: a half precision if
    all of them have it, for a model that is kept in float32 may have been saved in bfloat16."""
    if dtype in (torch.bfloat16, torch.float16):
        return dtype
    first = values[:_FIRST]
    for half in (torch.bfloat16, torch.float16):
        if torch.equal(to_format(first, half), first) and torch.equal(to_format(values, half), values):
            return half
    return dtype if dtype.is_floating_point else torch.float64


def spacing(values: Tensor, dtype: torch.dtype) -> Tensor:
    """How far apart the numbers of the format ``dtype`` are around each of ``values``."""
    info = torch.finfo(dtype)
    magnitudes = values.abs().clamp_min(info.smallest_normal)  # below, numbers are equally far apart
    _, exponents = torch.frexp(magnitudes)
    return torch.ldexp(torch.full_like(values, info.eps), exponents - 1)


def dtype_of(name: str) -> torch.dtype | None:
    """The float format of this name, if there is one."""
    dtype = getattr(torch, name, None)
    return dtype if isinstance(dtype, torch.dtype) and dtype.is_floating_point else None


def includes(dtype: torch.dtype, other: torch.dtype) -> bool:
    """Whether each number of the float format ``other`` is one of ``dtype``."""
    mine, theirs = torch.finfo(dtype), torch.finfo(other)
    smallest = mine.smallest_normal * mine.eps <= theirs.smallest_normal * theirs.eps
    return mine.eps <= theirs.eps and mine.max >= theirs.max and smallest


def cast_error(values: Tensor, dtype: torch.dtype, before: torch.dtype) -> float:
    """The norm of the errors that a cast from ``before`` to ``dtype`` made, by the ``values`` after it, if these are
    spread evenly. Where numbers of ``before`` are no closer together, there is none."""
    total = 0.0
    for chunk in plain_chunks(values):
        steps, finer = spacing(chunk, dtype), spacing(chunk, before)
        total += float(torch.where(steps > finer, steps, 0.0).double().square().sum())
    return math.sqrt(total / 12)
