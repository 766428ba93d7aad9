"""What fixtures return as models and prompts. A name is looked up as one in a marker beside the fixture would be."""

from __future__ import annotations

import inspect
from pathlib import Path
from types import CodeType
from typing import Any

import pytest

from pytest_pot.plugin.paths import fixture_path
from pytest_pot.plugin.pytest_internals import is_of_suite, nearest_fixture

__all__ = ["fixture_bases", "fixture_error", "fixture_value", "named_by_fixture"]

_GIVES = {
    "pot_reference": "the reference",
    "pot_candidate": "the candidate",
    "pot_tokenizer": "the tokenizer",
    "pot_prompts": "the prompts",
}
"""The fixtures that a suite may override, and what each of them gives."""


def fixture_value(request: pytest.FixtureRequest, name: str) -> Any:
    """The value of the fixture ``name`` for the test of ``request``."""
    return named_by_fixture(request.node, name, request.getfixturevalue(name))


def fixture_error(item: pytest.Item, error: BaseException) -> str | None:
    """The message about ``error`` where the suite's own ``pot_reference``, or one of its kind, raised it; None elsewhere."""
    from traceback import walk_tb

    from pytest_pot.core.user_code import in_short

    running = {frame.f_code for frame, _ in walk_tb(error.__traceback__)}
    for name, gives in _GIVES.items():
        fixture = nearest_fixture(item, name)
        if fixture is not None and is_of_suite(fixture) and _code(fixture.func) in running:
            return f"the fixture {name}, which gives {gives}, raised {in_short(error)}"
    return None


def _code(function: Any) -> CodeType | None:
    return getattr(inspect.unwrap(function), "__code__", None)


def named_by_fixture(item: pytest.Item, name: str, value: Any) -> Any:
    """``value``, which the fixture ``name`` returned to ``item``, with a path made absolute."""
    if not isinstance(value, str | Path) or not str(value):
        return value
    return fixture_path(value, fixture_bases(item, name))


def fixture_bases(item: pytest.Item, name: str) -> list[Path]:
    """The folders in which a path that the fixture ``name`` returned to ``item`` is looked for, in this order."""
    fixture = nearest_fixture(item, name)
    # The value of a parametrisation stands in the test's own file.
    code = _code(fixture.func) if fixture is not None and is_of_suite(fixture) else None
    return [Path(code.co_filename).parent if code else item.path.parent, item.config.rootpath]
