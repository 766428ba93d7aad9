"""The markers: which there are, what kind of gate each asks for, and which of several on a test counts.

A new kind of gate is one line in :data:`MARKERS`. A project may :func:`register` a marker of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from importlib import import_module
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from pytest_pot.gates.base import Gate

__all__ = [
    "GATES",
    "MARKERS",
    "Marker",
    "gate_marks",
    "has_gate_marks",
    "has_gates",
    "items_with_gates",
    "marks_on",
    "nearest",
    "register",
    "unknown_marks",
]


class Marker:
    """A marker, and the kind of gate that it asks for, which is imported at its first use."""

    def __init__(self, gate: str | type[Gate], summary: str) -> None:
        """``gate``: the class, or ``package.module:Class``. ``summary``: what the gate does, for ``pytest --markers``."""
        self._gate = gate
        self.summary = summary

    @property
    def gate(self) -> type[Gate]:
        if isinstance(self._gate, str):
            module, _, name = self._gate.partition(":")
            self._gate = getattr(import_module(module), name)
        assert not isinstance(self._gate, str)
        return self._gate


MARKERS: dict[str, Marker] = {
    "pot_identity": Marker(
        "pytest_pot.gates.verdict.gate:IdentityGate", "fail unless the candidate is the SAME model as its reference"
    ),
    "pot_distinct": Marker(
        "pytest_pot.gates.verdict.gate:DistinctGate", "fail unless the candidate is DIFFERENT from its reference"
    ),
    "pot_latency": Marker(
        "pytest_pot.gates.latency.gate:LatencyGate", "fail if the candidate is slower, or takes more memory, than it may"
    ),
}
"""The markers by name. Gates of one test run in this order."""


def register(name: str, marker: Marker) -> None:
    """Add a marker for this process, from a conftest or a plugin, before tests are collected."""
    MARKERS[name] = marker
    _OTHERS.discard(name)


_OTHERS: set[str] = set()
"""Names of marks that were found not to be ours, so that a suite's own marks are looked at once, and not once per test."""


GATES = pytest.StashKey[list[Any]]()
"""The gates that were attached to a test while it was collected; :mod:`pytest_pot.plugin.collection` attaches them."""


def has_gates(item: pytest.Item) -> bool:
    """Whether gates are attached to ``item``, or a gate's marker is on it now: either may have changed since collection."""
    return GATES in item.stash or has_gate_marks(item)


def items_with_gates(items: Iterable[pytest.Item]) -> list[pytest.Item]:
    """Those of ``items`` for which :func:`has_gates` is true; each class, module and folder is looked at once."""
    above: dict[int, bool] = {}
    result = []
    for item in items:
        parent = item.parent
        marked = above.get(id(parent))
        if marked is None:
            marked = above[id(parent)] = parent is not None and has_gate_marks(parent)
        if marked or GATES in item.stash or _any_may_be_ours(item.own_markers):
            result.append(item)
    return result


def has_gate_marks(node: pytest.Item | pytest.Collector, function: object = None) -> bool:
    """Whether a gate's marker, or one whose name begins like ours, is on ``function``, on ``node`` or on what contains it.

    Every test of every suite is asked this, so it is written to be fast: ``iter_markers`` takes several times as long.
    """
    if function is not None and _any_may_be_ours(marks_on(function)):
        return True
    above: Any = node
    while above is not None:
        if _any_may_be_ours(above.own_markers):
            return True
        above = above.parent
    return False


def _any_may_be_ours(marks: Iterable[pytest.Mark]) -> bool:
    """Whether one of ``marks`` asks for a gate, or has a name that may be a misspelt one; see :func:`unknown_marks`."""
    for mark in marks:
        if mark.name not in _OTHERS:
            if mark.name in MARKERS or mark.name[:3].lower() == "pot":
                return True
            _OTHERS.add(mark.name)
    return False


def unknown_marks(item: pytest.Item) -> list[str]:
    """The names of marks on ``item`` that look like a gate's marker, and that neither pytest-pot nor the project has."""
    names = {mark.name for mark in item.iter_markers()} - set(MARKERS)
    meant = {_plain(name) for name in MARKERS}
    unknown = {name for name in names if name.lower().startswith("pot_") or name == "pot" or _is_meant(_plain(name), meant)}
    if not unknown:
        return []
    lines: list[str] = item.config.getini("markers")
    return sorted(unknown - {line.partition(":")[0].partition("(")[0].strip() for line in lines})


def _is_meant(plain: str, meant: set[str]) -> bool:
    if plain in meant or not plain.startswith("pot"):
        return plain in meant
    from difflib import get_close_matches  # few tests have such a mark, and all suites import this module

    return bool(get_close_matches(plain, meant, n=1, cutoff=0.8))


def _plain(name: str) -> str:
    """``potIdentity`` and ``pot_identity`` alike."""
    return name.lower().replace("_", "")


def gate_marks(item: pytest.Item) -> list[pytest.Mark]:
    """The marks on ``item`` that ask for a gate, in the order of :data:`MARKERS`.

    Where the same marker is on a class or module and on the test itself, the nearest counts, as pytest users expect. On one
    node the same marker may stand several times; the topmost decorator comes first.
    """
    return [mark for name in MARKERS for mark in reversed(nearest(item.iter_markers_with_node(name)))]


def nearest(marks: Iterable[tuple[object, pytest.Mark]]) -> list[pytest.Mark]:
    """Of marks with the nodes that bear them, the closest node first: those of the first node.

    On one node, a class's own marks are nearer than those of its bases, and a parameter's nearer than its function's.
    """
    pairs = list(marks)
    here = [mark for node, mark in pairs if node is pairs[0][0]]
    layers = [{id(mark) for mark in layer} for layer in _layers(pairs[0][0])] if pairs else []
    inherited = {mark for layer in layers for mark in layer}
    closest: set[int] = next((layer for layer in layers if any(id(mark) in layer for mark in here)), set())
    kept = {id(mark): mark for mark in here if id(mark) in closest or id(mark) not in inherited}
    return list(kept.values())


def _layers(node: object) -> Iterator[list[pytest.Mark]]:
    """The marks on ``node``'s own definition, then those that it inherits, the nearest first.

    pytest keeps all of them in one list. Marks that a program added are in none of these layers.
    """
    if isinstance(node, pytest.Class):
        yield from (_marks(vars(cls).get("pytestmark")) for cls in node.obj.__mro__)
    elif (callspec := getattr(node, "callspec", None)) is not None:
        yield _marks(callspec.marks)
        yield marks_on(getattr(node, "obj", None))


def marks_on(function: object) -> list[pytest.Mark]:
    """The marks on a function."""
    if isinstance(function, pytest.MarkGenerator):  # as in a module with `from pytest import mark`: it has any attribute
        return []
    try:
        return _marks(getattr(function, "pytestmark", None))
    except (Exception, pytest.skip.Exception, pytest.fail.Exception):  # a proxy may raise anything at any attribute
        return []


def _marks(pytestmark: object) -> list[pytest.Mark]:
    """The value of a ``pytestmark`` as marks; a decorator stands for its mark."""
    if pytestmark is None:
        return []
    several = pytestmark if isinstance(pytestmark, list | tuple) else [pytestmark]
    marks = [getattr(mark, "mark", mark) for mark in several]
    return [mark for mark in marks if isinstance(mark, pytest.Mark)]
