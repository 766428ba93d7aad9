"""Numbers and texts as people read them.

Texts of files, tokenizers and libraries come from strangers, and a terminal obeys some characters: they can move the cursor,
change the title or the clipboard, or reverse the order of a line. So every text that we show is escaped here.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

__all__ = [
    "columns",
    "contrasted",
    "count",
    "cut_middle",
    "first_difference",
    "first_lines",
    "number",
    "percent",
    "printable",
    "printable_lines",
    "quoted",
    "shorten",
    "some_of",
    "times_over",
    "to_copy",
    "wrapped",
]

_COMMAND = re.compile(r" *([A-Z_]+=\S+ )*(git|pip|pytest|python3?) ")
"""The start of a line that is a command, for people to copy."""
_PIECE = re.compile(r"(?<!\w)'[^'\n]+'(?!\w)|\bpip install \S+|\bpython3? -m [\w.]+( \w[\w.]*\w)?|\bgit \w+( pull)?")
"""What stays on one line where it fits on one: quotations, and commands in a sentence."""


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


def percent(share: float) -> str:
    """``"12.3%"``; of less than 0.1 %, one significant digit: ``"0.002%"``."""
    return f"{share:.1%}" if share >= 0.001 else f"{100 * share:.1g}%"


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


def to_copy(path: object) -> str:
    """``path``, in quotation marks where it has spaces, so that people see where it ends."""
    return f"'{path}'" if " " in str(path) else str(path)


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


# -- the width of a terminal -------------------------------------------------------------------------------------------


def columns(text: str) -> int:
    """How many columns of a terminal ``text`` takes: two for the wide characters of East Asia, none for combining marks."""
    return len(text) if text.isascii() else sum(map(_columns, text))


def _columns(character: str) -> int:
    if unicodedata.category(character) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in ("F", "W") else 1


def cut_middle(text: str, width: int) -> str:
    """``text`` in at most ``width`` columns: where it takes more, a part in the middle becomes ``…``.

    Twice as much is kept of the end as of the start: the end of a test's name tells it from others.
    """
    if columns(text) <= width:
        return text
    if width < 1:
        return ""
    start = (width - 1) // 3
    return _first_columns(text, start) + "…" + _first_columns(text[::-1], width - 1 - start)[::-1]


def _first_columns(text: str, width: int) -> str:
    end, used = 0, 0
    while end < len(text) and (used := used + _columns(text[end])) <= width:
        end += 1
    return text[:end]


def wrapped(text: str, width: int) -> str:
    """``text`` with every line broken between words, so that it takes at most ``width`` columns.

    The rest of a line is indented by two more columns than its start. A word that is longer, such as the name of a file, stays
    in one piece, and so does a line that is a command to copy.
    """
    return "\n".join(part for line in text.split("\n") for part in _wrapped(line, width))


def _wrapped(line: str, width: int) -> list[str]:
    if columns(line) <= width or _COMMAND.match(line):
        return [line]
    indent = " " * (len(line) - len(line.lstrip(" ")) + 2)
    lines, current = [], ""
    for word in _words(line, width - len(indent)):
        if current.strip() and columns(current) + columns(word) > width:
            lines.append(current.rstrip(" "))
            current = indent + word.lstrip(" ")
        else:
            current += word
    return [*lines, current]


def _words(line: str, width: int) -> list[str]:
    """``line`` in pieces between which it may be broken, each with the spaces before it."""
    joined = _PIECE.sub(lambda piece: piece[0].replace(" ", "\0"), line)
    words: list[str] = []
    for word in re.findall(r" *[^ ]+", joined):
        whole = word.replace("\0", " ")
        words += [whole] if columns(whole.lstrip(" ")) <= width else re.findall(r" *[^ ]+", whole)
    return words
