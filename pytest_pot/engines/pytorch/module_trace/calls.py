"""Follow the calls of a model's modules: which module is called, by which other, with what, and what it returns."""

from __future__ import annotations

import inspect
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from torch import nn

__all__ = ["Call", "Follower", "followed"]

State = TypeVar("State")


@dataclass(frozen=True)
class Call:
    """One call of a module."""

    name: str
    index: int
    """How many calls of this module began before."""
    caller: str | None
    """The innermost of the modules that are followed in whose forward the call is; None if there is none."""
    kind: type[nn.Module]

    @property
    def key(self) -> tuple[str, int]:
        """The same in every run of the model, and in every model that calls its modules alike."""
        return self.name, self.index


class Follower(Protocol[State]):
    """Who follows the calls."""

    def before(self, call: Call, arguments: dict[str, Any]) -> tuple[dict[str, Any], State]:
        """``arguments`` by name, before any hook of the module has seen them; those that it shall get, and what ``after`` shall
        know of the call."""

    def after(self, call: Call, state: State, output: Any) -> Any:
        """The output after all other hooks; the one that the caller shall get."""


@contextmanager
def followed(modules: Mapping[str, nn.Module], follower: Follower[State]) -> Iterator[list[tuple[Call, State]]]:
    """Follow the calls of ``modules``; yields those that have begun and not ended, the innermost last."""
    stack: list[tuple[Call, State]] = []
    begun: dict[str, int] = defaultdict(int)

    def before(name: str) -> Callable[..., tuple[tuple[Any, ...], dict[str, Any]]]:
        parameters = _parameters(type(modules[name]))

        def hook(
            module: nn.Module, positional: tuple[Any, ...], named: dict[str, Any]
        ) -> tuple[tuple[Any, ...], dict[str, Any]]:
            call = Call(name, begun[name], stack[-1][0].name if stack else None, type(module))
            begun[name] += 1
            names = [parameters[index] if index < len(parameters) else str(index) for index in range(len(positional))]
            given, state = follower.before(call, dict(zip(names, positional, strict=True)) | named)
            stack.append((call, state))
            return tuple(given[name] for name in names), {name: given[name] for name in named}

        return hook

    def after(name: str) -> Callable[..., Any]:
        def hook(module: nn.Module, positional: tuple[Any, ...], output: Any) -> Any:  # noqa: ARG001
            while stack[-1][0].name != name:  # it raised an error, and the model went on
                stack.pop()
            return follower.after(*stack.pop(), output)

        return hook

    with ExitStack() as hooks:
        for name, module in modules.items():
            # Before the module's own hooks that change its arguments, and after those that change its output.
            hooks.callback(module.register_forward_pre_hook(before(name), prepend=True, with_kwargs=True).remove)
            hooks.callback(module.register_forward_hook(after(name)).remove)
        yield stack


def _parameters(kind: type[nn.Module]) -> list[str]:
    """The names of the positional parameters of the forward of a class."""
    parameters = list(inspect.signature(kind.forward).parameters.values())[1:]
    return [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
