"""Weights in packed formats: what they are called, and their values, dequantised.

A quantised layer keeps a matrix as integers, with scales beside them. What is compared is the matrix that they stand for, under
the name that it has in a model that is not quantised; the scales and shapes beside it are no tensors of their own.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pytest_pot.engines.pytorch.quantised import is_quantised_layer, library_of, methods_of

__all__ = ["Packed", "packed_in", "unknown_format"]

_WEIGHT = "weight"
_FLOAT8 = frozenset(getattr(torch, name) for name in dir(torch) if name.startswith("float8_"))
_PLAIN_FLOATS = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
_SCALES = "_scale_inv"
_READ_METHODS = {"bitsandbytes", "compressed-tensors", "fp8", "torchao"}
"""Methods of transformers, all of whose formats are read here."""


@dataclass(frozen=True, eq=False)
class Packed:
    """A matrix of a module that is kept in a packed format."""

    name: str
    """In its module: ``"weight"``."""
    parts: frozenset[str]
    """The module's tensors that it is made of."""
    format: str
    """``"bitsandbytes nf4"``."""
    shape: tuple[int, ...]
    """Of the matrix, not of what it is packed in."""
    identity: object
    """Equal for two names of the same matrix."""
    read: Callable[[], Tensor]
    """Dequantises it, on its device, and changes nothing in the module."""


def packed_in(module: nn.Module) -> Iterator[Packed]:
    """The packed matrices among the tensors of ``module`` itself, of the formats that are read here."""
    tensors: Mapping[str, Any] = {**module._parameters, **module._buffers}
    own = {name: tensor for name, tensor in tensors.items() if tensor is not None}
    if hasattr(module, "quantization_scheme"):
        yield from _compressed(module, own)
        return
    for name, tensor in own.items():
        kind = type(tensor)
        library = library_of(kind)
        if library == "torchao" and hasattr(tensor, "dequantize"):
            yield Packed(
                name, frozenset([name]), f"torchao {kind.__name__}", tuple(tensor.shape), id(tensor), tensor.dequantize
            )
        elif library == "bitsandbytes" and not tensor.dtype.is_floating_point:
            yield from _by_bitsandbytes(module, name, tensor)
        elif tensor.dtype in _FLOAT8 and name + _SCALES in own:
            yield _in_float8_blocks(module, name, own)


def unknown_format(model: nn.Module) -> str | None:
    """Which format of packed weights in ``model`` is not read here, as a clause for people; None if there is none."""
    unknown = methods_of(model) - _READ_METHODS
    if unknown:
        return f"the weights are packed by {min(unknown)}, a format that cannot be read here"
    for prefix, module in model.named_modules():
        tensors = [*module.parameters(recurse=False), *module.buffers(recurse=False)]
        is_plain = tensors and all(tensor.dtype in _PLAIN_FLOATS for tensor in tensors)
        if is_quantised_layer(type(module)) and not is_plain and not any(packed_in(module)):
            kind = type(module)
            return f"{prefix} is kept as {library_of(kind)} {kind.__name__}, a format that cannot be read here"
    return None


def _by_bitsandbytes(module: nn.Module, name: str, tensor: Any) -> Iterator[Packed]:
    state = getattr(tensor, "quant_state", None)
    if state is not None:
        rounds = tensor.device.type == "cpu" and bool(getattr(module, "support_avx512bf16_for_cpu", False))
        yield Packed(
            name=name,
            parts=frozenset([name]),
            format=f"bitsandbytes {state.quant_type}",
            shape=tuple(state.shape),
            identity=id(tensor),
            read=lambda: _of_4_bits(tensor, rounds),
        )
    elif _int8_scales(module, tensor) is not None:
        yield Packed(
            name=name,
            parts=frozenset([name]),
            format="bitsandbytes int8",
            shape=tuple(tensor.shape),
            identity=id(tensor),
            read=lambda: _of_int8(module, tensor),
        )


def _int8_scales(module: nn.Module, tensor: Any) -> Any:
    """The largest magnitude of each row, which is with the weight until the first forward, then with the module's state."""
    scales = getattr(tensor, "SCB", None)
    return getattr(getattr(module, "state", None), "SCB", None) if scales is None else scales


def _of_int8(module: nn.Module, tensor: Any) -> Tensor:
    scales: Tensor = _int8_scales(module, tensor)
    values: Tensor = tensor.data.to(torch.float32) * (scales.to(torch.float32).view(-1, 1) / 127)
    return values


def _of_4_bits(tensor: Any, rounds: bool) -> Tensor:
    """
    Args:
        rounds: the first forward on this processor reorders the weights, and rounds their scales to bfloat16. They are rounded
            before it too, because it should not look like a change of the weights.
    """
    from bitsandbytes import functional

    data, state = tensor.data, copy.copy(tensor.quant_state)
    if getattr(state, "packing_format_for_cpu", False):
        scales = state.absmax.T.reshape(-1).to(torch.float32)
        state.original_nested = False  # else its scales would be quantised again
        data, state = functional._convert_weight_packed_for_cpu_inverse(data, state)
        state.absmax = scales
    elif rounds:
        if state.nested:
            state.absmax = functional.dequantize_blockwise(state.absmax, state.state2) + state.offset
            state.nested = False
        state.absmax = state.absmax.to(torch.bfloat16).to(torch.float32)
    values: Tensor = functional.dequantize_4bit(data, state)
    return values


def _compressed(module: nn.Module, own: Mapping[str, Tensor]) -> Iterator[Packed]:
    """compressed-tensors keeps ``weight_packed`` and its scales, or an integer ``weight`` and its scales.

    When the model first runs, it replaces them by a plain ``weight``, and keeps the scales.
    """
    scheme: Any = module.quantization_scheme
    packed = own.get("weight_packed", own.get(_WEIGHT))
    if packed is None or scheme is None:
        return

    def read() -> Tensor:
        if packed.dtype in _PLAIN_FLOATS:
            return packed.detach()
        from compressed_tensors.compressors import BaseCompressor

        compressor: Any = BaseCompressor.get_value_from_registry(scheme.format.value)
        values: Tensor = compressor.decompress({name: tensor.detach() for name, tensor in own.items()}, scheme)[_WEIGHT]
        return values

    kind = getattr(scheme.format, "value", None)
    shape = _shape_of(module) or tuple(packed.shape)
    parts = frozenset(name for name in own if name == _WEIGHT or name.startswith(f"{_WEIGHT}_"))
    yield Packed(_WEIGHT, parts, " ".join(filter(None, ["compressed-tensors", kind])), shape, id(packed), read)


def _shape_of(module: Any) -> tuple[int, ...] | None:
    """The shape of a layer's matrix, by the sizes that it tells."""
    for names in (("out_features", "in_features"), ("num_embeddings", "embedding_dim")):
        if all(isinstance(getattr(module, name, None), int) for name in names):
            return tuple(getattr(module, name) for name in names)
    return None


def _in_float8_blocks(module: nn.Module, name: str, own: Mapping[str, Tensor]) -> Packed:
    """transformers keeps a scale for each block of a matrix, or one for all of it."""
    values, scales = own[name], own[name + _SCALES]
    block = getattr(module, "block_size", None)

    def read() -> Tensor:
        factors = scales.detach().to(torch.float32)
        if block is not None and factors.numel() > 1:
            for axis, size in zip((-2, -1), block, strict=True):
                factors = factors.repeat_interleave(size, axis).narrow(axis, 0, values.shape[axis])
        return values.detach().to(torch.float32) * factors

    return Packed(
        name=name,
        parts=frozenset([name, name + _SCALES]),
        format=f"{str(values.dtype).removeprefix('torch.')} with scales",
        shape=tuple(values.shape),
        identity=id(values),
        read=read,
    )
