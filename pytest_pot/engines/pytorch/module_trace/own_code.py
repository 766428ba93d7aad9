"""Code that someone put on one module: hooks of its forward, and a forward of the instance."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import partial
from types import CodeType
from typing import Any, NamedTuple

from torch import nn

__all__ = ["own_code"]

_LIBRARIES = {"accelerate", "peft", "pytest_pot", "torch", "transformers"}
"""They put code on modules to move, compile or watch them, not to change what these compute."""


def own_code(reference: nn.Module, candidate: nn.Module) -> str | None:
    """The code that someone put on one of two modules, or on both, as a clause; None if there is none."""
    before, after = set(_found(reference)), set(_found(candidate))
    clauses = [
        f"{who} {what} there: {name}"
        for who, found in (
            ("the candidate has", after - before),
            ("the reference has", before - after),
            ("both have", before & after),
        )
        for what, name in sorted(found)
    ]
    return "; ".join(clauses) or None


def _found(module: nn.Module) -> Iterator[tuple[str, str]]:
    """What there is, and the name of its function."""
    codes = [("a forward hook", hook) for hook in module._forward_hooks.values()]
    codes += [("a forward pre-hook", hook) for hook in module._forward_pre_hooks.values()]
    if "forward" in vars(module):
        codes.append(("a patched forward", vars(module)["forward"]))
    for what, code in codes:
        origin = _origin(code)
        if origin.home.partition(".")[0] not in _LIBRARIES:
            yield what, f"{origin.home}.{origin.name}{origin.place}".removeprefix(".")


class _Origin(NamedTuple):
    home: str
    """The Python module that it was written in."""
    name: str
    place: str = ""
    """`` (conftest.py:12)``; empty of what is not written in Python."""


def _origin(code: Any) -> _Origin:
    """Where a function is from. ``functools.wraps`` writes another one's name on it, so its code is asked."""
    while isinstance(code, partial):
        code = code.func
    function = getattr(code, "__func__", code)
    if hasattr(function, "__code__"):
        lines: CodeType = function.__code__
        home = str(function.__globals__.get("__name__", ""))
        return _Origin(home, lines.co_qualname, f" ({_short(lines.co_filename)}:{lines.co_firstlineno})")
    named = function if hasattr(function, "__qualname__") else type(function)
    return _Origin(str(getattr(named, "__module__", None) or ""), named.__qualname__)


def _short(path: str) -> str:
    """The path as seen from here; of a file elsewhere its name, which tells as much and fits into a message."""
    here = os.getcwd()
    return os.path.relpath(path, here) if path.startswith(os.path.join(here, "")) else os.path.basename(path)
