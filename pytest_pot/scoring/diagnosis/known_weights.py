"""The weights of one side of a comparison, live or recorded, behind one interface."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from pytest_pot.engines.weights import TensorInfo, Weights, WeightsPrint

__all__ = ["KnownWeights"]


@dataclass(frozen=True)
class KnownWeights:
    """A model's weights, as far as both kinds tell the same."""

    weights: Weights | WeightsPrint

    @property
    def recorded(self) -> bool:
        return isinstance(self.weights, WeightsPrint)

    @property
    def model_class(self) -> str:
        return self.weights.model_class

    @property
    def config(self) -> Mapping[str, Any] | None:
        return self.weights.config

    @cached_property
    def tensors(self) -> Mapping[str, TensorInfo]:
        if isinstance(self.weights, WeightsPrint):
            return {name: tensor.info for name, tensor in self.weights.tensors.items()}
        return self.weights.tensors

    @cached_property
    def saved(self) -> Mapping[str, TensorInfo]:
        """The tensors that a checkpoint holds."""
        return {name: info for name, info in self.tensors.items() if info.saved}

    @property
    def ties(self) -> Mapping[str, str]:
        return self.weights.ties

    @property
    def unreadable(self) -> str | None:
        return None if isinstance(self.weights, WeightsPrint) else self.weights.unreadable

    def has_size(self, name: str) -> bool:
        """Whether the tensor ``name`` is recorded, and finite and not 0, so that only too small a change has no size."""
        return isinstance(self.weights, WeightsPrint) and 0 < self.weights.tensors[name].norm < math.inf

    def grid(self, name: str) -> str | None:
        """The grid that the tensor ``name`` was recorded on, if there is one."""
        return self.weights.tensors[name].grid if isinstance(self.weights, WeightsPrint) else None

    def digest(self, name: str) -> bytes:
        if isinstance(self.weights, WeightsPrint):
            return self.weights.tensors[name].digest
        return self.weights.digest(name)
