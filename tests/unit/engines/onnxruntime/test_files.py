"""Which graph a spec names."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_pot import PotError
from pytest_pot.engines.onnxruntime.files import chosen_graph, home_of, names_graph


def make(folder: Path, *names: str) -> Path:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    return folder


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["model.onnx"], True),
        (["onnx/model.onnx", "config.json"], True),
        (["model.onnx", "pytorch_model.bin"], True),
        (["model.onnx", "smollm2.pot.safetensors"], True),
        (["model.onnx", "model.safetensors"], False),
        (["onnx/model.onnx", "model-00001-of-00002.safetensors"], False),
        (["model.onnx", "adapter_config.json"], False),
        (["config.json"], False),
        (["deeper/onnx/model.onnx"], False),
    ],
)
def test_folders(tmp_path: Path, names: list[str], expected: bool) -> None:
    assert names_graph(str(make(tmp_path, *names))) is expected


def test_files_and_other_specs(tmp_path: Path) -> None:
    make(tmp_path, "model.onnx", "model.gguf")
    assert names_graph(str(tmp_path / "model.onnx"))
    assert names_graph("nowhere/model.onnx")  # so that the message says that it is not there
    assert not names_graph(str(tmp_path / "model.gguf"))
    assert not names_graph("owner/name")
    assert not names_graph("http://127.0.0.1/model.onnx")
    assert not names_graph("x" * 5000)
    assert not names_graph("a\0b")


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["odd name.onnx"], "odd name.onnx"),
        (["model.onnx", "model_quantized.onnx"], "model.onnx"),
        (["onnx/model.onnx", "onnx/model_fp16.onnx", "onnx/model_q4.onnx"], "onnx/model.onnx"),
        (["decoder_model.onnx", "decoder_with_past_model.onnx"], "decoder_model.onnx"),
        (["decoder_model.onnx", "decoder_with_past_model.onnx", "decoder_model_merged.onnx"], "decoder_model_merged.onnx"),
        (["decoder_model_merged.onnx", "model.onnx"], "model.onnx"),
    ],
)
def test_the_obvious_one(tmp_path: Path, names: list[str], expected: str) -> None:
    assert chosen_graph(str(make(tmp_path, *names)), "it") == tmp_path / expected


@pytest.mark.parametrize(
    "names",
    [["model_fp16.onnx", "model_quantized.onnx"], ["model.onnx", "onnx/model.onnx"], ["a.onnx", "b.onnx", "onnx/c.onnx"]],
)
def test_several_are_refused_by_name(tmp_path: Path, names: list[str]) -> None:
    with pytest.raises(
        PotError, match=rf"it has {len(names)} ONNX graphs \({', '.join(names)}\).*Name the file, such as .*{names[0]}"
    ):
        chosen_graph(str(make(tmp_path, *names)), "it")


def test_config_and_tokenizer_are_beside_the_graph_or_above_its_folder(tmp_path: Path) -> None:
    make(tmp_path, "config.json", "onnx/model.onnx", "other/model.onnx")
    assert home_of(tmp_path / "onnx" / "model.onnx") == tmp_path
    assert home_of(tmp_path / "other" / "model.onnx") == tmp_path / "other"
    make(tmp_path, "onnx/config.json")
    assert home_of(tmp_path / "onnx" / "model.onnx") == tmp_path / "onnx"
