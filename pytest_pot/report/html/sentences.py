"""What came of a gate, as one sentence."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pytest_pot.core.text import count, number, times_over
from pytest_pot.report.gate_words import is_number
from pytest_pot.report.html.status import is_above
from pytest_pot.report.table import Row

__all__ = ["sentence", "sign"]

_SCORE_GATES = ("pot_identity", "pot_distinct")


def sentence(row: Row) -> str:
    """Why the gate of ``row`` passed, failed, came to no verdict or was skipped."""
    if row.get("passed") is None:
        return f"Not run: {row.get('reason', 'the reason is not known')}"
    if row.get("verdict") == "ERROR":
        return f"No verdict: {str(row.get('error', 'the reason is not known')).partition(chr(10))[0]}"
    if row.get("gate") == "pot_latency" and isinstance(row.get("latency"), Mapping):
        return _latency(row["latency"])
    if row.get("gate") in _SCORE_GATES and "confidence" in row:
        return f"{row['verdict']} at {100 * row['confidence']:.12g}% confidence {_when(row)}: {_score(row)}"
    return _score(row)


def sign(row: Row) -> str:
    """The relation of score and limit that the gate asks for."""
    if row.get("gate") == "pot_distinct":
        return ">"
    return "≥" if is_above(row) else "≤"


def _score(row: Row) -> str:
    score: Any = row.get("score")
    limit: Any = row.get("limit")
    if not (is_number(score) and is_number(limit)) or "metric" not in row:
        return f"The verdict is {row.get('verdict')}"
    figure, bound = f"{row['metric']} {number(score)}", number(limit)
    if row.get("gate") not in _SCORE_GATES:
        return f"{row.get('verdict')}: {figure}, the limit is {bound}"
    if score > limit:
        over = f"{figure} is above the limit of {bound}{times_over(score, limit)}"
        return f"{over}, so the models differ" if row["gate"] == "pot_distinct" else over
    if row["gate"] == "pot_distinct":
        return f"{figure} is not above the limit of {bound}, so the models count as the same"
    within = f"{figure} is within the limit of {bound}"
    if row.get("passed"):
        return within
    worst, prompt_limit = row.get("max_prompt_score"), row.get("max_prompt_limit")
    if worst is not None and prompt_limit is not None and worst > prompt_limit and "confidence" not in row:
        return (
            f"The worst prompt has {row['metric']} {number(worst)}, above {number(prompt_limit)}, the limit for one prompt"
            f"{times_over(worst, prompt_limit)}; the mean of {number(score)} is within {bound}"
        )
    if row.get("verdict") == "DIFFERENT":  # what was scored after the verdict may lower the mean again
        scored = f"{row['metric']} was above the limit of {bound} on the prompts that decided"
        return f"{scored}; it is {number(score)} on all that were scored"
    further = row.get("expected_further")
    more = "more prompts would not decide" if further is None else f"about {further} more prompts would decide"
    return f"{within}, which does not decide: {more}" if row.get("verdict") == "UNDECIDED" else within


def _when(row: Row) -> str:
    """After how many prompts the verdict was reached; those of a batch are all scored, also where fewer decide."""
    prompts, pool, decided_after = row.get("prompts"), row.get("pool"), row.get("decided_after")
    scored = f"{prompts}" if pool is None else f"{prompts} of {pool}"
    if decided_after is None or decided_after == prompts:
        return f"after {scored} prompts"
    return f"after {count(decided_after, 'prompt')} ({scored} were scored)"


def _latency(report: Mapping[str, Any]) -> str:
    """All checks, the decisive ones first."""
    severity = ("fail", "inconclusive", "pass")
    checks = sorted(report["checks"], key=lambda check: severity.index(check["outcome"]))
    return "; ".join(_check(check) for check in checks)


def _check(check: Mapping[str, Any]) -> str:
    point, limit, unit = check["point"], number(check["limit"]), check["name"]
    if point is None:
        return f"inconclusive: too few timings to measure {unit}"
    figure = f"{unit} {number(point)}"
    if check["outcome"] == "inconclusive":
        return f"inconclusive: {figure} is beyond the limit of {limit}, but its 95% bound is not surely so"
    return f"{figure} is {'within' if check['outcome'] == 'pass' else 'beyond'} the limit of {limit}"
