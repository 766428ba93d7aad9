"""What pytest-pot leaves on a test's reports: properties, which it alone may take back, and which it reads back later."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest

__all__ = ["NOT_GATED", "PREFIX", "RECORDED", "forget", "rows_of", "tell"]

PREFIX = "pot_"
"""What the names of all properties of a gate begin with."""
RECORDED = "pot_recorded"
"""The property of a test whose gate has written a recorded reference: a line that says so."""
NOT_GATED = "pot_not_gated"
"""The property of a test with a gate that was not run: a line that says why."""

_TOLD = pytest.StashKey[list[tuple[str, Any]]]()


def tell(item: pytest.Item, properties: Iterable[tuple[str, Any]]) -> None:
    """Add ``properties`` to the reports of ``item`` that are yet to come."""
    entries = list(properties)
    item.user_properties.extend(entries)
    item.stash.setdefault(_TOLD, []).extend(entries)


def forget(item: pytest.Item) -> None:
    """Take back all that was told. Plugins that rerun a test run the same item again.

    What a test itself records stays, whatever it is called.
    """
    told = {id(entry) for entry in item.stash.get(_TOLD, [])}
    item.user_properties[:] = [entry for entry in item.user_properties if id(entry) not in told]
    item.stash[_TOLD] = []


def rows_of(nodeid: str, user_properties: Iterable[tuple[str, Any]]) -> list[dict[str, Any]]:
    """The gates of one test, read back from its properties; the test may have some of its own, called as it likes."""
    rows: list[dict[str, Any]] = []
    for name, value in user_properties:
        if name == PREFIX + "gate":
            rows.append({"test": nodeid})
        if rows and name.startswith(PREFIX) and name not in (RECORDED, NOT_GATED):
            rows[-1].setdefault(name.removeprefix(PREFIX), value)
    return [row for row in rows if "verdict" in row]
