"""Where two models first differ while they compute: the result, and what an engine has to offer for it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from pytest_pot.core.brief import Brief
from pytest_pot.engines.base import Engine

if TYPE_CHECKING:
    from pytest_pot.engines.tokens import Tokens

__all__ = ["ModuleDifference", "ModuleTrace", "Traceable"]


@dataclass(frozen=True)
class ModuleDifference:
    """A module whose output is further from the reference's than its inputs explain."""

    name: str
    """As in ``named_modules()``; empty for the model itself."""
    module_class: str
    before: float
    """The largest relative difference of any module's output that was complete before it, given the same inputs."""
    after: float
    """The relative difference of this module's output, given the same inputs: the norm of the difference over the norm."""
    noise: float
    """How far this module is from itself by rounding alone."""
    itself: bool = False
    """Whether all modules inside it agree, so that the difference is in what its own forward, or code on it, computes."""
    argument: str | None = None
    """The argument that it gives otherwise to a module inside it, such as ``"attention_mask"``."""
    own_code: str | None = None
    """The hooks that someone put on it, and a forward of the instance, of both models; a clause for people."""


@dataclass(frozen=True, repr=False)
class ModuleTrace(Brief):
    """What was compared module by module."""

    first: ModuleDifference | None
    """In the order of execution; None if all modules agree."""
    largest: ModuleDifference | None
    """Where it is another one, and its difference stands out from those of all others."""
    n_modules: int
    """How many modules both models have and ran."""
    n_differing: int
    note: str | None = None
    """Why nothing could be compared, or what the figures leave out; a clause for people."""
    incomplete: bool = False
    """Whether some modules could not be compared."""
    within: float = 0.0
    """The largest relative difference of those that agree."""
    precision: str = "float32"
    """The precision whose rounding explains that."""
    wrapper: str | None = None
    """What wraps one of the models and was not compared: ``"the candidate (DataParallel)"``."""
    order: tuple[str, ...] = field(default=(), compare=False, repr=False)
    """The modules that were compared, in the order in which they end. Reports leave it out."""

    @classmethod
    def of_nothing(cls, why: str) -> ModuleTrace:
        """The trace of models that cannot be compared."""
        return cls(first=None, largest=None, n_modules=0, n_differing=0, note=why, incomplete=True)


@runtime_checkable
class Traceable(Engine, Protocol):
    """An engine that can be compared with another one module by module."""

    def trace(self, reference: Engine, tokens: Tokens) -> ModuleTrace:
        """Let both models read ``tokens``, and compare what their modules make of the same inputs."""
