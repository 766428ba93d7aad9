"""GGUF files are found on the hub as well as in folders."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from pytest_pot import PotError, ScoringConfig
from pytest_pot.engines.registry import load_model, opened

from ...published_formats import write_gguf

CPU = ScoringConfig(device="cpu")
SPEC = "acme/tiny/model.gguf"


@pytest.fixture
def on_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the repository ``acme/tiny`` in a cache of the hub, which cannot be reached."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    repository, commit = tmp_path / "models--acme--tiny", "0123456789" * 4
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    folder = repository / "snapshots" / commit
    folder.mkdir(parents=True)
    return folder


def test_a_gguf_file_on_the_hub_is_the_same_model_as_in_a_folder(on_the_hub: Path, bpe: PreTrainedTokenizerFast) -> None:
    pytest.importorskip("accelerate")
    local = load_model(str(write_gguf(on_the_hub / "model.gguf", bpe, "Q8_0")), "candidate", CPU)
    loaded = load_model(SPEC, "candidate", CPU)
    ids = torch.arange(5)[None]
    assert torch.equal(loaded.model(ids).logits, local.model(ids).logits)
    assert loaded.tokenizer.get_vocab() == local.tokenizer.get_vocab()
    descriptions = []
    for model in (local.model, loaded.model):
        with opened(model, "candidate", CPU) as engine:
            described: Any = engine
            descriptions.append(described.description)
    assert descriptions[0] == descriptions[1]
    assert descriptions[1].format == "GGUF Q8_0"


def test_a_package_that_a_gguf_file_on_the_hub_needs_is_named(on_the_hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The search for modules finds no gguf: what an environment without it gives."""
    (on_the_hub / "model.gguf").write_bytes(b"GGUF")
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "gguf" else find(name, *rest))
    with pytest.raises(PotError) as error:
        load_model(SPEC, "candidate", CPU)
    assert str(error.value) == f"reading {SPEC!r} needs the package gguf: pip install 'pytest-pot[gguf]'"
