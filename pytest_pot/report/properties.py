"""A gate's result as a test's user properties, which pytest writes to JUnit XML and xdist workers send to the controller."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from pytest_pot.gates.base import Gate, GateResult

if TYPE_CHECKING:
    from pytest_pot.scoring.diagnosis.diagnosis import Diagnosis

__all__ = [
    "NOT_GATED",
    "PREFIX",
    "RECORDED",
    "reported_diagnosis",
    "result_properties",
    "rows_of",
    "skipped_properties",
    "with_diagnosis",
]

PREFIX = "pot_"
"""The prefix of every property's name."""
RECORDED = "pot_recorded"
"""The property with a message that a gate of the test wrote a recorded reference."""
NOT_GATED = "pot_not_gated"
"""The property with the reason why a gate of the test did not run."""
_LINES = "what_changed"
"""What the row of a gate with a diagnosis has, and no other."""
_MOST_CHANGES = 1000
"""Changed tensors that a report lists by name. All of them are in the groups, and in ``python -m pytest_pot explain``."""


def result_properties(gate: Gate, result: GateResult) -> list[tuple[str, Any]]:
    """A gate's settings and its result, in JSON types; also of a gate that came to no verdict."""
    return _prefixed({**gate.identification(result.names), **result.properties()})


def skipped_properties(gate: Gate, reason: str) -> list[tuple[str, Any]]:
    """:func:`result_properties` for a gate that was not run; it neither passed nor failed."""
    names = gate.settings.reference, gate.settings.candidate
    return _prefixed({**gate.identification(names), "verdict": "SKIPPED", "passed": None, "reason": reason})


def rows_of(nodeid: str, user_properties: Iterable[tuple[str, Any]], worker: str | None = None) -> list[dict[str, Any]]:
    """Read the gates of one test back from its properties; properties of other plugins are ignored.

    ``worker``: which one ran the test, where each of several runs all tests.
    """
    rows: list[dict[str, Any]] = []
    for name, value in user_properties:
        if name == PREFIX + "gate":
            rows.append({"test": nodeid} if worker is None else {"test": nodeid, "worker": worker})
        if rows and name.startswith(PREFIX) and name not in (RECORDED, NOT_GATED):
            rows[-1].setdefault(name.removeprefix(PREFIX), value)
    return [row for row in rows if "verdict" in row]


def reported_diagnosis(diagnosis: Diagnosis) -> dict[str, Any]:
    """The diagnosis in types that JSON has, with the names of a thousand changed tensors at most and their number."""
    values = diagnosis.to_dict()
    weights = values["weights"]
    if weights is not None:
        changes = weights["changes"]
        unconfirmed = weights["unconfirmed"][:_MOST_CHANGES]
        values["weights"] = {
            **weights,
            "n_changes": len(changes),
            "changes": changes[:_MOST_CHANGES],
            "unconfirmed": unconfirmed,
        }
    return values


def with_diagnosis(rows: Iterable[dict[str, Any]], diagnosis: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    """The rows of one test with ``diagnosis``, as :func:`reported_diagnosis` gives it, in that of the gate that it is about.

    A test has one at most, because the first gate that fails is the last one that runs.
    """
    if diagnosis is None:
        return list(rows)
    return [{**row, "diagnosis": diagnosis} if _LINES in row else row for row in rows]


def _prefixed(values: Mapping[str, Any]) -> list[tuple[str, Any]]:
    return [(PREFIX + name, value) for name, value in values.items()]
