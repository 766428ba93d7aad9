"""A score's figures as text, for failure messages and for ``print``: how they are spread, the worst prompts and positions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pytest_pot.core.text import count, first_lines, number, percent, quoted, shorten

if TYPE_CHECKING:  # these need numpy, and reports that show a row have none of it
    from pytest_pot.scoring.score_figures import ScoreFigures, WorstPosition

__all__ = [
    "cells_text",
    "delta_p_text",
    "figure_lines",
    "kinds_text",
    "metrics_text",
    "models_text",
    "one_line",
    "overview",
    "same_top_text",
    "worst_lines",
]

_KIND, _LABEL = 40, 400
"""The most characters of a prompt's kind, and of what a model or a recording says of its precision and device."""

_DELTA_P_PERCENTILES = {
    "0": "min",
    "0.1": "0.1%",
    "1": "1%",
    "5": "5%",
    "50": "median",
    "95": "95%",
    "99": "99%",
    "99.9": "99.9%",
    "100": "max",
}
"""Percentiles of Δp that one line shows, and what they are called there."""
_SOURCES = {"recorded": "recorded", "cached": "from the cache"}
"""How the label of a reference that was not run ends, and what a reader is told."""


def one_line(figures: ScoreFigures) -> str:
    """The score and what it is of, in at most 250 characters."""
    worst = f"{figures.metric} {number(figures.mean)}, worst prompt {number(figures.max)}"
    size = f"{count(figures.n_prompts, 'prompt')}, {count(figures.n_positions, 'position')}"
    return f"{worst}; {size}; {shorten(models_text(figures.labels), 150)}"


def overview(figures: ScoreFigures) -> list[str]:
    """The score, the conditions, and how the figures are spread."""
    size = f"the mean over {count(figures.n_prompts, 'prompt')}, {count(figures.n_positions, 'position')}"
    lines = [
        f"{figures.metric} {number(figures.mean)} ({size}); worst prompt {number(figures.max)}",
        f"compared: {cells_text(figures)}, {models_text(figures.labels)}",
        f"all metrics: {metrics_text(figures)}",
    ]
    if figures.kinds:
        lines.append(f"by kind: {kinds_text(figures, 10)}")
    return [*lines, *figure_lines(figures)]


def models_text(labels: tuple[str, str]) -> str:
    """Precision and device of reference and candidate; what both have in common only once."""
    reference, candidate = (shorten(label, _LABEL) for label in labels)
    alone, _, source = reference.rpartition(", ")
    if source not in _SOURCES:
        alone, source = reference, ""
    source = _SOURCES.get(source, "")
    if alone in ("", candidate):
        return f"{candidate} (reference {source})" if source else candidate
    (common, _, of_reference), (other, _, of_candidate) = (label.partition(", ") for label in (alone, candidate))
    if common != other:
        return f"{alone} ({source}) and {candidate}" if source else f"{alone} and {candidate}"
    details = {"reference": ", ".join(filter(None, (of_reference, source))), "candidate": of_candidate}
    return f"{common} ({'; '.join(f'{role} {detail}' for role, detail in details.items() if detail)})"


def cells_text(figures: ScoreFigures) -> str:
    """What was compared at each position."""
    config = figures.config
    cells = "whole vocabulary" if config.top_k is None else f"top {figures.n_ids or config.top_k}"
    if config.top_k is not None:
        cells += f" + tail of {figures.tail_mass:.1%}" if config.tail == "bucket" else " renormalised"
    if figures.unseen is not None:
        cells += f" ({figures.unseen[0]:.2%} and {figures.unseen[1]:.2%} unseen)"
    return cells


def metrics_text(figures: ScoreFigures) -> str:
    """All metrics with their means."""
    return ", ".join(f"{name} {number(value)}" for name, value in figures.metrics.items())


def kinds_text(figures: ScoreFigures, most: int) -> str:
    """The score of each kind of prompt, at most ``most`` of them."""
    kinds = [f"{shorten(kind, _KIND)} {number(value)}" for kind, value in figures.kinds.items()]
    return ", ".join(first_lines(kinds, most))


def figure_lines(figures: ScoreFigures) -> list[str]:
    """How the figures are spread over the positions: at most four lines, in the terms of people who quantise models."""
    metrics = dict.fromkeys((figures.metric, "kl"))
    lines = [f"{metric} over positions: {_spread(figures.percentiles(metric))}" for metric in metrics]
    change = figures.delta_p
    lines.append(f"change of the next token's probability (Δp): {delta_p_text(None if change is None else change.to_dict())}")
    compared = " of those compared" if figures.renormalised else ""
    return [*lines, f"same likeliest token{compared}: {same_top_text(*figures.same_top)}"]


def _spread(percentiles: dict[float, float]) -> str:
    names = {50: "median", 90: "90%", 99: "99%", 100: "max"}
    return ", ".join(f"{name} {number(percentiles[key])}" for key, name in names.items())


def delta_p_text(change: Mapping[str, Any] | None) -> str:
    """Mean, root of the mean square, and percentiles of both sides, in percentage points.

    Args:
        change: as :meth:`~pytest_pot.scoring.position_statistics.DeltaP.to_dict` gives it, and reports have it; None where
            probabilities are renormalised.
    """
    if change is None:
        return "not known: probabilities are relative to the compared tokens"
    values = ", ".join(f"{words} {_signed(change['percentiles'][key])}" for key, words in _DELTA_P_PERCENTILES.items())
    return f"mean {_signed(change['mean'])} points, RMS {number(change['rms'])}; {values}"


def same_top_text(share: float, standard_error: float | None) -> str:
    """The share with its standard error; one below 1 is never shown as 100 %."""
    shown = f"{100 if share == 1 else min(round(100 * share, 2), 99.99):.4g}%"
    return shown if standard_error is None else f"{shown} ± {100 * standard_error:.2g}%"


def _signed(value: float) -> str:
    return "0" if value == 0 else f"{value:+.3g}"


def worst_lines(figures: ScoreFigures, n_prompts: int, n_positions: int, *, tell_more: bool = False) -> list[str]:
    """The worst prompts and the worst positions, with headings. ``tell_more``: say how many prompts are left out."""
    lines = ["worst prompts:"]
    for index in (-figures.scores).argsort(kind="stable")[:n_prompts]:
        prompt = figures.prompts[index]
        kind = f" ({shorten(prompt.kind, _KIND)})" if prompt.kind else ""
        score = f"{number(figures.scores[index]):>9}"
        lines.append(f"  {score}  prompt {figures.indices[index]}{kind}: {quoted(prompt.text, 70)}")
    if tell_more and (more := len(figures.scores) - n_prompts) > 0:
        lines.append(f"  … and {more} more")
    lines.append("worst positions (context ▸ next token):")
    for position in figures.worst(n_positions):
        lines += _position_lines(position)
    return lines


def _position_lines(worst: WorstPosition) -> list[str]:
    place = f"prompt {worst.prompt_index}, position {worst.position}"
    context = shorten(worst.context, 48, keep="end")
    reference = f"reference {percent(worst.reference_probability)}"
    candidate = f"candidate {percent(worst.candidate_probability)}"
    first = (
        f"likeliest: reference {_token(worst.reference_choice)} {percent(worst.reference_choice_probability)}, "
        f"candidate {_token(worst.candidate_choice)} {percent(worst.candidate_choice_probability)}"
    )
    # A token that is part of a character is not readable, so show its id too.
    token = _token(worst.token) + (f" (id {worst.token_id})" if "\ufffd" in worst.token else "")
    return [
        f"  {number(worst.score):>9}  {place}: {context} ▸ {token}",
        f"             {reference}, {candidate}; {first}",
    ]


def _token(text: str) -> str:
    return quoted(text, 24)
