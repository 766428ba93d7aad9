"""The table at the end of a run: one line per gate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from pytest_pot.core.names import PLAIN_FORMATS
from pytest_pot.core.text import number, printable

__all__ = ["COLUMNS", "Row", "cells", "summary_table", "what_ran"]

Row: TypeAlias = Mapping[str, Any]
"""One gate, as :func:`pytest_pot.report.properties.rows_of` gives it."""

COLUMNS = ("test", "gate", "preset", "metric", "score", "limit", "verdict", "prompts", "tail", "ms/prompt", "candidate ran in")
_NUMBERS = ("score", "prompts", "tail", "ms/prompt")

_SIGNS = {"pot_distinct": ">", "tokens per second": ">=", "min_tokens_per_s": ">="}
"""The relation of score and limit that a gate requires, by gate or by metric; ``<=`` for all others."""


def summary_table(rows: Sequence[Row]) -> list[str]:
    """A heading and one line per gate, with aligned columns."""
    table = [list(COLUMNS), *(cells(row) for row in rows)]
    widths = [max(len(line[column]) for line in table) for column in range(len(COLUMNS))]
    return ["  ".join(map(_aligned, line, widths, COLUMNS)).rstrip() for line in table]


def what_ran(rows: Sequence[Row]) -> list[str]:
    """For each gate that came to a verdict, what ran and how, and what else a reader of a green run should know."""
    lines = []
    for row in rows:
        if row.get("conditions"):
            lines.append(f"{_test_cell(row)} ({row['gate'].removeprefix('pot_')}): {row['conditions']}")
            lines += [f"  {note}" for note in (*row.get("notes", ()), *row.get("warnings", ()))]
    return list(map(printable, lines))


def cells(row: Row) -> list[str]:
    """A gate's cells, in the order of :data:`COLUMNS`."""
    sign = _SIGNS.get(row["gate"], _SIGNS.get(row["metric"], "<="))
    has_score = row.get("score") is not None
    texts = [
        _test_cell(row),
        row["gate"].removeprefix("pot_"),
        row["preset"],
        row["metric"],
        number(row["score"]) if has_score else "-",
        f"{sign} {number(row['limit'])}",
        _verdict_cell(row),
        _prompts_cell(row) if has_score else "-",
        f"{row['tail_mass']:.1%}" if row.get("tail_mass") else "-",
        f"{row['ms_per_prompt']:.0f}" if has_score and row.get("ms_per_prompt") is not None else "-",
        _ran_cell(row.get("candidate_ran")),
    ]
    return list(map(printable, texts))


def _test_cell(row: Row) -> str:
    """The test, after the worker that ran it where each worker runs all tests, as pytest-xdist names both."""
    return f"[{row['worker']}] {row['test']}" if "worker" in row else str(row["test"])


def _verdict_cell(row: Row) -> str:
    confidence = f" {row['confidence']:.12g}" if "confidence" in row else ""
    note = " (fail)" if row["passed"] is False else ""
    if row["verdict"] == "fail":
        note = "" if row["gated"] else " (not gated)"
    return f"{row['verdict']}{confidence}{note}"


def _prompts_cell(row: Row) -> str:
    prompts = str(row.get("prompts", "-"))
    if row.get("pool"):
        prompts += f" of {row['pool']}"
    return f"{prompts}, {row['truncated']} cut" if row.get("truncated") else prompts


def _ran_cell(ran: Mapping[str, Any] | str | None) -> str:
    """The precision and the device that the candidate ran in and, where it is another one, how its weights are kept."""
    if ran is None or isinstance(ran, str):
        return ran or "-"
    place = f"{ran['dtype']} on {ran['device']}"
    if ran["format"] not in PLAIN_FORMATS:
        return f"{place}, {'from ' if ran['dequantised'] else ''}{ran['format']}"
    return place if ran["stored_dtype"] in (None, ran["dtype"]) else f"{place}, from {ran['stored_dtype']}"


def _aligned(cell: str, width: int, column: str) -> str:
    return cell.rjust(width) if column in _NUMBERS else cell.ljust(width)
