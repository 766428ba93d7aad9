"""The coarsest grid on which all values of a tensor lie: a precision, or the integers of a quantiser.

A tensor is first looked at in a sample: most lie on no grid, and a few groups show that. What fits the sample is then checked
on all values. A grid is named only where chance is no explanation; values of which too few are distinct prove nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pytest_pot.engines.pytorch.weights.lattices import (
    MAX_LEVELS,
    CodeBook,
    Evenly,
    Fits,
    Float8,
    Lattice,
    fit,
    fit_scales,
    learned_codes,
)
from pytest_pot.engines.pytorch.weights.layouts import BLOCK, Layout, layouts, rows_of, spread

__all__ = ["Grid", "find_grid", "find_precision", "grid_of"]

_PRECISIONS = {
    "float8_e4m3fn": (torch.float8_e4m3fn, 2.0**-4),
    "float8_e5m2": (torch.float8_e5m2, 2.0**-3),
    "bfloat16": (torch.bfloat16, 2.0**-8),
    "float16": (torch.float16, 2.0**-11),
    "float32": (torch.float32, 2.0**-24),
}
"""The type, and its largest relative rounding error."""
_SHORT, _FIRST = (16, 32, 64), 4
"""Sizes and number of the groups that are looked at first."""
_CERTAIN = 32.0
"""Bits of evidence that are needed."""
_CODE_BITS = 24.0
"""The evidence that each learned code uses up."""
_MAX_DISTINCT = 2 * 256 + 1
_FLOAT4 = (0.0, 1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0)
"""float4_e2m1fn in steps of a half."""
_MIN_LARGE = 32
"""How many values above 4 of these steps must not be between them."""


@dataclass(frozen=True)
class Grid:
    """A grid on which all values of a tensor lie."""

    name: str
    """``"bfloat16"``, ``"8 bits per row"``, ``"4 bits in groups of 32"``; ``"with offset"`` where 0 is not on it."""
    unit: float
    """The relative rounding error of the precision that the values are kept in."""
    layout: Layout | None = None
    lattice: Lattice | None = None
    """None for a precision."""
    choices: Tensor | None = None
    scale: float | None = None
    """Of a grid per tensor."""

    def rounding_error(self, values: Tensor) -> float:
        """The norm of the errors that rounding to this grid makes in a tensor like ``values``, if they are spread evenly."""
        total = 0.0
        for groups in (self.layout or Layout("row")).blocks(rows_of(values)):
            if self.layout is None or self.lattice is None:
                info = torch.finfo(_PRECISIONS[self.name][0])
                spacing = info.eps * torch.exp2(groups.abs().clamp_min(info.tiny).log2().floor())
            else:
                scales = self.fits(groups).scales[:, None]
                origin = groups.amin(dim=-1, keepdim=True) if self.lattice.with_offset else 0.0
                units = (groups - origin) / torch.where(scales > 0, scales, 1.0)
                spacing = self.lattice.spacing(self.lattice.nearest(units)) * scales
            total += float(spacing.square().sum())
        return math.sqrt(total / 12)

    def fits(self, groups: Tensor) -> Fits:
        if self.lattice is None:
            raise ValueError(f"{self.name} is a precision, and has no scales")
        if self.scale is not None:
            return fit_scales(groups, groups.new_full((len(groups), 1), self.scale), self.lattice, self.unit)
        fits = fit(groups, self.lattice, self.unit, choices=self.choices)
        rest = (~fits.fitting).nonzero()[:, 0]
        if len(rest):
            others = fit(groups[rest], self.lattice, self.unit)
            for name in ("fitting", "scales", "lowest", "highest"):
                getattr(fits, name)[rest] = getattr(others, name)
        return fits


@dataclass(frozen=True)
class _Candidate:
    """A grid that fits the sample."""

    layout: Layout
    lattice: Lattice
    fits: Fits
    groups: Tensor
    extent: _Extent

    @property
    def spacing(self) -> float:
        """Of the middle one of its groups."""
        return float(self.fits.spacing.median())

    @property
    def name(self) -> str:
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
        return 4 if self._is_float4 else _bits(self.lattice, self.extent)

    @property
    def _is_float4(self) -> bool:
        """Whether the levels that occur are those of float4_e2m1fn."""
        if not isinstance(self.lattice, Evenly) or self.lattice.with_offset or self.extent.peak != max(_FLOAT4):
            return False
        units = (self.groups / self.fits.scales[:, None]).round().abs()
        return int((units > 4).sum()) >= _MIN_LARGE and bool(torch.isin(units, units.new_tensor(_FLOAT4)).all())


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


def grid_of(values: Tensor) -> str | None:
    """The name of the coarsest grid on which all ``values`` lie, a tensor of any shape; None if there is none, or too few
    values to tell. A row runs along the last dimension."""
    grid = find_grid(values)
    return grid.name if grid else None


@torch.no_grad()
def find_grid(values: Tensor) -> Grid | None:
    """The same, with what is needed to compute its steps."""
    if not values.is_floating_point() or values.numel() == 0:
        return None
    values = values.detach()
    rows = rows_of(values)
    if values.dtype == torch.float64 and not _all_in(rows, torch.float32):
        return None
    precision = _precision(rows)
    unit = min(_PRECISIONS[precision or "float32"][1], _PRECISIONS["bfloat16"][1])
    whole = Grid(precision, unit) if precision else None
    if rows.dtype.itemsize == 1:  # torch computes little in these types
        rows = rows.to(torch.bfloat16)
    samples = [(layout, layout.sample(rows)) for layout in layouts(rows)]
    short = [groups for layout, groups in samples if layout.by == "group" and layout.size in _SHORT]
    columns = [groups[:, : max(_SHORT)] for layout, groups in samples if layout.by == "column"]
    lattices = _possible(short + columns, unit) if short else _LATTICES
    if lattices:  # of a tensor with one scale, rare values are the best evidence
        extremes = torch.stack(rows.aminmax()).float()[None]
        samples[0] = (samples[0][0], torch.cat([samples[0][1], extremes[: len(samples[0][1])]], dim=-1))
    candidates = [candidate for layout, groups in samples if (candidate := _on_sample(layout, groups, lattices, unit))]
    for candidate in _coarsest_first(candidates):
        coarser = candidate.bits <= 4 or not str(precision).startswith("float8")
        if coarser and (grid := _on_all(candidate, rows, unit)):
            return grid
    return whole


def find_precision(values: Tensor) -> Grid | None:
    """The coarsest precision that holds all ``values``; None if it is float32 or a finer one, or too few values tell."""
    if not values.is_floating_point() or values.numel() == 0:
        return None
    name = _precision(rows_of(values.detach()))
    return Grid(name, _PRECISIONS[name][1]) if name else None


def _coarsest_first(candidates: list[_Candidate]) -> list[_Candidate]:
    """Larger groups come first, unless smaller ones have clearly larger steps."""
    best = 0
    for index, candidate in enumerate(candidates):
        if candidate.spacing > 1.5 * candidates[best].spacing:
            best = index
    return candidates[best : best + 1] + candidates[:best] + candidates[best + 1 :]


# --- precisions ---


def _precision(rows: Tensor) -> str | None:
    """The coarsest precision that holds all values; None for float32."""
    kept = str(rows.dtype).removeprefix("torch.")
    sample = rows[spread(len(rows), 64, rows.device)]
    sample = sample[:, spread(sample.shape[1], 64, rows.device)]
    magnitudes = sample.float().abs().unique()
    magnitudes = magnitudes[magnitudes > 0]
    kept_unit = _PRECISIONS[kept][1] if kept in _PRECISIONS else _PRECISIONS["float32"][1]
    for name, (dtype, unit) in _PRECISIONS.items():
        if unit <= kept_unit:
            break
        evidence = len(magnitudes) * math.log2(unit / kept_unit)
        if evidence >= _CERTAIN and _is_in(magnitudes, dtype) and _all_in(rows, dtype):
            return name
    return kept if kept in _PRECISIONS and kept != "float32" else None


def _all_in(rows: Tensor, dtype: torch.dtype) -> bool:
    return all(
        _is_in(rows[start : start + count], dtype)
        for count in [max(BLOCK // rows.shape[1], 1)]
        for start in range(0, len(rows), count)
    )


def _is_in(values: Tensor, dtype: torch.dtype) -> bool:
    if values.dtype.itemsize == 1:  # torch computes little in these types
        values = values.float()
    return bool((values.to(dtype).to(values.dtype) == values).all() and values.isfinite().all())


# --- the lattices of quantisers ---


_LATTICES: tuple[Lattice, ...] = (Evenly(), Evenly(with_offset=True), Float8())


def _possible(samples: Sequence[Tensor], unit: float) -> tuple[Lattice, ...]:
    """The lattices that the samples of short groups allow. What lies on one in long groups does so in short ones."""
    samples = [groups for groups in samples if len(groups)]
    return tuple(
        lattice for lattice in _LATTICES if any(bool(fit(groups[:_FIRST], lattice, unit).fitting.all()) for groups in samples)
    )


def _on_sample(layout: Layout, groups: Tensor, lattices: Sequence[Lattice], unit: float) -> _Candidate | None:
    codes = learned_codes(groups[:_FIRST], unit)
    if codes is not None and (codes := learned_codes(groups, unit)) is not None:
        lattices = sorted([*lattices, CodeBook(codes)], key=lambda lattice: isinstance(lattice, Float8))
    if not lattices or len(groups) == 0 or _too_many_values(groups[0]):
        return None
    for lattice in lattices:
        if not bool(fit(groups[:_FIRST], lattice, unit).fitting.all()):
            continue
        fits = fit(groups, lattice, unit, evidence=True)
        learned = _CODE_BITS * lattice.count if isinstance(lattice, CodeBook) else 0.0
        if bool(fits.fitting.all()) and float(fits.evidence.sum()) - learned >= _CERTAIN:
            return _Candidate(layout, lattice, fits, groups, _Extent.of(fits))
    return None


def _too_many_values(group: Tensor) -> bool:
    """Whether a group has more distinct values than any lattice here. This rejects most long rows before they are fitted."""
    return len(group) > 2 * _MAX_DISTINCT and len(group.unique()) > _MAX_DISTINCT


def _on_all(candidate: _Candidate, rows: Tensor, unit: float) -> Grid | None:
    """The grid, if all values lie on it."""
    n_quick = candidate.lattice.scales(*candidate.groups[:1].aminmax(dim=-1, keepdim=True)).shape[1]
    lattice, layout, used = candidate.lattice, candidate.layout, candidate.fits.choices
    quick, counts = used[(used >= 0) & (used < n_quick)].unique(return_counts=True)
    grid = Grid(
        candidate.name,
        unit,
        layout,
        lattice,
        choices=quick[counts.argsort(descending=True)][:2] if len(quick) else None,
        scale=float(candidate.fits.scales[0]) if layout.by == "tensor" else None,
    )
    for groups in layout.blocks(rows):
        fits = grid.fits(groups)
        within = not isinstance(lattice, Evenly) or float((fits.highest - fits.lowest).max()) <= MAX_LEVELS
        if not within or not bool(fits.fitting.all()):
            return None
    return grid


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
