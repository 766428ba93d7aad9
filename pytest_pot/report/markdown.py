"""The Markdown report, for a job summary or a pull request."""

from __future__ import annotations

from collections.abc import Sequence

from pytest_pot.report.table import COLUMNS, Row, cells

__all__ = ["markdown_report"]


def markdown_report(rows: Sequence[Row]) -> str:
    """All gates as one Markdown table."""
    lines = ["| " + " | ".join(COLUMNS) + " |", "|" + " --- |" * len(COLUMNS)]
    lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in cells(row)) + " |" for row in rows]
    return "\n".join(lines) + "\n"
