"""Tensors that changed by more than rounding, among others that were rounded alike.

A recording tells the size of a tensor's change only to within some 35 %, so damage of the size of a rounding error can hide
behind it. But all tensors of a model that are rounded to one precision change by about the same share of the error that is
expected. The estimates scatter around that share as a known distribution says: 16 times their square over its square is the sum
of 16 squared normal numbers. What is too large for that is damage. Several tensors of one layer, or of one kind, tell more than
each of them.
"""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from pytest_pot.engines.weights import ChangeKind, TensorChange
from pytest_pot.scoring.diagnosis.known_weights import KnownWeights
from pytest_pot.scoring.diagnosis.tensor_names import TensorName

__all__ = ["without_hidden_damage"]

_PROJECTIONS = 16
_MEDIAN = 0.959
"""The median of the mean square of 16 normal numbers."""
_MIN_VALUES = 256
"""The rounding errors of fewer values are not near enough to what is expected of them."""
_MIN_TENSORS = 8
"""Of a quantiser: fewer do not tell its usual error."""
_USUAL_SCATTER = {True: 1.1, False: 1.25}
"""By what factor the usual sizes of errors differ within a model, of a precision and of a quantiser: some layers have more
values that need no rounding, and some quantisers move errors between columns."""
_MOST = 1.05
"""Rounding to the nearest number of a precision makes errors of this share of what is expected, at most."""
_CHANCE = 1e-3
"""How often we accept that chance takes a tensor of a model for a damaged one."""


def without_hidden_damage(changes: Iterable[TensorChange], reference: KnownWeights) -> list[TensorChange]:
    """``changes``, with CHANGED for those that are ROUNDED but changed by more than others that were rounded to the same from
    the same. Only those are judged of which the expected size is known."""
    changes = list(changes)
    groups: dict[tuple[str, str | None], dict[str, float]] = defaultdict(dict)
    for change in changes:
        size = math.prod(reference.tensors[change.name].shape) if change.name in reference.tensors else 0
        if change.kind is ChangeKind.ROUNDED and change.relative and change.expected and size >= _MIN_VALUES:
            groups[change.what, reference.grid(change.name)][change.name] = (change.relative / change.expected) ** 2
    damaged = {name for (what, _), squares in groups.items() for name in _damaged(squares, is_precision=" " not in what)}
    return [
        replace(change, kind=ChangeKind.CHANGED, what="", expected=None) if change.name in damaged else change
        for change in changes
    ]


def _damaged(squares: Mapping[str, float], is_precision: bool) -> set[str]:
    """Which of the tensors stand out, by the square of each one's size over that expected."""
    if not is_precision and len(squares) < _MIN_TENSORS:
        return set()
    usual = statistics.median(squares.values()) / _MEDIAN
    if is_precision:
        usual = min(usual, _MOST**2)
    # The median itself scatters: by 1.25 standard deviations of the logarithm, over the root of their number.
    usual *= _USUAL_SCATTER[is_precision] ** 2 * math.exp(1.25 * math.sqrt(2 / _PROJECTIONS) / math.sqrt(len(squares)))
    units: dict[tuple[object, ...], list[str]] = defaultdict(list)
    for name in squares:
        for unit in _units_of(name, is_precision):
            units[unit].append(name)
    certain = math.log(len(units) / _CHANCE)
    damaged: set[str] = set()
    for unit, names in units.items():
        found = _standing_out({name: squares[name] / usual for name in names}, certain)
        everywhere = unit[0] == "layers" and 2 * len(found) >= len(names)
        damaged.update(names if everywhere else found if unit[0] != "layers" else ())
    return damaged


def _units_of(name: str, is_precision: bool) -> Iterator[tuple[object, ...]]:
    """What a tensor may have been damaged with: its layer; where a precision rounds these alike, those of its kind and all
    layers."""
    parsed = TensorName.of(name)
    yield ("layer", parsed.stack, parsed.layer) if parsed.layer is not None else ("tensor", name)
    if is_precision and parsed.layer is not None:
        yield "kind", parsed.stack, parsed.rest
        yield "layers", parsed.stack


def _standing_out(squares: Mapping[str, float], certain: float) -> Sequence[str]:
    """The largest of ``squares``, each 1 on average if chance alone makes them, so many that chance explains them least; none
    where it may.

    The probability that the mean of k of them is ``m`` or more is at most exp(-8 k (m - 1 - ln m)). There are as many choices
    of k tensors as the binomial coefficient says.
    """
    names = sorted(squares, key=lambda name: -squares[name])
    best, found, total = certain, 0, 0.0
    for k, name in enumerate(names, 1):
        total += squares[name]
        mean = total / k
        if mean <= 1:
            break
        evidence = _PROJECTIONS / 2 * k * (mean - 1 - math.log(mean)) - math.log(math.comb(len(names), k))
        if evidence > best:
            best, found = evidence, k
    return names[:found]
