"""The gates of a test: attached while tests are collected, from the markers that are there by then and from no others."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import pytest

from pytest_pot.core.errors import InvalidArgument
from pytest_pot.gates.base import Gate, ReferenceUse
from pytest_pot.plugin.markers import GATES, MARKERS, gate_marks, has_gate_marks, marks_on, nearest, unknown_marks
from pytest_pot.plugin.options import run_options
from pytest_pot.plugin.paths import recorded_reference
from pytest_pot.plugin.pytest_internals import fixture_names, is_overridden, use_fixture
from pytest_pot.plugin.session.unused_baselines import UNUSED_BASELINES

__all__ = ["Selection", "attach_gates", "gates_on", "gates_to_run", "late_marker", "needed_fixtures"]

_MARKS = pytest.StashKey[list[pytest.Mark]]()
_INPUTS = "_pot_inputs"
"""The fixture that resolves what a gate compares."""


def gates_on(item: pytest.Item) -> list[Gate]:
    """The gates attached to ``item``; none where no marker is on it."""
    return item.stash.get(GATES, [])


class Selection(NamedTuple):
    """The gates of a test, by what this run of pytest does with them."""

    run: list[Gate]
    skipped: list[tuple[Gate, str]]
    """Those that cannot be run, and why."""
    off: list[str]
    """By what others are turned off."""


def gates_to_run(item: pytest.Item) -> Selection:
    """The gates of ``item``."""
    options = run_options(item.config)
    selection = Selection([], [], [])
    for gate in gates_on(item):
        if (off := gate.switched_off(options)) is not None:
            selection.off.append(off)
        elif (reason := gate.not_run(options)) is not None:
            selection.skipped.append((gate, reason))
        else:
            selection.run.append(gate)
    return selection


def attach_gates(item: pytest.Item) -> None:
    """Attach the gates of all markers that are on ``item`` now, in place of those that were attached before.

    Raises:
        InvalidArgument: a marker's argument has no meaning, the item is no test function, or a marker's name is misspelt.
    """
    if (message := _misspelt(item)) is not None:
        raise InvalidArgument(message)
    marks = gate_marks(item)
    if _same(marks, item.stash.get(_MARKS, [])):
        return
    from pytest_pot.plugin.marker_arguments import gates_of

    gates = gates_of(item, marks)
    if fixture_names(item) is None:
        raise InvalidArgument(f"{marks[0].name} works on test functions only, not on {type(item).__name__}")
    item.stash[GATES], item.stash[_MARKS] = gates, marks
    for gate in gates:
        if gate.settings.baseline is not None:
            item.config.stash[UNUSED_BASELINES].note_use(gate.settings.baseline)
    # Asked for like any fixture, so that what goes wrong in it is an ERROR at set-up, not a verdict.
    use_fixture(item, _INPUTS, used=bool(gates))


def late_marker(item: pytest.Item) -> str | None:
    """The message about a marker on ``item`` that came when its gate could no longer be attached, or that does not exist; None
    where there is none."""
    if not has_gate_marks(item):
        return None
    if (message := _misspelt(item)) is not None:
        return message
    attached = {id(mark) for mark in item.stash.get(_MARKS, [])}
    late = [mark for mark in gate_marks(item) if id(mark) not in attached]
    if not late:
        return None
    return (
        f"{late[0].name}: marker added too late: its gate was not run, so this test cannot pass. Gates are attached when "
        "tests have been collected; a marker that is added by a program must be there by then, at the latest from the hook "
        "pytest_collection_modifyitems, not from a fixture or from pytest_runtest_setup"
    )


def _misspelt(item: pytest.Item) -> str | None:
    """The message about a marker that looks like one of ours and does not exist; None where there is none.

    pytest only warns of a marker that it does not know: the gate would be missing, and its test green.
    """
    names = unknown_marks(item)
    if not names:
        return None
    from difflib import get_close_matches

    name = names[0]
    near = get_close_matches(name.lower(), MARKERS, cutoff=0.7)
    meant = f": did you mean {' or '.join(near)}?" if near else "."
    return (
        f"there is no marker {name}{meant} The markers of pytest-pot are {', '.join(MARKERS)}. Register a marker of your own "
        f"with such a name in pytest's ini file: markers = {name}: what it means"
    )


def needed_fixtures(collector: pytest.Module | pytest.Class, function: object) -> set[str]:
    """The fixtures that supply what the markers on ``function``, or above it, leave open, as far as their gates need it."""
    names: set[str] = set()
    for marker in MARKERS:
        here = [(None, mark) for mark in marks_on(function) if mark.name == marker]
        for mark in nearest([*here, *collector.iter_markers_with_node(marker)]):
            names.update(_fixtures_for(mark, collector, function))
    return names


def _fixtures_for(mark: pytest.Mark, collector: pytest.Module | pytest.Class, function: object) -> Iterator[str]:
    gate, options = MARKERS[mark.name].gate, run_options(collector.config)
    not_run = gate.switched_off(options) is not None or gate.not_run(options) is not None
    if mark.kwargs.get("reference") is None and _wants_reference(mark, collector, function):
        yield "pot_reference"
    for name in ("candidate", "prompts"):
        if mark.kwargs.get(name) is None and (not not_run or _is_the_suites(f"pot_{name}", collector, function)):
            yield f"pot_{name}"


def _wants_reference(mark: pytest.Mark, collector: pytest.Module | pytest.Class, function: object) -> bool:
    """Whether the gate needs a reference, and the suite has its own ``pot_reference``.

    pytest-pot's own fixture would only load the model, which a recording may make unnecessary; the gate finds it by its name.
    """
    use = MARKERS[mark.name].gate.reference_use(mark.kwargs)
    if use is ReferenceUse.NONE or (use is ReferenceUse.ANY and recorded_reference(collector.config)):
        return False
    return _is_the_suites("pot_reference", collector, function)


def _is_the_suites(fixture: str, collector: pytest.Module | pytest.Class, function: object) -> bool:
    """Whether the suite overrides ``fixture``, or parametrises it."""
    marks = [*marks_on(function), *collector.iter_markers()]
    parametrised = any(fixture in str(mark.args[:1]) for mark in marks if mark.name == "parametrize")
    return parametrised or is_overridden(collector, fixture)


def _same(marks: list[pytest.Mark], others: list[pytest.Mark]) -> bool:
    """Whether both are the same objects: a mark may hold anything, also what cannot be compared."""
    return [id(mark) for mark in marks] == [id(mark) for mark in others]
