"""A gate's row in words, for reports that people read: what came of it, why, and its score against its limit."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any, TypeAlias, TypeGuard

from pytest_pot.core.text import number

__all__ = [
    "Row",
    "Status",
    "error_text",
    "is_number",
    "is_own_kind",
    "limit_words",
    "models",
    "reason",
    "required_sign",
    "score_words",
    "status",
    "title",
]

Row: TypeAlias = Mapping[str, Any]
"""One gate, as :func:`pytest_pot.report.properties.rows_of` gives it."""

_GATES = ("pot_identity", "pot_distinct", "pot_latency")
_SIGNS = {"pot_distinct": ">", "tokens per second": ">=", "min_tokens_per_s": ">="}
"""The relation of score and limit that a gate requires, by gate or by metric; ``<=`` for all others."""


class Status(StrEnum):
    """What came of a gate, the worst first."""

    FAILED = "failed"
    ERROR = "no verdict"
    EXPECTED = "failed as expected"
    """It failed, or came to no verdict, and its test is marked ``xfail``."""
    INCONCLUSIVE = "inconclusive"
    """It passed, as it is not known to be beyond its limit."""
    NOT_GATED = "not gated"
    """It is beyond its limit, and passed since the user asked for figures only."""
    SKIPPED = "skipped"
    PASSED = "passed"


def status(row: Row) -> Status:
    """What came of the gate of ``row``."""
    if row.get("passed") is None:
        return Status.SKIPPED
    if row["passed"] and row.get("verdict") == "inconclusive":
        return Status.INCONCLUSIVE
    if row["passed"]:
        return Status.NOT_GATED if row.get("verdict") == "fail" and row.get("gated") is False else Status.PASSED
    if row.get("outcome") == "xfailed":
        return Status.EXPECTED
    return Status.ERROR if row.get("verdict") == "ERROR" else Status.FAILED


def is_own_kind(row: Row) -> bool:
    """Whether the gate is of a kind of this package. Another kind may mean other things by the names of our figures."""
    return row["gate"] in _GATES


def title(row: Row) -> str:
    """The test, after the worker that ran it where each worker runs all tests."""
    return f"[{row['worker']}] {row['test']}" if "worker" in row else str(row["test"])


def models(row: Row) -> str:
    """Candidate and reference."""
    candidate, reference = row.get("candidate"), row.get("reference")
    words = "no candidate" if candidate is None else str(candidate)
    return words if reference is None else f"{words} vs {reference}"


def score_words(row: Row) -> str:
    """The score with its metric: ``"tv 0.0314"``; empty where there is none."""
    value = row.get("score")
    if not is_number(value):
        return ""
    metric = str(row.get("metric", ""))
    return f"{number(value)} {metric}" if " " in metric else f"{metric} {number(value)}".lstrip()


def limit_words(row: Row) -> str:
    """The limit with the relation that the gate requires: ``"<= 0.01"``."""
    limit = row.get("limit")
    return f"{required_sign(row)} {number(limit)}" if is_number(limit) else ""


def required_sign(row: Row) -> str:
    """The relation of score and limit that the gate requires: ``">"``, ``">="`` or ``"<="``."""
    # Another kind of gate may call anything a metric, also what cannot be looked up.
    names = [name for name in (row.get("gate"), row.get("metric")) if isinstance(name, str)]
    return next((_SIGNS[name] for name in names if name in _SIGNS), "<=")


def error_text(row: Row) -> str:
    """What was wrong where a gate came to no verdict; else empty: a gate of someone else may have a figure of this name."""
    return str(row.get("error") or "") if row.get("verdict") == "ERROR" else ""


def reason(row: Row) -> str:
    """Why the gate passed or failed, came to no verdict or was skipped, in one line: what the gate itself says.

    A row may lack that: one of an older report, or of another program. Then its figures are the reason.
    """
    skipped = row.get("reason") if row.get("passed") is None else None  # a gate of someone else may have a figure of this name
    headline = str(row.get("headline", "")).removeprefix(f"{row.get('gate')}: ")
    for text in (error_text(row), skipped, headline):
        if text:
            return str(text).partition("\n")[0]
    verdict, score, limit = str(row.get("verdict")), score_words(row), limit_words(row)
    return f"{verdict}: {score}, limit {limit}" if score and limit else verdict


def is_number(value: object) -> TypeGuard[float]:
    """Whether a value of a row is a figure."""
    return isinstance(value, int | float) and not isinstance(value, bool)
