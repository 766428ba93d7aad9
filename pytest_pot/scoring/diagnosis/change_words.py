"""The words for a kind of change, behind the tensors that it is about."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence

from pytest_pot.core.text import number
from pytest_pot.engines.weights import ChangeKind, TensorChange

__all__ = ["change_words"]

_WITHOUT_SIZE = {
    ChangeKind.MISSING, ChangeKind.EXTRA, ChangeKind.SHAPE, ChangeKind.NOT_FINITE, ChangeKind.ZERO, ChangeKind.SCALED,
    ChangeKind.PERMUTED, ChangeKind.TRANSPOSED, ChangeKind.MOVED, ChangeKind.REORDERED,
}  # fmt: skip

_WORDS: Mapping[ChangeKind, str] = {
    ChangeKind.MISSING: " missing in the candidate",
    ChangeKind.EXTRA: " only in the candidate",
    ChangeKind.SHAPE: " with another shape: {what}",
    ChangeKind.NOT_FINITE: ": NaN or infinite values{extent}",
    ChangeKind.ZERO: ": all values are 0",
    ChangeKind.ROUNDED: " rounded to {what}",
    ChangeKind.PRUNED: ": {amount} of the values are new zeros{extent}, as of pruning",
    ChangeKind.SCALED: " multiplied by {amount}",
    ChangeKind.PERMUTED: ": {what} in another order (permuted)",
    ChangeKind.TRANSPOSED: " transposed{what}",
    ChangeKind.MOVED: " with the values of {what}",
    ChangeKind.LOW_RANK: ": a difference of rank {amount}",
    ChangeKind.REORDERED: ": the same values in another order",
    ChangeKind.CHANGED: " changed{extent}",
}
_NOT_SEARCHED = " changed in a way that was not looked for"
_FACTORS = {
    "per row": ": each row multiplied by a factor of its own",
    "per column": ": each column multiplied by a factor of its own",
}
_BEFORE_DETAIL = {ChangeKind.PERMUTED: ","}
_EXTENT = re.compile(r"(\d+) of (\d+) (\w+)")
_ALSO_ROUNDED = re.compile(r"(?:^|, )(rounded to \S+)$")


def change_words(changes: Sequence[TensorChange], *, recorded: bool, hint: str = "", most: str = "") -> str:
    """The words for ``changes``, all of one kind.

    Args:
        recorded: whether sizes are estimates.
        hint: what such a change comes from.
        most: where most of it is, behind its size.
    """
    kind = changes[0].kind
    template = _WORDS[kind] if changes[0].searched else _NOT_SEARCHED
    if kind is ChangeKind.SCALED and changes[0].what in _FACTORS:
        template = _FACTORS[changes[0].what]
    rounded = {match[1] if (match := _ALSO_ROUNDED.search(change.what)) else "" for change in changes}
    what = changes[0].what if kind is ChangeKind.ROUNDED else _ALSO_ROUNDED.sub("", changes[0].what)
    if kind is ChangeKind.TRANSPOSED and what:
        what = f" {what}" if what.startswith("and ") else f", {what}"
    words = template.format(
        what=what,
        amount=_amounts(changes),
        extent=_extent(changes),
    )
    details = {change.detail for change in changes}
    words += f"{_BEFORE_DETAIL.get(kind, ':')} {details.pop()}" if len(details) == 1 and any(details) else ""
    if kind is not ChangeKind.ROUNDED and len(rounded) == 1 and any(rounded):
        words += f", {rounded.pop()}"
    words += f", {hint}" if hint else ""
    sizes = [change.relative for change in changes if change.relative is not None]
    if kind in _WITHOUT_SIZE or not sizes:
        return words
    return f"{words} (relative change {'about ' if recorded else ''}{_span(sizes, number)}{most})"


def _amounts(changes: Sequence[TensorChange]) -> str:
    amounts = [change.amount for change in changes if change.amount is not None]
    if not amounts:
        return "some"
    kind = changes[0].kind
    return _factors(amounts) if kind is ChangeKind.SCALED else _span(amounts, _percent if kind is ChangeKind.PRUNED else number)


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"


def _factors(factors: Sequence[float]) -> str:
    """To three digits, or as many as it takes to tell them from 1."""
    return next(
        (
            words
            for digits in range(3, 10)
            if "1" not in (words := _span(factors, lambda factor, digits=digits: f"{factor:.{digits}g}")).split(" to ")  # type: ignore[misc]
        ),
        _span(factors, repr),
    )


def _extent(changes: Sequence[TensorChange]) -> str:
    """In which part of each tensor, where that is of one kind in all: ``" in 1 of 48 rows"``, ``" in 1 to 3 rows of each"``."""
    matches = [_EXTENT.match(change.what) for change in changes]
    parts = [(int(match[1]), int(match[2]), match[3]) for match in matches if match is not None]
    if len(parts) < len(changes) or len({noun for *_, noun in parts}) > 1:
        return ""
    noun = parts[0][2]
    span = _span([n for n, *_ in parts], str)
    totals = {total for _, total, _ in parts}
    if len(totals) == 1:
        return f" in {span} of {totals.pop()} {noun}"
    return f" in {span} {noun.removesuffix('s') if span == '1' else noun} of each"


def _span(values: Sequence[float], words: Callable[[float], str]) -> str:
    """One figure where all are written alike, else the smallest and the largest."""
    finite = [value for value in values if math.isfinite(value)]
    if not finite:
        return words(values[0])
    low, high = words(min(finite)), words(max(finite))
    return low if low == high else f"{low} to {high}"
