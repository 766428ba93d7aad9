"""A model in memory with tensors that hold no numbers is refused by name, unless accelerate fills them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import nn
from transformers import LlamaForCausalLM

from pytest_pot import PotError, Prompt, ScoringConfig, TeacherForcedScorer
from pytest_pot.engines.pytorch.absent_weights import not_loaded, refuse_absent_weights
from pytest_pot.engines.pytorch.engine import TorchEngine

from ...checkpoints import without_its_tensor
from ...models import CONFIGS, tiny


def test_parameters_and_buffers_on_meta_are_named(prompts: list[Prompt], tokenizer: Any) -> None:
    model: Any = tiny("llama")
    model.model.layers[1].mlp.to("meta")
    model.model.register_buffer("mask", torch.ones(2, device="meta"))
    with pytest.raises(PotError) as error:
        TeacherForcedScorer().score_batch(tiny("llama"), model, prompts, tokenizer)
    assert str(error.value) == (
        "the candidate (LlamaForCausalLM) has 4 tensors without numbers, on torch's meta device: "
        "model.layers.1.mlp.down_proj.weight, model.layers.1.mlp.gate_proj.weight, model.layers.1.mlp.up_proj.weight, "
        "model.mask. They were never loaded: let the fixture or factory "
        "that makes the model load all of its weights"
    )


def test_a_model_that_was_never_loaded_is_refused() -> None:
    with torch.device("meta"):
        model = nn.Sequential(nn.Embedding(7, 4), nn.Linear(4, 7))
    with (
        pytest.raises(PotError, match=r"^the reference \(Sequential\) has 3 tensors without numbers, .*: 0\.weight, 1\.bias"),
        TorchEngine.opened(model, "reference", ScoringConfig()),
    ):
        pass


def test_what_accelerate_offloads_is_not_refused_and_the_rest_is() -> None:
    accelerate = pytest.importorskip("accelerate")
    model: Any = accelerate.cpu_offload(tiny("llama"), execution_device=torch.device("cpu"))
    assert {parameter.device.type for parameter in model.parameters()} == {"meta"}
    refuse_absent_weights(model, "candidate")
    accelerate.hooks.remove_hook_from_module(model.lm_head)
    model.lm_head.to("meta")
    with pytest.raises(PotError, match=r"has 1 tensor without numbers, on torch's meta device: lm_head\.weight\. They"):
        refuse_absent_weights(model, "candidate")


def test_a_module_that_is_offloaded_with_its_submodules_is_not_refused() -> None:
    accelerate = pytest.importorskip("accelerate")
    model: Any = tiny("llama")
    layer = model.model.layers[0]
    hook = accelerate.hooks.AlignDevicesHook(
        execution_device="cpu", offload=True, weights_map=dict(layer.state_dict()), place_submodules=True
    )
    accelerate.hooks.add_hook_to_module(layer, hook)
    assert layer.mlp.up_proj.weight.is_meta
    refuse_absent_weights(model, "candidate")


@pytest.mark.skipif(transformers.__version__.startswith("4."), reason="transformers 5 marks what it loads")
def test_what_from_pretrained_did_not_find_is_known(tmp_path: Path) -> None:
    tiny("llama").save_pretrained(tmp_path / "whole")
    assert not_loaded(LlamaForCausalLM.from_pretrained(tmp_path / "whole")) == []
    assert not_loaded(tiny("llama")) == []  # never loaded: nothing is known
    name = "model.layers.0.self_attn.q_proj.weight"
    broken = without_its_tensor(tmp_path / "whole", tmp_path / "broken", "dropped", name)
    model = LlamaForCausalLM.from_pretrained(broken)
    assert not_loaded(model) == [name]
    assert not_loaded(model.double()) == [name]


@pytest.mark.parametrize("name", [*CONFIGS, "llama, tied"])
def test_all_weights_of_a_whole_checkpoint_count_as_found(name: str, tmp_path: Path) -> None:
    model = tiny("llama", tie_word_embeddings=True) if name == "llama, tied" else tiny(name)
    model.save_pretrained(tmp_path)
    assert not_loaded(type(model).from_pretrained(tmp_path)) == []


def test_what_a_quantiser_set_later_is_no_weight_that_was_not_found(tmp_path: Path) -> None:
    """A fixture that rounds trained weights replaces parameters, which then have no mark."""
    trained = tiny("llama", scale=3.0)
    trained.save_pretrained(tmp_path)
    model: Any = LlamaForCausalLM.from_pretrained(tmp_path)
    for layer in model.model.layers:
        layer.mlp.up_proj.weight = torch.nn.Parameter((layer.mlp.up_proj.weight * 64).round() / 64)
        layer.input_layernorm.weight = torch.nn.Parameter(layer.input_layernorm.weight + torch.linspace(0, 0.1, 32))
    model.resize_token_embeddings(model.config.vocab_size + 3)
    assert not_loaded(model) == []
