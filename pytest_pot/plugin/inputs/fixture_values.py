"""What fixtures return as models and prompts. A name is looked up as one in a marker beside the fixture would be."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest

from pytest_pot.plugin.paths import fixture_path
from pytest_pot.plugin.pytest_internals import is_of_suite, nearest_fixture

__all__ = ["fixture_bases", "fixture_value", "named_by_fixture"]


def fixture_value(request: pytest.FixtureRequest, name: str) -> Any:
    """The value of the fixture ``name`` for the test of ``request``."""
    return named_by_fixture(request.node, name, request.getfixturevalue(name))


def named_by_fixture(item: pytest.Item, name: str, value: Any) -> Any:
    """``value``, which the fixture ``name`` returned to ``item``, with a path made absolute."""
    if not isinstance(value, str | Path) or not str(value):
        return value
    return fixture_path(value, fixture_bases(item, name))


def fixture_bases(item: pytest.Item, name: str) -> list[Path]:
    """The folders in which a path that the fixture ``name`` returned to ``item`` is looked for, in this order."""
    fixture = nearest_fixture(item, name)
    # The value of a parametrisation stands in the test's own file.
    function = inspect.unwrap(fixture.func) if fixture is not None and is_of_suite(fixture) else None
    code = getattr(function, "__code__", None)
    return [Path(code.co_filename).parent if code else item.path.parent, item.config.rootpath]
