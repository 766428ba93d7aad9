"""Plain text as Markdown: tables, and texts of the code in which names are set as code."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

__all__ = ["code", "table", "text"]

_CODE = re.compile(
    r"--[a-z][a-z-]*[a-z](?:=[\w./]+)?"  # options
    r"|\bpot_\w+|\bPOT_\w+|\bpytest_pot_\w+|\bpackage\.module:factory\b"
    r"|(?<!\w)\*?\.[a-z][a-z.]*\w\b"  # endings of files
    r"|(?<!\w)'[\w-]+'"  # strings
)
_SPECIAL = re.compile(r"([\\`*_<>\[\]|])")


def code(name: str) -> str:
    """``name`` as code that may stand in a cell."""
    return f"`{name}`".replace("|", r"\|")


def text(plain: str) -> str:
    """``plain`` as Markdown that shows the same characters, with options, keys, file endings and strings as code."""
    parts, end = [], 0
    for match in _CODE.finditer(plain):
        parts += [_SPECIAL.sub(r"\\\1", plain[end : match.start()]), code(match[0])]
        end = match.end()
    return "".join([*parts, _SPECIAL.sub(r"\\\1", plain[end:])]).replace("\n", " ")


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """The lines of a table; cells are Markdown already."""
    lines = [header, ["---"] * len(header), *rows]
    return [f"| {' | '.join(cells)} |" for cells in lines]
