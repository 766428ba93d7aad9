"""Figures from ``tests/benchmarks/results``: whole tables, or one number by its address.

The address of a number in a Markdown file is ``FILE | SECTION | ROW | COLUMN``, and ``| FORMAT`` where it is to be written
otherwise, as Python formats a float (``.2f``, ``.0%``). SECTION is how a heading begins, ROW the text of a row's first cell, or
of its first cells with ``;`` between them, COLUMN a column's name or how it begins. Of a cell with several numbers, the first
counts. In a JSON file, keys and positions of lists follow the file's name."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pot_docs.markdown import table

__all__ = ["RESULTS", "AddressError", "result", "results_table"]

RESULTS = Path(__file__).parents[3] / "tests" / "benchmarks" / "results"

T = TypeVar("T")

_NUMBER = re.compile(r"[-+]?\d[\d,]*(?:\.\d+)?(?:e[-+]?\d+)?")
_FORMAT = re.compile(r"[+]?,?(?:\.\d+)?[fge%]")


class AddressError(ValueError):
    """An address that names nothing, or more than one thing."""


@dataclass(frozen=True)
class _Table:
    """A table of a results file; cells are Markdown."""

    section: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]

    def column(self, name: str) -> int:
        exact = [index for index, column in enumerate(self.columns) if _plain(column) == name]
        near = exact or [index for index, column in enumerate(self.columns) if _plain(column).startswith(name)]
        return _only(near, f"column {name!r}", self.columns)

    def row(self, name: str) -> Sequence[str]:
        cells = [part.strip() for part in name.split(";")]
        found = [row for row in self.rows if [_plain(cell) for cell in row[: len(cells)]] == cells]
        return _only(found, f"row {name!r}", [row[0] for row in self.rows])


def result(address: str, folder: Path = RESULTS) -> str:
    """The number, or the text, at ``address``.

    Raises:
        AddressError: there is no such file, section, row or column, or more than one.
    """
    name, *parts = (part.strip() for part in address.split("|"))
    how = parts.pop() if parts and _FORMAT.fullmatch(parts[-1]) else None
    if name.endswith(".json"):
        return _formatted(_json_value(_read(folder, name), parts), how)
    if len(parts) != 3:
        raise AddressError(f"{address!r} is not FILE | SECTION | ROW | COLUMN")
    section, row, column = parts
    found = _table(_read(folder, name), section)
    cell = found.row(row)[found.column(column)]
    number = _NUMBER.search(cell)
    if number is None:
        return _formatted(cell, how)
    return number[0] if how is None else format(float(number[0].replace(",", "")), how)


def results_table(
    name: str, section: str = "", rows: Sequence[str] = (), columns: Sequence[str] = (), folder: Path = RESULTS
) -> list[str]:
    """The lines of a table of the file ``name``: all of its rows and columns, or those that are named, in that order.

    Raises:
        AddressError: as :func:`result`.
    """
    found = _table(_read(folder, name), section)
    chosen = [found.column(column) for column in columns] or list(range(len(found.columns)))
    kept = [found.row(row) for row in rows] if rows else found.rows
    return table([found.columns[index] for index in chosen], [[row[index] for index in chosen] for row in kept])


def _read(folder: Path, name: str) -> str:
    path = folder / name
    if path.name != name or not path.is_file():
        raise AddressError(f"there is no file {name!r} in {folder.name}")
    return path.read_text(encoding="utf-8")


def _table(text: str, section: str) -> _Table:
    """The first table below the heading that begins with ``section``."""
    tables = [found for found in _tables(text) if found.section.startswith(section)]
    headings = list(dict.fromkeys(found.section for found in tables))
    if section and len(headings) > 1 and section not in headings:
        raise AddressError(f"several sections begin with {section!r}: {headings}")
    exact = [found for found in tables if found.section == section] or tables
    if not exact:
        raise AddressError(f"no table below a heading that begins with {section!r}")
    return exact[0]


def _tables(text: str) -> list[_Table]:
    tables, section, lines = [], "", text.splitlines()
    for index, line in enumerate(lines):
        if line.startswith("#"):
            section = _plain(line.lstrip("# "))
        elif line.startswith("|") and not lines[index - 1].startswith("|"):
            block = []
            for following in lines[index:]:
                if not following.startswith("|"):
                    break
                block.append([cell.strip() for cell in re.split(r"(?<!\\)\|", following)[1:-1]])
            tables.append(_Table(section, block[0], block[2:]))
    return tables


def _json_value(text: str, path: Sequence[str]) -> Any:
    value = json.loads(text)
    for step in path:
        try:
            value = value[int(step)] if isinstance(value, list) else value[step]
        except (KeyError, IndexError, ValueError, TypeError):
            raise AddressError(f"there is no {step!r} in {' | '.join(path)}") from None
    if isinstance(value, dict | list):
        raise AddressError(f"{' | '.join(path)} is not a single value")
    return value


def _formatted(value: Any, how: str | None) -> str:
    if how is None:
        return str(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise AddressError(f"{value!r} is no number, which {how!r} could write")
    return format(value, how)


def _only(found: Sequence[T], what: str, names: Sequence[str]) -> T:
    if len(found) != 1:
        raise AddressError(f"{'several times' if found else 'no'} {what} among {', '.join(names)}")
    return found[0]


def _plain(cell: str) -> str:
    return cell.replace("`", "").replace("\\", "").strip()
