"""What we attach to a test's reports: user properties, which we remove on a rerun and read back, and details for files."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pytest

__all__ = ["attach_details", "attach_properties", "details_on", "give_details", "remove_properties"]

_ATTACHED = pytest.StashKey[list[tuple[str, Any]]]()
_DETAILS = pytest.StashKey[list[Mapping[str, Any]]]()
_ON_REPORT = "pot_details"
"""The attribute of a test's report with the details of its gates. Like all attributes, it travels from a worker of pytest-xdist
to the controller; unlike a user property, it is not written to JUnit XML, where it would be pages of braces."""


def attach_properties(item: pytest.Item, properties: Iterable[tuple[str, Any]]) -> None:
    """Add ``properties`` to the reports of ``item`` that are still to come."""
    entries = list(properties)
    item.user_properties.extend(entries)
    item.stash.setdefault(_ATTACHED, []).extend(entries)


def attach_details(item: pytest.Item, details: Mapping[str, Any]) -> None:
    """Add the details of the next gate of ``item``, in JSON types. Each gate has some, or an empty mapping."""
    item.stash.setdefault(_DETAILS, []).append(details)


def give_details(item: pytest.Item, report: pytest.TestReport) -> None:
    """Give ``report`` the details that are attached to ``item``, if it is one that the results of gates are read from."""
    details = item.stash.get(_DETAILS, [])
    if any(details) and (report.when == "call" or report.failed):
        setattr(report, _ON_REPORT, details)
    if report.when == "teardown":  # the item lives until the session ends
        item.stash[_DETAILS] = []


def details_on(report: pytest.TestReport) -> Sequence[Mapping[str, Any]]:
    """What :func:`give_details` gave ``report``, in this process or another one."""
    return getattr(report, _ON_REPORT, [])


def remove_properties(item: pytest.Item) -> None:
    """Remove all that was attached. Plugins that rerun a test run the same item again.

    What the test itself records stays, whatever its name.
    """
    attached = {id(entry) for entry in item.stash.get(_ATTACHED, [])}
    item.user_properties[:] = [entry for entry in item.user_properties if id(entry) not in attached]
    item.stash[_ATTACHED], item.stash[_DETAILS] = [], []
