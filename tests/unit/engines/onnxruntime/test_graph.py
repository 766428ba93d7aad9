"""What a file says of its graph, compared with what the package ``onnx`` reads."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from pytest_pot import PotError
from pytest_pot.engines.onnxruntime.graph import GraphFacts, read_graph

from ...models import VOCAB
from .conftest import Graphs


def nodes_of(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield from nodes_of(attribute.g)


def write(path: Path, nodes: list[onnx.NodeProto], weights: list[onnx.TensorProto]) -> GraphFacts:
    ids = helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["b", "s"])
    out = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["b", "s", 4])
    onnx.save(helper.make_model(helper.make_graph(nodes, "graph", [ids], [out], weights)), path)
    return read_graph(path, "it")


def weights(name: str, rows: int, dtype: int = TensorProto.FLOAT) -> onnx.TensorProto:
    return helper.make_tensor(name, dtype, [rows, 4], np.zeros(4 * rows, np.uint8).tobytes(), raw=True) if dtype in (
        TensorProto.INT8, TensorProto.UINT8) else helper.make_tensor(name, dtype, [rows, 4], [0.0] * (4 * rows))  # fmt: skip


@pytest.mark.parametrize("kind", ["plain", "cache", "merged", "dynamic int8", "float16"])
def test_operators_are_those_that_onnx_reads(graphs: Graphs, kind: str) -> None:
    path = graphs(kind)
    facts = read_graph(path, "it")
    assert facts.operators == Counter(node.op_type for node in nodes_of(onnx.load(path).graph))
    assert facts.embedding_rows == VOCAB
    assert facts.files == set()


def test_files_of_weights(graphs: Graphs) -> None:
    assert read_graph(graphs("one data file"), "it").files == {"weights.bin"}
    path = graphs("many data files")
    expected = {
        entry.value
        for tensor in onnx.load(path, load_external_data=False).graph.initializer
        for entry in tensor.external_data
        if entry.key == "location"
    }
    assert len(expected) > 3
    assert expected <= read_graph(path, "it").files


@pytest.mark.parametrize(
    ("kind", "name", "dtype"),
    [("plain", "ONNX", "float32"), ("float16", "ONNX", "float16"), ("dynamic int8", "ONNX int8 (dynamic)", "float32")],
)
def test_format_and_precision(graphs: Graphs, kind: str, name: str, dtype: str) -> None:
    facts = read_graph(graphs(kind), "it")
    assert (facts.format, facts.float_dtype) == (name, dtype)


def test_formats_of_quantised_graphs(tmp_path: Path) -> None:
    blocks = helper.make_node(
        "MatMulNBits", ["x", "q", "s"], ["logits"], domain="com.microsoft", bits=4, K=4, N=4, block_size=16
    )
    facts = write(tmp_path / "blocks.onnx", [blocks], [weights("q", 4, TensorProto.UINT8)])
    assert (facts.format, facts.one_scale_for_all) == ("ONNX 4-bit weights (MatMulNBits)", False)
    weight_only = helper.make_node("DequantizeLinear", ["q", "s"], ["logits"])
    assert write(tmp_path / "w.onnx", [weight_only], [weights("q", 4, TensorProto.INT8)]).format == (
        "ONNX int8 weights (DequantizeLinear)"
    )
    static = helper.make_node("QuantizeLinear", ["x", "s"], ["y"])
    assert write(tmp_path / "static.onnx", [static, weight_only], []).format == "ONNX int8 (static)"
    linear = helper.make_node("QLinearMatMul", ["x"] * 8, ["logits"])
    assert write(tmp_path / "linear.onnx", [linear], []).format == "ONNX int8 (static)"


def test_rows_are_those_of_the_smallest_table_that_ids_are_looked_up_in(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Cast", ["input_ids"], ["narrow"], to=TensorProto.INT32),
        helper.make_node("Gather", ["large", "narrow"], ["a"]),
        helper.make_node("DequantizeLinear", ["packed", "scale"], ["table"]),
        helper.make_node("Gather", ["table", "input_ids"], ["b"]),
        helper.make_node("Gather", ["positions", "others"], ["c"]),
        helper.make_node("Gather", ["columns", "input_ids"], ["d"], axis=1),
    ]
    tables = [weights("large", 9), weights("packed", 7, TensorProto.INT8), weights("positions", 3), weights("columns", 2)]
    assert write(tmp_path / "x.onnx", nodes, tables).embedding_rows == 7
    assert write(tmp_path / "y.onnx", nodes[:2], tables).embedding_rows == 9
    assert write(tmp_path / "z.onnx", nodes[4:], tables).embedding_rows is None


def test_a_table_in_a_node(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Constant", [], ["table"], value=weights("unnamed", 6)),
        helper.make_node("Gather", ["table", "input_ids"], ["logits"]),
    ]
    assert write(tmp_path / "x.onnx", nodes, []).embedding_rows == 6


@pytest.mark.parametrize("content", [b"", b"not a graph", b"\x08\x09"])
def test_what_is_no_graph_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    with pytest.raises(
        PotError, match=rf"cannot load the candidate: .*model.onnx is no ONNX file, or was cut off.*has {len(content)} bytes"
    ):
        read_graph(path, "the candidate")


@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
def test_a_file_that_was_cut_off_is_refused(graphs: Graphs, tmp_path: Path, share: float) -> None:
    content = graphs("plain").read_bytes()
    path = tmp_path / "model.onnx"
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(PotError, match=r"was cut off when it was written or copied"):
        read_graph(path, "the candidate")
