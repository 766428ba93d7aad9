"""The inputs of a graph and what each of them gets, and its output."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from pytest_pot.core.errors import PotError
from pytest_pot.core.text import some_of

__all__ = ["BFLOAT16", "FLOATS", "Feeds", "NodeArg", "output_of"]

_INTEGERS = {"tensor(int64)": np.int64, "tensor(int32)": np.int32}
BFLOAT16 = "tensor(bfloat16)"
FLOATS = {"tensor(float)": "float32", "tensor(float16)": "float16", BFLOAT16: "bfloat16", "tensor(double)": "float64"}
"""Float types of ONNX Runtime, and what torch calls them."""
_ARRAYS = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(double)": np.float64}

_CACHE = re.compile(r"past(_key_values?)?[._](\d+[._](key|value)|(key|value)s?[._]\d+)")
"""Keys or values of one layer, of the tokens that were read before: ``past_key_values.0.key``."""
_CACHE_RANK = 4
_KEPT = ("num_logits_to_keep", "logits_to_keep")
"""How many of the last positions get logits; 0 for all."""
_SHAPES = "pass dynamic_axes to torch.onnx.export"


class NodeArg(Protocol):
    """An input or output of a session, as ONNX Runtime describes it."""

    name: str
    type: str
    shape: Sequence[int | str | None]


@dataclass(frozen=True)
class _Input:
    name: str
    kind: str
    type: str
    shape: tuple[int, ...] = ()
    """Of a cache, for one sequence."""


@dataclass(frozen=True)
class Feeds:
    """What a graph is given for a batch of token ids."""

    inputs: tuple[_Input, ...]
    one_by_one: bool
    """Whether the graph takes one sequence at a time."""

    @classmethod
    def of(cls, arguments: Sequence[NodeArg], config: Mapping[str, Any], what: str) -> Feeds:
        """The feeds of a graph with the inputs ``arguments``.

        Args:
            config: of the model, for the sizes of a cache that the graph leaves open.
            what: the model, for messages.

        Raises:
            PotError: an input is missing, unknown, or has a shape or type that cannot be given.
        """
        inputs, unknown = [], []
        for argument in arguments:
            known = _known(argument, config, what)
            if known is None:
                unknown.append(argument.name)
            else:
                inputs.append(known)
        if unknown:
            raise PotError(
                f"cannot run {what}: its graph has the input{'' if len(unknown) == 1 else 's'} {some_of(unknown)}, and "
                "pytest-pot does not know what to give there. A graph of a decoder is run, with input_ids, attention_mask, "
                "position_ids and past_key_values.*; export the model with those"
            )
        ids = next((argument for argument in arguments if argument.name == "input_ids"), None)
        if ids is None:
            raise PotError(f"cannot run {what}: its graph has no input input_ids, but {some_of([a.name for a in arguments])}")
        return cls(tuple(inputs), one_by_one=ids.shape[0] == 1)

    @property
    def has_mask(self) -> bool:
        return any(each.kind == "attention_mask" for each in self.inputs)

    @property
    def cache_dtypes(self) -> set[str]:
        return {FLOATS[each.type] for each in self.inputs if each.kind == "cache"}

    def arrays(self, ids: npt.NDArray[np.int64], mask: npt.NDArray[np.int64]) -> dict[str, tuple[npt.NDArray[Any], str]]:
        """By name, the array for each input and its type. Bfloat16, which has no type in NumPy, is uint16: its bits.

        ``ids``, ``mask``: [batch, length].
        """
        return {each.name: (self._array(each, ids, mask), each.type) for each in self.inputs}

    def _array(self, each: _Input, ids: npt.NDArray[np.int64], mask: npt.NDArray[np.int64]) -> npt.NDArray[Any]:
        if each.kind == "cache":
            heads, size = each.shape
            return np.zeros((len(ids), heads, 0, size), _ARRAYS.get(each.type, np.uint16))
        if each.kind == "use_cache_branch":
            return np.zeros(1, np.bool_)
        dtype = _INTEGERS[each.type]
        if each.kind in _KEPT:
            return np.zeros(each.shape, dtype)
        if each.kind == "cache_position":
            return np.arange(ids.shape[1], dtype=dtype)
        if each.kind == "position_ids":
            return np.ascontiguousarray(np.broadcast_to(np.arange(ids.shape[1], dtype=dtype), ids.shape))
        return (ids if each.kind == "input_ids" else mask).astype(dtype)


def output_of(outputs: Sequence[NodeArg], what: str) -> NodeArg:
    """The output of a graph that has the logits.

    Raises:
        PotError: it has none, or only those of the last position.
    """
    output = next((each for each in outputs if each.name == "logits"), None)
    if output is None:
        others = [each for each in outputs if not each.name.startswith(("present", "past", "hidden"))]
        if len(others) != 1:
            raise PotError(f"cannot run {what}: its graph has no output logits, but {some_of([each.name for each in outputs])}")
        [output] = others
    if output.type not in FLOATS or (output.shape and len(output.shape) != 3):
        raise PotError(
            f"cannot run {what}: its output {output.name} is {output.type} of shape {_shape(output)}; expected floats, logits "
            "[batch, length, vocab]"
        )
    if output.shape and output.shape[1] == 1:
        raise PotError(f"cannot run {what}: {pruned(output.name)}")
    return output


def pruned(name: str) -> str:
    """Why a graph that gives the logits of one position only cannot be compared."""
    return (
        f"its output {name} has the last position only: the head was pruned for generating. A comparison needs the logits "
        "of all positions. Export the model without logits_to_keep (num_logits_to_keep), or without pruning the head"
    )


def _known(argument: NodeArg, config: Mapping[str, Any], what: str) -> _Input | None:
    name, rank = argument.name, len(argument.shape)
    if _CACHE.fullmatch(name) and argument.type in FLOATS and rank == _CACHE_RANK:
        return _Input(name, "cache", argument.type, _cache_sizes(argument, config, what))
    if name == "use_cache_branch" and argument.type == "tensor(bool)":
        return _Input(name, name, argument.type)
    if argument.type not in _INTEGERS:
        return None
    if name in ("input_ids", "attention_mask", "position_ids") and rank == 2:
        _check_free(argument, what)
        return _Input(name, name, argument.type)
    if name == "cache_position" and rank == 1:
        return _Input(name, name, argument.type)
    if name in _KEPT and rank < 2:
        return _Input(name, name, argument.type, (1,) * rank)
    return None


def _check_free(argument: NodeArg, what: str) -> None:
    """Raise unless the graph takes sequences of any length, and one or any number of them."""
    batch, length = argument.shape
    if isinstance(length, int):
        raise PotError(
            f"cannot run {what}: its graph takes sequences of exactly {length} tokens ({argument.name} is {_shape(argument)}). "
            f"Export it for any length: {_SHAPES}"
        )
    if isinstance(batch, int) and batch != 1:
        raise PotError(
            f"cannot run {what}: its graph takes exactly {batch} sequences at a time ({argument.name} is {_shape(argument)}). "
            f"Export it for any number of them: {_SHAPES}"
        )


def _cache_sizes(argument: NodeArg, config: Mapping[str, Any], what: str) -> tuple[int, int]:
    """Heads and size of a head in a cache."""
    _, heads, length, size = argument.shape
    if isinstance(length, int) and length > 0:
        raise PotError(
            f"cannot run {what}: its cache has a fixed length ({argument.name} is {_shape(argument)}), so that no prompt can "
            "be read from its beginning. Export it with a cache of any length, or without one"
        )
    n_heads = config.get("num_attention_heads")
    known_heads = config.get("num_key_value_heads") or n_heads
    known_size = config.get("head_dim")
    if known_size is None and isinstance(width := config.get("hidden_size"), int) and isinstance(n_heads, int) and n_heads:
        known_size = width // n_heads
    heads = heads if isinstance(heads, int) else known_heads
    size = size if isinstance(size, int) else known_size
    if not (isinstance(heads, int) and isinstance(size, int) and heads > 0 and size > 0):
        raise PotError(
            f"cannot run {what}: neither its graph ({argument.name} is {_shape(argument)}) nor a config.json beside it says "
            "how many key-value heads it has, and of what size"
        )
    return heads, size


def _shape(argument: NodeArg) -> str:
    return f"[{', '.join(map(str, argument.shape))}]"
