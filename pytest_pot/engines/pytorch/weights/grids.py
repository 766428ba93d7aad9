"""The coarsest grid on which all values of a tensor lie: a precision, or the integers of a quantiser.

A tensor is first looked at in a sample, and what fits that is checked on all values. The tensors of a model were mostly rounded
in the same way, and so the grids of those before are tried first: one fit of a small sample instead of some thirty.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from pytest_pot.engines.pytorch.weights.grid_candidates import LATTICES, Candidate, candidates, whole_sample
from pytest_pot.engines.pytorch.weights.lattices import MAX_LEVELS, Evenly, Fits, Lattice, ends, fit, fit_at_once, fit_scales
from pytest_pot.engines.pytorch.weights.layouts import LONGEST, Layout, rows_of, spread
from pytest_pot.engines.pytorch.weights.precision_search import CERTAIN, PRECISIONS, holds_all, precision_of

__all__ = ["Grid", "GridSearch", "find_grid", "find_precision"]

_REMEMBERED = 4
"""Grids of earlier tensors that are tried; a model is rarely rounded in more ways."""
_AGAIN = 2048
"""Values of the sample on which they are tried."""
_FIRST = 4
"""Groups that are fitted to other lattices."""
_PART = 16
"""Values of a group whose common divisor is looked at."""
_RATIOS = (1.0, 2.0, 0.5, 3.0, 1 / 3, 1.5, 2 / 3)
"""Of the steps of two neighbours that are parts of one group: its steps may be seen in multiples where few values are."""
_SAME = 2.0**-9
"""Relative error of the ratio of two steps. Steps of groups of their own have such a ratio in one of 40 cases."""
_NEAR = 0.1
"""Of a multiple of the step, where the origin of a lattice with offset is no offset."""
_SAMPLED, _MIN_SAMPLED_ROWS = 2**14, 32
"""Values, and rows, from which :meth:`GridSearch.name` tells a grid."""


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
    error: float | None = None
    """:meth:`rounding_error` in the tensor that this grid was found in, where checking it showed that."""

    def rounding_error(self, values: Tensor) -> float:
        """The norm of the errors that rounding to this grid makes in a tensor like ``values``, if they are spread evenly."""
        total = 0.0
        for groups in (self.layout or Layout("row")).blocks(rows_of(values)):
            if isinstance(self.lattice, Evenly):  # all steps of a group are as large as its scale
                total += _squares_of_steps(groups, self.fits(groups))
                continue
            if self.layout is None or self.lattice is None:
                info = torch.finfo(PRECISIONS[self.name][0])
                spacing = info.eps * torch.exp2(groups.abs().clamp_min(info.tiny).log2().floor())
            else:
                scales = self.fits(groups).scales[:, None]
                origin = groups.amin(dim=-1, keepdim=True) if self.lattice.with_offset else 0.0
                units = (groups - origin) / torch.where(scales > 0, scales, 1.0)
                spacing = self.lattice.spacing(self.lattice.nearest(units)) * scales
            total += float(spacing.square().sum())
        return math.sqrt(total / 12)

    def own_rounding_error(self, values: Tensor) -> float:
        """:meth:`rounding_error` in the tensor that the grid was found in, where that may be known already."""
        return self.rounding_error(values) if self.error is None else self.error

    def fits(self, groups: Tensor) -> Fits:
        if self.lattice is None:
            raise ValueError(f"{self.name} is a precision, and has no scales")
        if self.scale is not None:
            return fit_scales(groups, groups.new_full((len(groups), 1), self.scale), self.lattice, self.unit)
        fits = fit_at_once(groups, self.lattice, self.unit, self.choices)
        if fits is None:
            fits = fit(groups, self.lattice, self.unit, choices=self.choices)
        rest = (~fits.fitting).nonzero()[:, 0]
        if len(rest):
            others = fit(groups[rest], self.lattice, self.unit)
            for name in ("fitting", "scales", "lowest", "highest"):
                getattr(fits, name)[rest] = getattr(others, name)
        return fits


class GridSearch:
    """Finds the grids of a model's tensors, one after the other."""

    def __init__(self) -> None:
        self.earlier: list[Grid] = []
        """The last ones first."""

    @torch.no_grad()
    def find(self, values: Tensor) -> Grid | None:
        """The coarsest grid on which all ``values`` lie, a tensor of any shape; None if there is none, or too few values to
        tell. A row runs along the last dimension."""
        if not values.is_floating_point() or values.numel() == 0:
            return None
        return self._find(rows_of(values.detach()))

    @torch.no_grad()
    def name(self, values: Tensor) -> str | None:
        """The name of the coarsest grid on which a sample of ``values`` lies, in rows that are spread over the tensor; of a
        vector, the name of a precision. If all values lie on a grid, the sample does."""
        if not values.is_floating_point() or values.numel() == 0:
            return None
        rows = rows_of(values.detach())[:, :LONGEST]
        if len(rows) == 1:
            return precision_of(rows)
        grid = self._find(rows, _sampled(rows))
        return grid.name if grid else None

    @torch.no_grad()
    def find_other(self, values: Tensor, names: Collection[str | None]) -> Grid | None:
        """:meth:`find`, of a matrix; None where :meth:`name` is one of ``names``, which takes less time."""
        rows = rows_of(values.detach())
        sample = _sampled(rows[:, :LONGEST]) if rows.dtype == torch.float32 else None
        if sample is not None and precision_of(sample) is None:
            unit = PRECISIONS["float32"][1]
            for grid in self.earlier:
                candidate = _again(grid, sample, rows[:, :LONGEST], unit)
                if candidate is None:
                    continue
                if grid.name in names:
                    return None
                # The sample of rows has shown what one of the whole tensor would, but for the scale of all of it.
                if candidate.layout.by != "tensor" and (found := _on_all(candidate, rows, unit)):
                    self._remember(found)
                    return found
                break
        return None if self.name(values) in names else self.find(values)

    def _find(self, whole: Tensor, sample: Tensor | None = None) -> Grid | None:
        """The grid of the rows of a whole tensor; if there is a sample of them, all that is asked for is its grid."""
        rows = whole if sample is None else sample
        if rows.dtype == torch.float64 and not holds_all(rows, torch.float32):
            return None
        precision = precision_of(rows)
        unit = min(PRECISIONS[precision or "float32"][1], PRECISIONS["bfloat16"][1])
        if rows.dtype.itemsize == 1:  # torch computes little in these types
            whole, rows = whole.to(torch.bfloat16), rows.to(torch.bfloat16)
        if not str(precision).startswith("float8"):
            for grid in self.earlier:
                if candidate := _again(grid, rows, whole, unit):
                    found = _on_all(candidate, rows, unit) if sample is None else grid
                    if found is not None:
                        self._remember(found)
                        return found
        for candidate in candidates(rows, whole, unit):
            coarser = candidate.bits <= 4 or not str(precision).startswith("float8")
            if coarser and (found := _on_all(candidate, rows, unit)):
                self._remember(found)
                return found
        return Grid(precision, unit) if precision else None

    def _remember(self, grid: Grid) -> None:
        others = [each for each in self.earlier if each.name != grid.name]
        self.earlier = [grid, *others][:_REMEMBERED]


def _sampled(rows: Tensor) -> Tensor | None:
    """Some of ``rows``, spread over them; None if there are few."""
    count = max(_SAMPLED // rows.shape[1], _MIN_SAMPLED_ROWS)
    return None if len(rows) <= count else rows[spread(len(rows), count, rows.device)]


def find_grid(values: Tensor) -> Grid | None:
    """:meth:`GridSearch.find`, of one tensor."""
    return GridSearch().find(values)


def find_precision(values: Tensor) -> Grid | None:
    """The coarsest precision that holds all ``values``; None if it is float32 or a finer one, or too few values tell."""
    if not values.is_floating_point() or values.numel() == 0:
        return None
    name = precision_of(rows_of(values.detach()))
    return Grid(name, PRECISIONS[name][1]) if name else None


def _again(grid: Grid, rows: Tensor, whole: Tensor, unit: float) -> Candidate | None:
    """The grid of an earlier tensor, if a sample of ``rows`` lies on it and a search would find no other one: no simpler
    lattice fits, neighbours have steps of their own, and no parts of groups have larger steps."""
    layout, lattice = grid.layout, grid.lattice
    if layout is None or lattice is None:
        return None
    groups = whole_sample(whole) if layout.by == "tensor" else layout.neighbours(rows, _AGAIN)
    if groups is None or len(groups) == 0 or not bool((groups != 0).any(dim=-1).all()):
        return None
    fits = fit(groups, lattice, unit, choices=grid.choices, evidence=True)
    if not bool(fits.fitting.all()) or float(fits.evidence.sum()) < CERTAIN:
        return None
    if _fits_simpler(groups, fits, lattice, unit) or _share_scales(fits, unit) or _have_divisors(groups, fits, lattice):
        return None
    candidate = Candidate(layout, lattice, fits, groups)
    return candidate if candidate.name == grid.name else None


def _fits_simpler(groups: Tensor, fits: Fits, lattice: Lattice, unit: float) -> bool:
    """Whether a lattice that a search would try before fits ``groups`` as well, or nearly does."""
    if isinstance(lattice, Evenly):
        if not lattice.with_offset:
            return False
        origins = groups.amin(dim=-1) / fits.scales
        return float(((origins - origins.round()).abs() < _NEAR).float().mean()) > 0.5
    simpler = LATTICES[: LATTICES.index(lattice)] if lattice in LATTICES else LATTICES[:-1]
    return any(bool(fit(groups[:_FIRST], each, unit).fitting.all()) for each in simpler)


def _share_scales(fits: Fits, unit: float) -> bool:
    """Whether most neighbours may be parts of one larger group."""
    if len(fits.scales) == 1:
        return False
    pairs = fits.scales.view(-1, 2)
    ratios = pairs[:, :1] / pairs[:, 1:]
    alike = ((ratios / ratios.new_tensor(_RATIOS) - 1).abs() < max(_SAME, 4 * unit)).any(dim=-1)
    return float(alike.float().mean()) > 0.5


def _have_divisors(groups: Tensor, fits: Fits, lattice: Lattice) -> bool:
    """Whether most parts of ``groups`` lie on a coarser lattice than the whole groups."""
    if not isinstance(lattice, Evenly):
        return False
    units = (groups / fits.scales[:, None])[:, : groups.shape[1] // _PART * _PART].view(len(groups), -1, _PART)
    divisors = (units - units.amin(dim=-1, keepdim=True)).round().int()
    while divisors.shape[-1] > 1:
        divisors = torch.gcd(divisors[..., ::2], divisors[..., 1::2])
    return float((divisors > 1).float().mean()) > 0.5


def _on_all(candidate: Candidate, rows: Tensor, unit: float) -> Grid | None:
    """The grid, if all values lie on it."""
    n_quick = candidate.lattice.scales(*ends(candidate.groups[:1])).shape[1]
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
    squares = 0.0
    for groups in layout.blocks(rows):
        fits = grid.fits(groups)
        within = not isinstance(lattice, Evenly) or float((fits.highest - fits.lowest).max()) <= MAX_LEVELS
        if not within or not bool(fits.fitting.all()):
            return None
        squares += _squares_of_steps(groups, fits)
    return replace(grid, error=math.sqrt(squares / 12)) if isinstance(lattice, Evenly) else grid


def _squares_of_steps(groups: Tensor, fits: Fits) -> float:
    """Summed over all values, for a lattice whose steps are as large as its scale."""
    return groups.shape[1] * float(fits.scales.square().sum())
