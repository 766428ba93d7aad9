"""Float formats: which one values were rounded to, and how far apart its numbers are."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["FORMATS", "dtype_name", "spacing", "stored_dtype", "to_format"]

FORMATS = (torch.float8_e5m2, torch.float8_e4m3fn, torch.bfloat16, torch.float16, torch.float32)
"""From the coarsest to the finest."""


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
    for half in (torch.bfloat16, torch.float16):
        if torch.equal(to_format(values, half), values):
            return half
    return dtype if dtype.is_floating_point else torch.float64


def spacing(values: Tensor, dtype: torch.dtype) -> Tensor:
    """How far apart the numbers of the format ``dtype`` are around each of ``values``."""
    info = torch.finfo(dtype)
    magnitudes = values.abs().clamp_min(info.smallest_normal)  # below, numbers are equally far apart
    _, exponents = torch.frexp(magnitudes)
    return torch.ldexp(torch.full_like(values, info.eps), exponents - 1)
