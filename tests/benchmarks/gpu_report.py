"""The tables of gpu.py, and which of the targets its figures meet."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

__all__ = ["page", "section", "targets"]

Document = dict[str, Any]
Row = dict[str, Any]

TITLES = {
    "peak": "What the device can do",
    "presets": "Presets",
    "batches": "Batch sizes, reference recorded",
    "bare": "The preset `auto`, recorded, against its bare forwards",
    "accurate": "The whole vocabulary against the top-k: batches of 8, 32 positions, 256 tokens",
    "memory": "Peak memory of a tiny model with a large vocabulary, 64 prompts of 256 tokens",
    "latency": "Latency gates, `max_slowdown=1.25`: a copy, and a model with 1.4 times the layers",
    "identity": "A model against its copy: the largest mean of any metric",
    "noise": "A model against itself in batches of another size",
    "profile": "One recorded run of `auto`, smallest shape: what it asks of the device",
}
NOTES = {
    "peak": "The product is of two matrices of 8,192 rows and columns. Means of ten after a warm-up.",
    "presets": "After one run that is not timed. The bare forwards are those of `auto`, see its section. The share is of the "
    "measured peak, and counts the matrix products that the prompts need: no padding, the output layer at the positions only.",
    "batches": "Small batches score a sample of the prompts, evenly spaced in order of length.",
    "bare": "Bare: the body, the output layer at the positions, top-k, log-sum-exp and one copy to the host per batch; ids and "
    "masks are on the device beforehand. Products: the matrix products alone. Shares are of the measured peak.",
    "accurate": "Ratios within a round.",
    "memory": "Above the model's weights and what was allocated before. `accurate` scores 8 of the prompts.",
    "latency": "Real runs of pytest. Slowdowns are the gates' own estimates.",
    "identity": "All must be exactly 0.",
    "noise": "Mean tv over 32 prompts. The last norm of the random models is scaled so that 100 tokens leave about 0.2 of the "
    "probability to the others, as in trained models. The floor is the one for the second of the batch sizes; the ratio is "
    "that to the largest mean tv of the three pairs, and 1 where both are exactly 0.",
    "profile": "Counted by the profiler of torch. The bare forwards are those of `auto`. The host's profile is in profile.txt.",
}

_Check = tuple[str, str, str, str, Callable[[Any], bool]]
_TARGETS: Sequence[_Check] = (
    ("bare", "recorded / bare", "shape", "at most 1.25", lambda value: value <= 1.25),
    ("bare", "recorded, share", "7b", "at least 0.6", lambda value: value >= 0.6),
    ("accurate", "accurate / balanced", "shape", "at most 3", lambda value: value <= 3),
    ("identity", "both models", "shape", "exactly 0", lambda value: value == 0),
    ("identity", "recorded", "shape", "exactly 0", lambda value: value == 0),
    ("noise", "floor / largest", "shape", "from 1/3 to 3", lambda value: value is not None and 1 / 3 <= value <= 3),
)
"""Section, column, the shapes that it is for (``"shape"``: all), the target, and whether a value meets it."""


def section(name: str, document: Document) -> list[str]:
    """One section as a heading, a note and a table in Markdown."""
    rows: Sequence[Row] = document["sections"][name]
    lines = [f"## {TITLES[name]}", "", NOTES[name], ""]
    if rows:
        lines += [f"| {' | '.join(rows[0])} |", "|---" * len(rows[0]) + "|"]
        lines += [f"| {' | '.join(_cell(row[column]) for column in rows[0])} |" for row in rows]
    if name in document["errors"]:
        lines += ["", f"This section failed: {document['errors'][name]}"]
    return lines


def targets(document: Document) -> list[str]:
    """Each target that the sections have figures for: how many rows meet it, and the lowest and highest figure."""
    lines = ["| target | met by | from | to |", "|---|---|---|---|"]
    for name, column, shape, text, is_met in _TARGETS:
        rows = [row for row in document["sections"].get(name, ()) if shape in ("shape", row["shape"])]
        if not rows:
            continue
        values = [row[column] for row in rows]
        numbers = [value for value in values if value is not None] or [math.nan]
        label = column if shape == "shape" else f"{column}, {shape}"
        met = f"{sum(map(is_met, values))} of {len(values)}"
        lines.append(f"| {name}: {label}, {text} | {met} | {min(numbers):.3g} | {max(numbers):.3g} |")
    for row in document["sections"].get("latency", ()):
        wanted = "pass" if row["candidate"] == "same" else "fail"
        least, most = f"{row['least']:.3g}", f"{row['most']:.3g}"
        lines.append(f"| latency: {row['candidate']}, {wanted} | {row[wanted]} of {row['gates']} | {least} | {most} |")
    return lines if len(lines) > 2 else []


def page(document: Document) -> str:
    """The whole page: the machine, the targets, and all sections in Markdown."""
    lines = [
        "# What scoring costs on a GPU",
        "",
        f"Written by `tests/benchmarks/gpu.py`: {document['device']}, torch {document['torch']}, transformers "
        f"{document['transformers']}; {document['prompts']} built-in prompts of {document['tokens']} tokens on average; "
        f"bf16 unless stated otherwise; medians of {document['rounds']} rounds. Models have the shapes of "
        "SmolLM2-135M, Qwen2.5-1.5B and Qwen2.5-7B and random weights.",
        "",
        *targets(document),
    ]
    for name in document["sections"]:
        lines += ["", *section(name, document), "", f"({document['seconds'][name]:.0f} s)"]
    return "\n".join(lines) + "\n"


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.3g}" if isinstance(value, float) else str(value)
