"""The details of a gate on a score, for its template."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pytest_pot.core.text import number, shorten
from pytest_pot.report.gate_words import is_number
from pytest_pot.report.html.plots import distribution_plot, position_plot, trajectory_plot
from pytest_pot.report.html.scale_plot import scale_plot
from pytest_pot.report.html.status import is_above
from pytest_pot.report.html.svg import Figure
from pytest_pot.report.html.tokens import Piece, TokenView, pieces, token_views
from pytest_pot.report.table import Row
from pytest_pot.scoring.score_text import same_top_text

__all__ = ["KindBar", "PromptView", "ScoreView", "score_view"]

WIDE, NARROW = 760, 330
"""Widths of the plot of the scale, for wide and narrow pages."""
_KINDS, _KIND, _TEXT, _CONTEXT = 40, 40, 160, 600
_WORST_LISTED = 5
_PERCENTILES = {"100": "max", "50": "median", "0": "min"}
"""What percentiles are called that have a name."""


@dataclass(frozen=True)
class KindBar:
    """One kind of prompt."""

    kind: str
    score: str
    percent: int
    """Its score, of the largest kind's."""


@dataclass(frozen=True)
class PromptLine:
    """One of the worst prompts, in a table."""

    index: int
    kind: str
    score: str
    text: str


@dataclass(frozen=True)
class PromptView:
    """A prompt, and its continuation token by token."""

    index: int
    kind: str | None
    score: str
    context: tuple[Piece, ...]
    context_cut: bool
    tokens: list[TokenView]
    n_left_out: int
    """Tokens beyond those."""


@dataclass(frozen=True)
class DeltaPView:
    """Δp over all positions, in percentage points."""

    mean: str
    rms: str
    percentiles: list[tuple[str, str]]
    """Name and value, the largest first."""


@dataclass(frozen=True)
class ScoreView:
    """All parts are ready to be shown; plots are SVG."""

    metric: str
    scale: str
    scale_narrow: str
    percentile_columns: list[str]
    percentiles: list[tuple[str, list[str]]]
    """By percentile, the largest first: its name, and a cell per column."""
    metrics: list[tuple[str, str]]
    same_top: str
    delta_p: DeltaPView | None
    """None where the run has no Δp."""
    plots: list[tuple[str, str]]
    """Title and SVG."""
    kinds: list[KindBar]
    worst_lines: list[PromptLine]
    worst: list[PromptView]

    template = "score.html"


def score_view(row: Row, name: str) -> ScoreView:
    """Lay out the details in ``row`` (:class:`~pytest_pot.gates.verdict.details.ScoreDetails`); ids begin with ``name``."""
    metric, above = str(row["metric"]), is_above(row)
    columns, table = _percentiles(row, metric)
    return ScoreView(
        metric=metric,
        scale=scale_plot(row["scale"], above=above, width=WIDE).svg(f"{name}-wide"),
        scale_narrow=scale_plot(row["scale"], above=above, width=NARROW).svg(f"{name}-narrow"),
        percentile_columns=columns,
        percentiles=table,
        metrics=[(key, number(row[key])) for key in row["percentiles"] if is_number(row.get(key))],
        same_top=same_top_text(**row["same_top"]),
        delta_p=None if row["delta_p"] is None else _delta_p(row["delta_p"]),
        plots=_plots(row, metric, name),
        kinds=_kinds(row.get("kinds") or {}),
        worst_lines=_worst_lines(row["prompt_scores"]),
        worst=[_prompt(prompt) for prompt in row["worst_prompts"]],
    )


def _plots(row: Row, metric: str, name: str) -> list[tuple[str, str]]:
    limit = float(row["scale"]["limit"])
    scores = [prompt["score"] for prompt in row["prompt_scores"]]
    plots: dict[str, Figure] = {}
    if "trajectory" in row:
        plots["trajectory"] = trajectory_plot(row["trajectory"])
    if row["by_position"]["mean"] and any(scores):  # a plot of zeros shows nothing
        plots["position"] = position_plot(row["by_position"], metric, limit)
    if len(scores) > 1 and any(scores):
        plots["prompts"] = distribution_plot(scores, metric, row.get("max_prompt_limit"))
    return [(plot.title, plot.svg(f"{name}-{key}")) for key, plot in plots.items()]


def _percentiles(row: Row, metric: str) -> tuple[list[str], list[tuple[str, list[str]]]]:
    """The columns, which are metrics, and the rows."""
    by_metric: Mapping[str, Mapping[str, float]] = row["percentiles"]
    columns = [name for name in dict.fromkeys((metric, "kl")) if name in by_metric]
    keys = _largest_first(by_metric[metric])
    return columns, [(_percentile(key), [number(by_metric[name][key]) for name in columns]) for key in keys]


def _delta_p(delta_p: Mapping[str, Any]) -> DeltaPView:
    percentiles: Mapping[str, float] = delta_p["percentiles"]
    lines = [(_percentile(key), _points(percentiles[key])) for key in _largest_first(percentiles)]
    return DeltaPView(_points(delta_p["mean"]), f"{delta_p['rms']:.2f}", lines)


def _largest_first(percentiles: Iterable[str]) -> list[str]:
    """The keys in the order in which llama.cpp's ``llama-perplexity --kl-divergence`` prints percentiles."""
    return sorted(percentiles, key=float, reverse=True)


def _percentile(key: str) -> str:
    return _PERCENTILES.get(key, f"{key}%")


def _points(value: float) -> str:
    """A change of a probability, in percentage points."""
    return f"{value:+.2f}" if round(value, 2) else "0.00"


def _kinds(kinds: Mapping[str, float]) -> list[KindBar]:
    if not any(kinds.values()):
        return []
    most = max((score for score in kinds.values() if 0 < score < math.inf), default=1.0)
    ordered = sorted(kinds.items(), key=lambda item: -item[1])[:_KINDS]
    return [KindBar(shorten(kind, _KIND), number(score), _percent(score, most)) for kind, score in ordered]


def _percent(score: float, most: float) -> int:
    return round(100 * min(max(score, 0.0), most) / most) if not math.isnan(score) else 0


def _worst_lines(scores: Sequence[Mapping[str, Any]]) -> list[PromptLine]:
    worst = sorted((prompt for prompt in scores if prompt["score"] > 0), key=lambda prompt: -prompt["score"])
    return [
        PromptLine(
            prompt["prompt"], shorten(prompt["kind"] or "", _KIND), number(prompt["score"]), shorten(prompt["text"], _TEXT)
        )
        for prompt in worst[:_WORST_LISTED]
    ]


def _prompt(prompt: Mapping[str, Any]) -> PromptView:
    tokens, left_out = token_views(prompt["tokens"])
    kind = prompt["kind"]
    return PromptView(
        index=prompt["prompt"],
        kind=None if kind is None else shorten(kind, _KIND),
        score=number(prompt["score"]),
        context=pieces(prompt["context"][-_CONTEXT:], _CONTEXT, spaces=False),
        context_cut=prompt["context_cut"] or len(prompt["context"]) > _CONTEXT,
        tokens=tokens,
        n_left_out=left_out,
    )
