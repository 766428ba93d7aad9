"""Models that are spread over devices, offloaded or sharded over processes are scored in place, unchanged."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from pytest_pot import PotError, Prompt, ScoringConfig, TeacherForcedScorer
from pytest_pot.engines.pytorch.device import device_of
from pytest_pot.engines.pytorch.engine import TorchEngine

from ...models import changed, tiny

accelerate = pytest.importorskip("accelerate")
PARTS = {"model.embed_tokens": "cpu", "model.layers.0": "cpu", "model.norm": "cpu", "model.rotary_emb": "cpu"}
MAPS = {
    "one device": {"": "cpu"},
    "a layer on disk": {**PARTS, "model.layers.1": "disk", "lm_head": "cpu"},
    "the head on disk": {**PARTS, "model.layers.1": "cpu", "lm_head": "disk"},
    "the embedding on disk": {**PARTS, "model.embed_tokens": "disk", "model.layers.1": "cpu", "lm_head": "cpu"},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    changed(tiny("llama")).save_pretrained(folder)
    return folder


def load_spread(folder: Path, tmp_path: Path, name: str, **options: Any) -> PreTrainedModel:
    model = AutoModelForCausalLM.from_pretrained(folder, device_map=MAPS[name], offload_folder=tmp_path, **options)
    evaluated: PreTrainedModel = model.eval()
    return evaluated


@pytest.mark.parametrize("preset", ["balanced", "fastest", "original"])
@pytest.mark.parametrize("name", MAPS)
def test_a_spread_model_scores_like_the_plain_one(
    name: str, preset: str, folder: Path, tmp_path: Path, prompts: list[Prompt], tokenizer: PreTrainedTokenizerFast
) -> None:
    scorer = TeacherForcedScorer(ScoringConfig.preset(preset))
    plain = scorer.score_batch(tiny("llama"), changed(tiny("llama")), prompts, tokenizer)
    model = load_spread(folder, tmp_path, name)
    places = {parameter.device.type for parameter in model.parameters()}
    report = scorer.score_batch(tiny("llama"), model, prompts, tokenizer)
    assert plain.mean > 0.01
    np.testing.assert_allclose(report.scores, plain.scores, atol=1e-6)
    assert {parameter.device.type for parameter in model.parameters()} == places


def test_a_fully_offloaded_model_scores_like_the_plain_one(prompts: list[Prompt], tokenizer: PreTrainedTokenizerFast) -> None:
    model = accelerate.cpu_offload(changed(tiny("llama")), execution_device=torch.device("cpu"))
    assert {parameter.device.type for parameter in model.parameters()} == {"meta"}
    report = TeacherForcedScorer().score_batch(tiny("llama"), model, prompts, tokenizer)
    plain = TeacherForcedScorer().score_batch(tiny("llama"), changed(tiny("llama")), prompts, tokenizer)
    np.testing.assert_allclose(report.scores, plain.scores, atol=1e-6)
    with pytest.raises(PotError, match="spread over devices"):
        TeacherForcedScorer(ScoringConfig(dtype="float64")).score_batch(model, model, prompts, tokenizer)


@pytest.mark.parametrize("device", ["cuda:1", "cpu"])
def test_ids_are_moved_to_the_device_of_the_embedding(device: str) -> None:
    model = accelerate.cpu_offload(tiny("llama"), execution_device=torch.device("cpu"))
    model.get_input_embeddings()._hf_hook.execution_device = device
    assert device_of(model) == torch.device(device)


def test_a_spread_model_keeps_the_precision_that_it_was_loaded_in(
    folder: Path, tmp_path: Path, prompts: list[Prompt], tokenizer: PreTrainedTokenizerFast
) -> None:
    model = load_spread(folder, tmp_path, "a layer on disk", dtype=torch.bfloat16)
    for config in (ScoringConfig(), ScoringConfig(dtype="bfloat16", device="cpu")):
        with TorchEngine.opened(model, "candidate", config) as engine:
            assert engine.model is model
            assert engine.label == "bfloat16 on cpu"
    with pytest.raises(
        PotError, match=r"with dtype='float32': it is spread over devices or offloaded, .* or set dtype='auto'$"
    ):
        TeacherForcedScorer(ScoringConfig(dtype="float32")).score_batch(tiny("llama"), model, prompts, tokenizer)


def test_a_spread_model_is_not_moved(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, prompts: list[Prompt], tokenizer: PreTrainedTokenizerFast
) -> None:
    model = load_spread(folder, tmp_path, "a layer on disk")
    monkeypatch.setattr("pytest_pot.engines.pytorch.device.choose_device", torch.device)  # as if this machine had the device
    with pytest.raises(
        PotError, match=r"with device='cuda': it is spread over devices .* Load it with that device, or set device='auto'$"
    ):
        TeacherForcedScorer(ScoringConfig(device="cuda")).score_batch(model, model, prompts, tokenizer)


def test_parameters_sharded_over_processes_are_not_changed(prompts: list[Prompt], tokenizer: PreTrainedTokenizerFast) -> None:
    """One process is enough: its parameters have the same type."""
    # torch exports HashStore, but its __all__ does not say so.
    from torch.distributed import HashStore, destroy_process_group, init_process_group  # type: ignore[attr-defined]
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import DTensor
    from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

    init_process_group("gloo", rank=0, world_size=1, store=HashStore())
    try:
        model = changed(tiny("llama"))
        plan = {"gate_proj": ColwiseParallel(), "up_proj": ColwiseParallel(), "down_proj": RowwiseParallel()}
        for layer in model.model.layers:
            parallelize_module(layer.mlp, init_device_mesh("cpu", (1,)), plan)
        assert any(isinstance(parameter, DTensor) for parameter in model.parameters())
        report = TeacherForcedScorer().score_batch(tiny("llama"), model, prompts, tokenizer)
        with pytest.raises(PotError, match="spread over devices"):
            TeacherForcedScorer(ScoringConfig(dtype="float64")).score_batch(model, model, prompts, tokenizer)
    finally:
        destroy_process_group()
    plain = TeacherForcedScorer().score_batch(tiny("llama"), changed(tiny("llama")), prompts, tokenizer)
    np.testing.assert_allclose(report.scores, plain.scores, atol=1e-6)
