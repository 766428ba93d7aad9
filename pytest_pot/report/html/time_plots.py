"""Plots of a gate on latency: both models' times, and their ratios pair by pair."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence

from pytest_pot.core.text import number
from pytest_pot.report.html.axes import linear_axis
from pytest_pot.report.html.svg import Figure, circle, line, middle_within, text

__all__ = ["times_plot"]

WIDTH, _ROW, _TOP, _BOTTOM = 340, 54, 8, 36
_MOST_DOTS = 300
_LEVELS = (0, -7, 7, -3.5, 3.5, -10, 10)
"""Heights of dots in a row, in turn, so that equal times do not hide each other."""


def times_plot(rows: Mapping[str, Sequence[float]], unit: str, limit: float | None = None) -> Figure:
    """One row of dots per name, with a line at the median, all on one axis.

    Args:
        rows: values by name; none is empty.
        unit: what the axis shows: ``"ms"``.
        limit: drawn through all rows, where there is one.
    """
    every = [value for values in rows.values() for value in values]
    axis = linear_axis([*every, *([] if limit is None else [limit])], (18, WIDTH - 18), from_zero=False)
    height = _TOP + _ROW * len(rows) + _BOTTOM
    bottom = height - _BOTTOM
    parts = [line(axis.start, bottom, axis.end, bottom, "axis")]
    for place, label in axis.ticks():
        parts.append(line(place, bottom, place, bottom + 4, "axis"))
        parts.append(text(middle_within(place, label, WIDTH), bottom + 16, label, "tick", "middle"))
    parts.append(text(WIDTH / 2, height - 5, unit, "caption", "middle"))
    if limit is not None:
        parts.append(line(axis.at(limit), _TOP, axis.at(limit), bottom, "limit"))
    described = []
    for index, (name, values) in enumerate(rows.items()):
        middle = statistics.median(values)
        top = _TOP + _ROW * index
        parts.append(text(axis.start, top + 10, f"{name}, median {number(middle)}", "halo"))
        step = math.ceil(len(values) / _MOST_DOTS)
        parts += [
            circle(axis.at(value), top + 31 + _LEVELS[k % len(_LEVELS)], 2.5, f"dot row{index}")
            for k, value in enumerate(values[::step])
        ]
        parts.append(line(axis.at(middle), top + 17, axis.at(middle), top + 45, "median"))
        described.append(
            f"{name}: {len(values)} values, {number(min(values))} to {number(max(values))}, median {number(middle)}"
        )
    if limit is not None:
        anchor, shift = ("end", -4) if axis.at(limit) > WIDTH / 2 else ("start", 4)
        parts.append(text(axis.at(limit) + shift, bottom - 3, f"limit {number(limit)}", "halo", anchor))
        described.append(f"limit {number(limit)}")
    return Figure(WIDTH, height, f"{' and '.join(rows)}, {unit}", f"{'; '.join(described)}.", tuple(parts))
