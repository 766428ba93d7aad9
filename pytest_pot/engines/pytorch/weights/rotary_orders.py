"""The two orders in which checkpoints keep the rows of queries and keys for rotary position encodings.

RoPE turns pairs of a head's values. Hugging Face's code takes the first and the second half of a head for these (*halves*);
Meta's and llama.cpp's takes neighbours (*pairs*). A conversion between them permutes rows, and does so wrongly if it is done
twice, or not at all.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["Reordered", "rotary_order", "rotary_orders"]

_HEAD_SIZES = (16, 32, 64, 80, 96, 128, 192, 256)
_OF = {"halves": "halves (as in Hugging Face's RoPE)", "pairs": "pairs (as in Meta's and llama.cpp's RoPE)"}


class Reordered(NamedTuple):
    """Rows in the other order."""

    rows: Tensor
    there: str
    """What was done to the rows: ``"from halves (…) to pairs (…) of each 64"``."""
    back: str
    """What undoes it."""


def rotary_orders(rows: Tensor) -> Iterator[Reordered]:
    """``rows`` with those of each head from halves to pairs, and from pairs to halves, for the usual sizes of heads."""
    n_rows = rows.shape[0] if rows.ndim else 0
    for size in _HEAD_SIZES:
        if n_rows and n_rows % size == 0:
            for parts, one, other in (((2, size // 2), "halves", "pairs"), ((size // 2, 2), "pairs", "halves")):
                reordered = rows.unflatten(0, (n_rows // size, *parts)).transpose(1, 2).flatten(0, 2)
                yield Reordered(reordered, _words(size, one, other), _words(size, other, one))


def rotary_order(before: Tensor, after: Tensor) -> str | None:
    """How ``before`` was reordered to ``after``, if it was in one of these ways.

    Args:
        before: a number or row of numbers for each row of a matrix, most of them different.
        after: the same of the other matrix.
    """
    return next((found.there for found in rotary_orders(before) if torch.equal(found.rows, after)), None)


def _words(size: int, one: str, other: str) -> str:
    return f"from {_OF[one]} to {_OF[other]} of each {size}"
