"""The messages of a gate on a score: the headline, the evidence, and the cause."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from pytest_pot.core.names import PLAIN_FORMATS
from pytest_pot.core.text import count, number, printable, times_over
from pytest_pot.gates.verdict.limits import IdentityLimits, Verdict
from pytest_pot.gates.verdict.result import ScoreOutcome
from pytest_pot.gates.verdict.scale import scale_lines

if TYPE_CHECKING:  # these need numpy
    from pytest_pot.engines.base import ModelDescription
    from pytest_pot.gates.verdict.sequential import Decision
    from pytest_pot.scoring.score_report import ScoreReport

__all__ = ["WORST_SHOWN", "explain", "headline", "notes_on", "properties"]

WORST_SHOWN = ((3, 3), (10, 10), (64, 30))
"""The most prompts and positions in a message: without ``-v``, with it, with ``-vv``. Reports in files have all prompts."""


def headline(outcome: ScoreOutcome) -> str:
    """The verdict, and the score against its limit, in one line; for a gate that passed as well."""
    if outcome.decision is not None:
        return _sequential_headline(outcome, outcome.decision)
    report, limits, gate, limit = outcome.report, outcome.settings.limits, outcome.settings.gate, outcome.limit
    score = f"{gate}: {outcome.verdict}: {report.metric} {number(report.mean)}"
    if report.mean > limit:
        return f"{score} > {number(limit)}{times_over(report.mean, limit)}"
    if not isinstance(limits, IdentityLimits):
        return f"{score} is not above {number(limit)}, so the models count as the same"
    if outcome.passed:
        return f"{score} <= {number(limit)}"
    over = int((report.scores > limits.max_prompt_score).sum())
    worst = report.indices[int(report.scores.argmax())]
    return (
        f"{gate}: {outcome.verdict}: prompt {worst} has {report.metric} {number(report.max)} > "
        f"{number(limits.max_prompt_score)}, the limit for one prompt{times_over(report.max, limits.max_prompt_score)}; "
        f"{over} of {report.n_prompts} prompts {'is' if over == 1 else 'are'} above it, though the mean of "
        f"{number(report.mean)} is within {number(limits.max_score)}"
    )


def explain(outcome: ScoreOutcome, verbosity: int = 0) -> str:
    """Why a gate failed: the score and its limit, the worst prompts and positions, what changed or a likely cause.

    ``verbosity`` below 0 gives the headline and the first lines of the diagnosis only; above 0 adds more prompts and positions,
    all metrics, and how the figures are spread; from 2 on, up to 64 prompts, and the 30 worst positions.
    """
    if verbosity < 0 and outcome.diagnosis is None:
        return headline(outcome)
    from pytest_pot.gates.verdict.diagnosis_lines import cause_lines, quiet_lines
    from pytest_pot.scoring.score_text import figure_lines, kinds_text, metrics_text, worst_lines

    if verbosity < 0:
        return "\n".join([headline(outcome), *quiet_lines(outcome)])
    report = outcome.report
    n_prompts, n_positions = WORST_SHOWN[min(verbosity, 2)]
    lines = [
        headline(outcome),
        printable(f"  reference {outcome.names[0]}, candidate {outcome.names[1]}; {_conditions(outcome)}"),
    ]
    lines += [f"  {line}" for line in scale_lines(outcome, whole=verbosity > 0)]
    if verbosity > 0:
        lines.append(f"  ran {_how_it_ran(outcome)}")
    else:
        others = [model and _other_than_plain(model) for model in report.ran]
        lines += [f"  the {role} is {other}" for role, other in zip(("reference", "candidate"), others, strict=True) if other]
    if outcome.decision is not None:
        lines += _evidence(outcome, outcome.decision)
    if verbosity > 0:
        lines += [f"  {note}" for note in outcome.notes]
        if report.kinds:
            lines.append(f"  by kind: {kinds_text(report, 10 * n_prompts)}")
        lines.append(f"  all metrics: {metrics_text(report)}")
        lines += [f"  {line}" for line in figure_lines(report)]
    if isinstance(outcome.settings.limits, IdentityLimits) and report.max > 0:  # may be UNDECIDED with all scores 0
        lines += [f"  {line}" for line in worst_lines(report, n_prompts, n_positions, tell_more=verbosity > 1)]
    return "\n".join([*lines, *cause_lines(outcome, verbosity)])


def notes_on(report: ScoreReport) -> tuple[str, ...]:
    """What is worth knowing of the models that ran, one line each: a verdict is about what ran."""
    notes = []
    for role, model in zip(("reference", "candidate"), report.ran, strict=True):
        if model is not None:
            if (other := _other_than_plain(model)) is not None:
                notes.append(f"the {role} is {other}")
            elif model.stored_dtype is not None and model.stored_dtype != model.dtype:
                notes.append(f"the {role} is {model.stored_dtype}, scored in {model.dtype}")
            notes += [f"the {role}: {note}" for note in model.notes]
    if report.config.path == "decode":
        cached = report.n_positions - report.n_prompts
        notes.append(
            f"the candidate read the continuations token by token, as it generates: {cached} of {report.n_positions} positions "
            "depend on its cache"
        )
    return tuple(notes)


def _other_than_plain(model: ModelDescription) -> str | None:
    """What ran, if that is not plain weights in this process: no other runtime computes the same."""
    if model.dequantised:
        return f"{model.format}, dequantised to {model.dtype}: other kernels run where it is served"
    return None if model.format in PLAIN_FORMATS else f"{model.format}, scored in {model.dtype}"


def properties(outcome: ScoreOutcome) -> dict[str, Any]:
    """The outcome as JSON types."""
    report, limits = outcome.report, outcome.settings.limits
    reference, candidate = (None if model is None else asdict(model) for model in report.ran)
    return {
        "score": report.mean,
        "max_prompt_score": report.max,
        "max_prompt_limit": limits.max_prompt_score if isinstance(limits, IdentityLimits) else None,
        "verdict": str(outcome.verdict),
        "passed": outcome.passed,
        "prompts": report.n_prompts,
        "positions": report.n_positions,
        "path": report.config.path,
        "truncated": report.n_truncated,
        "tail_mass": report.tail_mass,
        "unseen": None if report.unseen is None else list(report.unseen),
        "noise_floor": outcome.noise_floor,
        "noise_floor_measured": None if outcome.floor is None else outcome.floor.how,
        "kinds": report.kinds,
        **({} if outcome.decision is None else _sequential_properties(outcome, outcome.decision)),
        "ms_per_prompt": report.ms_per_prompt,
        "batches": len(report.batches),
        **dict(zip(("largest_batch_prompts", "largest_batch_tokens"), _largest_batch(report), strict=True)),
        "batches_planned_with": report.planned_with,
        **report.metrics,
        "reference_ran": reference or report.labels[0],
        "candidate_ran": candidate or report.labels[1],
        "conditions": f"{_conditions(outcome)}; ran {_how_it_ran(outcome)}",
        "on_scale": scale_lines(outcome, whole=True),
        "notes": list(outcome.notes),
        "warnings": list(outcome.warnings),
        **_diagnosis(outcome),
    }


def _diagnosis(outcome: ScoreOutcome) -> dict[str, list[str]]:
    if outcome.diagnosis is None:
        return {}
    from pytest_pot.gates.verdict.diagnosis_lines import diagnosis_properties

    return diagnosis_properties(outcome.diagnosis)


# -- with a confidence -------------------------------------------------------------------------------------------------


def _sequential_headline(outcome: ScoreOutcome, decision: Decision) -> str:
    report, limit = outcome.report, outcome.limit
    gate = f"{outcome.settings.gate}: {decision.verdict} at {_confidence(outcome)} confidence after {_prompts_used(outcome)}"
    score = f"{report.metric} {number(report.mean)}"
    if decision.verdict is Verdict.DIFFERENT:
        if report.mean > limit:
            return f"{gate}: {score} > {number(limit)}{times_over(report.mean, limit)}"
        # The rest of the batch was scored after the verdict, and may lower the mean below the limit again.
        scores = [step.score for step in decision.steps[: decision.decided_after]]
        mean = math.fsum(scores) / len(scores)
        return f"{gate}: {report.metric} {number(mean)} > {number(limit)} on the {len(scores)} prompts that decided"
    if decision.verdict is Verdict.SAME:
        return f"{gate}: {score}, so the models count as the same: {_claim(outcome)}"
    return f"{gate}: {score}, the limit is {number(limit)}; {_missing(outcome, decision)}"


def _evidence(outcome: ScoreOutcome, decision: Decision) -> list[str]:
    """What the verdict claims, the wealth of each test, and the interval."""
    claims = {
        Verdict.SAME: f"  claimed: {_claim(outcome)}",
        Verdict.DIFFERENT: f"  claimed: the mean score is above {number(outcome.limit)}",
        Verdict.UNDECIDED: f"  neither is shown: the mean score is above {number(outcome.limit)}; {_claim(outcome)}",
    }
    wealth = decision.wealth
    lines = [
        claims[decision.verdict],
        f"  evidence (wealth, {number(decision.threshold)} decides): DIFFERENT {number(wealth.different)}; SAME "
        f"{number(wealth.mean)} for the mean, {number(wealth.outliers)} for the outliers",
    ]
    if decision.exhausted:
        lines.append(f"  all {outcome.report.n_prompts} prompts are scored: this is their exact mean, not an estimate")
    elif decision.interval is not None:
        low, high = decision.interval
        lines.append(
            f"  mean of the clipped score, valid at any stopping point: {number(low)} to {number(high)} at "
            f"{_confidence(outcome)}"
        )
    return lines


def _sequential_properties(outcome: ScoreOutcome, decision: Decision) -> dict[str, Any]:
    """The decision as JSON types; an infinite wealth is the string ``"inf"``."""
    return {
        "confidence": outcome.settings.confidence,
        "pool": outcome.pool,
        "score_clip": outcome.settings.score_clip,
        "max_outliers": outcome.settings.max_outliers,
        "outliers": decision.n_outliers,
        "decided_after": decision.decided_after,
        "expected_further": decision.expected_further,
        "interval": None if decision.interval is None else list(decision.interval),
        "wealth_threshold": decision.threshold,
        **{f"wealth_{name}": _finite(value) for name, value in decision.wealth._asdict().items()},
    }


def _finite(value: float) -> float | str:
    return value if math.isfinite(value) else "inf"


def _confidence(outcome: ScoreOutcome) -> str:
    return f"{100 * (outcome.settings.confidence or 0):.12g}%"


def _prompts_used(outcome: ScoreOutcome) -> str:
    n = outcome.report.n_prompts
    return f"{n} prompts" if outcome.pool is None else f"{n} of {outcome.pool} prompts"


def _claim(outcome: ScoreOutcome) -> str:
    limit = outcome.limit
    share = f"fewer than {100 * outcome.settings.max_outliers:.3g}% of the prompts"
    if limit == 0:
        return f"{share} score above 0"
    clip = number(outcome.settings.score_clip)
    return f"the mean of the score, clipped at {clip}, is at most {number(limit)}, and {share} score above {clip}"


def _missing(outcome: ScoreOutcome, decision: Decision) -> str:
    """What is missing for a verdict."""
    if decision.exhausted:
        clip = number(outcome.settings.score_clip)
        return (
            f"{decision.n_outliers} of the {outcome.report.n_prompts} prompts are above {clip}, the limit for one prompt: too "
            "many for SAME, though the mean is within its limit. Inspect them"
        )
    if decision.expected_further is None:
        return "more prompts would not decide: the score is too close to the limit"
    return f"about {decision.expected_further} more prompts would decide"


# -- the parts of a message --------------------------------------------------------------------------------------------


def _conditions(outcome: ScoreOutcome) -> str:
    """What was compared, and how."""
    from pytest_pot.scoring.score_text import cells_text, models_text

    report = outcome.report
    cut = f", {report.n_truncated} cut on the left" if report.n_truncated else ""
    positions = f"{report.n_positions} positions"
    floor = "" if outcome.noise_floor is None else f", noise floor {number(outcome.noise_floor)}"
    if outcome.noise_floor == 0.0:  # rounding may still show in other prompts
        floor = ", no noise seen"
    return (
        f"preset {outcome.settings.preset}, {report.n_prompts} prompts{cut}, {positions}, {cells_text(report)}, "
        f"{models_text(report.labels)}{floor}"
    )


def _how_it_ran(outcome: ScoreOutcome) -> str:
    """The batches that ran, and how the noise floor was measured."""
    n, (prompts, tokens) = len(outcome.report.batches), _largest_batch(outcome.report)
    batches = "1 batch of" if n == 1 else f"{n} batches of up to"
    floor = "" if outcome.floor is None else f"; noise floor of the {outcome.floor.role} {outcome.floor.how}"
    return f"{batches} {count(prompts, 'prompt')} and {count(tokens, 'token')}{floor}"


def _largest_batch(report: ScoreReport) -> tuple[int, int]:
    """The most prompts, and the most tokens with their padding, of one batch."""
    shapes = report.batch_shapes
    return max((prompts for prompts, _ in shapes), default=0), max((tokens for _, tokens in shapes), default=0)
