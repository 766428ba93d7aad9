"""Plots of a gate on a score: over positions, over prompts, and how a sequential verdict was reached."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from pytest_pot.core.text import count, number
from pytest_pot.report.html.axes import Axis, LinearAxis, linear_axis, log_axis
from pytest_pot.report.html.svg import Figure, circle, columns, labels_in_lanes, line, middle_within, path, text, text_width

__all__ = ["distribution_plot", "position_plot", "trajectory_plot"]

WIDTH, HEIGHT = 340, 200
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 10, 16, 34
_TICK_GAP, _NAME_GAP = 6, 4
"""Between an axis and the labels on its left, and between a line's end and its name."""
_FIRST_LINE, _SECOND_LINE = 11, 26
"""Heights of two labels that do not meet."""
_MOST_POINTS = 150
"""Points of one line; more are averaged, or left out where a line is a path in time."""
_BINS = 30
_MOST_DOTS = 12
"""Dots on top of each other; where there would be more, columns are drawn."""
_TESTS = {"different": "DIFFERENT", "same_mean": "SAME, mean", "same_outliers": "SAME, outliers"}
"""The tests of a sequential verdict, by their keys in a step of a trajectory."""


def position_plot(by_position: Mapping[str, Any], metric: str, limit: float) -> Figure:
    """The gated metric by the position's index in the continuation."""
    means = [float(value) for value in by_position["mean"]]
    width = math.ceil(len(means) / _MOST_POINTS)
    points = [(start, _mean(means[start : start + width])) for start in range(0, len(means), width)]
    shown = limit <= 2 * max(means)
    y = linear_axis([value for _, value in points] + [limit] * shown, (HEIGHT - _BOTTOM, _TOP))
    left = max(_LEFT, *(_TICK_GAP + text_width(label) for _, label in y.ticks()))
    x = LinearAxis(0, max(len(means) - 1, 1), left, WIDTH - _RIGHT)
    parts = _axes(x, y, f"position in the continuation; mean {metric}")
    if shown:
        parts += [line(left, y.at(limit), WIDTH - _RIGHT, y.at(limit), "limit"), _over(y.at(limit), f"limit {number(limit)}")]
    places = [(x.at(index), y.at(value)) for index, value in points]
    parts.append(path(places, "curve") if len(places) > 1 else circle(*places[0], 3, "dot"))
    if 1 < len(places) <= 40:
        parts += [circle(*place, 2, "dot") for place in places]
    worst = max(range(len(means)), key=lambda index: (means[index], -index))
    described = f"{count(len(means), 'position')}; first {number(means[0])}, last {number(means[-1])}, largest "
    described += f"{number(means[worst])} at position {worst}."
    return Figure(WIDTH, HEIGHT, f"Mean {metric} by position", described, tuple(parts))


def distribution_plot(values: Sequence[float], metric: str, limit: float | None) -> Figure:
    """How the prompts' scores are spread: a dot for each, stacked, or columns where they are many.

    ``limit``: that for one prompt, where there is one.
    """
    numbers = [float(value) for value in values]
    ends = (_LEFT - 20, WIDTH - _RIGHT - 10)
    all_values = numbers if limit is None else [*numbers, limit]
    axis = log_axis(all_values, ends, decades=2)
    size = (axis.end - axis.start) / _BINS
    first = axis.start if axis.zero is None else axis.zero
    bins = Counter(round((axis.at(value) - first) / size) for value in numbers)
    bottom, most = HEIGHT - _BOTTOM, max(bins.values())
    parts = [line(first, bottom, axis.end, bottom, "axis"), *_ticks_below(axis.ticks()), _caption(f"{metric} of each prompt")]
    if limit is not None:
        parts += [line(axis.at(limit), _TOP + 4, axis.at(limit), bottom, "limit"), _beside(axis.at(limit), limit)]
    if most <= _MOST_DOTS:
        step = min(2 * 4.5, (bottom - _TOP - 12) / most)
        parts += [circle(first + k * size, bottom - 5 - step * n, 4, "dot") for k in sorted(bins) for n in range(bins[k])]
    else:
        unit = (bottom - _TOP - 12) / most
        boxes = ((first + k * size - size / 2, bottom - unit * bins[k], size - 1, unit * bins[k]) for k in sorted(bins))
        parts += [columns(boxes, "column"), text(first, _FIRST_LINE, f"{most} in the highest column", "tick")]
    ordered = sorted(numbers)
    described = f"{len(ordered)} values: lowest {number(ordered[0])}, median {number(ordered[(len(ordered) - 1) // 2])}, "
    described += f"highest {number(ordered[-1])}." + ("" if limit is None else f" Limit for one prompt {number(limit)}.")
    return Figure(WIDTH, HEIGHT, f"Spread of {metric} of each prompt", described, tuple(parts))


def trajectory_plot(trajectory: Mapping[str, Any]) -> Figure:
    """The wealth of each test, prompt by prompt, against the wealth that decides."""
    steps, threshold = trajectory["steps"], float(trajectory["threshold"])
    # Infinite wealth is None.
    wealth = {key: [math.inf if step[key] is None else float(step[key]) for step in steps] for key in _TESTS}
    finite = [value for values in wealth.values() for value in values if 0 < value < math.inf]
    right = WIDTH - _NAME_GAP - max(map(text_width, _TESTS.values()))  # the names of the lines are beside their ends
    y = log_axis([min([1e-3, *(max(value, 1e-6) for value in finite)]), 10 * threshold], (HEIGHT - _BOTTOM, _TOP))
    x = LinearAxis(0, max(len(steps), 1), _LEFT, right)
    parts = _axes(x, y, "prompts; wealth of each test")
    parts += [line(_LEFT, y.at(threshold), right, y.at(threshold), "limit")]
    parts.append(text(_LEFT + 4, y.at(threshold) - 5, f"{number(threshold)} decides", "halo"))
    every = math.ceil(len(steps) / _MOST_POINTS)
    for key, values in wealth.items():
        indices = [*range(0, len(values) - 1, every), len(values) - 1] if values else []
        points = [(x.at(0), y.at(1.0)), *((x.at(index + 1), y.at(values[index])) for index in indices)]
        parts.append(path(points, f"curve {key}"))
    after = trajectory.get("decided_after")
    if after is not None:
        parts.append(line(x.at(after), _TOP, x.at(after), HEIGHT - _BOTTOM, "named"))
    parts += _line_names({key: y.at(values[-1]) for key, values in wealth.items() if values}, right)
    ends = ", ".join(f"{_TESTS[key]} {_wealth(values[-1])}" for key, values in wealth.items() if values)
    when = "not decided" if after is None else f"decided after {count(after, 'prompt')}"
    described = f"{count(len(steps), 'prompt')}, {when}. A wealth of {number(threshold)} decides. At the end: {ends or 'none'}."
    return Figure(WIDTH, HEIGHT, "How the verdict was reached", described, tuple(parts))


def _line_names(heights: Mapping[str, float], right: float) -> list[str]:
    """Each line's name beside its end, moved down where two would meet."""
    parts, free = [], 0.0
    for key in sorted(heights, key=heights.__getitem__):
        place = max(heights[key] + 4, free)
        parts.append(text(right + _NAME_GAP, place, _TESTS[key], f"name {key}"))
        free = place + 13
    return parts


def _wealth(value: float) -> str:
    return number(value) if math.isfinite(value) else "infinite"


def _axes(x: LinearAxis, y: Axis, words: str) -> list[str]:
    """The frame of a plot with two axes."""
    left, right = x.start, x.end
    parts = [line(left, HEIGHT - _BOTTOM, right, HEIGHT - _BOTTOM, "axis"), *_ticks_below(_index_ticks(x)), _caption(words)]
    for place, label in y.ticks():
        parts += [line(left, place, right, place, "grid"), text(left - _TICK_GAP, place + 4, label, "tick", "end")]
    return parts


def _index_ticks(x: LinearAxis) -> list[tuple[float, str]]:
    return [(place, label) for place, label in x.ticks() if "." not in label]


def _ticks_below(ticks: Sequence[tuple[float, str]]) -> list[str]:
    """Labels below the plot, those left out that would meet another one."""
    lanes = labels_in_lanes(list(ticks), WIDTH)
    free = [tick for tick, (_, lane) in zip(ticks, lanes, strict=True) if lane == 0]
    height = HEIGHT - _BOTTOM + 14
    return [text(middle_within(place, label, WIDTH), height, label, "tick", "middle") for place, label in free]


def _caption(words: str) -> str:
    return text(WIDTH / 2, HEIGHT - 5, words, "caption", "middle")


def _over(height: float, words: str) -> str:
    return text(WIDTH - _RIGHT, height - 4, words, "halo", "end")


def _beside(place: float, limit: float) -> str:
    words = f"limit for one prompt {number(limit)}"
    size = text_width(words)
    if place > WIDTH / 2:
        return text(max(place - 4, size), _SECOND_LINE, words, "halo", "end")
    return text(min(place + 4, WIDTH - size), _SECOND_LINE, words, "halo")


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)
