"""The Markdown report, for a job summary or a pull request: a table of all gates, and a section on each that failed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from pytest_pot.report.gate_words import Row, Status, limit_words, models, reason, score_words, status, title
from pytest_pot.report.markdown_sections import section
from pytest_pot.report.markdown_text import Cell, table

__all__ = ["markdown_report"]

_HEADER = ("", "test", "gate", "candidate vs reference", "score", "limit", "verdict")
_NOTE = 400
"""Bytes that are kept free for the words on gates that are left out."""


@dataclass(frozen=True)
class _Part:
    """What the report says of one gate."""

    line: str
    """Its line of the table."""
    section: str
    """Empty where there is nothing more to say."""

    @property
    def size(self) -> int:
        return _size(self.line) + _size(self.section)


def markdown_report(rows: Sequence[Row], most_bytes: int | None = None) -> str:
    """All gates as Markdown, those that failed first.

    Args:
        rows: the gates.
        most_bytes: the most that the report may take in UTF-8. Whole gates are left out where it would take more, those that
            passed first, and the report says so.

    Returns:
        the report; empty where not even its heading fits.
    """
    order = list(Status)
    ordered = sorted(rows, key=lambda row: order.index(status(row)))
    head = [f"## pytest-pot: {_counts(ordered)}", ""]
    top = table(_HEADER, ())
    note: list[str] = []
    if most_bytes is None:
        parts = list(map(_part, ordered))
    else:
        room = most_bytes - sum(map(_size, [*head, *top])) - 2
        parts = _first_that_fit(ordered, room)
        if room < 0 or (len(parts) < len(rows) and room < _NOTE):
            return ""
        if len(parts) < len(rows):
            note = [f"**{_left_out(ordered[len(parts) :])}**", ""]
    lines = [*head, *note]
    if parts:
        lines += [*top, *(part.line for part in parts), "", *(part.section for part in parts if part.section)]
    return "\n".join(lines).rstrip("\n") + "\n"


def _part(row: Row) -> _Part:
    what = status(row)
    gate = str(row["gate"]).removeprefix("pot_")
    verdict = Cell(f"{row['verdict']}: {reason(row)}" if what is Status.SKIPPED else str(row["verdict"]))
    sign = f"{SIGNS[what]} {what}"
    cells = (sign, Cell(title(row)), Cell(gate), Cell(models(row)), _code(score_words(row)), _code(limit_words(row)), verdict)
    [*_, line] = table(_HEADER, [cells])
    lines = section(row)
    return _Part(line, "\n".join([*lines, ""]) if lines else "")


SIGNS = {
    Status.FAILED: "❌",
    Status.ERROR: "❌",
    Status.EXPECTED: "➖",
    Status.INCONCLUSIVE: "⚠️",
    Status.NOT_GATED: "⚠️",
    Status.SKIPPED: "➖",
    Status.PASSED: "✅",
}
"""A sign for each status, beside its word."""


def _code(words: str) -> str:
    return Cell(words) if words else ""


def _counts(rows: Sequence[Row]) -> str:
    """``"1 failed, 3 passed"``."""
    counts = Counter(map(status, rows))
    words = [f"{counts[each]} {each}" for each in Status if counts[each]]
    return ", ".join(words) or "no gate ran"


def _first_that_fit(rows: Sequence[Row], room: int) -> list[_Part]:
    """As many of ``rows`` from the start as take at most ``room`` bytes; with the note where that is not all of them.

    No more are built than one beyond, since a run may have thousands of gates.
    """
    parts: list[_Part] = []
    used = 0
    for row in rows:
        parts.append(_part(row))
        used += parts[-1].size
        if used > room:
            while parts and used > room - _NOTE:
                used -= parts.pop().size
            break
    return parts


def _left_out(rows: Sequence[Row]) -> str:
    n = len(rows)
    gates = "1 gate is" if n == 1 else f"{n} gates are"
    return f"{gates} left out here, for lack of room ({_counts(rows)}). A file has all: --pot-report=report.html"


def _size(text: str) -> int:
    """Bytes of the lines of ``text`` in a file."""
    return len(text.encode("utf-8", "backslashreplace")) + 1
