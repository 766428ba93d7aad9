"""What the page shows of one gate: texts, tables and plots, for the templates to lay out."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pytest_pot.core.text import cut_middle, number, printable, shorten
from pytest_pot.report.gate_words import Status, error_text, is_number, reason, required_sign, status, title
from pytest_pot.report.html.latency_view import LatencyView, latency_view
from pytest_pot.report.html.score_view import ScoreView, score_view
from pytest_pot.report.html.status import closeness
from pytest_pot.report.table import Row

__all__ = ["GateView", "gate_views"]

_NAME, _REASON, _LINE, _VALUE = 300, 600, 1_000, 2_000
"""Characters of a test's or a model's name, of a reason, of a line of a diagnosis, and of any other value."""
_MOST_LINES, _MOST_VALUES = 30, 100
_IDENTIFICATION = ("test", "worker", "gate", "reference", "candidate", "preset", "metric", "limit")
_COMMON = (
    *_IDENTIFICATION,
    "outcome",
    "verdict",
    "passed",
    "score",
    "error",
    "reason",
    "notes",
    "warnings",
    "conditions",
)
"""Values that the page shows of a gate of any kind."""
_SCORE_DETAILS = {"prompt_scores", "percentiles", "delta_p", "same_top", "by_position", "worst_prompts", "scale"}
"""What a row with :class:`~pytest_pot.gates.verdict.details.ScoreDetails` has; importing these would import numpy."""
_LATENCY_DETAILS = {"what", "candidate", "reference", "checks", "ratios", "lead", "requests", "memory"}
"""Some of what a :meth:`~pytest_pot.gates.latency.latency_report.LatencyReport.to_dict` has."""
_OTHERWISE = {
    "failed": "failed, though this gate passed",
    "error": "had an error, though this gate passed",
    "xpassed": "passed, though it was expected to fail",
}
"""How the test of a gate that passed ended, where that is worth a word."""
_GATES = ("pot_identity", "pot_distinct", "pot_latency")


@dataclass(frozen=True)
class GateView:
    """One gate: what its line in the table and the head of its section show; :meth:`details` has the rest."""

    row: Row
    number: int
    """Its place on the page, from 1."""
    status: Status
    test: str
    gate: str
    """The marker, without its prefix."""
    candidate: str
    reference: str | None
    reason: str
    score: str | None
    limit: str

    @property
    def id(self) -> str:
        return f"gate-{self.number}"

    @property
    def facts(self) -> list[tuple[str, str]]:
        """Names and values of what was gated, and how."""
        row = self.row
        facts = [("Candidate", self.candidate)]
        facts += [("Reference", self.reference)] if self.reference else []
        facts.append(("Gate", f"{row.get('gate')} on {row.get('metric')}, preset {row.get('preset')}"))
        if "verdict" in row and not self.reason.startswith(str(row["verdict"])):
            facts.append(("Verdict", str(row["verdict"])))
        if row.get("passed") and (words := _OTHERWISE.get(str(row.get("outcome")))):
            facts.append(("Test", words))
        if row.get("conditions"):
            facts.append(("Conditions", str(row["conditions"])))
        return [(name, shorten(value, _REASON)) for name, value in facts]

    @property
    def diagnosis(self) -> list[tuple[str, list[str]]]:
        """Titles and lines."""
        parts = (("What changed", "what_changed"), ("Where it starts", "where_it_starts"))
        return [(title, _lines(self.row.get(key))) for title, key in parts if self.row.get(key)]

    @property
    def notes(self) -> list[str]:
        return _lines(self.row.get("notes")) + _lines(self.row.get("warnings"))

    @property
    def error(self) -> list[str]:
        """The lines of the message of a gate that came to no verdict; none where the reason has said it all."""
        lines = error_text(self.row).splitlines()
        return _lines(lines) if len(lines) > 1 else []

    @property
    def is_score(self) -> bool:
        """Whether the row has the details of a gate on a score."""
        return self.row.keys() >= _SCORE_DETAILS

    @property
    def is_latency(self) -> bool:
        """Whether it has those of a gate on latency."""
        report = self.row.get("latency")
        return isinstance(report, Mapping) and report.keys() >= _LATENCY_DETAILS

    @property
    def has_details(self) -> bool:
        return self.is_score or self.is_latency

    def details(self) -> ScoreView | LatencyView | None:
        """The plots and tables; None where there are none, and for gates of kinds that this package does not know."""
        if self.is_score:
            return score_view(self.row, self.id)
        return latency_view(self.row["latency"], self.id) if self.is_latency else None

    @property
    def opened(self) -> bool:
        """Whether the section shows its details at once: a reader wants to know why a gate failed, seldom why one passed."""
        return self.status not in (Status.PASSED, Status.SKIPPED)

    @property
    def is_known(self) -> bool:
        """Whether the gate's kind is one of this package, or ended before it had a kind."""
        return self.has_details or self.status in (Status.ERROR, Status.SKIPPED) or self.row.get("gate") in _GATES

    def values(self) -> list[tuple[str, str]]:
        """What a gate of an unknown kind reports beside what each gate does, as names and texts."""
        values = [(name, value) for name, value in self.row.items() if name not in _COMMON]
        return [(shorten(str(name), _NAME), _text(value)) for name, value in values[:_MOST_VALUES]]


def gate_views(rows: Sequence[Row]) -> list[GateView]:
    """The gates of ``rows``, the worst first: by how they ended, then by how far their scores are beyond their limits."""
    order = list(Status)
    ended = [(order.index(status(row)), -closeness(row)) for row in rows]
    indices = sorted(range(len(rows)), key=ended.__getitem__)
    return [_view(rows[index], place) for place, index in enumerate(indices, 1)]


def _view(row: Row, place: int) -> GateView:
    reference = row.get("reference")
    return GateView(
        row=row,
        number=place,
        status=status(row),
        test=cut_middle(printable(title(row)), _NAME),
        gate=shorten(str(row.get("gate")), _NAME).removeprefix("pot_"),
        candidate=shorten(str(row.get("candidate")), _NAME),
        reference=None if reference is None else shorten(str(reference), _NAME),
        reason=shorten(reason(row), _REASON),
        score=_figure(row.get("score")),
        limit=f"{required_sign(row)} {_figure(row.get('limit')) or '?'}",
    )


def _figure(value: object) -> str | None:
    """A number as people read it; anything else as text."""
    if value is None:
        return None
    return number(value) if is_number(value) else shorten(str(value), _NAME)


def _lines(values: object) -> list[str]:
    """At most so many lines, and how many more there are."""
    if not isinstance(values, list | tuple):
        return [] if values is None else [shorten(str(values), _LINE)]
    more = [f"… and {len(values) - _MOST_LINES} more lines"] if len(values) > _MOST_LINES else []
    return [shorten(str(value), _LINE) for value in values[:_MOST_LINES]] + more


def _text(value: object) -> str:
    if isinstance(value, str):
        return shorten(value, _VALUE)
    if isinstance(value, float):
        return number(value)
    try:
        return shorten(json.dumps(value, ensure_ascii=False), _VALUE)
    except (TypeError, ValueError):  # no JSON type: shown as it shows itself
        return shorten(printable(str(value)), _VALUE)
