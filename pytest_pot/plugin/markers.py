"""The markers: which of them stand on a test, what they take, and the settings that they ask for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest

from pytest_pot.core.errors import InvalidArgument, PotError
from pytest_pot.gates.latency.settings import LATENCY_ARGUMENTS, latency_settings
from pytest_pot.gates.verdict.limits import distinct_limit, identity_limits
from pytest_pot.plugin.options import GateSettings, scoring_settings

__all__ = ["MARKERS", "gate_marks", "gates_of", "marks_on", "nearest"]


@dataclass(frozen=True)
class _Marker:
    """What a gate's marker takes, and how its arguments become settings."""

    arguments: tuple[str, ...]
    parse: Callable[[pytest.Item, str, Mapping[str, Any]], GateSettings]
    summary: str


_SCORING = ("tolerance", "confidence", "max_outliers", "reference", "candidate", "prompts", "key")
_IDENTITY = ("max_score", "max_prompt_score")
_DISTINCT = ("min_score",)

MARKERS: Mapping[str, _Marker] = {
    "pot_identity": _Marker(
        ("preset", "metric", *_IDENTITY, *_SCORING),
        partial(scoring_settings, limit_names=_IDENTITY, make_limits=identity_limits),
        "fail unless the candidate is the SAME model as its reference",
    ),
    "pot_distinct": _Marker(
        ("preset", "metric", *_DISTINCT, *_SCORING),
        partial(scoring_settings, limit_names=_DISTINCT, make_limits=distinct_limit),
        "fail unless the candidate is DIFFERENT from its reference",
    ),
    "pot_latency": _Marker(
        LATENCY_ARGUMENTS, latency_settings, "fail if the candidate is slower, or takes more memory, than it may"
    ),
}


def gate_marks(item: pytest.Item) -> list[pytest.Mark]:
    """The marks on ``item`` that ask for a gate: in the order of :data:`MARKERS`.

    Of one marker on a class or module and on the test itself, the nearest counts, as pytest users expect. On one node the
    same marker may stand several times; the topmost decorator comes first.
    """
    return [mark for name in MARKERS for mark in reversed(nearest(item.iter_markers_with_node(name)))]


def gates_of(item: pytest.Item, marks: Iterable[pytest.Mark]) -> list[GateSettings]:
    """The settings of the gates that ``marks`` on ``item`` ask for.

    Raises:
        InvalidArgument: an argument has no meaning; the message names the marker and the choices.
    """
    return [_settings(item, mark) for mark in marks]


def nearest(marks: Iterable[tuple[object, pytest.Mark]]) -> list[pytest.Mark]:
    """Of marks with the nodes that bear them, the closest node first: those of the first node.

    On one node, a class's own marks are nearer than those of its bases, and a parameter's nearer than its function's.
    """
    found = list(marks)
    here = [mark for node, mark in found if node is found[0][0]]
    layers = [{id(mark) for mark in layer} for layer in _layers(found[0][0])] if found else []
    inherited = {mark for layer in layers for mark in layer}
    closest: set[int] = next((layer for layer in layers if any(id(mark) in layer for mark in here)), set())
    kept = {id(mark): mark for mark in here if id(mark) in closest or id(mark) not in inherited}
    return list(kept.values())


def _layers(node: object) -> list[list[pytest.Mark]]:
    """The marks that came to ``node`` from its own definition and from behind that, the nearest first.

    pytest keeps them in one list; marks that a program has added are in none of these.
    """
    if isinstance(node, pytest.Class):
        return [_marks(vars(cls).get("pytestmark")) for cls in node.obj.__mro__]
    callspec = getattr(node, "callspec", None)
    return [] if callspec is None else [_marks(callspec.marks), marks_on(getattr(node, "obj", None))]


def marks_on(function: object) -> list[pytest.Mark]:
    """The marks on a function."""
    return _marks(getattr(function, "pytestmark", None))


def _marks(found: object) -> list[pytest.Mark]:
    """What stands in a ``pytestmark`` as marks; a decorator stands for its mark."""
    several = found if isinstance(found, list | tuple) else [found]
    marks = [getattr(one, "mark", one) for one in several]
    return [mark for mark in marks if isinstance(mark, pytest.Mark)]


def _settings(item: pytest.Item, mark: pytest.Mark) -> GateSettings:
    marker = MARKERS[mark.name]
    try:
        if mark.args:
            names = ", ".join(marker.arguments)
            raise InvalidArgument(f"takes keyword arguments only, not {mark.args[0]!r}; they are {names}")
        for name in mark.kwargs:
            if name not in marker.arguments:
                raise InvalidArgument(f"unknown argument {name!r}; the arguments are {', '.join(marker.arguments)}")
        given = {name: value for name, value in mark.kwargs.items() if value is not None}
        return marker.parse(item, mark.name, given)
    except PotError as error:
        raise InvalidArgument(f"{mark.name}: {error}") from error
