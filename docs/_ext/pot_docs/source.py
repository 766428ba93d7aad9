"""A page's text before Sphinx reads it: generated blocks, figures, and links to files outside of ``docs``."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from pot_docs.results import AddressError, result, results_table
from pot_docs.tables import GENERATED

__all__ = ["PageError", "prepared"]

DOCS = Path(__file__).parents[2]
ROOT = DOCS.parent

_FENCE = re.compile(r" *(`{3,}|~{3,}|:{3,})(.*)")
_LINK = re.compile(r"\[([^\]\[]*(?:\[[^\]]*\][^\]\[]*)?)\]\((?!\w+:|#)([^)#\s]+)(#[^)\s]*)?\)")
_RESULT = re.compile(r"\{result\}`([^`]+)`")


class PageError(ValueError):
    """Something in a page that cannot be generated; the message says what."""


def prepared(text: str, page: Path, repository: str | None) -> str:
    """``text`` of ``page`` as Sphinx reads it.

    ``repository``: the address below which a file of the repository can be read; without it, a link to a file is the file's
    name, as code.

    Raises:
        PageError: a block or a figure names something that is not there.
    """

    def link(match: re.Match[str]) -> str:
        target = os.path.normpath(page.parent / match[2])
        if Path(target).is_relative_to(DOCS):
            return match[0]
        if repository is None:
            return match[1]
        return f"[{match[1]}]({repository}/{Path(target).relative_to(ROOT).as_posix()}{match[3] or ''})"

    try:
        return "\n".join(_lines(text.splitlines(), link)) + "\n"
    except AddressError as error:
        raise PageError(str(error)) from None


def _lines(lines: list[str], link: Callable[[re.Match[str]], str]) -> Iterator[str]:
    index = 0
    while index < len(lines):
        fence = _FENCE.fullmatch(lines[index])
        if fence is None or fence[1].startswith(":"):  # the text of a note is text
            yield _LINK.sub(link, _RESULT.sub(lambda match: result(match[1]), lines[index]))
            index += 1
            continue
        end = next((i for i in range(index + 1, len(lines)) if lines[i].strip() == fence[1]), len(lines))
        name, _, argument = fence[2].partition("}")
        make = _BLOCKS.get(name)
        if make is None:
            yield from lines[index : end + 1]
        else:
            yield from make(argument.strip(), lines[index + 1 : end])
        index = end + 1


def _generated(name: str, _: list[str]) -> list[str]:
    if name not in GENERATED:
        raise PageError(f"nothing generates {name!r}; there is {', '.join(GENERATED)}")
    return list(GENERATED[name]())


def _results_table(name: str, lines: list[str]) -> list[str]:
    options: dict[str, str] = {}
    for line in filter(None, map(str.strip, lines)):
        option = re.fullmatch(r":(section|rows|columns): *(.+)", line)
        if option is None:
            raise PageError(f"{line!r} is no option of results-table; they are :section:, :rows: and :columns:")
        options[option[1]] = option[2]
    rows, columns = (_names(options.get(name, "")) for name in ("rows", "columns"))
    return results_table(name, options.get("section", ""), rows, columns)


def _names(value: str) -> list[str]:
    """Names with commas between them, or with semicolons where a name has a comma."""
    return [name.strip() for name in value.split(";" if ";" in value else ",") if name.strip()]


_BLOCKS: Mapping[str, Callable[[str, list[str]], list[str]]] = {
    "{generated": _generated,
    "{results-table": _results_table,
}
