"""The table at the end of a run: one line per gate, no wider than the terminal."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal, NamedTuple, TypeAlias

from pytest_pot.core.text import columns, cut_middle, first_difference, number, printable, wrapped
from pytest_pot.report.gate_words import Row, required_sign, title

__all__ = ["Colour", "Line", "Row", "summary_table", "what_ran"]

Colour: TypeAlias = Literal["green", "red", "yellow"]
"""Of a verdict, as pytest colours the outcomes of tests."""

_GAP = "  "
_MODELS = ("models", "candidate vs reference")
"""The heading of models, short and long."""
_SHORTEST_NAME = 3
"""Columns for each of two names, below which only the candidate's is shown."""
_ROOM = 32
"""Columns for names of tests and models, below which columns other than the score are left out."""
_LEAST = 20
"""Columns for them, below which verdicts are shortened; below half of it, scores lose their units."""
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

    Where the terminal is narrow, columns other than the score go first, then parts of the names, then parts of the verdicts.

    Args:
        rows: of all gates.
        width: columns of the terminal; at least 40.
    """
    others = {"score / limit": _score_cells(rows), **_optional(rows)}
    verdicts = [_verdict_cell(row) for row in rows]

    def room() -> int:
        """Columns for the names of tests and models."""
        taken = [_width("verdict", verdicts), *(_width(name, column) for name, column in others.items())]
        return width - sum(taken) - len(_GAP) * (len(taken) + 1)

    while room() < _ROOM and len(others) > 1:
        others.popitem()  # the last one matters least
    for part in ("confidence", "note"):
        if room() < _LEAST:
            verdicts = [_verdict_cell(row, without=part) for row in rows]
    if room() < _LEAST // 2:
        others = {"score / limit": _score_cells(rows, units=False)}
    names = _names(rows, room())
    heading, *lines = [
        [*pair, *rest] for pair, rest in zip(names, [list(others), *zip(*others.values(), strict=True)], strict=True)
    ]
    sizes = [_width("", column) for column in zip(heading, *lines, strict=True)]
    texts = [_GAP.join(map(_padded, cells, sizes)) + _GAP for cells in (heading, *lines)]
    rows_lines = [Line(text, verdict, _colour(row)) for text, verdict, row in zip(texts[1:], verdicts, rows, strict=True)]
    return [Line(f"{texts[0]}verdict"), *rows_lines]


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


def _names(rows: Sequence[Row], room: int) -> list[tuple[str, str]]:
    """The cells of tests and models in ``room`` columns, the heading first.

    Tests get what they take, but leave models a third, or half where each row has two. A reference that all rows have is in
    the heading only.
    """
    tests, models, headings = [printable(title(row)) for row in rows], list(map(_short_names, rows)), _MODELS
    least = room // 2
    if len({row.get("reference") for row in rows}) == 1:
        reference = max((pair[1] for pair in models), key=len)  # one that is as long tells it from a candidate of its name
        models, least = [(candidate, "") for candidate, _ in models], room // 3
        headings = (f"vs {reference}", f"candidate vs {reference}") if reference else ("candidate", "candidate")
    models_width = _width(headings[0], [_models_cell(pair, room) for pair in models])

    def left() -> int:
        return room - _width("", tests)

    prefix = ""
    if left() < models_width:
        prefix = _common_start(tests)
        tests = [test.removeprefix(prefix) for test in tests]
    for_models = min(max(models_width, min(columns(headings[1]), left())), max(least, left()))
    for_tests = room - for_models
    heading = headings[columns(headings[1]) <= for_models]
    return [
        (cut_middle(prefix or "test", for_tests), cut_middle(heading, for_models)),
        *((cut_middle(test, for_tests), _models_cell(pair, for_models)) for test, pair in zip(tests, models, strict=True)),
    ]


def _common_start(tests: Sequence[str]) -> str:
    """The file, or the folders, that all of ``tests`` are in."""
    first, last = min(tests), max(tests)
    end = re.match(r"[^\[]*(?:/|::)", first[: first_difference(first, last)])
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


def _score_cells(rows: Sequence[Row], *, units: bool = True) -> list[str]:
    """``0.0314 / 0.08``, with the relation that is required where the score may not be below the limit, and the unit."""
    scores = ["-" if row.get("score") is None else number(row["score"]) for row in rows]
    longest = max(map(len, scores))
    signs = [required_sign(row).replace("<=", "") for row in rows]
    named = [_unit(row) if units else "" for row in rows]
    limits = [f"{sign}{number(row['limit'])} {unit}".rstrip() for row, sign, unit in zip(rows, signs, named, strict=True)]
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


def _verdict_cell(row: Row, *, without: Literal["confidence", "note", None] = None) -> str:
    """The verdict and, where its gate did not pass, whether that failed the test. ``"note"``: the verdict alone."""
    verdict = str(row["verdict"])
    if without == "note":
        return printable(verdict)
    confidence = ""
    if without is None and "confidence" in row and row.get("score") is not None:
        confidence = f" {100 * row['confidence']:.12g}%"
    note = ""
    if row["passed"] is False:
        note = ", expected" if _outcome(row) == "xfailed" else "" if row["verdict"] == "fail" else ", failed"
    elif row["verdict"] == "fail":
        note = ", not gated"
    elif _outcome(row) == "xpassed":
        note = ", xpassed"
    return printable(f"{verdict}{confidence}{note}")


def _colour(row: Row) -> Colour:
    if row["passed"] is False:
        return "yellow" if _outcome(row) == "xfailed" else "red"
    doubtful = row["passed"] is None or row["verdict"] in ("fail", "inconclusive") or _outcome(row) == "xpassed"
    return "yellow" if doubtful else "green"


def _width(name: str, column: Sequence[str]) -> int:
    return max(map(columns, (name, *column)))


def _padded(text: str, width: int) -> str:
    return text + " " * (width - columns(text))
