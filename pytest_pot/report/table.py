"""The table at the end of a run: one line per gate, no wider than the terminal."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple, TypeAlias

from pytest_pot.core.text import columns, cut_middle, first_difference, number, printable, wrapped
from pytest_pot.report.gate_words import Row, required_sign, title

__all__ = ["Colour", "Line", "Row", "summary_table", "what_ran"]

Colour: TypeAlias = Literal["green", "red", "yellow"]
"""Of a verdict, as pytest colours the outcomes of tests."""

_GAP = "  "
_SHORTEST_NAME = 3
"""Columns for each of two names, below which only the candidate's is shown."""
_LEAST = 32
"""Columns for names of tests and models, below which other columns are left out."""
_UNITS = (
    (re.compile(r"slowdown|max_slowdown"), "x time"),
    (re.compile(r"memory ratio|max_memory_ratio"), "x memory"),
    (re.compile(r"MB of memory|max_memory_mb"), "MB"),
    (re.compile(r"tokens per second|min_tokens_per_s"), "tokens/s"),
    (re.compile(r"ms per (?:output )?(\w+)[^(]*(?:\((\w+)\))?"), r"ms/\1 \2"),
    (re.compile(r"budget_ms"), "ms"),
)
"""The units of limits on time and memory, by what the gate calls its figure."""


class Line(NamedTuple):
    """A line of the table."""

    text: str
    verdict: str = ""
    """What follows ``text``, in ``colour``."""
    colour: Colour | None = None


def summary_table(rows: Sequence[Row], width: int) -> list[Line]:
    """A heading and one line per gate. Columns that tell nothing here are left out, and long names are cut in the middle.

    Args:
        rows: of all gates.
        width: columns of the terminal; at least 40.
    """
    tests, prefix = [printable(title(row)) for row in rows], ""
    models = list(map(_short_names, rows))
    others = {"score / limit": _score_cells(rows), **_optional(rows)}
    verdicts = [_verdict_cell(row) for row in rows]
    models_width = max(map(columns, ("models", *(_models_cell(pair, width) for pair in models))))
    fixed = max(map(columns, (*verdicts, "verdict")))

    def room() -> int:
        return width - fixed - sum(_width(name, column) + len(_GAP) for name, column in others.items()) - 2 * len(_GAP)

    while room() < _LEAST and others:
        others.popitem()  # the last one matters least
    widths = _shared(room(), _width("test", tests), models_width)
    if _width("test", tests) > widths[0]:
        prefix = _common_start(tests)
        tests = [test.removeprefix(prefix) for test in tests]
        widths = _shared(room(), _width(prefix or "test", tests), models_width)
    heading = [cut_middle(prefix or "test", widths[0]), "candidate vs reference", *others]
    if columns(heading[1]) > widths[1]:
        heading[1] = cut_middle("models", widths[1])
    lines = []
    for index, row in enumerate(rows):
        names = [cut_middle(tests[index], widths[0]), _models_cell(models[index], widths[1])]
        texts = [*names, *(column[index] for column in others.values())]
        padded = [_padded(text, size) for text, size in zip(texts, _sizes(widths, others), strict=True)]
        lines.append(Line(_GAP.join(padded) + _GAP, verdicts[index], _colour(row)))
    top = _GAP.join(_padded(text, size) for text, size in zip(heading, _sizes(widths, others), strict=True))
    return [Line(f"{top}{_GAP}verdict"), *lines]


def what_ran(rows: Sequence[Row], width: int) -> list[str]:
    """For each gate that came to a verdict, what ran and how, and what else a reader of a green run should know."""
    lines = []
    for row in rows:
        if row.get("conditions"):
            took = "" if row.get("ms_per_prompt") is None else f"; {number(row['ms_per_prompt'])} ms per prompt"
            heading = cut_middle(f"{printable(title(row))} ({row['gate'].removeprefix('pot_')})", width - 1) + ":"
            notes = (f"{row['conditions']}{took}", *row.get("on_scale", ()), *row.get("notes", ()), *row.get("warnings", ()))
            lines += [heading, *(wrapped(f"  {printable(note)}", width) for note in notes)]
    return lines


# -- names -------------------------------------------------------------------------------------------------------------


def _common_start(tests: Sequence[str]) -> str:
    """The file, or the folders, that all of ``tests`` are in."""
    first, last = min(tests), max(tests)
    end = re.match(r"[^\[]*(?:/|::)", first[: first_difference(first, last)]) if len(tests) > 1 else None
    return "" if end is None else end[0]


def _short_names(row: Row) -> tuple[str, str]:
    """Candidate and reference, by the last part of their names, or by the last two where the last is the same."""
    names = str(row.get("candidate") or ""), str(row.get("reference") or "")
    short = _short_name(names[0]), _short_name(names[1])
    if short[0] == short[1] and names[0] != names[1]:
        return _short_name(names[0], 2), _short_name(names[1], 2)
    return short


def _short_name(name: str, parts: int = 1) -> str:
    """The last part of a path, a hub id or a factory; the address of a server; the class of a model from a fixture."""
    text = name.partition(" from the fixture ")[0].rstrip("/\\")
    if re.match(r"[\w.+-]*https?://", text):
        return printable(text.partition("://")[2])
    last = "/".join(re.split(r"[/\\]", text)[-parts:])
    if parts == 1:
        last = re.split(r":(?=[A-Za-z_])", last)[-1]
    return printable(last.removesuffix(".safetensors"))


def _models_cell(models: tuple[str, str], width: int) -> str:
    """``candidate vs reference``; the longer name is cut where both do not fit."""
    candidate, reference = models
    if not reference or width < 2 * _SHORTEST_NAME + len(" vs "):
        return cut_middle(candidate, width)
    first, second = _shared(width - len(" vs "), columns(candidate), columns(reference))
    return f"{cut_middle(candidate, first)} vs {cut_middle(reference, second)}"


def _shared(room: int, first: int, second: int) -> tuple[int, int]:
    """How many of ``room`` columns each of two texts gets: what it takes, or else an equal share, or what the other leaves."""
    if first + second <= room:
        return first, second
    half = room // 2
    if first <= half:
        return first, room - first
    return (room - second, second) if second <= room - half else (half, room - half)


# -- the other cells ---------------------------------------------------------------------------------------------------


def _optional(rows: Sequence[Row]) -> dict[str, list[str]]:
    """The columns that tell something here, by name, the most important first."""
    metrics = ["" if _unit(row) else str(row["metric"]) for row in rows]
    presets = [str(row["preset"]) for row in rows]
    cut = [f"{row['truncated']} of {row.get('prompts', '?')}" if row.get("truncated") else "" for row in rows]
    found = {}
    if set(metrics) - {"", "tv"}:
        found["metric"] = metrics
    if len(set(presets)) > 1:
        found["preset"] = presets
    if any(cut):
        found["prompts cut"] = cut
    return {name: list(map(printable, column)) for name, column in found.items()}


def _score_cells(rows: Sequence[Row]) -> list[str]:
    """``0.0314 / 0.08``, with the relation that is required where the score may not be below the limit, and the unit."""
    scores = ["-" if row.get("score") is None else number(row["score"]) for row in rows]
    longest = max(map(len, scores))
    signs = [required_sign(row).replace("<=", "") for row in rows]
    limits = [f"{sign}{number(row['limit'])} {_unit(row)}".rstrip() for row, sign in zip(rows, signs, strict=True)]
    return [printable(f"{score:>{longest}} / {limit}") for score, limit in zip(scores, limits, strict=True)]


def _unit(row: Row) -> str:
    """The unit of score and limit; empty for a metric of distributions."""
    for pattern, unit in _UNITS:
        if (match := pattern.fullmatch(str(row["metric"]))) is not None:
            return match.expand(unit).strip()
    return ""


def _outcome(row: Row) -> str:
    """The outcome of the row's test. Rows of other programs may have none."""
    return str(row.get("outcome", "passed" if row["passed"] else "skipped" if row["passed"] is None else "failed"))


def _verdict_cell(row: Row) -> str:
    """The verdict and, where its gate did not pass, whether that failed the test."""
    confidence = f" {100 * row['confidence']:.12g}%" if "confidence" in row and row.get("score") is not None else ""
    note = ""
    if row["passed"] is False:
        note = ", expected" if _outcome(row) == "xfailed" else "" if row["verdict"] == "fail" else ", failed"
    elif row["verdict"] == "fail":
        note = ", not gated"
    elif _outcome(row) == "xpassed":
        note = ", xpassed"
    return printable(f"{row['verdict']}{confidence}{note}")


def _colour(row: Row) -> Colour:
    if row["passed"] is False:
        return "yellow" if _outcome(row) == "xfailed" else "red"
    doubtful = row["passed"] is None or row["verdict"] in ("fail", "inconclusive") or _outcome(row) == "xpassed"
    return "yellow" if doubtful else "green"


def _width(name: str, column: Sequence[str]) -> int:
    return max(map(columns, (name, *column)))


def _sizes(widths: tuple[int, int], others: Mapping[str, Sequence[str]]) -> list[int]:
    return [*widths, *(_width(name, column) for name, column in others.items())]


def _padded(text: str, width: int) -> str:
    return text + " " * (width - columns(text))
