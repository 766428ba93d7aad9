"""Which evenly spaced numbers, or which codes of another lattice, the values of groups are: one step size for each group.

A *lattice* is a set of numbers that a quantiser rounds to, up to a factor (the *scale*), which each group of values has for
itself. A group *fits* if all its values are multiples of one scale, within the rounding of the precision that they are kept in.
Most groups of few values fit some fine lattice by chance. So each fit has its *evidence*: the logarithm to base 2 of how
unlikely it is for values that are spread evenly. A value adds the ratio of the lattice's spacing to the width in which it was
found, a value that is repeated at most four times that, and the value that tells the scale nothing.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace

import torch
from torch import Tensor

__all__ = [
    "MAX_LEVELS",
    "CodeBook",
    "Evenly",
    "Fits",
    "Float8",
    "Lattice",
    "ends",
    "fit",
    "fit_at_once",
    "fit_scales",
    "learned_codes",
]

MAX_LEVELS = 256
"""Of 8 bits."""
_BITS = range(2, 9)
_CLEAR = 0.25
"""Values whose margin is less of the lattice's spacing tell the scale."""
_REPEATS = 4
"""How often a value counts as evidence that occurs several times."""
_MIN_TERNARY, _TERNARY_BITS = 8, 40.0
"""How often both signs of a group's only magnitude have to occur, and what that is worth."""
_SMALL = 32
"""Multiples up to which a rounded scale is exact enough to tell them, even in bfloat16."""
_SMALLEST = 2.0**-120
"""Instead of 0, so that 0 is a multiple of everything."""
_FINE = 2.0**-20
"""Relative rounding errors up to which a scale is known well enough to tell all multiples."""
_STEPS_OFF = 2
"""How many float32 numbers a value may be away from the lattice: the largest number of steps that a margin allows."""
_CHOICE_BITS = 5.0
"""The evidence that is lost because the best of some 30 scales is taken."""


@dataclass(frozen=True)
class Fits:
    """How groups fit a lattice. All tensors are [groups]."""

    fitting: Tensor
    """Whether; groups of zeros always do."""
    scales: Tensor
    """The coarsest that fits; 0 where none does, or the group is of zeros."""
    choices: Tensor
    """The index of the scale among those that the lattice proposed; -1 where none fits."""
    lowest: Tensor
    highest: Tensor
    """The first and the last number of the lattice that occur, in units of the scale."""
    evidence: Tensor
    """Bits; 0 where it was not asked for."""
    spacing: Tensor
    """How far neighbours of the lattice are apart on average, in the values' units; 0 as well."""


class Lattice(ABC):
    """Numbers that a quantiser rounds to, up to a scale."""

    with_offset = False
    """Whether a group's smallest value is the origin, so that 0 need not be on the lattice."""
    looseness = 1.0
    """How many times the usual rounding errors values may be off."""

    @abstractmethod
    def scales(self, smallest: Tensor, largest: Tensor) -> Tensor:
        """Scales that may fit groups, [groups, choices], from their smallest and largest values, [groups, 1]."""

    def searched_scales(self, groups: Tensor) -> Tensor:
        """Further ones that take longer to find, [groups, choices]."""
        return groups.new_empty(len(groups), 0)

    def levels(self, smallest: Tensor, largest: Tensor, scales: Tensor) -> Tensor:
        """How many numbers of the lattice the groups would span with these scales; no more than 256 are allowed."""
        return torch.zeros_like(scales + smallest + largest)

    @abstractmethod
    def nearest(self, units: Tensor) -> Tensor:
        """The nearest numbers of the lattice."""

    @abstractmethod
    def spacing(self, units: Tensor) -> Tensor:
        """How far neighbours of the lattice are apart, at ``units``, which are on it."""


class Evenly(Lattice):
    """Integers. Scales are the largest value over the integers that a quantiser gives it; for one that clips, the smallest
    value, or the smallest difference, over small integers."""

    _DIVISORS = torch.arange(1, 13)

    def __init__(self, *, with_offset: bool = False) -> None:
        self.with_offset = with_offset

    def scales(self, smallest: Tensor, largest: Tensor) -> Tensor:
        over = largest.new_tensor([2**bits - 1 for bits in _BITS])
        by_spread = (largest - smallest) / over
        if self.with_offset:
            return by_spread
        signed = largest.new_tensor([2 ** (bits - 1) - less for bits in _BITS for less in (1, 0)])
        return torch.cat([torch.maximum(largest, -smallest) / signed, by_spread], dim=-1)

    def searched_scales(self, groups: Tensor) -> Tensor:
        ordered = (groups if self.with_offset else groups.abs()).sort(dim=-1).values
        origin = ordered[:, :1] if self.with_offset else torch.zeros_like(ordered[:, :1])
        gaps = ordered.diff(dim=-1, prepend=origin)
        by_gap = torch.where(gaps > 0, gaps, torch.inf).amin(dim=-1, keepdim=True) / self._DIVISORS[:4].to(groups.device)
        if self.with_offset:
            spread = ordered[:, -1:] - origin
            return spread / (spread / by_gap).round()
        smallest = torch.where(ordered > 0, ordered, torch.inf).amin(dim=-1, keepdim=True)
        return torch.cat([by_gap, smallest / self._DIVISORS.to(groups.device)], dim=-1)

    def levels(self, smallest: Tensor, largest: Tensor, scales: Tensor) -> Tensor:
        if self.with_offset:
            return (largest - smallest) / scales
        return torch.maximum(torch.maximum(largest, -smallest), largest - smallest) / scales

    def nearest(self, units: Tensor) -> Tensor:
        return units.round()

    def spacing(self, units: Tensor) -> Tensor:
        return torch.ones_like(units)


class Float8(Lattice):
    """The numbers of float8_e4m3fn. The largest value may be any of the eight that have the largest exponent."""

    def scales(self, smallest: Tensor, largest: Tensor) -> Tensor:
        numbers = largest.new_tensor([448.0, 240.0, 416.0, 384.0, 352.0, 320.0, 288.0, 256.0])
        return torch.maximum(largest, -smallest) / numbers

    def nearest(self, units: Tensor) -> Tensor:
        return units.clamp(-448, 448).to(torch.float8_e4m3fn).to(units.dtype)

    def spacing(self, units: Tensor) -> Tensor:
        return torch.exp2(units.abs().clamp_min(2.0**-6).log2().floor() - 3)


class CodeBook(Lattice):
    """Any few numbers; the largest value of a group has the magnitude 1."""

    looseness = 2.0  # the codes themselves are learned from rounded values

    def __init__(self, codes: Tensor) -> None:
        self.count = len(codes)
        self._codes = codes
        self._between = (codes[1:] + codes[:-1]) / 2
        gaps = codes.diff()
        self._gaps = torch.minimum(torch.cat([gaps[:1], gaps]), torch.cat([gaps, gaps[-1:]]))

    def scales(self, smallest: Tensor, largest: Tensor) -> Tensor:
        return torch.maximum(largest, -smallest)

    def nearest(self, units: Tensor) -> Tensor:
        return self._codes[torch.bucketize(units.contiguous(), self._between)]

    def spacing(self, units: Tensor) -> Tensor:
        return self._gaps[torch.bucketize(units.contiguous(), self._between)]


def ends(groups: Tensor) -> tuple[Tensor, Tensor]:
    """The smallest and the largest value of each group, [groups, 1]. On CPUs, ``aminmax`` takes ten times as long."""
    return groups.amin(dim=-1, keepdim=True), groups.amax(dim=-1, keepdim=True)


def learned_codes(groups: Tensor, unit: float, most: int = 16) -> Tensor | None:
    """The numbers that the values of all ``groups`` are, in units of each group's largest magnitude; None if there are more
    than ``most``."""
    largest = groups.abs().amax(dim=-1, keepdim=True)
    ratios = (groups / largest)[largest[:, 0] > 0].flatten().sort().values
    if len(ratios) < 2:
        return None
    starts = ratios.diff() > 6 * unit * ratios[1:].abs()
    clusters = torch.cat([torch.zeros_like(starts[:1]), starts]).cumsum(0)
    count = int(clusters[-1]) + 1
    if not 2 <= count <= most:
        return None
    sums = torch.zeros(count, dtype=torch.float64, device=groups.device).index_add_(0, clusters, ratios.double())
    return (sums / clusters.bincount(minlength=count)).float()


def fit(groups: Tensor, lattice: Lattice, unit: float, *, choices: Tensor | None = None, evidence: bool = False) -> Fits:
    """Fit ``groups`` [groups, values], float32, to a lattice.

    Args:
        groups: the values.
        lattice: the lattice.
        unit: the relative rounding error of the precision that the values are kept in: 2^-24 for float32.
        choices: indices of the scales to try, of those that the lattice proposes; if None, all, and those that it searches for.
        evidence: whether to compute it.
    """
    smallest, largest = ends(groups)
    scales = lattice.scales(smallest, largest)
    scales = scales[:, choices] if choices is not None else torch.cat([scales, lattice.searched_scales(groups)], dim=-1)
    usable = (scales > 0) & scales.isfinite() & (lattice.levels(smallest, largest, scales) <= MAX_LEVELS + 0.5)
    fits = fit_scales(groups, torch.where(usable, scales, 0.0), lattice, unit, evidence=evidence)
    return fits if choices is None else replace(fits, choices=torch.where(fits.choices >= 0, choices[fits.choices], -1))


def fit_at_once(groups: Tensor, lattice: Lattice, unit: float, choices: Tensor | None) -> Fits | None:
    """A quick :func:`fit` to the first scale of ``choices`` as the lattice proposes it, without its evidence. Groups that fit
    another one, or this one only once it is corrected, count as not fitting.

    It is for integers without offset in float32; None for others.
    """
    if not isinstance(lattice, Evenly) or lattice.with_offset or unit > _FINE or choices is None:
        return None
    smallest, largest = ends(groups)
    scales = lattice.scales(smallest, largest)[:, choices[:1]]
    usable = (scales > 0) & scales.isfinite() & (lattice.levels(smallest, largest, scales) <= MAX_LEVELS)
    safe = torch.where(usable, scales, 1.0)
    # Between numbers of one sign, the difference of their bits counts the float32 numbers from one to the other.
    steps = (groups / safe).round_().mul_(safe).view(torch.int32).sub_(groups.view(torch.int32))
    off = torch.maximum(steps.amax(dim=-1), -steps.amin(dim=-1))
    fitting = usable[:, 0] & (off <= _STEPS_OFF)
    lowest, highest = (torch.where(fitting, (end / safe)[:, 0].round(), 0.0) for end in (smallest, largest))
    return Fits(
        fitting=fitting,
        scales=torch.where(fitting, safe[:, 0], 0.0),
        choices=torch.where(fitting, choices[0], -1),
        lowest=lowest,
        highest=highest,
        evidence=torch.zeros_like(lowest),
        spacing=torch.zeros_like(lowest),
    )


def fit_scales(groups: Tensor, scales: Tensor, lattice: Lattice, unit: float, *, evidence: bool = False) -> Fits:
    """The same with given scales, [groups, choices], to half a spacing; 0 where there is no choice."""
    smallest, largest = ends(groups)
    if lattice.with_offset:
        values = groups - smallest
        # The rounding of the offset, the product and their sum. The largest value bounds them all.
        margins = 4 * unit * torch.maximum(largest, -smallest)
        units = lattice.nearest(values[:, None] / torch.where(scales > 0, scales, 1.0)[..., None])
        close = (values[:, None] - units * scales[..., None]).abs().amax(dim=-1) <= margins
        close &= margins < _CLEAR * scales
    else:
        values = groups
        margins = _margins(groups, lattice, unit)
        scales, units = _refined(values, scales, margins, lattice, unit)
        close = scales > 0
    coarsest, index = torch.where(close, scales, 0.0).max(dim=-1)
    units = units.gather(1, index[:, None, None].expand(-1, 1, units.shape[-1]))[:, 0] if units.shape[1] > 1 else units[:, 0]
    lowest, highest = (torch.where(coarsest > 0, end[:, 0], 0.0) for end in ends(units))
    fits = Fits(
        fitting=(coarsest > 0) | ((smallest == largest) & (smallest * (not lattice.with_offset) == 0))[:, 0],
        scales=coarsest,
        choices=torch.where(coarsest > 0, index, -1),
        lowest=lowest,
        highest=highest,
        evidence=torch.zeros_like(coarsest),
        spacing=torch.zeros_like(coarsest),
    )
    if evidence:
        spacing = lattice.spacing(units) * coarsest[:, None]
        fits = replace(fits, evidence=_evidence(values, spacing, margins, lattice), spacing=spacing.mean(dim=-1))
    return fits


def _margins(groups: Tensor, lattice: Lattice, unit: float) -> Tensor:
    """How far each value may be from the lattice by rounding to the precision that it is kept in."""
    power_of_two = (groups.view(torch.int32) & 0x7F800000).view(torch.float32)
    in_float32 = 4.0 if unit < _FINE else 1.0  # dequantisation in float32 may round more than once
    margins = power_of_two.mul_(unit * in_float32 * lattice.looseness * 1.01)
    return margins.clamp_min_(2.0**-25 if unit == 2.0**-11 else _SMALLEST)  # float16 has subnormal numbers


def _refined(values: Tensor, scales: Tensor, margins: Tensor, lattice: Lattice, unit: float) -> tuple[Tensor, Tensor]:
    """The scales with which each value is within its margin, [groups, choices], 0 where there is none; and the units."""
    magnitudes = values.abs()[:, None]
    safe = torch.where(scales > 0, scales, 1.0)[..., None]
    if unit > _FINE:  # the smaller values tell first which multiples the larger ones are
        units = lattice.nearest(values[:, None] / safe).abs()
        small = units <= _SMALL
        total = torch.where(small, units, 0.0).sum(dim=-1, keepdim=True)
        safe = torch.where(total > 0, torch.where(small, magnitudes, 0.0).sum(dim=-1, keepdim=True) / total, safe)
    units = lattice.nearest(values[:, None] / safe)
    size, margins = units.abs(), margins[:, None]
    clear = margins < _CLEAR * lattice.spacing(units) * safe
    low = torch.where(clear, (magnitudes - margins) / size, 0.0).amax(dim=-1)
    high = torch.where(clear, (magnitudes + margins) / size, torch.inf).amin(dim=-1)
    fitting = (scales > 0) & (low <= high) & high.isfinite()
    scales = torch.where(fitting, (low + high) / 2, 0.0)
    if unit > _FINE:  # then the largest values may be between two multiples until the scale is known
        safe = torch.where(fitting, scales, 1.0)[..., None]
        units = lattice.nearest(values[:, None] / safe)
        uncertain = magnitudes * ((high - low) / 2 / torch.where(fitting, scales, 1.0))[..., None]
        fitting &= ((values[:, None] - units * safe).abs() <= margins + uncertain).all(dim=-1)
        scales = torch.where(fitting, scales, 0.0)
    return scales, units


def _evidence(values: Tensor, spacing: Tensor, margins: Tensor, lattice: Lattice) -> Tensor:
    """Bits, [groups]; see the head of this module."""
    bits = (spacing / (2 * margins)).log2().nan_to_num(0.0, 0.0, 0.0).clamp_min(0.0)
    ordered, order = (values if lattice.with_offset else values.abs()).sort(dim=-1)
    different = ordered.diff(dim=-1, prepend=torch.zeros_like(ordered[:, :1])) > 0
    new = torch.cat([ordered[:, :_REPEATS] != 0, ordered[:, _REPEATS:] > ordered[:, :-_REPEATS]], dim=-1) & (ordered != 0)
    bits = torch.where(new, bits.expand_as(values).gather(-1, order), 0.0)
    teller = ordered.gather(-1, bits.argmax(dim=-1, keepdim=True))
    used = torch.where(ordered == teller, bits, 0.0).sum(dim=-1)
    n_different = different.sum(dim=-1)
    by_spacing = torch.where(n_different > 2, bits.sum(dim=-1) - used - _CHOICE_BITS, 0.0).clamp_min(0.0)
    if lattice.with_offset:
        return by_spacing
    # Of one magnitude and two signs: three levels, as of a model with ternary weights.
    n_each = torch.minimum((values > 0).sum(dim=-1), (values < 0).sum(dim=-1))
    return torch.where((n_different == 1) & (n_each >= _MIN_TERNARY), _TERNARY_BITS, by_spacing)
