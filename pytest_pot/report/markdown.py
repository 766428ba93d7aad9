"""The Markdown report, for a job summary or a pull request: a table of all gates, and a section on each that failed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from pytest_pot.report.gate_words import Status, limit_words, models, reason, score_words, status, title
from pytest_pot.report.markdown_sections import section
from pytest_pot.report.markdown_text import Cell, table
from pytest_pot.report.table import Row

__all__ = ["markdown_report"]

_HEADER = ("", "test", "gate", "candidate vs reference", "score", "limit", "verdict")
_NOTE = 400
"""Bytes that are kept free for the words on gates that are left out."""


@dataclass(frozen=True)
class _Part:
    """What the report says of one gate."""

    status: Status
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
    parts = sorted(map(_part, rows), key=lambda part: order.index(part.status))
    head = [f"## pytest-pot: {_counts(parts)}", ""]
    top = table(_HEADER, ())
    kept: Sequence[_Part] = parts
    note: list[str] = []
    if most_bytes is not None and sum(map(_size, [*head, *top])) + sum(part.size for part in parts) + 2 > most_bytes:
        room = most_bytes - sum(map(_size, [*head, *top])) - _NOTE
        if room < 0:
            return ""
        kept = _first_that_fit(parts, room)
        note = [f"**{_left_out(parts[len(kept) :])}**", ""]
    lines = [*head, *note]
    if kept:
        lines += [*top, *(part.line for part in kept), "", *(part.section for part in kept if part.section)]
    return "\n".join(lines).rstrip("\n") + "\n"


def _part(row: Row) -> _Part:
    what = status(row)
    gate = str(row["gate"]).removeprefix("pot_")
    verdict = Cell(f"{row['verdict']}: {reason(row)}" if what is Status.SKIPPED else str(row["verdict"]))
    sign = f"{SIGNS[what]} {what}"
    cells = (sign, Cell(title(row)), Cell(gate), Cell(models(row)), _code(score_words(row)), _code(limit_words(row)), verdict)
    [*_, line] = table(_HEADER, [cells])
    lines = section(row)
    return _Part(what, line, "\n".join([*lines, ""]) if lines else "")


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


def _counts(parts: Sequence[_Part]) -> str:
    """``"1 failed, 3 passed"``."""
    counts = Counter(part.status for part in parts)
    words = [f"{counts[each]} {each}" for each in Status if counts[each]]
    return ", ".join(words) or "no gate ran"


def _first_that_fit(parts: Sequence[_Part], room: int) -> Sequence[_Part]:
    """As many of ``parts`` from the start as take at most ``room`` bytes."""
    for index, part in enumerate(parts):
        room -= part.size
        if room < 0:
            return parts[:index]
    return parts


def _left_out(parts: Sequence[_Part]) -> str:
    n = len(parts)
    gates = "1 gate is" if n == 1 else f"{n} gates are"
    return f"{gates} left out here, for lack of room ({_counts(parts)}). A file has all: --pot-report=report.html"


def _size(text: str) -> int:
    """Bytes of the lines of ``text`` in a file."""
    return len(text.encode("utf-8", "backslashreplace")) + 1
