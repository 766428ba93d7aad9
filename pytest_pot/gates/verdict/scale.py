"""Where a score lies: between the noise floor, the limit, the named tolerances, and known changes of the same reference."""

from __future__ import annotations

from typing import TypedDict

from pytest_pot.core.text import number, printable
from pytest_pot.gates.verdict.limits import TOLERANCE_METRIC, TOLERANCES
from pytest_pot.gates.verdict.result import ScoreOutcome

__all__ = ["Scale", "ScaleMark", "scale", "scale_lines"]

_SCORE, _LIMIT = "score", "limit"


class ScaleMark(TypedDict):
    """A named point on the scale."""

    name: str
    value: float


class Scale(TypedDict):
    """Where a score lies. All values are in the unit of the metric."""

    metric: str
    score: float
    limit: float
    floor: float | None
    """The noise floor."""
    tolerances: list[ScaleMark]
    """The named limits; empty for metrics that have none."""
    ladder: list[ScaleMark]
    """Known changes of the reference, where a calibration has measured them on this machine, the smallest first."""


def scale(outcome: ScoreOutcome) -> Scale:
    """Where the score of ``outcome`` lies."""
    metric = outcome.report.metric
    named = TOLERANCES if metric == TOLERANCE_METRIC else {}
    return {
        "metric": metric,
        "score": outcome.report.mean,
        "limit": outcome.limit,
        "floor": outcome.noise_floor,
        "tolerances": [{"name": name, "value": value} for name, value in named.items()],
        "ladder": [{"name": name, "value": value} for name, value in outcome.ladder],
    }


def scale_lines(outcome: ScoreOutcome, *, whole: bool = False) -> list[str]:
    """The scale in one line, and the rungs of the ladder next to the score in another, if there is a ladder.

    ``whole``: all tolerances, and not only those next to the score.
    """
    marks = scale(outcome)
    lines = ["scale: " + " · ".join(_shown(marks, whole=whole))]
    if marks["ladder"]:
        lines.append(f"known changes of this reference: {_between(marks)}")
    return [printable(line) for line in lines]


def _shown(marks: Scale, *, whole: bool) -> list[str]:
    """The points in their order, each with its value."""
    score, limit = marks["score"], marks["limit"]
    tolerances = [mark for mark in marks["tolerances"] if mark["value"] > 0]
    if not whole:
        tolerances = [mark for mark in tolerances if mark["value"] == limit or _is_next(mark, tolerances, score)]
    points = [(mark["value"], f"{mark['name']} {number(mark['value'])}") for mark in tolerances]
    if marks["floor"]:
        points.append((marks["floor"], f"noise floor {number(marks['floor'])}"))
    names = [index for index, (value, _) in enumerate(points) if value == limit]
    if names:
        points[names[0]] = limit, points[names[0]][1] + " (limit)"
    else:
        points.append((limit, f"{_LIMIT} {number(limit)}"))
    below = sorted(point for point in points if point[0] < score)
    above = sorted(point for point in points if point[0] >= score)  # a score that equals the limit is within it
    return [text for _, text in (*below, (score, f"[{_SCORE} {number(score)}]"), *above)]


def _is_next(mark: ScaleMark, marks: list[ScaleMark], value: float) -> bool:
    """Whether no other of ``marks`` is between ``mark`` and ``value``."""
    low, high = sorted((mark["value"], value))
    return not any(low <= other["value"] <= high for other in marks if other is not mark)


def _between(marks: Scale) -> str:
    ladder, score = marks["ladder"], marks["score"]
    below = [mark for mark in ladder if mark["value"] <= score]
    above = [mark for mark in ladder if mark["value"] > score]
    texts = [f"{mark['name']} {number(mark['value'])}" for mark in (*below[-1:], *above[:1])]
    if below and above:
        return f"between {texts[0]} and {texts[1]}"
    return f"above {texts[0]}, the largest" if below else f"below {texts[0]}, the smallest"
