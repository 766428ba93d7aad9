"""The tables and the plot of what speed.py measured."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

__all__ = ["page", "plot", "section"]

Document = dict[str, Any]

TITLES = {
    "presets": "The five configurations, 16 prompts",
    "batches": "Batch sizes, 32 prompts, reference recorded",
    "top_k": "Top-k against the whole vocabulary, reference recorded, 32 positions",
    "counts": "10, 100 and 1000 prompts of 3 tokens, reference recorded, batches of 20",
    "waterfall": "From `original` to `fastest`",
    "verdicts": "Until a verdict at 95 %, reference recorded, batch auto",
    "prefix": "32 prompts with 128 tokens in common and 16 of their own, reference recorded",
    "dtype": "A model in bf16, which is upcast on this CPU, 24 whole prompts, reference recorded",
    "vocabulary": "A vocabulary of 262,144: a tiny model, 64 prompts of 256 tokens, reference recorded",
    "startup": "A whole run of pytest with one recorded gate (32 whole prompts, `balanced`)",
}
NOTES = {
    "presets": "Time per prompt as a share of `original`'s, which reads one prompt in three by length, as accurate and "
    "single do. Where it does not say recorded, both models are run. Floors: time over that of the matrix products alone that "
    "this configuration cannot do without.",
    "batches": "Time per prompt as a share of `original`'s (which reads one in five by length, as batches of 1 do).",
    "top_k": "Time per prompt as a share of `original`'s, which reads one in three by length. Scores are mean tv; "
    "the error is that against the whole vocabulary. Verdicts at the tolerance int8.",
    "counts": "Time per prompt as a share of that with 100 prompts; memory above what was resident before the run.",
    "waterfall": "Each line has what the ones above it have. Floors as above, with one model to be run.",
    "verdicts": "Prompts are drawn from the whole suite, of which one in thirteen has 1,000 tokens or more: the preset reads "
    "256 of them, `original` up to 1,024. The time is a share of what `original` takes for 100 (one in 25 by length).",
    "prefix": "Time as a share of that without sharing.",
    "dtype": "Time as a share of that of the same weights in float32; the model is in memory, and converted in each run.",
    "vocabulary": "Resident memory.",
    "startup": "Time as a share of that of a script that imports, loads and runs the same forwards.",
}


def section(name: str, document: Document) -> list[str]:
    """One section as a heading and a table in Markdown."""
    rows: Sequence[dict[str, Any]] = document["sections"][name]
    columns = [column for column in rows[0] if column not in ("least", "most")]
    lines = [f"## {TITLES[name]}", "", NOTES[name], "", f"| {' | '.join(map(_head, columns))} |", "|---" * len(columns) + "|"]
    lines += [f"| {' | '.join(_cell(column, row) for column in columns)} |" for row in rows]
    return lines


def page(document: Document) -> str:
    """All sections."""
    lines = [
        "# What scoring costs",
        "",
        f"Written by `tests/benchmarks/speed.py`: {document['model']}; unless it says otherwise {document['prompts']} prompts "
        f"of {document['tokens']} tokens, the last two fifths of a context and 32 of a continuation; {document['cpu']}, "
        f"{document['threads']} threads, torch {document['torch']}, transformers {document['transformers']}. Ratios are "
        f"medians over {document['rounds']} rounds of the ratio within a round, with the least and the most. On a GPU nothing "
        "was measured.",
    ]
    for name in document["sections"]:
        lines += ["", *section(name, document)]
    return "\n".join(lines) + "\n"


def plot(document: Document, target: Path) -> str:
    """Draw the shares of ``original``'s time as bars; says what came of it."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return "; no plot, matplotlib is not installed"
    drawn = {name: document["sections"][name] for name in ("presets", "batches", "waterfall") if name in document["sections"]}
    if not drawn:
        return ""
    figure = Figure(figsize=(8, 1.5 + 0.28 * sum(map(len, drawn.values()))), layout="constrained")
    axes = figure.subplots(len(drawn), squeeze=False, height_ratios=[len(rows) + 1 for rows in drawn.values()])[:, 0]
    for ax, (name, rows) in zip(axes, drawn.items(), strict=True):
        labels = [str(next(iter(row.values()))) for row in rows]
        ratios = [row["ratio"] for row in rows]
        errors = [[row["ratio"] - row["least"] for row in rows], [row["most"] - row["ratio"] for row in rows]]
        ax.barh(labels, ratios, xerr=errors, height=0.7)
        ax.bar_label(ax.containers[-1], fmt="%.3g", padding=3)
        ax.margins(x=0.12)
        ax.invert_yaxis()
        ax.set_title(TITLES[name].replace("`", ""), loc="left", fontsize="medium")
        ax.set_xlabel("time, original = 1")
    figure.savefig(target)
    return f", {target.name}"


def _head(column: str) -> str:
    return {"ratio": "share of time (least to most)", "s": "s"}.get(column, column)


def _cell(column: str, row: dict[str, Any]) -> str:
    value = row[column]
    if column == "ratio":
        return f"{value:.3g} ({row['least']:.3g} to {row['most']:.3g})"
    if column.endswith("error"):
        return f"{value:+.2%}"
    if value is None:
        return ""
    return f"{value:.3g}" if isinstance(value, float) else str(value)
