"""Results -> what people and machines read: terminal lines, properties, JSON, Markdown. Pure functions."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pytest_pot
from pytest_pot.gates.latency import explain as latency_report
from pytest_pot.gates.latency.gate import LatencyResult
from pytest_pot.gates.verdict import explain as evidence
from pytest_pot.gates.verdict.explain import number, times_over
from pytest_pot.gates.verdict.gate import GateResult
from pytest_pot.gates.verdict.limits import IdentityLimits
from pytest_pot.plugin.options import GateSettings
from pytest_pot.plugin.session.item_properties import PREFIX
from pytest_pot.prompts.prompt import shorten

if TYPE_CHECKING:
    from pytest_pot.scoring.score_report import WorstPosition

__all__ = [
    "error_properties",
    "explain",
    "json_report",
    "markdown_report",
    "properties",
    "summary_table",
]

Row = Mapping[str, Any]

_COLUMNS = ("test", "gate", "preset", "metric", "score", "limit", "verdict", "prompts", "ms/prompt")
_SIGNS = {"pot_distinct": ">", "tokens per second": ">=", "min_tokens_per_s": ">="}
"""How a score relates to its limit where a gate passes, by gate or by metric; at most, by default."""


def explain(result: GateResult | LatencyResult, verbosity: int = 0) -> str:
    """Why a gate failed: the score against its limit, the worst prompts and positions, a likely cause.

    ``verbosity`` below 0 gives the first line alone; above 0, more prompts and positions and every metric.
    """
    return latency_report.explain(result, verbosity) if isinstance(result, LatencyResult) else _explained(result, verbosity)


def _explained(result: GateResult, verbosity: int) -> str:
    from pytest_pot.scoring.diagnosis import likely_cause

    headline = _headline(result)
    if verbosity < 0:
        return headline
    report = result.report
    n_prompts, n_positions = (3, 3) if verbosity == 0 else (10, 10)
    lines = [headline, f"  reference {result.names[0]}, candidate {result.names[1]}; {_conditions(result)}"]
    if result.decision is not None:
        lines += evidence.lines(result, result.decision)
    if verbosity > 0:
        if report.kinds:
            lines.append("  by kind: " + ", ".join(f"{kind} {number(value)}" for kind, value in report.kinds.items()))
        lines.append("  all metrics: " + ", ".join(f"{name} {number(value)}" for name, value in report.metrics.items()))
    if not isinstance(result.settings.limits, IdentityLimits) or report.max == 0.0:  # undecided, perhaps, with nothing to show
        return "\n".join(lines)
    lines += ["  worst prompts:", *_worst_prompts(result, n_prompts)]
    lines += ["  worst positions (what was read ▸ the token that came):"]
    for position in report.worst(n_positions):
        lines += _position_lines(position)
    cause = likely_cause(report)
    if cause is not None:
        lines.append(f"  likely cause: {cause}")
    return "\n".join(lines)


def _headline(result: GateResult) -> str:
    report, limits, gate = result.report, result.settings.limits, result.settings.gate
    if result.decision is not None:
        return evidence.headline(result, result.decision)
    score = f"{report.metric} {number(report.mean)}"
    if not isinstance(limits, IdentityLimits):
        return f"{gate}: {result.verdict}: {score} is not above {number(limits.min_score)}, so the models count as the same"
    if report.mean > limits.max_score:
        return f"{gate}: {result.verdict}: {score} > {number(limits.max_score)}{times_over(report.mean, limits.max_score)}"
    over = int((report.scores > limits.max_prompt_score).sum())
    worst = report.indices[int(report.scores.argmax())]
    return (
        f"{gate}: {result.verdict}: prompt {worst} has {report.metric} {number(report.max)} > "
        f"{number(limits.max_prompt_score)}, the limit for one prompt{times_over(report.max, limits.max_prompt_score)}; "
        f"{over} of {report.n_prompts} prompts {'is' if over == 1 else 'are'} above it, though the mean of "
        f"{number(report.mean)} is within {number(limits.max_score)}"
    )


def _conditions(result: GateResult) -> str:
    report, config = result.report, result.settings.config
    cells = "whole vocabulary" if config.top_k is None else f"top {config.top_k}"
    if config.top_k is not None:
        cells += f" + tail of {report.tail_mass:.1%}" if config.tail == "bucket" else " renormalised"
    label = report.labels[0] if report.labels[0] == report.labels[1] else f"{report.labels[0]} and {report.labels[1]}"
    cut = f", {report.n_truncated} cut on the left" if report.n_truncated else ""
    positions = f"{report.n_positions} positions"
    floor = "" if result.noise_floor is None else f", noise floor {number(result.noise_floor)}"
    return f"preset {result.settings.preset}, {report.n_prompts} prompts{cut}, {positions}, {cells}, {label}{floor}"


def _worst_prompts(result: GateResult, most: int) -> list[str]:
    report = result.report
    lines = []
    for index in (-report.scores).argsort(kind="stable")[:most]:
        prompt = report.prompts[index]
        kind = f" ({prompt.kind})" if prompt.kind else ""
        lines.append(f"    {number(report.scores[index]):>9}  prompt {report.indices[index]}{kind}: {_quoted(prompt.text, 70)}")
    return lines


def _position_lines(worst: WorstPosition) -> list[str]:
    place = f"prompt {worst.prompt_index}, position {worst.position}"
    read = shorten(worst.context, 48, keep="end")
    reference = f"reference {_share(worst.reference_probability)}"
    candidate = f"candidate {_share(worst.candidate_probability)}"
    first = (
        f"first choices: {_quoted(worst.reference_choice)} {_share(worst.reference_choice_probability)}, "
        f"{_quoted(worst.candidate_choice)} {_share(worst.candidate_choice_probability)}"
    )
    token = _quoted(worst.token) + (f" (id {worst.token_id})" if "\ufffd" in worst.token else "")  # a part of a character
    return [
        f"    {number(worst.score):>9}  {place}: {read} ▸ {token}",
        f"               {reference}, {candidate}; {first}",
    ]


def _quoted(text: str, width: int = 24) -> str:
    return f"'{shorten(text, width)}'"


def _share(probability: float) -> str:
    return f"{probability:.1%}" if probability >= 0.001 else f"{100 * probability:.1g}%"


def properties(result: GateResult | LatencyResult) -> list[tuple[str, Any]]:
    """The result as flat properties of JSON types; they reach JUnit XML, and a controller from its workers, by themselves."""
    if isinstance(result, LatencyResult):
        check = result.report.decisive
        asked = _asked(result.settings, result.names)
        return _prefixed({**asked, "metric": check.name, "limit": check.limit, **latency_report.figures(result)})
    return _prefixed({**_asked(result.settings, result.names), **_figures(result)})


def _figures(result: GateResult) -> dict[str, Any]:
    report, limits = result.report, result.settings.limits
    return {
        "score": report.mean,
        "max_prompt_score": report.max,
        "max_prompt_limit": limits.max_prompt_score if isinstance(limits, IdentityLimits) else None,
        "verdict": str(result.verdict),
        "passed": result.passed,
        "prompts": report.n_prompts,
        "positions": report.n_positions,
        "truncated": report.n_truncated,
        "tail_mass": report.tail_mass,
        "noise_floor": result.noise_floor,
        "kinds": report.kinds,
        **({} if result.decision is None else evidence.properties(result, result.decision)),
        "ms_per_prompt": report.ms_per_prompt,
        **report.metrics,
    }


def error_properties(settings: GateSettings, names: tuple[str | None, str | None], message: str) -> list[tuple[str, Any]]:
    """What :func:`properties` says of a gate that came to no verdict."""
    return _prefixed({**_asked(settings, names), "verdict": "ERROR", "passed": False, "error": message})


def _asked(settings: GateSettings, names: tuple[str | None, str | None]) -> dict[str, Any]:
    metric, limit = settings.asked
    return {
        "gate": settings.gate,
        "reference": names[0],
        "candidate": names[1],
        "preset": settings.preset,
        "metric": metric,
        "limit": limit,
    }


def _prefixed(values: Mapping[str, Any]) -> list[tuple[str, Any]]:
    return [(PREFIX + name, value) for name, value in values.items()]


def summary_table(rows: Sequence[Row]) -> list[str]:
    """One line per gate under a heading, the columns aligned."""
    table = [list(_COLUMNS), *(_cells(row) for row in rows)]
    widths = [max(len(line[column]) for line in table) for column in range(len(_COLUMNS))]
    return ["  ".join(_pad(cell, widths[i], i) for i, cell in enumerate(line)).rstrip() for line in table]


def _cells(row: Row) -> list[str]:
    sign = _SIGNS.get(row["gate"], _SIGNS.get(row["metric"], "<="))
    decided = row.get("score") is not None
    return [
        row["test"],
        row["gate"].removeprefix(PREFIX),
        row["preset"],
        row["metric"],
        number(row["score"]) if decided else "-",
        f"{sign} {number(row['limit'])}",
        _verdict_cell(row),
        _prompts_cell(row) if decided else "-",
        f"{row['ms_per_prompt']:.0f}" if decided and row["ms_per_prompt"] is not None else "-",
    ]


def _verdict_cell(row: Row) -> str:
    confidence = f" {row['confidence']:.12g}" if "confidence" in row else ""
    note = "" if row["passed"] else " (fail)"
    if row["verdict"] == "fail":
        note = "" if row["gated"] else " (not gated)"
    return f"{row['verdict']}{confidence}{note}"


def _prompts_cell(row: Row) -> str:
    return f"{row['prompts']} of {row['pool']}" if row.get("pool") else str(row["prompts"])


def _pad(cell: str, width: int, column: int) -> str:
    return cell.rjust(width) if _COLUMNS[column] in ("score", "prompts", "ms/prompt") else cell.ljust(width)


def json_report(rows: Sequence[Row]) -> str:
    """All gates as one JSON document."""
    document = {"pytest_pot": pytest_pot.__version__, "gates": [dict(row) for row in rows]}
    return json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def markdown_report(rows: Sequence[Row]) -> str:
    """All gates as one Markdown table, for a job summary or a pull request."""
    lines = ["| " + " | ".join(_COLUMNS) + " |", "|" + " --- |" * len(_COLUMNS)]
    lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in _cells(row)) + " |" for row in rows]
    return "\n".join(lines) + "\n"
