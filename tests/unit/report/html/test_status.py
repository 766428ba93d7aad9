"""How a gate ended, and how far its score is beyond its limit."""

from __future__ import annotations

import math
from typing import Any

import pytest

from pytest_pot.report.gate_words import Status, status
from pytest_pot.report.html.status import closeness

from .rows import error_row, latency_row, score_row, skipped_row


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        (score_row(), Status.FAILED),
        (score_row(outcome="xfailed"), Status.EXPECTED),
        (error_row(), Status.ERROR),
        (error_row(outcome="xfailed"), Status.EXPECTED),
        (score_row(score=0.001), Status.PASSED),
        (score_row(score=0.001, outcome="failed"), Status.PASSED),
        (latency_row(verdict="inconclusive"), Status.INCONCLUSIVE),
        (latency_row(verdict="fail", gated=False), Status.NOT_GATED),
        (skipped_row(), Status.SKIPPED),
    ],
)
def test_how_a_gate_ended(row: dict[str, Any], expected: Status) -> None:
    assert status(row) is expected


@pytest.mark.parametrize(
    ("values", "factor"),
    [
        ({"score": 0.03, "limit": 0.01}, 3),
        ({"score": 0.005, "limit": 0.01}, 0.5),
        ({"score": 0.0, "limit": 0.0}, 1),
        ({"score": 0.1, "limit": 0.0}, math.inf),
        ({"score": 0.02, "limit": 0.01, "gate": "pot_distinct"}, 0.5),
        ({"score": 0.0, "limit": 0.01, "gate": "pot_distinct"}, math.inf),
        ({"score": 50, "limit": 100, "metric": "tokens per second"}, 2),
        ({"score": None, "limit": 1.0}, 0),
        ({"score": math.nan, "limit": 1.0}, math.inf),
    ],
)
def test_how_far_a_score_is_beyond_its_limit(values: dict[str, Any], factor: float) -> None:
    assert closeness({**score_row(), **values}) == pytest.approx(factor)
