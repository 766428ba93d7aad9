"""What pytest-pot leaves on a test's reports: properties, which it alone may take back."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest

__all__ = ["forget", "tell"]

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
