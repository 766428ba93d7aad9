"""Adapters in files and in memory: applied to the base model that they name, or refused; left alone beside full weights."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from pytest_pot import PotError, Prompt, ScoringConfig, TeacherForcedScorer
from pytest_pot.engines.base import ModelDescription
from pytest_pot.engines.pytorch.adapters import IGNORED, adapter_in
from pytest_pot.engines.registry import load_model, opened

from ...conftest import make_tokenizer
from ...models import tiny
from ...published_formats import make, save, write_adapter

AUTO = ScoringConfig(device="cpu")

pytestmark = pytest.mark.filterwarnings("default")  # peft uses what transformers deprecates


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory, tokenizer: PreTrainedTokenizerFast) -> Path:
    return save(tiny("llama"), tmp_path_factory.mktemp("base"), tokenizer)


def load(spec: Path) -> Any:
    return load_model(str(spec), "candidate", AUTO)


def mean(reference: Any, candidate: Any, prompts: list[Prompt], tokenizer: PreTrainedTokenizerFast) -> float:
    return TeacherForcedScorer(AUTO).score_batch(reference, candidate, prompts, tokenizer).mean


def error_of(spec: Path) -> str:
    with pytest.raises(PotError) as error:
        load(spec)
    return str(error.value)


@pytest.fixture
def adapter(tmp_path: Path, base: Path) -> Path:
    """A folder with an adapter of ``base``, and nothing else."""
    return write_adapter(tmp_path / "adapter", base)


def needs_peft() -> Any:
    return pytest.importorskip("peft")


def merged(base: Path, adapter: Path) -> Any:
    peft = needs_peft()
    return peft.PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), str(adapter)).merge_and_unload()


def test_without_peft_an_adapter_is_said_to_need_it(adapter: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util

    if importlib.util.find_spec("peft") is not None:
        pytest.skip("peft is installed")
    assert error_of(adapter) == (
        f"the candidate {str(adapter)!r} is an adapter, and that needs a package that is not installed: "
        "pip install 'pytest-pot[peft]'"
    )


def test_an_adapter_is_applied_to_its_base_model(
    base: Path, adapter: Path, prompts: list[Prompt], tokenizer: PreTrainedTokenizerFast
) -> None:
    needs_peft()
    loaded = load(adapter)
    assert mean(load(base).model, loaded.model, prompts, tokenizer) > 0.05
    assert mean(merged(base, adapter), loaded.model, prompts, tokenizer) < 1e-5
    assert mean(load(adapter).model, loaded.model, prompts, tokenizer) == 0
    with opened(loaded.model, "candidate", AUTO) as engine:
        described: Any = engine
        assert described.description == ModelDescription("safetensors with a LoRA adapter", "float32", "cpu")


def test_the_tokenizer_is_the_adapters_own_or_that_of_its_base_model(adapter: Path) -> None:
    needs_peft()
    assert load(adapter).tokenizer("ab")["input_ids"] == make_tokenizer()("ab")["input_ids"]
    make_tokenizer(bos=True).save_pretrained(adapter)
    assert load(adapter).tokenizer("ab")["input_ids"] == make_tokenizer(bos=True)("ab")["input_ids"]


def test_an_adapter_in_half_precision_is_converted_with_its_base_model(adapter: Path) -> None:
    needs_peft()
    file = adapter / "adapter_model.safetensors"
    save_file({name: tensor.bfloat16() for name, tensor in load_file(file).items()}, file, {"format": "pt"})
    assert {parameter.dtype for parameter in load(adapter).model.parameters()} == {torch.float32}


def test_an_adapter_of_a_quantised_base_model_is_applied(
    tmp_path: Path, prompts: list[Prompt], tokenizer: PreTrainedTokenizerFast
) -> None:
    needs_peft()
    pytest.importorskip("bitsandbytes")
    quantised = make("bitsandbytes nf4", tmp_path, tokenizer, torch.bfloat16)
    loaded = load(write_adapter(tmp_path / "adapter", quantised))
    assert 0.05 < mean(load(quantised).model, loaded.model, prompts, tokenizer) < 0.9
    with opened(loaded.model, "candidate", AUTO) as engine:
        described: Any = engine
        assert described.description == ModelDescription("bitsandbytes nf4 with a LoRA adapter", "bfloat16", "cpu")


def edit(adapter: Path, **changes: object) -> None:
    file = adapter / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


NAMED = "base_model_name_or_path in its adapter_config.json"


def test_a_base_model_that_does_not_exist_is_named(adapter: Path, tmp_path: Path) -> None:
    needs_peft()
    for missing in (str(tmp_path / "nowhere"), "./nowhere", "a/b/c"):
        edit(adapter, base_model_name_or_path=missing)
        assert error_of(adapter) == (
            f"the candidate {str(adapter)!r} is an adapter of {missing!r}, which does not exist. That is the {NAMED}, as seen "
            f"from {Path.cwd()}: correct it, or put the base model there"
        )
    edit(adapter, base_model_name_or_path="nobody/no-such-model")
    beginning = f"cannot load the base model 'nobody/no-such-model' of the candidate {str(adapter)!r}: "
    assert error_of(adapter).startswith(beginning)
    edit(adapter, base_model_name_or_path=None)
    assert (
        error_of(adapter) == f"the candidate {str(adapter)!r} is an adapter, and does not say of which model: {NAMED} is empty"
    )


def test_an_adapter_of_an_adapter_is_refused(adapter: Path, base: Path, tmp_path: Path) -> None:
    needs_peft()
    second = write_adapter(tmp_path / "second", base)
    edit(second, base_model_name_or_path=str(adapter))
    assert error_of(second) == (
        f"the candidate {str(second)!r} is an adapter of {str(adapter)!r}, which is an adapter itself: merge that one first"
    )


def test_an_adapter_without_safetensors_is_refused(adapter: Path) -> None:
    needs_peft()
    (adapter / "adapter_model.safetensors").rename(adapter / "adapter_model.bin")
    assert error_of(adapter) == (
        f"the candidate {str(adapter)!r} is an adapter without adapter_model.safetensors; no other file of weights is read"
    )


LAYER = "model.layers.1.self_attn.q_proj.lora_B.weight"


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (lambda tensors: tensors.pop(f"base_model.model.{LAYER}"), f"it lacks {LAYER}"),
        (
            lambda tensors: tensors.update({"base_model.model.model.layers.7.mlp.up_proj.lora_A.weight": torch.ones(4, 4)}),
            "that model has no place for model.layers.7.mlp.up_proj.lora_A.weight",
        ),
    ],
)
def test_an_adapter_that_would_be_applied_in_part_is_refused(
    adapter: Path, base: Path, change: Callable[[dict[str, torch.Tensor]], object], fault: str
) -> None:
    needs_peft()
    file = adapter / "adapter_model.safetensors"
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file, {"format": "pt"})
    assert error_of(adapter) == (
        f"the candidate {str(adapter)!r} is an adapter of {str(base)!r}, and {fault}: not all of it would run"
    )


@pytest.mark.parametrize("weights", [True, False], ids=["adapter", "only its config"])
def test_an_adapter_beside_full_weights_is_not_applied(
    base: Path, adapter: Path, prompts: list[Prompt], tokenizer: PreTrainedTokenizerFast, weights: bool
) -> None:
    """With and without peft: transformers would apply it with peft only."""
    folder = adapter.parent / "both"
    shutil.copytree(base, folder)
    shutil.copy(adapter / "adapter_config.json", folder)
    if weights:
        shutil.copy(adapter / "adapter_model.safetensors", folder)
    model = load(folder).model
    assert mean(load(base).model, model, prompts, tokenizer) == 0
    with opened(model, "candidate", AUTO) as engine:
        described: Any = engine
        assert described.description.notes == (IGNORED,)


def test_an_adapter_in_memory_is_scored_and_named(
    base: Path, adapter: Path, prompts: list[Prompt], tokenizer: PreTrainedTokenizerFast
) -> None:
    peft = needs_peft()
    unmerged = peft.PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), str(adapter))
    for model, format_ in ((unmerged, "in memory with a LoRA adapter"), (merged(base, adapter), "in memory")):
        report = TeacherForcedScorer(AUTO).score_batch(merged(base, adapter), model, prompts, tokenizer)
        assert report.mean < 1e-5
        assert report.ran[1] == ModelDescription(format_, "float32", "cpu")


def test_folders_without_an_adapter_have_none(base: Path, tmp_path: Path) -> None:
    assert adapter_in(str(base)) is None
    assert adapter_in(str(tmp_path / "missing")) is None
    (tmp_path / "adapter_config.json").write_text("not json")
    found = adapter_in(str(tmp_path))
    assert found is not None
    assert (found.base, found.kind, found.beside_full_weights) == (None, "peft", False)


def test_an_adapter_beside_a_config_alone_is_an_adapter(base: Path, adapter: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trainers write the base model's config beside an adapter; only weights make a whole model."""
    shutil.copy(base / "config.json", adapter)
    monkeypatch.setattr("importlib.util.find_spec", lambda name, *_: None)
    assert error_of(adapter) == (
        f"the candidate {str(adapter)!r} is an adapter, and that needs a package that is not installed: "
        "pip install 'pytest-pot[peft]'"
    )
    for name in ("model.safetensors", "model.safetensors.index.json", "model-00001-of-00002.safetensors", "pytorch_model.bin"):
        (adapter / name).touch()
        found = adapter_in(str(adapter))
        assert found is not None
        assert found.beside_full_weights, name
        (adapter / name).unlink()


@pytest.mark.parametrize("wrong", ["absent", "broken", "of a missing shard"])
def test_errors_name_the_folder_with_the_adapter_and_no_temporary_one(base: Path, adapter: Path, wrong: str) -> None:
    """The adapter is left out by a temporary view of the folder."""
    folder = adapter.parent / "both"
    shutil.copytree(base, folder)
    shutil.copy(adapter / "adapter_config.json", folder)
    weights = folder / "model.safetensors"
    if wrong == "absent":
        weights.rename(folder / "pytorch_model.bin")
    elif wrong == "broken":
        weights.write_bytes(b"no tensors" * 9)
    else:
        weights.unlink()
        (folder / "model.safetensors.index.json").write_text(
            json.dumps({"metadata": {}, "weight_map": {"a": "gone.safetensors"}})
        )
    reason = error_of(folder).removeprefix(f"cannot load the candidate {str(folder)!r}: ")
    assert wrong == "broken" or str(folder) in reason
    assert tempfile.gettempdir() not in reason.replace(str(folder), "")
