"""Numbers and texts as people read them.

Texts of files, tokenizers and libraries come from strangers, and a terminal obeys some characters: they can move the cursor,
change the title or the clipboard, or reverse the order of a line. So every text that we show is escaped here.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

__all__ = [
    "contrasted",
    "count",
    "first_difference",
    "first_lines",
    "number",
    "printable",
    "printable_lines",
    "quoted",
    "shorten",
    "some_of",
    "times_over",
]


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


def printable(text: str) -> str:
    """``text`` on one line, with all characters escaped that do not show as themselves, as ``repr`` escapes them.

    These are control characters (C0, C1, DEL), line breaks, characters that change the direction of a line or have no width,
    spaces other than the plain one, and halves of a character.
    """
    return text if text.isprintable() else "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def printable_lines(text: str) -> str:
    """:func:`printable` for a text of several lines: line feeds stay."""
    return "\n".join(map(printable, text.split("\n")))


def shorten(text: str, width: int, *, keep: str = "start") -> str:
    """:func:`printable` of at most ``width`` characters, with the start of ``text`` or its end kept."""
    # No character gets shorter, so we need not look at more of a long text.
    line = printable(text[-width - 1 :] if keep == "end" else text[: width + 1])
    if len(line) <= width:
        return line
    return "…" + line[-(width - 1) :] if keep == "end" else line[: width - 1] + "…"


def quoted(text: str, width: int) -> str:
    """:func:`shorten` in quotation marks."""
    return f"'{shorten(text, width)}'"


def first_lines(lines: Sequence[str], most: int = 20) -> list[str]:
    """At most ``most`` of ``lines``, and how many there are beyond."""
    return [*lines[:most], *([f"… and {len(lines) - most} more"] if len(lines) > most else [])]


def first_difference(one: Sequence[object], other: Sequence[object]) -> int:
    """The index of the first element that differs; where one sequence begins with the other, the length of the shorter."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((index for index, (a, b) in pairs if a != b), min(len(one), len(other)))


def contrasted(one: str, other: str, width: int) -> tuple[str, str]:
    """Two different texts, quoted so that people can see where they first differ.

    As :func:`quoted`, unless that would look the same: then the excerpts begin shortly before the difference, and characters
    that may look alike are written as escapes.
    """
    first = first_difference(one, other)
    alike = _may_look_alike(one[first : first + 1], other[first : first + 1])
    excerpts = quoted(one, width), quoted(other, width)
    if excerpts[0] != excerpts[1] and not alike:
        return excerpts
    start = max(0, first - width // 2)

    def excerpt(text: str) -> str:
        window = text[start : start + width]
        # The escapes of shorten are for reading; these are different for different texts.
        window = window.encode("unicode_escape").decode("ascii") if alike else shorten(window, 10 * width)
        return f"'{'…' if start else ''}{window}{'…' if start + width < len(text) else ''}'"

    return excerpt(one), excerpt(other)


def _may_look_alike(one: str, other: str) -> bool:
    """Whether two characters, either of which may be missing, may be hard to tell apart, or to see at all."""
    if all(character.isascii() for character in (one, other)):
        return not all(character.isprintable() for character in (one, other))
    normal = [unicodedata.normalize("NFKC", character).casefold() for character in (one, other)]
    return not (all(c.isalpha() and not c.isascii() for c in (one, other)) and normal[0] != normal[1])
