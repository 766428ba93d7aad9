"""The files of a graph: what is refused, what is in the digest, and what the config beside it says."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from pytest_pot import PotError
from pytest_pot.engines.onnxruntime.model import OnnxModel, graph_files

from ...models import VOCAB
from .conftest import Graphs

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 652714166\n"


def folder_with(graphs: Graphs, tmp_path: Path, kind: str = "many data files") -> Path:
    """A copy of a graph with the files of its weights."""
    source = graphs(kind)
    names = [source, *(path for path in graph_files(str(source)) if path != source)]
    for path in names:
        shutil.copy(path, tmp_path / ("model.onnx" if path == source else path.name))
    return tmp_path / "model.onnx"


def test_a_missing_file_of_weights_is_named(graphs: Graphs, tmp_path: Path) -> None:
    path = folder_with(graphs, tmp_path)
    n_files = len(list(tmp_path.iterdir())) - 1
    gone = next(file for file in sorted(tmp_path.iterdir()) if file.suffix != ".onnx")
    gone.unlink()
    message = (
        rf"model.onnx keeps weights in {n_files} files beside it, of which 1 is missing: {gone.name}. Copy the whole folder"
    )
    with pytest.raises(PotError, match=message):
        OnnxModel(path, "the candidate")


@pytest.mark.parametrize("which", ["graph", "weights", "config"])
def test_what_git_left_is_refused(graphs: Graphs, tmp_path: Path, which: str) -> None:
    path = folder_with(graphs, tmp_path, "one data file")
    target = {"graph": path, "weights": tmp_path / "weights.bin", "config": tmp_path / "config.json"}[which]
    target.write_bytes(POINTER)
    with pytest.raises(
        PotError, match=rf"cannot load the candidate: .*{target.name} is a Git LFS pointer to 652,714,166 bytes"
    ):
        OnnxModel(path, "the candidate")


@pytest.mark.parametrize(
    ("config", "length", "rows"),
    [
        ({"max_position_embeddings": 64, "vocab_size": 50}, 64, VOCAB),
        ({"n_positions": 32}, 32, VOCAB),
        ({"text_config": {"max_position_embeddings": 16}}, 16, VOCAB),
        ({"max_position_embeddings": "many"}, None, VOCAB),
        (None, None, VOCAB),
    ],
)
def test_config(graphs: Graphs, tmp_path: Path, config: Mapping[str, Any] | None, length: int | None, rows: int) -> None:
    path = shutil.copy(graphs("plain"), tmp_path / "model.onnx")
    if config is not None:
        (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    model = OnnxModel(Path(path), "it")
    assert (model.max_positions, model.embedding_rows) == (length, rows)
    model.facts.embedding_rows = None
    assert model.embedding_rows == (config or {}).get("vocab_size")


@pytest.mark.parametrize("content", ["{", "[1]", "\ud800"])
def test_a_config_that_cannot_be_read(graphs: Graphs, tmp_path: Path, content: str) -> None:
    path = shutil.copy(graphs("plain"), tmp_path / "model.onnx")
    (tmp_path / "config.json").write_bytes(content.encode("utf-8", "surrogatepass"))
    with pytest.raises(PotError, match=r"cannot load the candidate: its config .*config.json cannot be read"):
        OnnxModel(Path(path), "the candidate")


def test_the_digest_is_of_the_graph_and_of_all_files_of_weights(graphs: Graphs, tmp_path: Path) -> None:
    path = folder_with(graphs, tmp_path)
    digest = OnnxModel(path, "it").weights_digest()
    renamed = path.rename(tmp_path / "other.onnx")
    assert OnnxModel(renamed, "it").weights_digest() == digest
    weights = next(file for file in sorted(tmp_path.iterdir()) if file.suffix != ".onnx")
    content = bytearray(weights.read_bytes())
    content[7] ^= 1
    weights.write_bytes(content)
    assert OnnxModel(renamed, "it").weights_digest() not in (digest, None)


def test_no_digest_of_files_that_were_written_since(graphs: Graphs, tmp_path: Path) -> None:
    model = OnnxModel(folder_with(graphs, tmp_path, "one data file"), "it")
    assert model.weights_digest() is not None
    os.utime(tmp_path / "weights.bin", (1, 1))
    assert model.weights_digest() is None
    (tmp_path / "weights.bin").unlink()
    assert not model.is_as_loaded


def test_files_of_a_spec(graphs: Graphs, tmp_path: Path) -> None:
    path = folder_with(graphs, tmp_path, "one data file")
    expected = [path, tmp_path / "weights.bin"]
    assert graph_files(str(path)) == graph_files(str(tmp_path)) == expected
    shutil.copy(path, tmp_path / "second.onnx")
    assert graph_files(str(tmp_path)) == expected
    path.write_bytes(b"damaged")
    assert graph_files(str(path)) == []
    assert graph_files("owner/name") == graph_files(str(tmp_path / "no.onnx")) == []
