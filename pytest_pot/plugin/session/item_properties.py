"""What we attach to a test's reports: user properties, which we remove on a rerun and read back, and a diagnosis."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import pytest

__all__ = ["attach_diagnosis", "attach_properties", "diagnosis_on", "move_diagnosis", "remove_properties"]

_ATTACHED = pytest.StashKey[list[tuple[str, Any]]]()
_DIAGNOSIS = pytest.StashKey[Mapping[str, Any]]()
_ON_REPORT = "pot_diagnosis"
"""The attribute of a test's report with the diagnosis. Like all attributes, it travels from a worker of pytest-xdist to the
controller; unlike a user property, it is not written to JUnit XML, where it would be pages of braces."""


def attach_properties(item: pytest.Item, properties: Iterable[tuple[str, Any]]) -> None:
    """Add ``properties`` to the reports of ``item`` that are still to come."""
    entries = list(properties)
    item.user_properties.extend(entries)
    item.stash.setdefault(_ATTACHED, []).extend(entries)


def attach_diagnosis(item: pytest.Item, diagnosis: Mapping[str, Any]) -> None:
    """Add the diagnosis of the gate that failed ``item``, in JSON types, to its next report."""
    item.stash[_DIAGNOSIS] = diagnosis


def move_diagnosis(item: pytest.Item, report: pytest.TestReport) -> None:
    """Give ``report`` the diagnosis that is attached to ``item``, if there is one."""
    if _DIAGNOSIS in item.stash:
        setattr(report, _ON_REPORT, item.stash[_DIAGNOSIS])
        del item.stash[_DIAGNOSIS]


def diagnosis_on(report: pytest.TestReport) -> Mapping[str, Any] | None:
    """What :func:`move_diagnosis` gave ``report``, in this process or another one."""
    return getattr(report, _ON_REPORT, None)


def remove_properties(item: pytest.Item) -> None:
    """Remove all that was attached. Plugins that rerun a test run the same item again.

    What the test itself records stays, whatever its name.
    """
    attached = {id(entry) for entry in item.stash.get(_ATTACHED, [])}
    item.user_properties[:] = [entry for entry in item.user_properties if id(entry) not in attached]
    item.stash[_ATTACHED] = []
    if _DIAGNOSIS in item.stash:
        del item.stash[_DIAGNOSIS]
