"""The weights of a model in this process: a :class:`~pytest_pot.engines.weights.Weights`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cached_property
from typing import Any

from torch import Tensor, nn

from pytest_pot.engines.pytorch.weights.constants import constants_of
from pytest_pot.engines.weights import TensorChange, TensorInfo, Weights, WeightsPrint

__all__ = ["NamedWeights"]


class NamedWeights:
    """A :class:`~pytest_pot.engines.weights.Weights`. Nothing is read before it is asked for."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._digests: dict[str, bytes] = {}

    @property
    def model_class(self) -> str:
        return type(self._model).__name__

    @cached_property
    def config(self) -> Mapping[str, Any] | None:
        config = getattr(self._model, "config", None)
        if config is None or not hasattr(config, "to_json_string"):
            return None
        document: dict[str, Any] = json.loads(config.to_json_string(use_diff=False))
        return document

    @cached_property
    def tensors(self) -> Mapping[str, TensorInfo]:
        return {
            name: TensorInfo(tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."), saved=name not in self._computed)
            for name, tensor in self._distinct.items()
        }

    @cached_property
    def ties(self) -> Mapping[str, str]:
        first = {id(tensor): name for name, tensor in reversed(self._all.items())}
        return {name: first[id(tensor)] for name, tensor in self._all.items() if first[id(tensor)] != name}

    @cached_property
    def constants(self) -> Mapping[str, float | int | bool | str | None]:
        return constants_of(self._model)

    @property
    def unreadable(self) -> str | None:
        return None

    def values(self, name: str) -> Tensor:
        """The values of the tensor ``name``, in the tensor's shape and on its device; floats in the precision that they are
        kept in."""
        return self._all[name].detach()

    def digest(self, name: str) -> bytes:
        raise NotImplementedError

    def change(self, name: str, reference: Weights | WeightsPrint, reference_name: str) -> TensorChange | None:
        raise NotImplementedError

    def print(self) -> WeightsPrint:
        raise NotImplementedError

    @cached_property
    def _all(self) -> dict[str, Tensor]:
        """All parameters and buffers by name, also those with several names."""
        return {
            **dict(self._model.named_parameters(remove_duplicate=False)),
            **dict(self._model.named_buffers(remove_duplicate=False)),
        }

    @cached_property
    def _distinct(self) -> dict[str, Tensor]:
        return {name: tensor for name, tensor in self._all.items() if name not in self.ties}

    @cached_property
    def _computed(self) -> frozenset[str]:
        """The buffers that no checkpoint holds."""
        return frozenset(
            f"{prefix}.{name}" if prefix else name
            for prefix, module in self._model.named_modules(remove_duplicate=False)
            for name in module._non_persistent_buffers_set
        )
