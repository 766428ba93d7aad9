"""The gates of a test: attached while tests are collected, from the markers that are there by then, and from no others."""

from __future__ import annotations

import pytest

from pytest_pot.core.errors import InvalidArgument
from pytest_pot.plugin.markers import gate_marks, gates_of
from pytest_pot.plugin.options import GateSettings
from pytest_pot.plugin.session.unused_baselines import Leftovers

__all__ = ["LEFTOVERS", "attach", "gates_on", "late_marker"]

LEFTOVERS = pytest.StashKey[Leftovers]()
_GATES = pytest.StashKey[list[GateSettings]]()
_MARKS = pytest.StashKey[list[pytest.Mark]]()
_INPUTS = "_pot_inputs"
"""The fixture that resolves what a gate compares."""


def gates_on(item: pytest.Item) -> list[GateSettings]:
    """What :func:`attach` left on ``item``; nothing where no marker is on it."""
    return item.stash.get(_GATES, [])


def attach(item: pytest.Item) -> None:
    """Put the gates of all markers on ``item`` that are there now in place of those that were attached before.

    Raises:
        InvalidArgument: a marker's argument has no meaning, or the item is no test function.
    """
    marks = gate_marks(item)
    if _same(marks, item.stash.get(_MARKS, [])):
        return
    gates = gates_of(item, marks)
    names = getattr(item, "fixturenames", None)
    if names is None:
        raise InvalidArgument(f"{marks[0].name} works on test functions only, not on {type(item).__name__}")
    item.stash[_GATES], item.stash[_MARKS] = gates, marks
    for gate in gates:
        if gate.baseline is not None:
            item.config.stash[LEFTOVERS].name(gate.baseline)
    # Asked for like any fixture, so that what goes wrong in it is an ERROR at set-up, not a verdict. A new list: the one
    # there is shared by all items made from the same function.
    others = [name for name in names if name != _INPUTS]
    item.fixturenames = [*others, _INPUTS] if gates else others  # type: ignore[attr-defined]


def late_marker(item: pytest.Item) -> str | None:
    """The message about a marker on ``item`` that came when its gate could no longer be attached; None where none did."""
    attached = {id(mark) for mark in item.stash.get(_MARKS, [])}
    late = [mark for mark in gate_marks(item) if id(mark) not in attached]
    if not late:
        return None
    return (
        f"{late[0].name}: marker added too late: its gate was not run, so this test cannot pass. Gates are attached when "
        "tests have been collected; a marker that is added by a program must be there by then, at the latest from the hook "
        "pytest_collection_modifyitems, not from a fixture or from pytest_runtest_setup"
    )


def _same(some: list[pytest.Mark], others: list[pytest.Mark]) -> bool:
    """Whether both are the same objects: what marks hold may be anything, and need not be comparable."""
    return [id(mark) for mark in some] == [id(mark) for mark in others]
