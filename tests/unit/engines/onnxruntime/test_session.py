"""Where a graph runs, and what is said where ONNX Runtime cannot load or run it."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper

from pytest_pot import PotError
from pytest_pot.engines.onnxruntime import session as session_module
from pytest_pot.engines.onnxruntime.session import Session, runtime

from ...models import VOCAB
from .conftest import Graphs

IDS = np.array([[5, 6, 7]])


def session(path: Path, device: str = "cpu") -> Session:
    return Session(path, device, {}, "the candidate")


@pytest.mark.parametrize("device", ["auto", "cpu", "mps"])
def test_devices_that_end_on_the_cpu(graphs: Graphs, device: str) -> None:
    assert session(graphs("plain"), device).device == "cpu"


def test_devices_that_onnx_runtime_does_not_know(graphs: Graphs) -> None:
    with pytest.raises(PotError, match=r"cannot load the candidate on 'xpu': ONNX graphs run on 'cpu' and 'cuda'"):
        session(graphs("plain"), "xpu")


def test_a_build_without_cuda(graphs: Graphs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(PotError, match=r"on 'cuda:1': the installed ONNX Runtime has no CUDA.*\n.*pip install onnxruntime-gpu"):
        session(graphs("plain"), "cuda:1")


def test_cuda_that_is_there_but_does_not_start(graphs: Graphs, monkeypatch: pytest.MonkeyPatch) -> None:
    """ONNX Runtime says nothing, and runs on the CPU."""
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"])
    real = onnxruntime.InferenceSession

    def on_cpu(path: str, options: object, providers: list[object], **others: object) -> object:
        asked.append(providers[0])
        return real(path, options, providers=["CPUExecutionProvider"], **others)

    asked: list[object] = []
    monkeypatch.setattr(onnxruntime, "InferenceSession", on_cpu)
    with pytest.raises(PotError, match=r"cannot load the candidate on 'cuda:1': ONNX Runtime did not start CUDA"):
        session(graphs("plain"), "cuda:1")
    assert session(graphs("plain"), "auto").device == "cpu"
    assert asked == [("CUDAExecutionProvider", {"device_id": 1}), "CUDAExecutionProvider"]


def test_threads_are_as_many_as_torchs(graphs: Graphs) -> None:
    before = torch.get_num_threads()
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            options = session(graphs("plain"))._session.get_session_options()
            assert (options.intra_op_num_threads, options.inter_op_num_threads) == (count, 1)
    finally:
        torch.set_num_threads(before)


def test_an_operator_set_that_is_too_new(graphs: Graphs, tmp_path: Path) -> None:
    graph = onnx.load(graphs("plain"))
    graph.opset_import[0].version = 99
    onnx.save(graph, tmp_path / "new.onnx")
    with pytest.raises(PotError) as error:
        session(tmp_path / "new.onnx")
    text = str(error.value)
    assert f"cannot load the candidate: ONNX Runtime {onnxruntime.__version__} says of {tmp_path / 'new.onnx'}: " in text
    assert "Opset 99 is under development" in text
    assert "onnxruntime_src" not in text
    assert "[ONNXRuntimeError]" not in text


def test_an_unknown_operator(tmp_path: Path) -> None:
    with pytest.raises(PotError, match=r"cannot load the candidate: ONNX Runtime .* says of .*Unheard"):
        session(write(tmp_path, helper.make_node("Unheard", ["table", "input_ids"], ["logits"])))


def write(tmp_path: Path, *nodes: onnx.NodeProto, shape: tuple[int | str | None, ...] | None = ("b", "s", 4)) -> Path:
    ids = helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["b", "s"])
    out = helper.make_tensor_value_info("logits", TensorProto.FLOAT, shape)
    table = helper.make_tensor("table", TensorProto.FLOAT, [5, 4], [0.5] * 20)
    graph = helper.make_graph(list(nodes), "graph", [ids], [out], [table])
    opsets = [helper.make_opsetid("", 18)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=9), tmp_path / "model.onnx")
    return tmp_path / "model.onnx"


def test_an_output_of_another_shape_while_it_runs(tmp_path: Path) -> None:
    gather = helper.make_node("Gather", ["table", "input_ids"], ["rows"])
    swapped = helper.make_node("Transpose", ["rows"], ["logits"], perm=[0, 2, 1])
    with pytest.raises(PotError, match=r"its output logits has the shape \(1, 4, 3\) for token ids of shape \(1, 3\)"):
        session(write(tmp_path, gather, swapped, shape=("b", "x", "y"))).logits(IDS - 5, IDS, "the candidate")


def test_a_pruned_head_that_the_graph_does_not_declare(tmp_path: Path) -> None:
    gather = helper.make_node("Gather", ["table", "input_ids"], ["rows"])
    last = helper.make_node("ReduceMax", ["rows"], ["logits"], keepdims=1, axes=[1])
    path = write(tmp_path, gather, last, shape=("b", "s", 4))
    graph = onnx.load(path)
    graph.opset_import[0].version = 17
    onnx.save(graph, path)
    with pytest.raises(PotError, match=r"cannot run the candidate: its output logits has the last position only"):
        session(path).logits(IDS - 5, IDS, "the candidate")


def test_an_error_while_it_runs_is_said_in_short(tmp_path: Path) -> None:
    gather = helper.make_node("Gather", ["table", "input_ids"], ["rows"])
    shape = helper.make_node("Constant", [], ["shape"], value=helper.make_tensor("v", TensorProto.INT64, [3], [7, 7, 7]))
    broken = helper.make_node("Reshape", ["rows", "shape"], ["logits"])
    with pytest.raises(PotError) as error:
        session(write(tmp_path, gather, shape, broken, shape=("b", "s", "v"))).logits(IDS - 5, IDS, "the candidate")
    text = str(error.value)
    assert text.startswith("cannot run the candidate for token ids of shape (1, 3): Non-zero status code returned")
    assert "onnxruntime_src" not in text
    assert len(text) < 500


def test_logits_are_float32_or_float64(graphs: Graphs) -> None:
    for kind, dtype in (("plain", torch.float32), ("float16", torch.float32)):
        logits = session(graphs(kind)).logits(IDS, np.ones_like(IDS), "it")
        assert (logits.dtype, tuple(logits.shape)) == (dtype, (1, 3, VOCAB))


def test_a_missing_package_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(PotError) as error:
        runtime("the candidate 'model.onnx'")
    needs = "running ONNX graphs needs the package onnxruntime: pip install 'pytest-pot[onnx]'"
    assert str(error.value) == f"cannot load the candidate 'model.onnx': {needs}"


def test_a_package_that_cannot_be_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: str) -> SimpleNamespace:
        raise ImportError("libfoo.so.1: cannot open shared object file")

    monkeypatch.setattr(session_module, "import_module", broken)
    with pytest.raises(PotError, match=r"the package onnxruntime cannot be imported: libfoo.so.1"):
        runtime("the candidate")
