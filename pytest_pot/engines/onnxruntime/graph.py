"""What an ONNX file says of its graph: operators, the precision of its weights, files beside it, and rows of its embedding."""

from __future__ import annotations

import mmap
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from math import prod
from pathlib import Path

from pytest_pot.core.errors import PotError
from pytest_pot.engines.onnxruntime.wire import Malformed, Message

__all__ = ["GraphFacts", "read_graph"]

_DTYPES = {
    1: "float32",
    2: "uint8",
    3: "int8",
    10: "float16",
    11: "float64",
    16: "bfloat16",
    17: "float8_e4m3fn",
    18: "float8_e4m3fnuz",
    19: "float8_e5m2",
    20: "float8_e5m2fnuz",
    21: "uint4",
    22: "int4",
    23: "float4_e2m1",
}
"""``TensorProto.DataType``: those that weights have."""
_FLOATS = ("float32", "float16", "bfloat16", "float64")

# Numbers of fields, from onnx.proto.
_MODEL_GRAPH, _MODEL_FUNCTIONS, _FUNCTION_NODES = 7, 25, 7
_NODES, _INITIALIZERS, _SPARSE_INITIALIZERS = 1, 5, 15
_NODE_INPUTS, _NODE_OUTPUTS, _NODE_OPERATOR, _NODE_ATTRIBUTES = 1, 2, 4, 5
_ATTRIBUTE_NAME, _ATTRIBUTE_INTEGER, _ATTRIBUTE_TENSOR, _ATTRIBUTE_GRAPH, _ATTRIBUTE_GRAPHS = 1, 3, 5, 6, 11
_TENSOR_DIMS, _TENSOR_DTYPE, _TENSOR_NAME, _TENSOR_EXTERNAL = 1, 2, 8, 13
_ENTRY_KEY, _ENTRY_VALUE = 1, 2

_WITH_GRAPHS = ("If", "Loop", "Scan", "SequenceMap")
_LOOKUPS = ("Gather", "GatherBlockQuantized")
_SAME_IDS = ("Cast", "Identity", "Reshape", "Squeeze", "Unsqueeze", "Expand")
"""Operators after which ids are the same ids."""
_SAME_ROWS = ("Cast", "Identity", "DequantizeLinear", "QuantizeLinear")
"""Operators after which a table has as many rows."""


@dataclass(frozen=True)
class _Tensor:
    dims: Sequence[int]
    dtype: str | None


@dataclass
class GraphFacts:
    """What a graph is made of, its branches and local functions included."""

    operators: Counter[str] = field(default_factory=Counter)
    files: set[str] = field(default_factory=set)
    """The external data files, as the graph names them: relative to its folder."""
    elements: Counter[str] = field(default_factory=Counter)
    """How many numbers of each dtype the weights have."""
    weight_bits: set[int] = field(default_factory=set)
    """Of ``MatMulNBits``."""
    dequantised: set[str] = field(default_factory=set)
    """The dtypes of the weights that ``DequantizeLinear`` reads."""
    embedding_rows: int | None = None
    """How many ids have a row in every table that ``input_ids`` are looked up in; None where there is no such table."""

    @property
    def float_dtype(self) -> str:
        """The float dtype that most of the numbers have."""
        floats = [(count, name) for name, count in self.elements.items() if name in _FLOATS]
        return max(floats)[1] if floats else "float32"

    @property
    def one_scale_for_all(self) -> bool:
        """Whether activations are rounded with a scale that depends on everything that one pass reads, padding included."""
        return any(self.operators[name] for name in ("DynamicQuantizeLinear", "DynamicQuantizeMatMul"))

    @property
    def format(self) -> str:
        """As people call it: ``"ONNX int8 (dynamic)"``."""
        dynamic = self.one_scale_for_all or any(name.startswith("DynamicQuantize") for name in self.operators)
        static = any(name.startswith("QLinear") or name == "QuantizeLinear" for name in self.operators)
        blocks = sorted(name for name in ("MatMulNBits", "MatMulBnb4", "QMoE") if self.operators[name])
        parts = []
        if blocks:
            bits = "/".join(map(str, sorted(self.weight_bits)))
            parts.append(f"{f'{bits}-bit ' if bits else ''}weights ({', '.join(blocks)})")
        if dynamic:
            parts.append("int8 (dynamic)")
        elif static:
            parts.append("int8 (static)")
        elif self.dequantised:
            parts.append(f"{'/'.join(sorted(self.dequantised))} weights (DequantizeLinear)")
        return " ".join(["ONNX", " and ".join(parts)]).strip()


def read_graph(path: Path, what: str) -> GraphFacts:
    """The facts of the file ``path``, of ``what``, for messages.

    Raises:
        PotError: it is no ONNX file, or is cut off.
    """
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as buffer:
            return _Reader().read(Message(buffer, 0, len(buffer)))
    except OSError as error:
        raise PotError(f"cannot load {what}: {path} cannot be read: {error.strerror or error}") from error
    except (Malformed, ValueError) as error:  # a file of no bytes cannot be mapped
        raise PotError(
            f"cannot load {what}: {path} is no ONNX file, or was cut off when it was written or copied (it has "
            f"{path.stat().st_size:,} bytes). Export or copy it again"
        ) from error


class _Reader:
    def __init__(self) -> None:
        self._facts = GraphFacts()
        self._tensors: dict[str, _Tensor] = {}
        self._sources: dict[str, str] = {}
        """By the name of a value, the table that has as many rows."""
        self._ids = {"input_ids"}
        """Values that hold the ids that the model reads."""

    def read(self, model: Message) -> GraphFacts:
        graphs = list(model.messages(_MODEL_GRAPH))
        if not graphs:
            raise Malformed
        for graph in graphs:
            self._read_graph(graph)
        for function in model.messages(_MODEL_FUNCTIONS):
            for node in function.messages(_FUNCTION_NODES):
                self._read_node(node)
        return self._facts

    def _read_graph(self, graph: Message) -> None:
        nodes = []
        for number, value in graph.fields():
            if isinstance(value, Message):
                if number == _NODES:
                    nodes.append(value)
                elif number == _INITIALIZERS:
                    self._read_tensor(value)
                elif number == _SPARSE_INITIALIZERS:
                    for part in (1, 2):  # values and indices
                        for tensor in value.messages(part):
                            self._read_tensor(tensor)
        for node in nodes:  # in an order in which each comes after those that it needs
            self._read_node(node)

    def _read_tensor(self, tensor: Message, name: str | None = None) -> None:
        dims, dtype = tensor.integers(_TENSOR_DIMS), _DTYPES.get(next(iter(tensor.integers(_TENSOR_DTYPE)), 0))
        for entry in tensor.messages(_TENSOR_EXTERNAL):
            if entry.texts(_ENTRY_KEY) == ["location"]:
                self._facts.files.update(entry.texts(_ENTRY_VALUE))
        if dtype is not None:
            self._facts.elements[dtype] += prod(dims)
        names = tensor.texts(_TENSOR_NAME) if name is None else [name]
        self._tensors.update((each, _Tensor(dims, dtype)) for each in names)

    def _read_node(self, node: Message) -> None:
        [operator] = node.texts(_NODE_OPERATOR) or [""]
        inputs, outputs = node.texts(_NODE_INPUTS), node.texts(_NODE_OUTPUTS)
        self._facts.operators[operator] += 1
        if operator == "Constant" and outputs:
            for tensor in _of_attributes(node, _ATTRIBUTE_TENSOR):
                self._read_tensor(tensor, outputs[0])
        elif operator in _WITH_GRAPHS:
            for graph in (*_of_attributes(node, _ATTRIBUTE_GRAPH), *_of_attributes(node, _ATTRIBUTE_GRAPHS)):
                self._read_graph(graph)
        elif operator == "MatMulNBits":
            self._facts.weight_bits.update(_integers_named(node, "bits"))
        if not inputs or not outputs:
            return
        source = self._sources.get(inputs[0], inputs[0])
        if operator == "DequantizeLinear" and (table := self._tensors.get(source)) and table.dtype is not None:
            self._facts.dequantised.add(table.dtype)
        if operator in _SAME_IDS and inputs[0] in self._ids:
            self._ids.add(outputs[0])
        elif operator in _SAME_ROWS:
            self._sources[outputs[0]] = source
        elif operator in _LOOKUPS and len(inputs) > 1 and inputs[1] in self._ids and not any(_integers_named(node, "axis")):
            self._add_rows(self._tensors.get(source))

    def _add_rows(self, table: _Tensor | None) -> None:
        if table is not None and len(table.dims) > 1:
            rows = table.dims[0]
            known = self._facts.embedding_rows
            self._facts.embedding_rows = rows if known is None else min(rows, known)


def _of_attributes(node: Message, kind: int) -> Iterator[Message]:
    for attribute in node.messages(_NODE_ATTRIBUTES):
        yield from attribute.messages(kind)


def _integers_named(node: Message, name: str) -> list[int]:
    attributes = (each for each in node.messages(_NODE_ATTRIBUTES) if each.texts(_ATTRIBUTE_NAME) == [name])
    return [value for each in attributes for value in each.integers(_ATTRIBUTE_INTEGER)]
