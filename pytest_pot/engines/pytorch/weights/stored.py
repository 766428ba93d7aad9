"""The tensors of a model: under which names, where their values are, and which names share them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from itertools import chain
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from pytest_pot.engines.pytorch.weights.packed import packed_in, unknown_format
from pytest_pot.engines.weights import TensorInfo

__all__ = ["Stored", "base_of", "stored_tensors", "why_unreadable"]

_PLAIN_CLASSES = (Tensor, nn.Parameter)
_PEFT_PREFIX = "base_model.model."
_PEFT_LAYER = re.compile(r"\.base_layer(?=\.)")


@dataclass(frozen=True, eq=False)
class Stored:
    """A tensor of a model."""

    info: TensorInfo
    identity: object
    """Equal for two names of the same values."""
    read: Callable[[], Tensor]
    """The values, in the tensor's shape and on its device; a view of the model's own, unless they have to be dequantised."""
    packed: bool
    """Whether they are kept in a packed format."""
    why_unreadable: str | None
    """Why they cannot be read, as the rest of a clause that begins with the name; None if nothing is known against it."""


def stored_tensors(model: nn.Module) -> Mapping[str, Stored]:
    """All parameters, then all buffers of ``model`` by name, also those with several names.

    With an adapter of peft that is not merged, the tensors of the base model have the names that they have without it.
    """
    parameters: dict[str, Stored] = {}
    buffers: dict[str, Stored] = {}
    for prefix, module in model.named_modules(remove_duplicate=False):
        for name, stored in _of_module(module):
            where = buffers if name in module._buffers else parameters
            where[f"{prefix}.{name}" if prefix else name] = stored
    tensors = {**parameters, **buffers}
    names = {name: _PEFT_LAYER.sub("", name.removeprefix(_PEFT_PREFIX)) for name in tensors} if _has_adapter(model) else {}
    return {names.get(name, name): stored for name, stored in tensors.items()}


def base_of(model: nn.Module) -> nn.Module:
    """The model that an adapter of peft wraps; ``model`` itself where there is none."""
    base = getattr(model, "get_base_model", None)
    return base() if _has_adapter(model) and callable(base) else model


def why_unreadable(model: nn.Module, tensors: Mapping[str, Stored]) -> str | None:
    """Why the values of ``tensors`` cannot be read, as a clause for people; None if they can.

    Of each packed format, one tensor is dequantised to see.
    """
    reasons = (f"{name} {stored.why_unreadable}" for name, stored in tensors.items() if stored.why_unreadable is not None)
    reason = next(chain(reasons, filter(None, [unknown_format(model)])), None)
    if reason is not None:
        return reason
    by_size = sorted((name for name in tensors if tensors[name].packed), key=lambda name: -prod(tensors[name].info.shape))
    for name in {tensors[name].info.dtype: name for name in by_size}.values():
        stored = tensors[name]
        try:
            shape = tuple(stored.read().shape)
        except Exception as error:  # of a library, in a version that we do not know
            return f"{name} is kept as {stored.info.dtype}, and cannot be dequantised ({type(error).__name__}: {error})"
        if shape != stored.info.shape:
            return f"{name} is kept as {stored.info.dtype}, and dequantised it has the shape {list(shape)}"
    return None


def _has_adapter(model: Any) -> bool:
    return bool(getattr(model, "peft_config", None))


def _of_module(module: nn.Module) -> Iterator[tuple[str, Stored]]:
    packed = {part: each for each in packed_in(module) for part in each.parts}
    done: set[int] = set()
    for name, tensor in (*module._parameters.items(), *module._buffers.items()):
        if name in packed:
            each = packed[name]
            if id(each) not in done:
                done.add(id(each))
                yield each.name, Stored(TensorInfo(each.shape, each.format), each.identity, each.read, True, _why(tensor))
        elif tensor is not None:
            dtype = str(tensor.dtype).removeprefix("torch.")
            info = TensorInfo(tuple(tensor.shape), dtype, saved=name not in module._non_persistent_buffers_set)
            yield name, Stored(info, _identity(tensor), tensor.detach, False, _why(tensor) or _why_not_plain(tensor))


@cache
def _is_number(dtype: torch.dtype) -> bool:
    """Whether torch converts this type: it does not for types of less than a byte."""
    if dtype.is_complex:
        return True
    try:
        torch.zeros(1).to(dtype).to(torch.float64)
    except (NotImplementedError, RuntimeError, TypeError):
        return False
    return True


def _identity(tensor: Tensor) -> object:
    """Equal for two names of a parameter, and for two views of the same values."""
    if not _is_plain(tensor) or tensor.is_meta or not tensor.numel():
        return id(tensor)  # it has no memory that tells
    place = (tensor.untyped_storage().data_ptr(), tensor.storage_offset(), tensor.shape, tensor.stride())
    return (tensor.device, tensor.dtype, *place)


def _is_plain(tensor: Tensor) -> bool:
    return type(tensor) in _PLAIN_CLASSES and tensor.layout == torch.strided and not tensor.is_quantized


def _why(tensor: Tensor | None) -> str | None:
    if tensor is None:
        return None
    if hasattr(tensor, "device_mesh"):
        return "is spread over several processes"
    return "is not in memory: it was offloaded, or never loaded" if tensor.is_meta else None


def _why_not_plain(tensor: Tensor) -> str | None:
    if tensor.layout != torch.strided:
        return "is kept as a sparse tensor, which cannot be read here"
    kind = type(tensor)
    if tensor.is_quantized or kind.__torch_dispatch__ is not Tensor.__torch_dispatch__:
        return f"is kept as {kind.__module__.partition('.')[0]} {kind.__name__}, a format that cannot be read here"
    if not _is_number(tensor.dtype):
        return f"is kept as {str(tensor.dtype).removeprefix('torch.')}, a format that cannot be read here"
    return None  # a class that only adds attributes
