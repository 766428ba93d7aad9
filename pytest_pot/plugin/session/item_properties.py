"""User properties that we attach to a test, remove when it is run again, and read back from its reports."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest

__all__ = ["attach_properties", "remove_properties"]

_ATTACHED = pytest.StashKey[list[tuple[str, Any]]]()


def attach_properties(item: pytest.Item, properties: Iterable[tuple[str, Any]]) -> None:
    """Add ``properties`` to the reports of ``item`` that are still to come."""
    entries = list(properties)
    item.user_properties.extend(entries)
    item.stash.setdefault(_ATTACHED, []).extend(entries)


def remove_properties(item: pytest.Item) -> None:
    """Remove all that was attached. Plugins that rerun a test run the same item again.

    What the test itself records stays, whatever its name.
    """
    attached = {id(entry) for entry in item.stash.get(_ATTACHED, [])}
    item.user_properties[:] = [entry for entry in item.user_properties if id(entry) not in attached]
    item.stash[_ATTACHED] = []
