"""The Markdown report, for a job summary or a pull request."""

from __future__ import annotations

from collections.abc import Sequence

from pytest_pot.core.text import printable, shorten
from pytest_pot.report.table import COLUMNS, Row, cells

__all__ = ["markdown_report"]

_LINES = {"what_changed": "what changed", "where_it_starts": "where it starts"}
"""The lines of a diagnosis in a row, and what they are called."""
_MANY = 30
"""Lines of each that are shown."""


def markdown_report(rows: Sequence[Row]) -> str:
    """All gates as one Markdown table, and what changed by each that failed and knows."""
    lines = ["| " + " | ".join(COLUMNS) + " |", "|" + " --- |" * len(COLUMNS)]
    lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in cells(row)) + " |" for row in rows]
    for row in rows:
        lines += _diagnosis(row)
    return "\n".join(lines) + "\n"


def _diagnosis(row: Row) -> list[str]:
    """The section on the gate of ``row``; empty where it has no diagnosis.

    Names of tensors come from strangers: the lines are a block of code, in which no character has a meaning.
    """
    if "what_changed" not in row:
        return []
    heading = printable(f"{row['gate']} on {row['candidate']} against {row['reference']}")
    lines = ["", f"### {cells(row)[0]}", "", "    " + shorten(heading, 500)]
    for key, title in _LINES.items():
        entries = row.get(key, ())
        lines += [printable(f"    {title}: {entry}") for entry in entries[:_MANY]]
        if len(entries) > _MANY:
            lines.append(f"    … and {len(entries) - _MANY} more lines")
    return lines
