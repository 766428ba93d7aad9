"""Graphs by their specs: what is loaded, and what is told of it."""

from __future__ import annotations

import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from pytest_pot import PotError, Prompt, ScoringConfig, TeacherForcedScorer
from pytest_pot.baseline.provenance import file_digests
from pytest_pot.engines.onnxruntime.backend import OnnxBackend
from pytest_pot.engines.onnxruntime.model import OnnxModel
from pytest_pot.engines.registry import (
    content,
    device_of,
    embedding_rows,
    files_tell_all,
    load_model,
    max_positions,
    weights_digest,
)

from ...models import VOCAB
from .conftest import Graphs

CONFIG = ScoringConfig(device="cpu")


@pytest.fixture
def folder(graphs: Graphs, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> Path:
    """As a repository of the hub: graphs in a sub-folder, config and tokenizer above it."""
    (tmp_path / "onnx").mkdir()
    shutil.copy(graphs("cache"), tmp_path / "onnx" / "model.onnx")
    shutil.copy(graphs("dynamic int8"), tmp_path / "onnx" / "model_quantized.onnx")
    model.config.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", [".", "onnx/model.onnx", "onnx/model_quantized.onnx", "onnx"])
def test_a_folder_and_a_file_come_with_their_tokenizer(folder: Path, tokenizer: PreTrainedTokenizerFast, name: str) -> None:
    loaded = load_model(str(folder / name), "candidate", CONFIG)
    assert isinstance(loaded.model, OnnxModel)
    assert loaded.tokenizer.get_vocab() == tokenizer.get_vocab()
    assert loaded.model.path.name == ("model_quantized.onnx" if "quantized" in name else "model.onnx")
    assert (max_positions(loaded.model), embedding_rows(loaded.model)) == (128, VOCAB)
    assert (loaded.movable, device_of(loaded.model)) == (True, "cpu")


def test_a_graph_without_a_tokenizer(graphs: Graphs) -> None:
    assert load_model(str(graphs("plain")), "candidate", CONFIG).tokenizer is None


def test_a_tokenizer_that_cannot_be_loaded(folder: Path) -> None:
    (folder / "tokenizer.json").write_text("{", encoding="utf-8")
    with pytest.raises(PotError, match=r"the candidate's graph was loaded, but not its tokenizer: cannot load"):
        load_model(str(folder), "candidate", CONFIG)


def test_a_file_that_does_not_exist(tmp_path: Path) -> None:
    with pytest.raises(PotError, match=r"cannot load the candidate '.*no.onnx': .*no.onnx does not exist"):
        load_model(str(tmp_path / "no.onnx"), "candidate", CONFIG)


def test_weights_of_its_own_are_scored_by_transformers_and_the_graphs_are_named(
    folder: Path, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, prompts: list[Prompt]
) -> None:
    model.save_pretrained(folder)
    loaded = load_model(str(folder), "candidate", CONFIG)
    assert type(loaded.model) is type(model)
    report = TeacherForcedScorer(CONFIG).score_batch(model, loaded.model, prompts[:1], tokenizer)
    ran = report.ran[1]
    assert ran is not None
    name = folder / "onnx" / "model.onnx"
    assert f"its folder has ONNX graphs too, which were not scored: name the file for that, such as {name}" in ran.notes


def test_identity_is_that_of_the_files(folder: Path, graphs: Graphs) -> None:
    spec = str(folder)
    graph, other = (load_model(str(path), "candidate", CONFIG).model for path in (folder, graphs("plain")))
    identity = content(graph)
    assert identity is not None
    assert content(load_model(spec, "reference", CONFIG).model) == identity != content(other)
    assert any(name.startswith("onnxruntime ") for name in identity["libraries"])
    assert weights_digest(graph) != weights_digest(other)
    assert not files_tell_all(spec)  # the version of ONNX Runtime is in no file
    (folder / "onnx" / "model.onnx").write_bytes(graphs("plain").read_bytes())
    assert content(graph) is None
    assert "was written since it was loaded" in OnnxBackend().why_no_content(graph)


def test_digests_of_files_are_of_the_graph_that_is_scored_and_of_its_weights(folder: Path, graphs: Graphs) -> None:
    assert {"onnx/model.onnx", "config.json"} <= set(file_digests(str(folder)))
    assert "onnx/model_quantized.onnx" not in file_digests(str(folder))
    assert set(file_digests(str(graphs("one data file")))) == {"one data file.onnx", "weights.bin"}


def test_asking_for_a_spec_imports_nothing_that_takes_time(folder: Path) -> None:
    script = f"""
        import sys
        from pytest_pot.engines.onnxruntime.backend import OnnxBackend
        assert OnnxBackend().loads({str(folder)!r})
        assert not OnnxBackend().loads("owner/name")
        assert not OnnxBackend().runs(object())
        print(sorted({{"torch", "onnx", "onnxruntime", "numpy", "transformers"}} & set(sys.modules)))
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
