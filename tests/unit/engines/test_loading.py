"""Model specs: what they can name, the precision of the loaded model, and errors for wrong names."""

from __future__ import annotations

import gc
import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from pytest_pot import PotError, ScoringConfig
from pytest_pot.engines.loading import load_tokenizer
from pytest_pot.engines.registry import load_model

from ..conftest import make_tokenizer
from ..models import tiny

AUTO = ScoringConfig()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    model = tiny("llama")
    model.save_pretrained(tmp_path / "model")
    make_tokenizer().save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def test_a_folder_gives_the_model_and_its_tokenizer(folder: Path) -> None:
    loaded = load_model(str(folder), "reference", AUTO)
    for name, tensor in tiny("llama").state_dict().items():
        assert torch.equal(loaded.model.state_dict()[name].cpu(), tensor)
    assert not loaded.model.training
    assert loaded.tokenizer("abc")["input_ids"] == make_tokenizer()("abc")["input_ids"]


def test_a_folder_without_a_tokenizer_gives_none(tmp_path: Path) -> None:
    tiny("llama").save_pretrained(tmp_path)
    assert load_model(str(tmp_path), "candidate", AUTO).tokenizer is None


@pytest.mark.parametrize(
    ("stored", "asked", "arrives"),
    [
        (torch.float32, "auto", torch.float32),
        (torch.bfloat16, "auto", torch.float32),
        (torch.float16, "auto", torch.float32),
        (torch.float32, "bfloat16", torch.bfloat16),
        (torch.bfloat16, "float64", torch.float64),
    ],
)
def test_dtype_sets_the_precision_of_the_loaded_model(
    tmp_path: Path, stored: torch.dtype, asked: str, arrives: torch.dtype
) -> None:
    model: Any = tiny("llama")
    model.to(stored).save_pretrained(tmp_path)
    loaded = load_model(str(tmp_path), "reference", ScoringConfig(device="cpu", dtype=asked))
    assert loaded.model.dtype == arrives
    assert {parameter.dtype for parameter in loaded.model.parameters()} == {arrives}


def test_loading_does_not_change_the_random_state_or_progress_bars(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    load_model(str(folder), "reference", AUTO)
    assert torch.equal(torch.get_rng_state(), before)
    assert transformers.utils.logging.is_progress_bar_enabled()
    assert "Loading weights" not in capfd.readouterr().err


@pytest.mark.parametrize("enabled", [True, False])
def test_loading_pauses_the_garbage_collector_and_restores_it(folder: Path, enabled: bool) -> None:
    before = gc.isenabled()
    phases: list[str] = []
    watch = lambda phase, info: phases.append(phase)  # noqa: E731
    gc.enable() if enabled else gc.disable()
    gc.callbacks.append(watch)
    try:
        load_model(str(folder), "reference", AUTO)
        assert len(phases) <= 2  # at most the start and the end of one collection that became due
        assert gc.isenabled() is enabled
        with pytest.raises(PotError, match="cannot load"):
            load_model(str(folder.parent / "nowhere"), "reference", AUTO)
        assert gc.isenabled() is enabled
    finally:
        gc.callbacks.remove(watch)
        gc.enable() if before else gc.disable()


@pytest.fixture
def factories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "factories_for_pot.py").write_text(
        "import torch\n"
        "def model():\n    return torch.nn.Linear(2, 3)\n"
        "def pair():\n    return torch.nn.Linear(2, 3), 'tokenizer'\n"
        "class Zoo:\n    model = staticmethod(model)\n"
        "NUMBER = 3\n"
    )
    monkeypatch.syspath_prepend(tmp_path)


def test_a_factory_gives_a_model_or_a_model_and_a_tokenizer(factories: None) -> None:
    assert load_model("factories_for_pot:model", "reference", AUTO).tokenizer is None
    assert load_model("factories_for_pot:pair", "reference", AUTO).tokenizer == "tokenizer"
    assert isinstance(load_model("factories_for_pot:Zoo.model", "reference", AUTO).model, torch.nn.Linear)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("no_such_module:model", "cannot find the candidate factory 'no_such_module:model': No module named"),
        ("factories_for_pot:nothing", "has no attribute 'nothing'"),
        ("factories_for_pot:NUMBER", "the candidate 'factories_for_pot:NUMBER' is int, not a callable that returns a model"),
    ],
)
def test_a_wrong_factory_is_an_error(factories: None, spec: str, message: str) -> None:
    with pytest.raises(PotError) as error:
        load_model(spec, "candidate", AUTO)
    assert message in str(error.value)


FORMS = "A model is named by a folder or hub id with safetensors weights or an ONNX graph, a .gguf file, a server's URL"


def test_names_without_a_model_are_errors(tmp_path: Path) -> None:
    for spec in (str(tmp_path / "missing"), str(tmp_path), "nobody/no-such-model"):
        with pytest.raises(PotError) as error:
            load_model(spec, "reference", AUTO)
        assert str(error.value).startswith(f"cannot load the reference {spec!r}: ")
        assert FORMS in str(error.value)
    file = tmp_path / "notes.txt"
    file.write_text("hello")
    with pytest.raises(PotError, match=r"the reference '.*notes\.txt' is a file that is no model"):
        load_model(str(file), "reference", AUTO)


def test_pickled_weights_are_rejected(tmp_path: Path) -> None:
    model = tiny("llama")
    model.config.save_pretrained(tmp_path)
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(PotError, match="safetensors"):
        load_model(str(tmp_path), "reference", AUTO)


def test_a_truncated_weights_file_is_an_error(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(PotError, match="cannot load the candidate"):
        load_model(str(folder), "candidate", AUTO)


def test_a_tokenizer_can_be_loaded_without_a_model(folder: Path, tmp_path: Path) -> None:
    assert load_tokenizer(str(folder))("ab")["input_ids"] == make_tokenizer()("ab")["input_ids"]
    with pytest.raises(PotError, match=r"cannot load the tokenizer .* A tokenizer is named by a folder"):
        load_tokenizer(str(tmp_path / "missing"))


def test_code_in_a_models_folder_is_not_run(folder: Path) -> None:
    (folder / "modeling.py").write_text("raise SystemExit('ran')\n")
    config = folder / "config.json"
    config.write_text(config.read_text().replace("{", '{"auto_map": {"AutoModelForCausalLM": "modeling.Model"}, ', 1))
    load_model(str(folder), "candidate", AUTO)


def test_the_tokenizer_of_a_gguf_file_needs_a_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "model.gguf"
    file.write_bytes(b"GGUF")
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "gguf" else found(name))
    with pytest.raises(
        PotError, match=r"^reading the tokenizer in '.*' needs the package gguf: pip install 'pytest-pot\[gguf\]'$"
    ):
        load_tokenizer(str(file))
