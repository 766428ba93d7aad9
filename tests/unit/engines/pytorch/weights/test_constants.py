from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from pytest_pot.engines.pytorch.weights.constants import constants_of
from pytest_pot.engines.pytorch.weights.named import NamedWeights

from ....models import CONFIGS, tiny


@pytest.mark.parametrize(
    ("name", "constant", "value"),
    [
        ("llama", "model.layers.1.self_attn.scaling", 8**-0.5),
        ("llama", "model.norm.variance_epsilon", 1e-6),
        ("llama", "model.layers.0.mlp.act_fn", "SiLUActivation"),
        ("gemma3", "model.layers.0.self_attn.sliding_window", 8),
        ("gemma3", "model.layers.1.self_attn.sliding_window", None),
        ("gemma2-softcap", "model.layers.0.self_attn.attn_logit_softcapping", 3.0),
        ("mixtral", "model.layers.1.mlp.gate.top_k", 2),
        ("gpt2", "transformer.h.0.ln_1.eps", 1e-5),
        ("gpt2", "transformer.h.1.attn.scale_attn_by_inverse_layer_idx", False),
        ("mamba", "backbone.layers.0.residual_in_fp32", True),
    ],
)
def test_numbers_that_change_what_is_computed_are_there(name: str, constant: str, value: object) -> None:
    constants = NamedWeights(tiny(name)).constants
    assert constants[constant] == value


@pytest.mark.parametrize("name", CONFIGS)
def test_training_places_and_sizes_are_no_constants(name: str) -> None:
    model = tiny(name)
    before = dict(constants_of(model))
    model.train()
    for module in model.modules():
        if hasattr(module, "gradient_checkpointing"):
            setattr(module, "gradient_checkpointing", True)  # noqa: B010
        if isinstance(module, nn.Dropout):
            module.p = 0.9
        if isinstance(module, nn.Embedding):
            module.padding_idx = 5
    assert constants_of(model) == before
    assert not any(key.endswith((".layer_idx", ".training", ".in_features", "num_embeddings")) for key in before)


@pytest.mark.parametrize("name", ["llama", "gemma3", "mixtral"])
def test_running_a_model_another_kernel_and_another_precision_change_no_constant(name: str) -> None:
    model = tiny(name)
    before = dict(constants_of(model))
    generated: Any = model
    generated.generate(torch.tensor([[3, 4, 5]]), max_new_tokens=4, do_sample=False)
    model.set_attn_implementation("eager")
    assert constants_of(model.bfloat16()) == before


def test_a_number_that_is_changed_in_place_is_seen() -> None:
    model = tiny("llama")
    before = constants_of(model)
    model.model.layers[1].self_attn.scaling = 0.1
    model.model.layers[0].mlp.act_fn = nn.GELU()
    after = constants_of(model)
    assert {key for key in before if before[key] != after[key]} == {
        "model.layers.1.self_attn.scaling",
        "model.layers.0.mlp.act_fn",
    }
