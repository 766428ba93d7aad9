"""Grids that fit a sample of a tensor.

Most tensors lie on no grid, and a few groups show that. A grid is proposed only where chance is no explanation: values of which
too few are distinct prove nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pytest_pot.engines.pytorch.weights.lattices import (
    CodeBook,
    Evenly,
    Fits,
    Float8,
    Lattice,
    fit,
    learned_codes,
)
from pytest_pot.engines.pytorch.weights.layouts import Layout, layouts
from pytest_pot.engines.pytorch.weights.precision_search import CERTAIN

__all__ = ["LATTICES", "Candidate", "candidates", "whole_sample"]

LATTICES: tuple[Lattice, ...] = (Evenly(), Evenly(with_offset=True), Float8())
"""Those that are known without looking at values."""
_SHORT, _FIRST = (16, 32, 64), 4
"""Sizes and number of the groups that are looked at first."""
_MOST_CODES, _MIN_FOR_CODES = 16, 32
"""Codes that a code book has; and values of a group that have to be among so many."""
_CODE_BITS = 24.0
"""The evidence that each learned code uses up."""
_MAX_DISTINCT = 2 * 256 + 1
_LARGER_STEPS = 1.5
"""How many times larger the steps of smaller groups have to be, to be the reason why values lie on a grid."""
_FLOAT4 = (0.0, 1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0)
"""float4_e2m1fn in steps of a half."""
_MIN_LARGE = 32
"""How many values above 4 of these steps must not be between them."""


@dataclass(frozen=True)
class _Extent:
    """Which numbers of a lattice occur."""

    peak: float
    """The largest magnitude."""
    spread: float
    """From the lowest to the highest of one group, and 0."""
    equal_peaks: bool
    """Whether most groups have the same largest magnitude, as where it is what a group is scaled by."""

    @classmethod
    def of(cls, fits: Fits) -> _Extent:
        peaks = torch.maximum(fits.highest, -fits.lowest)
        spread = fits.highest.clamp_min(0) - fits.lowest.clamp_max(0)
        return cls(float(peaks.max()), float(spread.max()), float((peaks == peaks.max()).float().mean()) > 0.5)


@dataclass(frozen=True)
class Candidate:
    """A grid that fits a sample."""

    layout: Layout
    lattice: Lattice
    fits: Fits
    groups: Tensor
    """The sample, [groups, values]."""

    @property
    def name(self) -> str:
        """As :attr:`~pytest_pot.engines.pytorch.weights.grids.Grid.name`."""
        words = self.layout.words
        if isinstance(self.lattice, Float8):
            power_of_two = self.layout.by == "tensor" and math.frexp(float(self.fits.scales[0]))[0] == 0.5
            return "float8_e4m3fn" if power_of_two else f"float8_e4m3fn {words}"
        if self._is_float4:
            return f"float4_e2m1fn {words}"
        offset = " with offset" if self.lattice.with_offset else ""
        return f"{self.bits} bits {words}{offset}"

    @property
    def bits(self) -> int:
        return 4 if self._is_float4 else _bits(self.lattice, _Extent.of(self.fits))

    @property
    def _is_float4(self) -> bool:
        """Whether the levels that occur are those of float4_e2m1fn."""
        if not isinstance(self.lattice, Evenly) or self.lattice.with_offset or _Extent.of(self.fits).peak != max(_FLOAT4):
            return False
        units = (self.groups / self.fits.scales[:, None]).round().abs()
        return int((units > 4).sum()) >= _MIN_LARGE and bool(torch.isin(units, units.new_tensor(_FLOAT4)).all())

    def has_larger_steps(self, coarser: Candidate, lines: Tensor, unit: float) -> bool:
        """Whether the steps of most of these groups are clearly larger than those of ``coarser``, of larger groups, at the same
        values. Samples of two layouts are of different rows, whose steps may differ for that reason.

        Args:
            coarser: a candidate with larger groups.
            lines: the sample of rows.
            unit: the relative rounding error of the values.
        """
        groups, steps = coarser.groups, coarser.fits.spacing
        if coarser.layout.by == "column" or self.layout.by == "column":
            own, other = (each.fits.spacing.median() / each.groups.square().mean().sqrt() for each in (self, coarser))
            return float(own) > _LARGER_STEPS * float(other)
        if coarser.layout.by == "tensor":
            groups, steps = lines, steps.expand(len(lines))
        size = groups.shape[1] if self.layout.by == "row" else self.layout.size
        n_parts = groups.shape[1] // size
        parts = groups[:, : n_parts * size].reshape(-1, size)
        used = (parts != 0).any(dim=-1)
        own_steps = fit(parts[used], self.lattice, unit, evidence=True).spacing
        return float((own_steps / steps.repeat_interleave(n_parts)[used]).median()) > _LARGER_STEPS


def candidates(rows: Tensor, whole: Tensor, unit: float) -> Iterator[Candidate]:
    """What fits a sample of ``rows`` [rows, columns], whose values have the relative rounding error ``unit``; the coarsest
    first. ``whole`` has all rows of the tensor, if ``rows`` are only some.

    Larger groups come first, unless smaller ones have clearly larger steps.
    """
    of_short = [layout for layout in layouts(rows) if layout.by == "column" or layout.size in _SHORT]
    samples = {layout: layout.sample(rows) for layout in of_short}
    short = [groups[:_FIRST, : max(_SHORT)] for groups in samples.values() if len(groups)]
    are_short = any(layout.by == "group" for layout in of_short)
    lattices = _possible(short, unit) if are_short else LATTICES
    if are_short and not lattices and not any(_may_be_codes(groups, unit) for groups in short):
        return
    found = []
    for layout in layouts(rows):
        if layout.by == "tensor" and lattices:
            groups = whole_sample(whole)
        else:
            groups = samples[layout] if layout in samples else layout.sample(rows)
        if (candidate := _on_sample(layout, groups, lattices, unit)) is not None:
            found.append(candidate)
    best = 0
    lines = Layout("row").sample(rows) if len(found) > 1 else rows
    for index in range(1, len(found)):
        if found[index].has_larger_steps(found[best], lines, unit):
            best = index
    yield from found[best : best + 1] + found[:best] + found[best + 1 :]


def whole_sample(rows: Tensor) -> Tensor:
    """A sample of a tensor with one scale, [1, values], with its extremes: rare values are the best evidence. It has no groups
    if the other values are 0."""
    groups = Layout("tensor").sample(rows)
    return torch.cat([groups, torch.stack([rows.amin(), rows.amax()]).float()[None][: len(groups)]], dim=-1)


def _possible(samples: Sequence[Tensor], unit: float) -> tuple[Lattice, ...]:
    """The lattices on which all groups of one of ``samples`` lie. What lies on one in long groups does so in short ones.

    Groups are filled up with their first value, which changes no fit, so that all are fitted at once.
    """
    length = max((groups.shape[1] for groups in samples), default=0)
    if not length:
        return ()
    filled = torch.cat([torch.cat([groups, groups[:, :1].expand(-1, length - groups.shape[1])], dim=1) for groups in samples])
    counts = [len(groups) for groups in samples]
    firsts = torch.tensor([0, *counts[:-1]], device=filled.device).cumsum(0)
    return tuple(
        lattice
        for lattice in LATTICES
        if bool(fit(filled[firsts], lattice, unit).fitting.any())  # rejects most
        and any(bool(each.all()) for each in fit(filled, lattice, unit).fitting.split(counts))
    )


def _may_be_codes(groups: Tensor, unit: float) -> bool:
    """Whether ``groups``, or the starts of groups, may be of the numbers of a code book: no group has more distinct values."""
    if groups.shape[1] < _MIN_FOR_CODES:
        return learned_codes(groups, unit, _MOST_CODES) is not None
    return bool(((groups.sort(dim=-1).values.diff(dim=-1) > 0).sum(dim=-1) < _MOST_CODES).all())


def _on_sample(layout: Layout, groups: Tensor, lattices: Sequence[Lattice], unit: float) -> Candidate | None:
    if len(groups) == 0:
        return None
    if _may_be_codes(groups[:_FIRST, : max(_SHORT)], unit) and (codes := learned_codes(groups, unit, _MOST_CODES)) is not None:
        lattices = sorted([*lattices, CodeBook(codes)], key=lambda lattice: isinstance(lattice, Float8))
    if not lattices or _too_many_values(groups[0]):
        return None
    for lattice in lattices:
        if not bool(fit(groups[:_FIRST], lattice, unit).fitting.all()):
            continue
        fits = fit(groups, lattice, unit, evidence=True)
        learned = _CODE_BITS * lattice.count if isinstance(lattice, CodeBook) else 0.0
        if bool(fits.fitting.all()) and float(fits.evidence.sum()) - learned >= CERTAIN:
            return Candidate(layout, lattice, fits, groups)
    return None


def _too_many_values(group: Tensor) -> bool:
    """Whether a group has more distinct values than any lattice here. This rejects most long rows before they are fitted."""
    return len(group) > 2 * _MAX_DISTINCT and len(group.unique()) > _MAX_DISTINCT


def _bits(lattice: Lattice, extent: _Extent) -> int:
    if isinstance(lattice, Float8):
        return 8
    if isinstance(lattice, CodeBook):
        return math.ceil(math.log2(lattice.count))
    if (
        not lattice.with_offset
        and extent.equal_peaks
        and (math.log2(extent.peak).is_integer() or math.log2(extent.peak + 1).is_integer())
    ):
        return math.ceil(math.log2(extent.peak)) + 1 if extent.peak > 1 else 2
    return min(math.ceil(math.log2(extent.spread + 1)), 8)
