"""Numbers and texts as people read them."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["count", "number", "quoted", "shorten", "some_of", "times_over"]


def count(n: int, noun: str) -> str:
    """``n`` things: ``"1 tensor"``, ``"2 tensors"``."""
    return f"1 {noun}" if n == 1 else f"{n} {noun}s"


def some_of(names: Sequence[str], most: int = 6) -> str:
    """``names`` with commas between them: ``most`` of them at most, and how many more there are."""
    more = len(names) - most
    return ", ".join(shorten(name, 120) for name in names[:most]) + (f" and {more} more" if more > 0 else "")


def number(value: float) -> str:
    """A score or a limit: three significant digits, and whole numbers from a thousand on."""
    return f"{float(value):.0f}" if 1000 <= value < 1e15 else f"{float(value):.3g}"


def times_over(score: float, limit: float) -> str:
    """By what factor a score exceeds its limit, in brackets; empty for a limit of 0."""
    return f" ({score / limit:.3g} times the limit)" if limit > 0 else ""


def shorten(text: str, width: int, *, keep: str = "start") -> str:
    """``text`` on one line of at most ``width`` characters, with its start or its end kept."""
    line = text.replace("\n", "\\n").replace("\r", "\\r").replace("\t", "\\t")
    if len(line) <= width:
        return line
    return "…" + line[-(width - 1) :] if keep == "end" else line[: width - 1] + "…"


def quoted(text: str, width: int) -> str:
    """:func:`shorten` in quotation marks."""
    return f"'{shorten(text, width)}'"
