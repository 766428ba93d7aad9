"""The coarsest float format that holds all values of a tensor, whatever they are kept in."""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor

from pytest_pot.engines.pytorch.weights.layouts import spread
from pytest_pot.engines.pytorch.weights.pairs import values_at_once

__all__ = ["CERTAIN", "PRECISIONS", "holds_all", "precision_of"]

PRECISIONS = {
    "float8_e4m3fn": (torch.float8_e4m3fn, 2.0**-4),
    "float8_e5m2": (torch.float8_e5m2, 2.0**-3),
    "bfloat16": (torch.bfloat16, 2.0**-8),
    "float16": (torch.float16, 2.0**-11),
    "float32": (torch.float32, 2.0**-24),
}
"""The type, and its largest relative rounding error."""
CERTAIN = 32.0
"""Bits of evidence that are needed to name a grid."""
_FIRST = 4
"""How many rows and columns are looked at first, before the 64 that count."""


def precision_of(rows: Tensor) -> str | None:
    """The coarsest precision that holds all values of ``rows`` [rows, columns]; None for float32, a finer one, or too few
    different values to tell."""
    kept = str(rows.dtype).removeprefix("torch.")
    kept_unit = PRECISIONS[kept][1] if kept in PRECISIONS else PRECISIONS["float32"][1]
    sample = rows[spread(len(rows), 64, rows.device)]
    sample = sample[:, spread(sample.shape[1], 64, rows.device)].float()
    first = sample[:_FIRST, :_FIRST]
    coarser = [(name, *item) for name, item in itertools.takewhile(lambda item: item[1][1] > kept_unit, PRECISIONS.items())]
    possible = [each for each in coarser[-2:] if _holds(first, each[1])]  # the others' numbers are among these
    if possible:
        magnitudes = sample.abs().unique()
        magnitudes = magnitudes[magnitudes > 0]
        for name, dtype, unit in coarser:
            evidence = len(magnitudes) * math.log2(unit / kept_unit)
            if evidence >= CERTAIN and _holds(magnitudes, dtype) and holds_all(rows, dtype):
                return name
    return kept if kept in PRECISIONS and kept != "float32" else None


def holds_all(rows: Tensor, dtype: torch.dtype) -> bool:
    """Whether ``dtype`` holds all values of ``rows``; NaN and infinite ones count as not held."""
    count = max(values_at_once(rows.device) // rows.shape[1], 1)
    return all(_holds(rows[start : start + count], dtype) for start in range(0, len(rows), count))


def _holds(values: Tensor, dtype: torch.dtype) -> bool:
    if values.dtype.itemsize == 1:  # torch computes little in these types
        values = values.float()
    return bool((values.to(dtype).to(values.dtype) == values).all() and values.isfinite().all())
