"""The result of a diagnosis, as data."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any, SupportsFloat

from pytest_pot.core.brief import Brief
from pytest_pot.engines.module_differences import ModuleTrace
from pytest_pot.engines.weights import TensorChange

__all__ = ["ConfigChange", "Diagnosis", "WeightsDifference"]


@dataclass(frozen=True)
class ConfigChange:
    """A field of the configuration, or a number that a module keeps, that affects the logits and differs."""

    field: str
    """``"rope_theta"``; of a nested field, its path: ``"rope_parameters.factor"``; of a module's number, the module's name
    before it, with a star for the layer where it is the same in all: ``"model.layers.*.self_attn.scaling"``."""
    reference: Any
    """In JSON types; None where it has no such field."""
    candidate: Any
    n_modules: int = 0
    """How many modules keep the number; 0 for a field of the configuration."""


@dataclass(frozen=True, repr=False)
class WeightsDifference(Brief):
    """How the weights of two models differ, tensor by tensor."""

    n_tensors: int
    """How many saved tensors the reference has, each counted once."""
    n_equal: int
    changes: tuple[TensorChange, ...]
    """In the reference's order, then the candidate's extra tensors."""
    summary: tuple[str, ...]
    """The changes as a person would say them, the largest group first: ``"all 210 matrices rounded to 8 bits per row (relative
    change 0.006)"``. Empty where all tensors are equal."""
    recorded: bool
    """Whether the reference's weights are known from a recording only, so that sizes are estimates."""
    computed: tuple[TensorChange, ...] = ()
    """Buffers that no checkpoint holds, such as rotary frequencies, where the configuration does not explain the difference.
    They are not counted above."""
    unconfirmed: tuple[str, ...] = ()
    """Tensors that were matched by equal values alone, as the two models name them differently. It is not known whether each
    is in its place."""


@dataclass(frozen=True, repr=False)
class Diagnosis(Brief):
    """What changed between a reference and a candidate, and where the difference starts."""

    config: tuple[ConfigChange, ...] | None
    """None where a configuration is not known."""
    weights: WeightsDifference | None
    """None where the weights of one are not known, or the tensors of the two cannot be matched."""
    trace: ModuleTrace | None
    """None where the models were not compared module by module."""
    same_weights: bool = False
    """Whether configuration and weights are equal. Their classes may differ: see ``classes``."""
    precisions: tuple[str, str] | None = None
    """The precisions that both models computed in, where they differ."""
    classes: tuple[str, str] | None = None
    """The classes of both models, where they differ: the same weights may be computed with in another way."""
    notes: tuple[str, ...] = ()
    """What could not be told and why, one line each; they are the last lines of ``what_changed``, too."""
    interrupted: bool = False
    """Whether someone stopped it (Ctrl-C) before its end."""

    what_changed: tuple[str, ...] = ()
    """The above in words: one line for each thing that changed, the most telling first. Never empty."""
    where_it_starts: tuple[str, ...] = ()
    """The first module whose output differs, with its figures, and the module where most of it arises if that is another one;
    that none differs by more than rounding, or why that is not known. Empty where nothing was compared, and where what changed
    is known and shows in no module."""

    @property
    def changed(self) -> bool | None:
        """Whether weights or configuration are known to have changed; None where the weights are not all known."""
        weights = self.weights
        if self.same_weights:
            return False
        if self.config or (weights is not None and (weights.changes or weights.computed)):
            return True
        all_equal = weights is not None and weights.n_equal == weights.n_tensors and not weights.unconfirmed
        return False if all_equal else None

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types; floats that are not finite as ``"nan"``, ``"inf"`` or ``"-inf"``."""
        document: dict[str, Any] = _plain(asdict(self))
        if document["trace"] is not None:
            del document["trace"]["order"]
        return document


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, StrEnum):
        return value.value
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, SupportsFloat):  # also numbers of numpy
        number = float(value)
        return number if math.isfinite(number) else str(number)
    return str(value)
