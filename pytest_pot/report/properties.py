"""A gate's result as flat properties of a test: they reach JUnit XML, and a controller from its workers, by themselves."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from pytest_pot.gates.base import Gate, GateResult

__all__ = ["NOT_GATED", "PREFIX", "RECORDED", "error_properties", "result_properties", "rows_of"]

PREFIX = "pot_"
"""What the names of all properties of a gate begin with."""
RECORDED = "pot_recorded"
"""The property of a test whose gate has written a recorded reference: a line that says so."""
NOT_GATED = "pot_not_gated"
"""The property of a test with a gate that was not run: a line that says why."""


def result_properties(gate: Gate, result: GateResult) -> list[tuple[str, Any]]:
    """What was asked and what was found, in JSON types."""
    return _prefixed({**gate.identification(result.names), **result.properties()})


def error_properties(gate: Gate, names: tuple[str | None, str | None], message: str) -> list[tuple[str, Any]]:
    """:func:`result_properties` of a gate that came to no verdict."""
    return _prefixed({**gate.identification(names), "verdict": "ERROR", "passed": False, "error": message})


def rows_of(nodeid: str, user_properties: Iterable[tuple[str, Any]]) -> list[dict[str, Any]]:
    """The gates of one test, read back from its properties; the test may have other properties, whatever their names."""
    rows: list[dict[str, Any]] = []
    for name, value in user_properties:
        if name == PREFIX + "gate":
            rows.append({"test": nodeid})
        if rows and name.startswith(PREFIX) and name not in (RECORDED, NOT_GATED):
            rows[-1].setdefault(name.removeprefix(PREFIX), value)
    return [row for row in rows if "verdict" in row]


def _prefixed(values: Mapping[str, Any]) -> list[tuple[str, Any]]:
    return [(PREFIX + name, value) for name, value in values.items()]
