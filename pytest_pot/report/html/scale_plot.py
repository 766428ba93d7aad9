"""The score on its scale: the limit, the noise floor, the named tolerances, and the reference's own ladder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pytest_pot.core.text import number, shorten
from pytest_pot.report.html.axes import log_axis
from pytest_pot.report.html.svg import Figure, circle, labels_in_lanes, line, middle_within, rect, text, text_width

__all__ = ["scale_plot"]

_MARGIN, _LANE, _BAR, _AXIS = 12, 16, 20, 18
"""Beside the axis, and the heights of a line of labels, of the bar, and of the axis' own labels."""
_NAME = 40
_SIDES = {False: ("passes", "fails"), True: ("fails", "passes")}
"""What it means to be below and above the limit, by whether a gate asks for a score above it."""


def scale_plot(scale: Mapping[str, Any], *, above: bool, width: int) -> Figure:
    """Draw ``scale``, a :class:`~pytest_pot.gates.verdict.details.Scale`, on a logarithmic axis.

    Args:
        scale: what to draw.
        above: whether the gate passes above its limit, not below.
        width: of the plot; its labels are as large with any.
    """
    marks = _marks(scale)
    score, limit = float(scale["score"]), float(scale["limit"])
    axis = log_axis([score, limit, *(value for _, value, _ in marks)], (_MARGIN, width - _MARGIN), decades=3)
    upper = [(axis.at(score), f"score {number(score)}", "strong"), (axis.at(limit), f"limit {number(limit)}", "")]
    upper_lanes = labels_in_lanes([(x, words) for x, words, _ in upper], width, strong=True)
    top = _LANE * (1 + max(lane for _, lane in upper_lanes)) + 4
    parts = _bar((axis.at(score), axis.at(limit), width), top, above=above)
    below = top + _BAR + _AXIS
    lanes = labels_in_lanes([(axis.at(value), name) for name, value, _ in marks], width)
    # Leaders first: the labels, which have an outline of the page's colour, lie over them.
    ticks = axis.ticks()
    parts += [line(x, top + _BAR, x, top + _BAR + 4, "axis") for x, _ in ticks]
    for (_, value, style), (_, lane) in zip(marks, lanes, strict=True):
        parts.append(line(axis.at(value), top + _BAR - 5, axis.at(value), below + _LANE * lane + 4, style))
    parts += [text(middle_within(x, label, width), top + _BAR + 15, label, "tick halo", "middle") for x, label in ticks]
    for (name, _, _), (start, lane) in zip(marks, lanes, strict=True):
        parts.append(text(start, below + _LANE * (lane + 1), name, "halo"))
    parts += _leaders(upper, upper_lanes, top)
    for (_, words, style), (start, lane) in zip(upper, upper_lanes, strict=True):
        parts.append(text(start, top - 8 - _LANE * lane, words, f"halo {style}".strip()))
    parts.append(circle(axis.at(score), top + _BAR / 2, 6, "score"))
    height = below + _LANE * (1 + max((lane for _, lane in lanes), default=-1)) + 8
    named = "; ".join(f"{name} {number(value)}" for name, value, _ in marks)
    description = f"Logarithmic axis. Score {number(score)}, limit {number(limit)}: a score {_meaning(above)}."
    return Figure(
        width, height, f"The score on the scale of {scale['metric']}", f"{description} Marks: {named or 'none'}.", tuple(parts)
    )


def _meaning(above: bool) -> str:
    return "above the limit passes" if above else "at most as large as the limit passes"


def _marks(scale: Mapping[str, Any]) -> list[tuple[str, float, str]]:
    """Name, value and style of all that is below the bar."""
    floor = scale.get("floor")
    marks = [] if floor is None else [("noise floor", float(floor), "floor")]
    marks += [(shorten(str(mark["name"]), _NAME), float(mark["value"]), "named") for mark in scale.get("tolerances", ())]
    rungs: Sequence[Mapping[str, Any]] = scale.get("ladder", ())
    return marks + [(shorten(f"{mark['name']} (measured)", _NAME), float(mark["value"]), "rung") for mark in rungs]


def _bar(places: tuple[float, float, float], top: float, *, above: bool) -> list[str]:
    """The two sides of the limit, with the word for each where it fits; ``places`` of the score, the limit and the end."""
    score, split, right = places
    parts = []
    for start, end, side in ((0.0, split, _SIDES[above][0]), (split, right, _SIDES[above][1])):
        if end - start > 1:
            parts.append(rect(start, top, end - start, _BAR, side))
        room = text_width(side) / 2 + 10
        middles = ((1 - share) * start + share * end for share in (0.5, 0.25, 0.75))
        free = [x for x in middles if abs(x - score) > room and start + room < x < end - room]
        parts += [text(free[0], top + 14, side, "side", "middle")] if free else []
    return [*parts, line(split, top - 4, split, top + _BAR + 4, "limit")]


def _leaders(upper: Sequence[tuple[float, str, str]], lanes: Sequence[tuple[float, int]], top: float) -> list[str]:
    """Lines from labels above the first lane down to the bar."""
    places = zip(upper, lanes, strict=True)
    return [line(x, top - 6 - _LANE * lane, x, top, "lead") for (x, _, _), (_, lane) in places if lane]
