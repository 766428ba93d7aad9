"""What a report in a file shows of a gate on a score, as JSON types: prompt by prompt, position by position."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NotRequired, TypedDict

import numpy as np

from pytest_pot.gates.verdict.result import ScoreOutcome
from pytest_pot.gates.verdict.scale import Scale, scale
from pytest_pot.scoring.position_statistics import with_text_keys

if TYPE_CHECKING:
    from pytest_pot.gates.verdict.sequential import Decision
    from pytest_pot.scoring.diagnosis.diagnosis import Diagnosis
    from pytest_pot.scoring.score_report import ScoreReport

__all__ = [
    "PromptScore",
    "ScoreDetails",
    "TokenScore",
    "Trajectory",
    "TrajectoryStep",
    "WorstPrompt",
    "details",
]

_PROMPT_TEXT, _CONTEXT = 200, 2_000
"""Characters of a prompt that are kept: of each one, and of those that are shown token by token."""
_WORST_PROMPTS = {True: 1, False: 3}
"""Prompts that are shown token by token, by whether the gate passed."""
_MOST_CHANGES = 1000
"""Changed tensors that a report lists by name. All of them are in the groups, and in ``python -m pytest_pot explain``."""


class PromptScore(TypedDict):
    """One prompt."""

    prompt: int
    """Index in the caller's list."""
    kind: str | None
    text: str
    """Its beginning."""
    score: float
    positions: int
    truncated: bool


class Choice(TypedDict):
    """A model's likeliest token."""

    text: str
    id: int
    probability: float


class TokenScore(TypedDict):
    """One token of a continuation."""

    text: str
    id: int
    score: float
    """The gated metric at this position."""
    reference: float
    """The reference's probability of the token."""
    candidate: float
    reference_choice: Choice
    candidate_choice: Choice


class WorstPrompt(TypedDict):
    """A prompt, and its continuation token by token."""

    prompt: int
    kind: str | None
    score: float
    context: str
    """The end of the prompt's text."""
    context_cut: bool
    """Whether ``context`` is not all of it."""
    tokens: list[TokenScore]


class ByPosition(TypedDict):
    """The gated metric by the position's index in the continuation."""

    mean: list[float]
    prompts: list[int]
    """How many prompts have such a position."""


class TrajectoryStep(TypedDict):
    """One prompt of a sequential verdict. Wealth that is infinite is None."""

    score: float
    different: float | None
    same_mean: float | None
    same_outliers: float | None


class Trajectory(TypedDict):
    """How a sequential verdict was reached."""

    threshold: float
    """The wealth that decides."""
    decided_after: int | None
    steps: list[TrajectoryStep]


class ScoreDetails(TypedDict):
    """The details of one gate."""

    prompt_scores: list[PromptScore]
    percentiles: dict[str, dict[str, float]]
    """By metric, and by percentile: ``"99.9"``."""
    delta_p: dict[str, Any] | None
    """See :class:`~pytest_pot.scoring.position_statistics.DeltaP`; None with ``tail="renormalise"``."""
    same_top: dict[str, float | None]
    """``share`` and ``standard_error``."""
    by_position: ByPosition
    worst_prompts: list[WorstPrompt]
    scale: Scale
    trajectory: NotRequired[Trajectory]
    diagnosis: NotRequired[dict[str, Any]]


def details(outcome: ScoreOutcome) -> Mapping[str, Any]:
    """The :class:`ScoreDetails` of ``outcome``."""
    report = outcome.report
    change = report.delta_p
    values: ScoreDetails = {
        "prompt_scores": _prompt_scores(report),
        "percentiles": {metric: with_text_keys(report.percentiles(metric)) for metric in report.divergences},
        "delta_p": None if change is None else change.to_dict(),
        "same_top": dict(report.same_top._asdict()),
        "by_position": _by_position(report),
        "worst_prompts": _worst_prompts(report, _WORST_PROMPTS[outcome.passed]),
        "scale": scale(outcome),
    }
    if outcome.decision is not None:
        values["trajectory"] = _trajectory(outcome.decision)
    if outcome.diagnosis is not None:
        values["diagnosis"] = _diagnosis(outcome.diagnosis)
    return values


def _prompt_scores(report: ScoreReport) -> list[PromptScore]:
    entries = zip(report.indices, report.prompts, report.scores.tolist(), report.tokens, strict=True)
    return [
        {
            "prompt": index,
            "kind": prompt.kind,
            "text": prompt.text[:_PROMPT_TEXT],
            "score": score,
            "positions": tokens.n_positions,
            "truncated": tokens.truncated,
        }
        for index, prompt, score, tokens in entries
    ]


def _by_position(report: ScoreReport) -> ByPosition:
    longest = max(len(values) for values in report.positions)
    sums, counts = np.zeros(longest), np.zeros(longest, dtype=np.int64)
    for values in report.positions:
        sums[: len(values)] += values
        counts[: len(values)] += 1
    return {"mean": (sums / counts).tolist(), "prompts": counts.tolist()}


def _worst_prompts(report: ScoreReport, most: int) -> list[WorstPrompt]:
    worst = [int(index) for index in (-report.scores).argsort(kind="stable")[:most] if report.scores[index] > 0]
    return [_tokens_of(report, index) for index in worst]


def _tokens_of(report: ScoreReport, index: int) -> WorstPrompt:
    prompt = report.prompts[index]
    tokens: list[TokenScore] = []
    for position in range(len(report.positions[index])):
        at = report.at(index, position)
        tokens.append(
            {
                "text": at.token,
                "id": at.token_id,
                "score": at.score,
                "reference": at.reference_probability,
                "candidate": at.candidate_probability,
                "reference_choice": {
                    "text": at.reference_choice,
                    "id": at.reference_choice_id,
                    "probability": at.reference_choice_probability,
                },
                "candidate_choice": {
                    "text": at.candidate_choice,
                    "id": at.candidate_choice_id,
                    "probability": at.candidate_choice_probability,
                },
            }
        )
    return {
        "prompt": report.indices[index],
        "kind": prompt.kind,
        "score": float(report.scores[index]),
        "context": prompt.text[-_CONTEXT:],
        "context_cut": len(prompt.text) > _CONTEXT,
        "tokens": tokens,
    }


def _trajectory(decision: Decision) -> Trajectory:
    def finite(value: float) -> float | None:
        return value if math.isfinite(value) else None

    return {
        "threshold": decision.threshold,
        "decided_after": decision.decided_after,
        "steps": [
            {
                "score": step.score,
                "different": finite(step.wealth.different),
                "same_mean": finite(step.wealth.mean),
                "same_outliers": finite(step.wealth.outliers),
            }
            for step in decision.steps
        ],
    }


def _diagnosis(diagnosis: Diagnosis) -> dict[str, Any]:
    """The diagnosis with the names of a thousand changed tensors at most, and their number."""
    values = diagnosis.to_dict()
    weights = values["weights"]
    if weights is not None:
        changes = weights["changes"]
        values["weights"] = {
            **weights,
            "n_changes": len(changes),
            "changes": changes[:_MOST_CHANGES],
            "unconfirmed": weights["unconfirmed"][:_MOST_CHANGES],
        }
    return values
