"""How a verdict with a confidence is told: what is claimed, on how many prompts, and how sure. Pure functions."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from pytest_pot.gates.verdict.gate import GateResult
from pytest_pot.gates.verdict.limits import Verdict

if TYPE_CHECKING:
    from pytest_pot.gates.verdict.sequential import Decision

__all__ = ["headline", "lines", "number", "properties", "times_over"]


def number(value: float) -> str:
    """A score or a limit for people: three significant digits, and whole numbers from a thousand on."""
    return f"{float(value):.0f}" if 1000 <= value < 1e15 else f"{float(value):.3g}"


def times_over(score: float, limit: float) -> str:
    """By how much a score is above its limit."""
    return f" ({score / limit:.3g} times the limit)" if limit > 0 else ""


def headline(result: GateResult, decision: Decision) -> str:
    """The verdict, the score, and how many prompts it took."""
    report, limit = result.report, result.limit
    gate = f"{result.settings.gate}: {decision.verdict} at {_confidence(result)} confidence after {_used(result)}"
    score = f"{report.metric} {number(report.mean)}"
    if decision.verdict is Verdict.DIFFERENT:
        if report.mean > limit:
            return f"{gate}: {score} > {number(limit)}{times_over(report.mean, limit)}"
        # What the rest of the batch scored, after the verdict, may lower the mean below the limit again.
        until = [step.score for step in decision.steps[: decision.decided_after]]
        mean = math.fsum(until) / len(until)
        return f"{gate}: {report.metric} {number(mean)} > {number(limit)} on the {len(until)} prompts that decided"
    if decision.verdict is Verdict.SAME:
        return f"{gate}: {score}, so that the models count as the same: {_claim(result)}"
    return f"{gate}: {score}, the limit is {number(limit)}; {_missing(result, decision)}"


def lines(result: GateResult, decision: Decision) -> list[str]:
    """What the verdict claims, the interval, and the wealth of each test."""
    claims = {
        Verdict.SAME: f"  claimed: {_claim(result)}",
        Verdict.DIFFERENT: f"  claimed: the mean score is above {number(result.limit)}",
        Verdict.UNDECIDED: f"  neither shown: the mean score is above {number(result.limit)}; {_claim(result)}",
    }
    wealth = decision.wealth
    found = [
        claims[decision.verdict],
        f"  evidence (wealth, {number(decision.threshold)} decides): DIFFERENT {number(wealth.different)}; SAME "
        f"{number(wealth.mean)} for the mean, {number(wealth.outliers)} for the outliers",
    ]
    if decision.exhausted:
        found.append(f"  all {result.report.n_prompts} prompts are scored: this is the mean of all, and no estimate")
    elif decision.interval is not None:
        low, high = decision.interval
        found.append(
            f"  mean of the clipped score, wherever one stops: {number(low)} to {number(high)} at {_confidence(result)}"
        )
    return found


def properties(result: GateResult, decision: Decision) -> dict[str, Any]:
    """The decision as JSON types; a wealth without end is the string ``"inf"``."""
    return {
        "confidence": result.settings.confidence,
        "pool": result.pool,
        "score_clip": result.settings.score_clip,
        "max_outliers": result.settings.max_outliers,
        "outliers": decision.n_outliers,
        "decided_after": decision.decided_after,
        "expected_further": decision.expected_further,
        "interval": None if decision.interval is None else list(decision.interval),
        "wealth_threshold": decision.threshold,
        **{f"wealth_{name}": _finite(value) for name, value in decision.wealth._asdict().items()},
    }


def _finite(value: float) -> float | str:
    return value if math.isfinite(value) else "inf"


def _confidence(result: GateResult) -> str:
    return f"{100 * (result.settings.confidence or 0):.12g}%"


def _used(result: GateResult) -> str:
    n = result.report.n_prompts
    return f"{n} prompts" if result.pool is None else f"{n} of {result.pool} prompts"


def _claim(result: GateResult) -> str:
    limit = result.limit
    share = f"fewer than {100 * result.settings.max_outliers:.3g}% of the prompts"
    if limit == 0:
        return f"{share} score anything but 0"
    clip = number(result.settings.score_clip)
    return f"the mean of the score, clipped at {clip}, is at most {number(limit)}, and {share} score above {clip}"


def _missing(result: GateResult, decision: Decision) -> str:
    if decision.exhausted:
        clip = number(result.settings.score_clip)
        return (
            f"{decision.n_outliers} of the {result.report.n_prompts} prompts are above {clip}, the limit for one prompt: too "
            "many to be the same, though the mean is within its limit. Look at them"
        )
    if decision.expected_further is None:
        return "the evidence does not grow: the score is too near to the limit for any number of prompts"
    return f"about {decision.expected_further} more prompts would decide"
