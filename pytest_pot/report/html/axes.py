"""Axes of plots: where a value lies, and where its ticks are."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pytest_pot.core.text import number

__all__ = ["Axis", "LinearAxis", "LogAxis", "decade_label", "linear_axis", "log_axis"]

_LOWEST, _HIGHEST = -12, 9
"""Decades that an axis shows at most; what lies beyond them is drawn at its ends."""
_MOST_TICKS = 7
_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
_ZERO_GAP = 26.0
"""Room for 0 beside a logarithmic axis, in the plot's units."""


@dataclass(frozen=True)
class LinearAxis:
    """From ``low`` at ``start`` to ``high`` at ``end``, in the plot's units; ``start`` may be the larger one."""

    low: float
    high: float
    start: float
    end: float
    step: float | None = None
    """Between two ticks; None: a round number."""

    def at(self, value: float) -> float:
        """Where ``value`` lies; at an end where it is beyond it, or is no number."""
        inside = self.low if math.isnan(value) else min(max(value, self.low), self.high)
        return self.start + (inside - self.low) / (self.high - self.low) * (self.end - self.start)

    def ticks(self) -> list[tuple[float, str]]:
        """Places and labels."""
        step = self.step or _step(self.high - self.low)
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return [(self.at(k * step), number(k * step)) for k in range(first, last + 1)]


@dataclass(frozen=True)
class LogAxis:
    """Decades ``low`` to ``high`` (their exponents), and, where ``zero`` is given, a place for 0 beside them."""

    low: int
    high: int
    start: float
    end: float
    zero: float | None = None

    def at(self, value: float) -> float:
        """Where ``value`` lies; at an end where it is beyond it, or is no number."""
        if math.isnan(value) or value <= 0:
            return self.start if self.zero is None else self.zero
        exponent = self.high if math.isinf(value) else min(max(math.log10(value), self.low), self.high)
        return self.start + (exponent - self.low) / (self.high - self.low) * (self.end - self.start)

    def ticks(self) -> list[tuple[float, str]]:
        """Places and labels."""
        every = math.ceil((self.high - self.low + 1) / _MOST_TICKS)
        decades = [(self.at(10.0**k), decade_label(k)) for k in range(self.low, self.high + 1, every)]
        return decades if self.zero is None else [(self.zero, "0"), *decades]


Axis = LinearAxis | LogAxis


def log_axis(values: Iterable[float], ends: tuple[float, float], *, decades: int = 1) -> LogAxis:
    """A logarithmic axis on which all ``values`` have a place, between ``ends``; with at least so many ``decades``."""
    numbers = [value for value in values if not math.isnan(value)]
    exponents = [math.log10(value) for value in numbers if 0 < value < math.inf]
    low, high = (math.floor(min(exponents) + 1e-9), math.ceil(max(exponents) - 1e-9)) if exponents else (-6, 0)
    low, high = min(max(low, _LOWEST), _HIGHEST - 1), min(max(high, _LOWEST + 1), _HIGHEST)
    high = max(high, low + 1)
    low = min(low, high - decades)
    start, end = ends
    if not any(value <= 0 for value in numbers):
        return LogAxis(low, high, start, end)
    return LogAxis(low, high, start + math.copysign(_ZERO_GAP, end - start), end, zero=start)


def linear_axis(values: Sequence[float], ends: tuple[float, float], *, from_zero: bool = True) -> LinearAxis:
    """A linear axis with all finite ``values``, with round numbers at its ends."""
    finite = [value for value in values if math.isfinite(value)] or [0.0]
    low, high = min(finite), max(finite)
    if from_zero:
        low, high = min(low, 0.0), max(high, 0.0)
    if not high - low > 1e-12 * max(abs(high), abs(low)):
        low, high = (0.0, 2 * high or 1.0) if high >= 0 else (2 * low, 0.0)
    step = _step(high - low)
    low, high = math.floor(low / step + 1e-9) * step, math.ceil(high / step - 1e-9) * step
    return LinearAxis(low, high, *ends, step)


def decade_label(exponent: int) -> str:
    """``0.01``, ``10⁻⁴``."""
    if -3 <= exponent <= 4:
        return f"{10.0**exponent:g}"
    return "10" + str(exponent).translate(_SUPERSCRIPTS)


def _step(length: float) -> float:
    """A round number, so that about four of them make ``length``."""
    power = 10.0 ** math.floor(math.log10(length / 4))
    return next((factor * power for factor in (1, 2, 2.5, 5) if factor * power * 4.5 >= length), 10 * power)
