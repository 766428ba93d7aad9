"""Where a score lies, in a line."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from pytest_pot.gates.verdict.scale import scale, scale_lines

LADDER = (("bf16", 0.0037), ("int8 per row", 0.033), ("pruned 20 %", 0.4))


def outcome(
    score: float, limit: float = 0.01, floor: float | None = 4e-7, metric: str = "tv", ladder: tuple[Any, ...] = ()
) -> Any:
    report = SimpleNamespace(metric=metric, mean=score)
    return SimpleNamespace(report=report, limit=limit, noise_floor=floor, ladder=ladder)


@pytest.mark.parametrize(
    ("score", "values", "line"),
    [
        (0.033, {}, "noise floor 4e-07 · half 0.01 (limit) · [score 0.033] · int8 0.08"),
        (0.0, {}, "[score 0] · noise floor 4e-07 · numeric 0.0001 · half 0.01 (limit)"),
        (0.6, {}, "noise floor 4e-07 · half 0.01 (limit) · int4 0.45 · [score 0.6]"),
        (0.01, {}, "noise floor 4e-07 · [score 0.01] · half 0.01 (limit)"),
        (0.033, {"limit": 0.02}, "noise floor 4e-07 · half 0.01 · limit 0.02 · [score 0.033] · int8 0.08"),
        (0.033, {"limit": 0, "floor": None}, "limit 0 · half 0.01 · [score 0.033] · int8 0.08"),
        (0.033, {"floor": 0.0}, "half 0.01 (limit) · [score 0.033] · int8 0.08"),
        (0.2, {"metric": "kl", "limit": 0.001}, "noise floor 4e-07 · limit 0.001 · [score 0.2]"),
        (0.0002, {"metric": "kl", "limit": 0.001}, "noise floor 4e-07 · [score 0.0002] · limit 0.001"),
    ],
)
def test_the_score_stands_between_its_neighbours(score: float, values: dict[str, Any], line: str) -> None:
    assert scale_lines(outcome(score, **values)) == ["scale: " + line]
    assert len(line) <= 80 - len("  scale: ")


def test_the_whole_scale() -> None:
    assert scale_lines(outcome(0.033), whole=True) == [
        "scale: noise floor 4e-07 · numeric 0.0001 · half 0.01 (limit) · [score 0.033] · int8 0.08 · int4 0.45"
    ]


@pytest.mark.parametrize(
    ("score", "text"),
    [
        (0.01, "between bf16 0.0037 and int8 per row 0.033"),
        (0.033, "between int8 per row 0.033 and pruned 20 % 0.4"),
        (0.001, "below bf16 0.0037, the smallest"),
        (0.5, "above pruned 20 % 0.4, the largest"),
    ],
)
def test_the_nearest_rungs(score: float, text: str) -> None:
    assert scale_lines(outcome(score, ladder=LADDER))[1:] == [f"known changes of this reference: {text}"]


def test_the_scale_as_data() -> None:
    marks = scale(outcome(0.01, ladder=LADDER))
    assert [mark["name"] for mark in marks["tolerances"]] == ["identical", "numeric", "half", "int8", "int4"]
    assert marks["ladder"][1] == {"name": "int8 per row", "value": 0.033}
    assert scale(outcome(0.01, metric="kl"))["tolerances"] == []
