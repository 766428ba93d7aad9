"""ONNX graphs of transformers models, with the inputs and outputs that optimum gives them."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedModel

_PAST = 3
"""Tokens in the cache of the example that is traced."""


@dataclass(frozen=True)
class Export:
    """What the graph is like."""

    cache: bool = False
    """Whether it takes ``past_key_values.*`` and gives ``present.*``."""
    mask: bool = True
    positions: bool = False
    last_only: bool = False
    """Whether the head is pruned to the last position."""
    dtype: torch.dtype = torch.int64
    """Of ids, mask and positions."""
    batch: int | None = None
    """How many sequences it takes; None for any number."""
    length: int | None = None
    output: str = "logits"
    opset: int = 17


class _Traced(nn.Module):
    def __init__(self, model: nn.Module, kind: Export) -> None:
        super().__init__()
        self._model = model
        self._kind = kind

    def forward(self, input_ids: Tensor, *others: Tensor) -> Any:
        rest = list(others)
        named: dict[str, Any] = {"input_ids": input_ids, "use_cache": self._kind.cache}
        named["attention_mask"] = rest.pop(0) if self._kind.mask else torch.ones_like(input_ids)
        if self._kind.positions:
            named["position_ids"] = rest.pop(0)
        if self._kind.cache:
            cache = named["past_key_values"] = DynamicCache()
            for layer in range(len(rest) // 2):
                cache.update(rest[2 * layer], rest[2 * layer + 1], layer)
        output = self._model(**named)
        logits = output.logits[:, -1:] if self._kind.last_only else output.logits
        if not self._kind.cache:
            return logits
        return logits, *(each for layer in output.past_key_values.layers for each in (layer.keys, layer.values))


def export(model: PreTrainedModel, path: Path, kind: Export = Export()) -> Path:
    """Write the graph of ``model`` to ``path``, by torch's older exporter, which is ten times as fast."""
    batch, length = kind.batch or 2, kind.length or 5
    past = _PAST if kind.cache else 0
    config: Any = model.config
    inputs: dict[str, Tensor] = {"input_ids": torch.arange(3, 3 + batch * length).reshape(batch, length).to(kind.dtype)}
    if kind.mask:
        inputs["attention_mask"] = torch.ones(batch, past + length, dtype=kind.dtype)
    if kind.positions:
        inputs["position_ids"] = torch.arange(past, past + length, dtype=kind.dtype).expand(batch, -1).contiguous()
    if kind.cache:
        size = config.hidden_size // config.num_attention_heads
        for layer in range(config.num_hidden_layers):
            for part in ("key", "value"):
                shape = batch, config.num_key_value_heads, past, size
                inputs[f"past_key_values.{layer}.{part}"] = torch.ones(shape, dtype=model.dtype)
    presents = [name.replace("past_key_values", "present") for name in inputs if name.startswith("past")]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            _Traced(model, kind).eval(),
            tuple(inputs.values()),
            str(path),
            input_names=list(inputs),
            output_names=[kind.output, *presents],
            dynamic_axes=_axes(kind, [*inputs, kind.output, *presents]),
            opset_version=kind.opset,
            dynamo=False,
        )
    return path


def _axes(kind: Export, names: list[str]) -> Mapping[str, Mapping[int, str]]:
    axes: dict[str, dict[int, str]] = {}
    for name in names:
        mine = {} if kind.batch else {0: "batch"}
        if name.startswith(("past", "present")):
            mine[2] = f"{name.partition('.')[0]}_length"
        elif not kind.length and not (kind.last_only and name == kind.output):
            mine[1] = "total_length" if name == "attention_mask" and kind.cache else "length"
        axes[name] = mine
    return axes


def export_by_dynamo(model: PreTrainedModel, path: Path) -> Path:
    """The graph of ``model`` by torch's newer exporter, which puts weights into a file beside it."""
    ids = torch.ones(2, 5, dtype=torch.int64)
    sizes = {0: torch.export.Dim("batch"), 1: torch.export.Dim("length")}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            _Traced(model, Export()).eval(),
            (ids, torch.ones_like(ids)),
            str(path),
            input_names=["input_ids", "attention_mask"],
            output_names=["logits"],
            dynamic_shapes={"input_ids": sizes, "others": (sizes,)},
            dynamo=True,
            external_data=True,
            verbose=False,
        )
    return path


def with_external_data(graph: Path, target: Path, *, files: str | None = None) -> Path:
    """``graph`` at ``target`` with its weights in the file ``files`` beside it, or each in a file of its own."""
    model = onnx.load(graph)
    onnx.save_model(
        model,
        target,
        save_as_external_data=True,
        all_tensors_to_one_file=files is not None,
        location=files,
        size_threshold=64,
    )
    return target


def merged(graph: Path, target: Path) -> Path:
    """``graph`` as the branch for ``use_cache_branch=False``, with another one beside it whose logits are all 0."""
    from onnx import TensorProto, helper

    model = onnx.load(graph)
    inner = model.graph
    logits = next(output for output in inner.output if output.name == "logits")
    flat = helper.make_node(
        "Constant", [], ["logits"], value=helper.make_tensor("zeros", TensorProto.FLOAT, [1, 1, 97], [0.0] * 97)
    )
    without = helper.make_graph(list(inner.node), "without", [], [logits])
    after = helper.make_graph([flat], "after", [], [logits])
    node = helper.make_node("If", ["use_cache_branch"], ["logits"], then_branch=after, else_branch=without)
    branch = helper.make_tensor_value_info("use_cache_branch", TensorProto.BOOL, [1])
    outer = helper.make_graph([node], "merged", [*inner.input, branch], [logits], list(inner.initializer))
    onnx.save(helper.make_model(outer, opset_imports=model.opset_import, ir_version=model.ir_version), target)
    return target


def dynamic_int8(graph: Path, target: Path) -> Path:
    """``graph`` with 8-bit weights and activations, whose scales are computed while it runs."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with _quiet():
        quantize_dynamic(graph, target, weight_type=QuantType.QInt8)
    return target


def weights_in_blocks(graph: Path, target: Path) -> Path:
    """``graph`` with weights of 4 bits, each block of them with a scale of its own."""
    try:
        from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer as Quantiser
    except ModuleNotFoundError:  # its name in older versions
        from onnxruntime.quantization.matmul_4bits_quantizer import MatMul4BitsQuantizer as Quantiser
    with _quiet():
        quantiser = Quantiser(onnx.load(graph), block_size=16, is_symmetric=True)
        quantiser.process()
        quantiser.model.save_model_to_file(str(target))
    return target


@contextmanager
def _quiet() -> Iterator[None]:
    """Quantisers warn, and log on the root logger."""
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)
