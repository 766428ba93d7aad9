"""What changed between two runs, as Markdown: for a comment on a pull request, or a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from pytest_pot.core.text import count, number
from pytest_pot.report.markdown_text import Cell, code, details, table
from pytest_pot.report.report_diff import GateChange, ReportDiff

__all__ = ["diff_lines"]

_MANY = 200
"""Gates that a table shows. A comment on GitHub may have 65,536 characters."""


def diff_lines(diff: ReportDiff) -> list[str]:
    """The lines; all text that is not ours is shown as code."""
    verdicts = [change for change in diff.changes if change.verdict_changed]
    others = [change for change in diff.changes if not change.verdict_changed]
    moved = [change for change in others if change.moved]
    lines = [f"## pytest-pot: {_headline(diff, len(verdicts), len(moved))}"]
    lines += _part("Verdicts that changed", ("test", "gate", "before", "now", "score", "why now"), map(_verdict, verdicts))
    lines += _part("Scores that moved", ("test", "gate", "before", "now", "ratio", "noise"), map(_score, moved))
    limits = [(change, name, pair) for change in diff.changes for name, pair in change.limits.items()]
    lines += _part("Limits that changed", ("test", "gate", "limit", "before", "now"), (_limit(*entry) for entry in limits))
    settings = [(change, name, pair) for change in diff.changes for name, pair in change.settings.items()]
    title = "Scores that cannot be compared, as something else was compared"
    lines += _part(title, ("test", "gate", "what", "before", "now"), (_setting(*entry) for entry in settings))
    for title, gates in (("New gates", diff.new), ("Gates that are gone", diff.gone)):
        lines += _part(
            title,
            ("test", "gate", "verdict"),
            (map(Cell, (test, gate.removeprefix("pot_"), verdict)) for test, gate, verdict in gates),
        )
    if diff.environment:
        rows = [(code(name), _shown(before), _shown(now)) for name, (before, now) in diff.environment.items()]
        lines += ["", *details("the runs were made with other versions, or elsewhere", table(("what", "before", "now"), rows))]
    return lines


def _headline(diff: ReportDiff, n_verdicts: int, n_moved: int) -> str:
    parts = [
        count(n_verdicts, "verdict") + " changed" if n_verdicts else "no verdict changed",
        count(n_moved, "score") + " moved" if n_moved else "",
        _gates(sum(bool(change.limits) for change in diff.changes), "has another limit", "have other limits"),
        _gates(sum(bool(change.settings) for change in diff.changes), "cannot be compared"),
        count(len(diff.new), "new gate") if diff.new else "",
        count(len(diff.gone), "gate") + " gone" if diff.gone else "",
        count(diff.n_unchanged, "gate") + " as before" if diff.n_unchanged else "",
    ]
    return ", ".join(filter(None, parts))


def _gates(n: int, one: str, several: str | None = None) -> str:
    return f"{count(n, 'gate')} {one if n == 1 else several or one}" if n else ""


def _part(title: str, header: tuple[str, ...], rows: Iterable[Iterable[str]]) -> list[str]:
    entries = [list(row) for row in rows]
    if not entries:
        return []
    more = ["", f"… and {len(entries) - _MANY} more"] if len(entries) > _MANY else []
    return ["", f"### {title}", "", *table(header, entries[:_MANY]), *more]


def _names(change: GateChange) -> list[str]:
    return [Cell(change.test), Cell(change.gate.removeprefix("pot_"))]


def _verdict(change: GateChange) -> list[str]:
    words = "" if change.scores is None else f"{change.metric} {number(change.scores[0])} → {number(change.scores[1])}"
    comparable = " (cannot be compared)" if change.settings and words else ""
    return [*_names(change), *map(Cell, change.verdicts), Cell(words + comparable) if words else "", Cell(change.reason)]


def _score(change: GateChange) -> list[str]:
    assert change.scores is not None
    test, gate = _names(change)
    ratio = "-" if change.ratio is None else f"{change.ratio:.3g}"
    return [test, Cell(f"{gate}, {change.metric}"), *map(number, change.scores), ratio, number(change.noise)]


def _limit(change: GateChange, name: str, pair: tuple[float | None, float | None]) -> list[str]:
    return [*_names(change), name, *("none" if value is None else number(value) for value in pair)]


def _setting(change: GateChange, name: str, pair: tuple[Any, Any]) -> list[str]:
    scores: Mapping[str, float] = {} if change.scores is None else dict(zip(("before", "now"), change.scores, strict=True))
    told = [f" (score {number(scores[when])})" if when in scores else "" for when in ("before", "now")]
    return [*_names(change), name, *(_shown(value) + words for value, words in zip(pair, told, strict=True))]


def _shown(value: Any) -> str:
    """A value of any type, as a cell of a table."""
    [*_, line] = table(("",), [[Cell("none" if value is None else str(value))]])
    return line[2:-2]
