"""The weights of a model in this process: a :class:`~pytest_pot.engines.weights.Weights`."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from pytest_pot.engines.pytorch.weights.constants import constants_of
from pytest_pot.engines.pytorch.weights.prints import digest_of, print_from, sums_of
from pytest_pot.engines.weights import TensorChange, TensorInfo, TensorPrint, Weights, WeightsPrint

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
        to_json = getattr(getattr(self._model, "config", None), "to_json_string", None)
        if to_json is None:
            return None
        try:
            document: dict[str, Any] = json.loads(to_json(use_diff=False))
        except (TypeError, ValueError):  # a class of the user's, or values that JSON does not have
            return None
        return document

    @cached_property
    def tensors(self) -> Mapping[str, TensorInfo]:
        return {
            name: TensorInfo(tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."), saved=name not in self._computed)
            for name, tensor in self._distinct.items()
        }

    @cached_property
    def ties(self) -> Mapping[str, str]:
        first = {_identity(tensor): name for name, tensor in reversed(self._all.items())}
        names = {name: first[_identity(tensor)] for name, tensor in self._all.items()}
        return {name: tied for name, tied in names.items() if tied != name}

    @cached_property
    def constants(self) -> Mapping[str, float | int | bool | str | None]:
        return constants_of(self._model)

    @cached_property
    def unreadable(self) -> str | None:
        reasons = ((name, _why_unreadable(tensor)) for name, tensor in self._distinct.items())
        return next((f"{name} {reason}" for name, reason in reasons if reason is not None), None)

    def values(self, name: str) -> Tensor:
        """The values of the tensor ``name``, in the tensor's shape and on its device; floats in the precision that they are
        kept in."""
        return self._all[name].detach()

    def digest(self, name: str) -> bytes:
        """See :meth:`Weights.digest`. The tensors that follow are read too, as many as there are processors: whoever asks for
        one mostly asks for all, in their order."""
        name = self.ties.get(name, name)
        if name not in self._digests:
            names = list(self.tensors)
            following = names[names.index(name) :]
            self._read_digests([each for each in following if each not in self._digests][: os.cpu_count()])
        return self._digests[name]

    def change(self, name: str, reference: Weights | WeightsPrint, reference_name: str) -> TensorChange | None:
        raise NotImplementedError

    def print(self) -> WeightsPrint:
        """See :meth:`Weights.print`. Tensors are read one after the other, twice: for the digests, and for the sums."""
        self._read_digests([name for name in self.tensors if name not in self._digests])
        return WeightsPrint(
            model_class=self.model_class,
            config=self.config,
            tensors={name: self._print_of(name) for name in self.tensors},
            ties=self.ties,
        )

    def _print_of(self, name: str) -> TensorPrint:
        return print_from(self.tensors[name], self.digest(name), sums_of(self.values(name)))

    def _read_digests(self, names: Sequence[str]) -> None:
        # Threads help, because hashlib releases the GIL while it hashes.
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            self._digests.update(zip(names, pool.map(lambda name: digest_of(self.values(name)), names), strict=True))

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


def _identity(tensor: Tensor) -> object:
    """Equal for two names of a parameter, and for two views of the same values."""
    if type(tensor) not in _PLAIN_CLASSES or tensor.layout != torch.strided or tensor.is_meta or not tensor.numel():
        return id(tensor)  # it has no memory that tells
    place = (tensor.untyped_storage().data_ptr(), tensor.storage_offset(), tensor.shape, tensor.stride())
    return (tensor.device, tensor.dtype, *place)


_PLAIN_CLASSES = (Tensor, nn.Parameter)


def _why_unreadable(tensor: Tensor) -> str | None:
    """Why the values of ``tensor`` cannot be read, as the rest of a clause that begins with its name; None if they can."""
    if hasattr(tensor, "device_mesh"):
        return "is spread over several processes"
    if tensor.is_meta:
        return "is not in memory: it was offloaded, or never loaded"
    if tensor.layout != torch.strided:
        return "is kept as a sparse tensor, which cannot be read here"
    if tensor.is_quantized or type(tensor) not in _PLAIN_CLASSES:
        return f"is kept as {type(tensor).__module__.partition('.')[0]} {type(tensor).__name__}, which cannot be read here"
    return None
