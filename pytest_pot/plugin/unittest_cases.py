"""Tests of the standard library's unittest, whose decorators and ``setUp`` decide whether a test runs, and what is expected.

Their gates run where the test method would: after ``setUp``, which may skip the test, and inside of unittest's own handling of
results, which knows of ``@unittest.expectedFailure``.
"""

from __future__ import annotations

import functools
import inspect
import unittest
from collections.abc import Callable
from typing import Any

import pytest

from pytest_pot.plugin.pytest_internals import is_test_case, unittest_error

__all__ = ["is_skip", "refuse_skipped", "run_in_test_case"]


def refuse_skipped(item: pytest.Item) -> None:
    """Skip ``item`` where ``@unittest.skip`` or one of its kind is on it or on its class, before its models are loaded."""
    from pytest_pot.plugin.pytest_internals import skipped_test

    places = [getattr(item, "obj", None), getattr(item, "cls", None) if is_test_case(item) else None]
    for place in places:
        if getattr(place, "__unittest_skip__", False) is True:
            raise skipped_test(str(getattr(place, "__unittest_skip_why__", "")))


def is_skip(error: BaseException) -> bool:
    """Whether ``error`` is unittest's way to skip a test."""
    return isinstance(error, unittest.SkipTest)


def run_in_test_case(item: pytest.Item, run_gates: Callable[[], None]) -> Callable[[], BaseException | None]:
    """Run the gates of ``item`` just before its test method does, when unittest calls that.

    Returns:
        a function that gives, once the test is over, the error because of which unittest did not come to that; None where it
        did, or where the test was skipped.
    """
    method: Any = item.obj  # type: ignore[attr-defined]
    reached = False

    def before() -> None:
        nonlocal reached
        reached = True
        try:
            run_gates()
        except pytest.skip.Exception as skip:  # with @unittest.expectedFailure, unittest would take it for the failure
            raise unittest.SkipTest(str(skip)) from None

    if inspect.iscoroutinefunction(method):

        @functools.wraps(method)
        async def gated_coroutine(*args: Any, **keywords: Any) -> Any:
            before()
            return await method(*args, **keywords)

        gated: Any = gated_coroutine
        setattr(item.instance, item.name, gated)  # type: ignore[attr-defined]  # unittest looks it up by its name
    else:

        @functools.wraps(method)
        def gated_method(*args: Any, **keywords: Any) -> Any:
            before()
            return method(*args, **keywords)

        gated = gated_method
    item.obj = gated  # type: ignore[attr-defined]

    def missed() -> BaseException | None:
        error = None if reached else unittest_error(item)
        return None if error is None or isinstance(error, pytest.skip.Exception) else error

    return missed
