"""How a gate ended, in one word, and which gates a reader should see first."""

from __future__ import annotations

import math
from enum import Enum
from typing import Any

from pytest_pot.report.table import Row

__all__ = ["Status", "closeness", "is_above", "status_of"]


class Status(Enum):
    """How a gate ended, the worst first. The value has the name of its style, a mark, and what it is called."""

    FAILED = ("failed", "✗", "failed")
    ERROR = ("error", "!", "no verdict")
    EXPECTED = ("expected", "✗", "failed as expected")
    DOUBTFUL = ("doubtful", "?", "inconclusive")
    NOT_GATED = ("doubtful", "?", "over its limit, not gated")
    PASSED = ("passed", "✓", "passed")
    SKIPPED = ("skipped", "–", "skipped")

    @property
    def style(self) -> str:
        return self.value[0]

    @property
    def mark(self) -> str:
        return self.value[1]

    @property
    def words(self) -> str:
        return self.value[2]


def status_of(row: Row) -> Status:
    """How the gate of ``row`` ended. An expected failure is one that its test is marked with: ``xfail``."""
    passed, verdict = row.get("passed"), str(row.get("verdict"))
    if passed is None:
        return Status.SKIPPED
    if not passed:
        if row.get("outcome") == "xfailed":
            return Status.EXPECTED
        return Status.ERROR if verdict == "ERROR" else Status.FAILED
    if verdict == "inconclusive":
        return Status.DOUBTFUL
    return Status.NOT_GATED if verdict == "fail" and row.get("gated") is False else Status.PASSED


def is_above(row: Row) -> bool:
    """Whether the gate asks for a score above its limit, not below."""
    return row.get("gate") == "pot_distinct" or "tokens per second" in str(row.get("metric"))


def closeness(row: Row) -> float:
    """How far the score is on the wrong side of its limit, as a factor: above 1 for a score that fails, 0 where not known."""
    score: Any = row.get("score")
    limit: Any = row.get("limit")
    if not all(isinstance(value, int | float) for value in (score, limit)):
        return 0.0
    worse, better = (limit, score) if is_above(row) else (score, limit)
    if math.isnan(worse) or math.isnan(better):
        return math.inf
    if better <= 0:
        return math.inf if worse > 0 else 1.0
    return float(worse / better)
