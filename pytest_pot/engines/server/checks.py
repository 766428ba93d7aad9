"""Checks of the numbers that a server tells, and the distributions that are made of them.

A server is not trusted: a number that is missing, or that no model can have said, would be scored as if it were evidence.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from pytest_pot.core.text import shorten
from pytest_pot.engines.distributions import UNKNOWN_VOCAB, Flags, Floats, Ints, TopK

__all__ = [
    "SAME",
    "Wrong",
    "check_vocabulary",
    "numbers",
    "refuse",
    "top_k_from",
    "whole_numbers",
]

_CLAMPED = -9999.0
"""What vLLM writes for minus infinity, which JSON does not have; llama.cpp writes the lowest float32. No honest log-probability
is as low: the logits of a model would have to be thousands apart."""

_ROUNDING = 1e-4
"""How far honest probabilities may sum to more than 1: a log-softmax in float32 is off by half a unit in the last place of its
logits, 3e-5 for logits of 1000, and all its probabilities in the same direction."""

_TAIL_FLOOR = 2.0**-24
"""The least probability of a tail, half of float32's resolution at 1: what ``1 - sum`` leaves below it is rounding."""

SAME = 1e-3
"""How far apart two log-probabilities of the same id may be in one answer."""


class Wrong(Exception):
    """Something is wrong at one row. Whoever knows the row's place says it in a ``PositionError``."""

    def __init__(self, row: int, what: str) -> None:
        self.row = row
        self.what = what
        """What the server told, after its name."""


def refuse(wrong: Any, what: Callable[[int], str]) -> None:
    """Raise :class:`Wrong` for the first row that is ``wrong``, [n]."""
    if wrong.any():
        row = int(np.argmax(wrong))
        raise Wrong(row, what(row))


def numbers(values: list[Any] | Floats, widths: Ints, whose: str) -> Floats:
    """[n, widest]: the log-probabilities of each row, minus infinity where a row is shorter.

    Args:
        values: those of all rows one after the other.
        widths: [n], how many each row has.
        whose: what messages call the tokens.

    Raises:
        Wrong: one is missing, NaN, or no log-probability.
    """
    if not isinstance(values, np.ndarray) and not set(map(type, values)) <= {float, int, np.float64}:
        _refuse_first(
            values,
            widths,
            lambda value: type(value) not in (float, int, np.float64),
            lambda value: (
                f"told no log-probability of {whose} (null)"
                if value is None
                else f"told {_short(value)} as the log-probability of {whose}, which is no number"
            ),
        )
    try:
        flat = np.array(values, dtype=np.float64)
    except OverflowError:  # a whole number with hundreds of digits
        flat = np.array([float(value) if abs(value) < 1 << 1000 else np.inf * (1 if value > 0 else -1) for value in values])
    wrong = ~((flat > _CLAMPED) & (flat <= _ROUNDING))  # NaN is neither
    if wrong.any():
        index = int(np.argmax(wrong))
        raise Wrong(_row_of(index, widths), _why_wrong(float(flat[index]), whose))
    return _rows(flat, widths, -np.inf)


def _why_wrong(value: float, whose: str) -> str:
    told = f"told {value:g} as the log-probability of {whose}"
    if np.isnan(value):
        return f"{told}: look for an overflow (float16?) or for weights that are not finite"
    if value > 0:
        return f"{told}, and a log-probability is at most 0: these may be logits, or probabilities"
    return f"{told}, which stands for minus infinity: no model gives a probability of 0, so something was left out or masked"


def whole_numbers(values: list[Any], widths: Ints) -> Ints:
    """[n, widest]: the ids of each row, -1 where a row is shorter. The arguments are those of :func:`numbers`.

    Raises:
        Wrong: one is no whole number.
    """
    if not set(map(type, values)) <= {int, np.int64}:
        _refuse_first(
            values,
            widths,
            lambda value: type(value) not in (int, np.int64),
            lambda value: f"told {_short(value)} as the id of a token, which is no whole number",
        )
    try:
        flat = np.array(values, dtype=np.int64)
    except OverflowError:
        flat = np.array([value if abs(value) < 1 << 63 else -1 for value in values], dtype=np.int64)
    return _rows(flat, widths, -1)


def _rows(flat: npt.NDArray[Any], widths: Ints, fill: float) -> npt.NDArray[Any]:
    widest = int(widths.max(initial=0))
    if (widths == widest).all():
        return flat.reshape(len(widths), widest)
    rows = np.full((len(widths), widest), fill, dtype=flat.dtype)
    rows[np.arange(widest) < widths[:, None]] = flat
    return rows


def _refuse_first(values: list[Any], widths: Ints, wrong: Callable[[Any], bool], what: Callable[[Any], str]) -> None:
    index = next(index for index, value in enumerate(values) if wrong(value))
    raise Wrong(_row_of(index, widths), what(values[index]))


def _row_of(index: int, widths: Ints) -> int:
    """The row of the number ``index`` of all rows one after the other."""
    return int(np.searchsorted(np.cumsum(widths), index, side="right"))


def check_vocabulary(ids: Ints, there: Flags, vocab_size: int) -> None:
    """Raise :class:`Wrong` for an id outside the vocabulary. ``ids``: [n, m]; ``there``: [n, m], where there is one."""
    outside = there & ((ids < 0) | (ids >= vocab_size))
    size = f"the vocabulary of {vocab_size} tokens" if vocab_size != UNKNOWN_VOCAB else "any vocabulary"
    refuse(outside.any(axis=1), lambda row: f"told the id {ids[row][outside[row]][0]}, which is outside {size}")


def top_k_from(ids: Ints, log_probs: Floats, targets: Floats, best: tuple[Ints, Floats], vocab_size: int) -> TopK:
    """The distributions at ``ids`` [n, m], with the rest of each as its tail; the whole vocabulary has none.

    Args:
        targets: [n], the log-probability of the continuation's token.
        best: the likeliest id, and its log-probability, each [n].

    Raises:
        Wrong: the probabilities are not those of one distribution, or the continuation's token is likelier than ``best``.
    """
    whole = ids.shape[1] == vocab_size
    sums = np.exp(log_probs).sum(axis=1)
    refuse(
        sums > 1 + _ROUNDING,
        lambda row: (
            f"told probabilities that sum to {sums[row]:.6g}: they are not normalised over the whole vocabulary, or the "
            "sampler changed them"
        ),
    )
    if whole:
        refuse(sums < 1 - _ROUNDING, lambda row: f"told probabilities of the whole vocabulary that sum to {sums[row]:.6g}")
    refuse(
        targets > best[1] + SAME,
        lambda row: (
            f"told {targets[row]:.6g} as the log-probability of the continuation's token, and at most {best[1][row]:.6g} "
            "for its likeliest ids: they are not the likeliest"
        ),
    )
    return TopK(
        ids=ids,
        log_probs=log_probs,
        log_tail=None if whole else np.log(np.maximum(1.0 - sums, _TAIL_FLOOR)),
        targets=targets,
        top_ids=best[0],
        top_log_probs=best[1],
        clear=np.zeros(len(targets), dtype=np.bool_),
        log_normalisers=np.zeros(len(targets)),
        vocab_size=vocab_size,
    )


def _short(value: Any) -> str:
    return shorten(repr(value), 60)
