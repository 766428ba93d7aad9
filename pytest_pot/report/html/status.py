"""How the page shows what came of a gate, and which gates a reader should see first."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from pytest_pot.report.gate_words import Row, Status, is_number, required_sign

__all__ = ["MARKS", "STYLES", "closeness", "is_above"]


MARKS: Mapping[Status, str] = {
    Status.FAILED: "✗",
    Status.ERROR: "!",
    Status.EXPECTED: "✗",
    Status.INCONCLUSIVE: "?",
    Status.NOT_GATED: "?",
    Status.PASSED: "✓",
    Status.SKIPPED: "–",
}
"""What is seen without colours."""
STYLES: Mapping[Status, str] = {
    Status.FAILED: "failed",
    Status.ERROR: "error",
    Status.EXPECTED: "expected",
    Status.INCONCLUSIVE: "doubtful",
    Status.NOT_GATED: "doubtful",
    Status.PASSED: "passed",
    Status.SKIPPED: "skipped",
}
"""Names of classes in the page's style sheet."""


def is_above(row: Row) -> bool:
    """Whether the gate asks for a score above its limit, not below."""
    return required_sign(row) != "<="


def closeness(row: Row) -> float:
    """How far the score is on the wrong side of its limit, as a factor: above 1 for a score that fails, 0 where not known."""
    score: Any = row.get("score")
    limit: Any = row.get("limit")
    if not (is_number(score) and is_number(limit)):
        return 0.0
    worse, better = (limit, score) if is_above(row) else (score, limit)
    if math.isnan(worse) or math.isnan(better):
        return math.inf
    if better <= 0:
        return math.inf if worse > 0 else 1.0
    return float(worse / better)
