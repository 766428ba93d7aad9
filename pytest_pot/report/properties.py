"""A gate's result as a test's user properties, which pytest writes to JUnit XML and xdist workers send to the controller."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import chain, repeat
from typing import Any

from pytest_pot.gates.base import Gate, GateResult

__all__ = [
    "NOT_GATED",
    "PREFIX",
    "RECORDED",
    "result_properties",
    "rows_of",
    "skipped_properties",
    "with_details",
]

PREFIX = "pot_"
"""The prefix of every property's name."""
RECORDED = "pot_recorded"
"""The property with a message that a gate of the test wrote a recorded reference."""
NOT_GATED = "pot_not_gated"
"""The property with the reason why a gate of the test did not run."""


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


def with_details(rows: Iterable[dict[str, Any]], details: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The rows of one test, each with the details of its gate, in the order in which the gates ran.

    ``details``: of the first gates; the others have none.
    """
    nothing: Mapping[str, Any] = {}
    return [{**row, **more} for row, more in zip(rows, chain(details, repeat(nothing)), strict=False)]


def _prefixed(values: Mapping[str, Any]) -> list[tuple[str, Any]]:
    return [(PREFIX + name, value) for name, value in values.items()]
