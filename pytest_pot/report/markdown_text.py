"""Parts of Markdown that are made of text from strangers: in none of it has a character a meaning.

Such text is always shown as code. There, neither Markdown nor GitHub looks for links, mentions (``@name``), references to
issues (``#1``) or HTML.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from html import escape

from pytest_pot.core.text import printable, shorten

__all__ = ["Cell", "code", "code_block", "details", "table"]

_WIDTH = 300
"""Characters of a text that are shown, where a caller asks for no other number."""
_LINE = 1000
"""Characters of a line of a block of code."""


def code(text: str, width: int = _WIDTH) -> str:
    """``text`` as code within a line, of at most ``width`` characters.

    The fence is longer than any run of backticks inside, so that the text cannot close it (CommonMark 0.31, section 6.1).
    """
    line = shorten(text, width) or " "
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", line)), default=0))
    # A space on either side is taken off again; it is needed beside a backtick, and where the text has such spaces itself.
    padding = " " if line[0] in "` " or line[-1] in "` " else ""
    return f"{fence}{padding}{line}{padding}{fence}"


class Cell(str):
    """A text from a stranger, for :func:`table`."""


def table(header: Sequence[str], rows: Iterable[Sequence[str | Cell]]) -> list[str]:
    """The lines of a table. ``header`` and plain cells are our own Markdown; a :class:`Cell` becomes code."""
    lines = ["| " + " | ".join(header) + " |", "|" + " --- |" * len(header)]
    return lines + ["| " + " | ".join(map(_cell, row)) + " |" for row in rows]


def _cell(text: str | Cell) -> str:
    r"""A cell: a table is split at ``|`` before anything else is read, unless a backslash is before it.

    GitHub and other readers disagree on ``\\|``, so a bar after a backslash is written as ``\x7c``, as other escapes are.
    """
    if not isinstance(text, Cell):
        return text
    return re.sub(r"(\\*)\|", lambda bar: bar[1] + (r"\x7c" if bar[1] else r"\|"), code(text))


def code_block(lines: Iterable[str]) -> list[str]:
    """Lines of code, in a fence that is longer than any run of backticks inside."""
    shown = [shorten(line, _LINE) for line in lines]
    fence = "`" * max(3, 1 + max((len(run) for line in shown for run in re.findall("`+", line)), default=0))
    return [f"{fence}text", *shown, fence]


def details(summary: str, lines: Sequence[str], name: str = "") -> list[str]:
    """A part that opens at a click; ``name`` is text from a stranger, shown as code after our own ``summary``.

    The first line is a block of HTML, in which no Markdown is read.
    """
    shown = f" <code>{escape(shorten(name, _WIDTH))}</code>" if name else ""
    return [f"<details><summary>{escape(printable(summary))}{shown}</summary>", "", *lines, "", "</details>"]
