"""The tables and the plot of speed.py."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

__all__ = ["page", "plot", "section"]

Document = dict[str, Any]

TITLES = {
    "presets": "The presets, 16 prompts",
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
    "presets": "Time per prompt, relative to `original`. `original`, accurate and single score only one prompt in three, in "
    'order of length. Without "recorded", both models are run. Floors: time relative to only the matrix products that this '
    "configuration cannot avoid.",
    "batches": "Time per prompt, relative to `original`. It and batches of 1 score only one prompt in five, ordered by length.",
    "top_k": "Time per prompt, relative to `original`, which scores one prompt in three, in order of length. Scores are mean "
    "tv; errors are relative to the whole vocabulary. Verdicts at the tolerance int8.",
    "counts": "Time per prompt, relative to that with 100 prompts; memory above what was resident before the run.",
    "waterfall": "Each line adds one technique to those above it. Floors as above, with one model to be run.",
    "verdicts": "Prompts are drawn from the whole suite, where one in thirteen has 1,000 tokens or more: the preset reads "
    "256 of these tokens, `original` up to 1,024. Time is relative to `original` on 100 prompts (timed on "
    "one in 25, in order of length).",
    "prefix": "Time relative to that without sharing.",
    "dtype": "Time relative to the same weights in float32; the model is in memory, and is converted in each run.",
    "vocabulary": "Resident memory.",
    "startup": "Time relative to a script that imports, loads and runs the same forward passes.",
}


def section(name: str, document: Document) -> list[str]:
    """One section as a heading and a table in Markdown."""
    rows: Sequence[dict[str, Any]] = document["sections"][name]
    columns = [column for column in rows[0] if column not in ("least", "most")]
    lines = [f"## {TITLES[name]}", "", NOTES[name], "", f"| {' | '.join(map(_head, columns))} |", "|---" * len(columns) + "|"]
    lines += [f"| {' | '.join(_cell(column, row) for column in columns)} |" for row in rows]
    return lines


def page(document: Document) -> str:
    """The whole page: all sections in Markdown."""
    lines = [
        "# What scoring costs",
        "",
        f"Written by `tests/benchmarks/speed.py`: {document['model']}; unless stated otherwise {document['prompts']} prompts "
        f"of {document['tokens']} tokens, which are the last two fifths of a context and 32 of a continuation; "
        f"{document['cpu']}, {document['threads']} threads, torch {document['torch']}, transformers "
        f"{document['transformers']}. Ratios are medians over {document['rounds']} rounds of the "
        "ratio within a round, with minimum and maximum. For a GPU, see `tests/benchmarks/gpu.py`.",
    ]
    for name in document["sections"]:
        lines += ["", *section(name, document)]
    return "\n".join(lines) + "\n"


def plot(document: Document, target: Path) -> str:
    """Draw the times relative to ``original`` as bars. Returns what to add to the message about the files written."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return "; no plot, matplotlib is not installed"
    plotted = ("presets", "batches", "waterfall")
    sections = {name: document["sections"][name] for name in plotted if name in document["sections"]}
    if not sections:
        return ""
    figure = Figure(figsize=(8, 1.5 + 0.28 * sum(map(len, sections.values()))), layout="constrained")
    axes = figure.subplots(len(sections), squeeze=False, height_ratios=[len(rows) + 1 for rows in sections.values()])[:, 0]
    for ax, (name, rows) in zip(axes, sections.items(), strict=True):
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
