"""From what a server said at each position to :class:`~pytest_pot.engines.distributions.TopK`, with every number checked.

A server is not trusted: a number that is missing, or that no model can have said, would be scored as if it were evidence.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt

from pytest_pot.core.text import shorten
from pytest_pot.engines.base import PositionError
from pytest_pot.engines.distributions import UNKNOWN_VOCAB, Flags, Floats, Ints, TopK, certainly_clear

__all__ = ["UNKNOWN_VOCAB", "Row", "top_k_of"]

_CLAMPED = -9999.0
"""What vLLM writes for minus infinity, which JSON does not have; llama.cpp writes the lowest float32. No honest log-probability
is as low: the logits of a model would have to be thousands apart."""

_ROUNDING = 1e-4
"""How far honest probabilities may sum to more than 1: a log-softmax in float32 is off by half a unit in the last place of its
logits, 3e-5 for logits of 1000, and all its probabilities in the same direction."""

_TAIL_FLOOR = 2.0**-24
"""The least probability of a tail, half of float32's resolution at 1: what ``1 - sum`` leaves below it is rounding."""

_SAME = 1e-3
"""How far apart two log-probabilities of the same id may be in one answer."""


@dataclass(frozen=True)
class Row:
    """What a server said at one position."""

    ids: Sequence[int]
    """The k likeliest ids, in any order; the continuation's token may be there as one more."""
    log_probs: Sequence[float]
    """[k], natural logarithms, normalised over the whole vocabulary."""
    target: float
    """The log-probability of the continuation's token."""


class _Bad(Exception):  # turned into a PositionError where the position's place is known
    def __init__(self, row: int, what: str) -> None:
        self.row = row
        self.what = what


def top_k_of(
    rows: Sequence[Row],
    k: int,
    vocab_size: int,
    where: Callable[[int], tuple[int, int]] | None = None,
    who: str = "the server",
) -> TopK:
    """The distributions at the positions that ``rows`` tell, most likely first, with the rest of each as its tail.

    Where ``k`` is the whole vocabulary, the ids are None, and there is no tail.

    Args:
        where: gives the index of a row's prompt in the batch, and the position in that prompt; None: the rows are the positions
            of one prompt.
        who: what the server is called in messages.

    Raises:
        PositionError: a number is missing, NaN, or no log-probability; an id is there twice or outside the vocabulary; a row
            has fewer than ``k`` ids; or the probabilities are not those of one distribution.
    """
    try:
        return _top_k(rows, min(k, vocab_size), vocab_size)
    except _Bad as error:
        prompt, position = (None, error.row) if where is None else where(error.row)
        raise PositionError(f"{who} {error.what}", position, prompt) from None


def _top_k(rows: Sequence[Row], k: int, vocab_size: int) -> TopK:
    widths = np.fromiter((len(row.ids) for row in rows), dtype=np.int64, count=len(rows))
    told = np.fromiter((len(row.log_probs) for row in rows), dtype=np.int64, count=len(rows))
    _refuse(widths != told, lambda row: f"told {widths[row]} ids and {told[row]} log-probabilities")
    _refuse(widths < k, lambda row: f"told {widths[row]} of the {k} likeliest ids that it was asked for")
    targets = _numbers([row.target for row in rows], np.ones(len(rows), dtype=np.int64), "the continuation's token")[:, 0]
    log_probs = _numbers(list(chain.from_iterable(row.log_probs for row in rows)), widths, "one of its likeliest ids")
    ids = _whole_numbers(list(chain.from_iterable(row.ids for row in rows)), widths)
    there = np.arange(log_probs.shape[1]) < widths[:, None]
    _check_ids(ids, there, vocab_size)
    if (log_probs[:, 1:] > log_probs[:, :-1]).any():  # most servers sort them
        order = np.argsort(-log_probs, axis=1, kind="stable")
        ids, log_probs = np.take_along_axis(ids, order, axis=1), np.take_along_axis(log_probs, order, axis=1)
    ids, log_probs = ids[:, :k], log_probs[:, :k]
    sums = np.exp(log_probs).sum(axis=1)
    whole = k == vocab_size
    _check_distributions(log_probs, targets, sums, whole=whole)
    top = TopK(
        ids=ids,
        log_probs=log_probs,
        log_tail=None if whole else np.log(np.maximum(1.0 - sums, _TAIL_FLOOR)),
        targets=targets,
        top_ids=ids[:, 0],
        top_log_probs=log_probs[:, 0],
        clear=np.zeros(len(rows), dtype=np.bool_),
        log_normalisers=np.zeros(len(rows)),
        vocab_size=vocab_size,
    )
    # Whether rounding decided the first choice is known only for a lead that no precision explains.
    top = replace(top, clear=certainly_clear(top))
    return top.in_order() if whole else top


def _refuse(wrong: Any, what: Callable[[int], str]) -> None:
    """Raise :class:`_Bad` for the first row that is ``wrong``, [n]."""
    if wrong.any():
        row = int(np.argmax(wrong))
        raise _Bad(row, what(row))


def _numbers(values: list[Any], widths: Ints, whose: str) -> Floats:
    """[n, widest]: the log-probabilities of each row, minus infinity where a row is shorter."""
    if not set(map(type, values)) <= {float, int, np.float64}:
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
        flat = np.array([float(value) if abs(value) < 1 << 1000 else np.inf for value in values])
    wrong = ~((flat > _CLAMPED) & (flat <= _ROUNDING))  # NaN is neither
    if wrong.any():
        index = int(np.argmax(wrong))
        raise _Bad(_row_of(index, widths), _why_wrong(float(flat[index]), whose))
    return _rows(flat, widths, -np.inf)


def _why_wrong(value: float, whose: str) -> str:
    told = f"told {value:g} as the log-probability of {whose}"
    if np.isnan(value):
        return f"{told}: look for an overflow (float16?) or for weights that are not finite"
    if value > 0:
        return f"{told}, and a log-probability is at most 0: these may be logits, or probabilities"
    return f"{told}, which stands for minus infinity: no model gives a probability of 0, so something was left out or masked"


def _whole_numbers(values: list[Any], widths: Ints) -> Ints:
    """[n, widest]: the ids of each row, -1 where a row is shorter."""
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
    raise _Bad(_row_of(index, widths), what(values[index]))


def _row_of(index: int, widths: Ints) -> int:
    """The row of the number ``index`` of all rows one after the other."""
    return int(np.searchsorted(np.cumsum(widths), index, side="right"))


def _check_ids(ids: Ints, there: Flags, vocab_size: int) -> None:
    outside = there & ((ids < 0) | (ids >= vocab_size))
    size = f"the vocabulary of {vocab_size} tokens" if vocab_size != UNKNOWN_VOCAB else "any vocabulary"
    _refuse(outside.any(axis=1), lambda row: f"told the id {ids[row][outside[row]][0]}, which is outside {size}")
    in_order = np.sort(np.where(there, ids, -1 - np.arange(ids.shape[1])), axis=1)  # what fills a row is no id, and none alike
    twice = in_order[:, 1:] == in_order[:, :-1]
    _refuse(twice.any(axis=1), lambda row: f"told the id {in_order[row, 1:][twice[row]][0]} twice")


def _check_distributions(log_probs: Floats, targets: Floats, sums: Floats, *, whole: bool) -> None:
    """``log_probs``: [n, k], most likely first."""
    _refuse(
        sums > 1 + _ROUNDING,
        lambda row: (
            f"told probabilities that sum to {sums[row]:.6g}: they are not normalised over the whole vocabulary, or the "
            "sampler changed them"
        ),
    )
    if whole:
        _refuse(sums < 1 - _ROUNDING, lambda row: f"told probabilities of the whole vocabulary that sum to {sums[row]:.6g}")
    likelier = targets > log_probs[:, 0] + _SAME
    _refuse(
        likelier,
        lambda row: (
            f"told {targets[row]:.6g} as the log-probability of the continuation's token, and at most {log_probs[row, 0]:.6g} "
            "for its likeliest ids: they are not the likeliest"
        ),
    )
    among = targets > log_probs[:, -1] + _SAME
    _refuse(
        among & (np.abs(log_probs - targets[:, None]).min(axis=1) > _SAME),
        lambda row: (
            f"told {targets[row]:.6g} as the log-probability of the continuation's token, which is more than that of the last "
            "of its likeliest ids, but none of theirs: one of them is missing, or the numbers are from different answers"
        ),
    )


def _short(value: Any) -> str:
    return shorten(repr(value), 60)
