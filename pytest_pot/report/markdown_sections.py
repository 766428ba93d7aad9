"""What the Markdown report says of one gate below the table: why it failed, what changed, the worst prompts, the spread."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pytest_pot.core.text import count, first_lines, number, percent, shorten
from pytest_pot.report.gate_words import Row, Status, error_text, is_own_kind, models, reason, status, title
from pytest_pot.report.markdown_text import Cell, code, code_block, details, table
from pytest_pot.scoring.score_text import delta_p_text, same_top_text

__all__ = ["section"]

_LINES = {"notes": "", "warnings": "", "what_changed": "what changed: ", "where_it_starts": "where it starts: "}
"""Lists of lines in a row, and how each of their lines starts."""
_MANY = 30
"""Lines of each that are shown."""
_PERCENTILES = ("50", "90", "95", "99", "99.9", "100")
_METRICS = ("kl",)
"""Metrics whose spread is shown beside that of the gated one."""
_CONTEXT, _TOKEN = 160, 30
"""Characters of a prompt and of a token."""


def section(row: Row) -> list[str]:
    """The lines of the section; empty where the table has said all."""
    if is_own_kind(row):
        return _section(row, status(row))
    try:
        return _section(row, status(row))
    except (AttributeError, LookupError, TypeError, ValueError):  # it means other things by these names
        return [] if row.get("passed") is not False else [f"### {code(title(row))}", "", *code_block([reason(row)])]


def _section(row: Row, what: Status) -> list[str]:
    if what is Status.SKIPPED:
        return []
    gate = code(f"{str(row['gate']).removeprefix('pot_')}: {models(row)}")
    figures = _figures(row)
    if row.get("passed"):
        return details(f"{what}:", [gate, "", *code_block(_told(row)), "", *figures], title(row)) if figures else []
    lines = [f"### {code(title(row))}", "", f"{gate} {what}", "", *code_block(_told(row))]
    if worst := _worst_prompts(row):
        lines += ["", *details("the worst prompts", worst)]
    if figures:
        lines += ["", *details("figures", figures)]
    return lines


def _told(row: Row) -> list[str]:
    """Why, of what, and what changed: the lines of a block of code."""
    lines = first_lines([line for line in (error_text(row) or reason(row)).split("\n") if line], _MANY)
    if row.get("conditions"):
        lines.append(str(row["conditions"]))
    for key, start in _LINES.items():
        lines += first_lines([f"{start}{entry}" for entry in row.get(key, ())], _MANY)
    return lines


def _worst_prompts(row: Row) -> list[str]:
    rows = []
    for prompt in row.get("worst_prompts", ()):
        token = max(prompt["tokens"], key=lambda entry: entry["score"])
        place = f"{prompt['prompt']}" + (f" ({prompt['kind']})" if prompt["kind"] else "")
        context = shorten(prompt["context"], _CONTEXT, keep="end")
        rows.append((number(prompt["score"]), Cell(place), Cell(context), *_token(token)))
    if not rows:
        return []
    header = (
        "score",
        "prompt",
        "text",
        "worst token",
        "reference",
        "candidate",
        "likeliest of the reference",
        "of the candidate",
    )
    return table(header, rows)


def _token(token: Mapping[str, Any]) -> tuple[str, ...]:
    choices = (token["reference_choice"], token["candidate_choice"])
    likeliest = (Cell(f"{shorten(choice['text'], _TOKEN)} {percent(choice['probability'])}") for choice in choices)
    return Cell(shorten(token["text"], _TOKEN)), percent(token["reference"]), percent(token["candidate"]), *likeliest


def _figures(row: Row) -> list[str]:
    """How divergence is spread, or what was timed."""
    return _spread(row) or _checks(row)


def _spread(row: Row) -> list[str]:
    percentiles = row.get("percentiles")
    if not percentiles:
        return []
    names = [name for name in dict.fromkeys((row["metric"], *_METRICS)) if name in percentiles]
    header = ("over positions", *("median" if p == "50" else "max" if p == "100" else f"{p}%" for p in _PERCENTILES))
    lines = table(header, ([Cell(name), *(number(percentiles[name][p]) for p in _PERCENTILES)] for name in names))
    return [
        *lines,
        "",
        f"Δp: {delta_p_text(row['delta_p'])}",
        "",
        f"Same top p: {same_top_text(**row['same_top'])}; {_counted(row)}",
    ]


def _counted(row: Row) -> str:
    floor = row.get("noise_floor")
    noise = "" if floor is None else f"; noise floor {number(floor)}"
    return f"{count(row['prompts'], 'prompt')}, {count(row['positions'], 'position')}{noise}"


def _checks(row: Row) -> list[str]:
    checks = row.get("checks")
    if not checks:
        return []
    shown: Sequence[tuple[str, ...]] = [
        (Cell(name), "too few timings" if check["found"] is None else number(check["found"]), Cell(check["outcome"]))
        for name, check in checks.items()
    ]
    times = [
        f"{name}: median {number(row[key])} ms"
        for name, key in (("candidate", "candidate_ms"), ("reference", "reference_ms"))
        if row.get(key) is not None
    ]
    return [
        *table(("limit", "found", "outcome"), shown),
        "",
        f"{'; '.join(times)}; {row['timings']} timings, IQR {row['iqr']:.0%}",
    ]
