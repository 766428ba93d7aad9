"""Code that someone put on one module: hooks of its forward, and a forward of the instance."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

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
        home, name = _origin(code)
        if home.partition(".")[0] not in _LIBRARIES:
            yield what, f"{home}.{name}".removeprefix(".")


def _origin(code: Any) -> tuple[str, str]:
    """The module and the name of a function. ``functools.wraps`` writes those of another one on it, so its code is asked."""
    while isinstance(code, partial):
        code = code.func
    function = getattr(code, "__func__", code)
    if hasattr(function, "__code__"):
        return str(function.__globals__.get("__name__", "")), function.__code__.co_qualname
    named = function if hasattr(function, "__qualname__") else type(function)
    return str(getattr(named, "__module__", None) or ""), named.__qualname__
