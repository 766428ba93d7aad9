from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from torch import nn
from transformers import PreTrainedModel

from pytest_pot.engines.pytorch.weights.constants import constants_of
from pytest_pot.scoring.diagnosis.config_changes import config_changes
from pytest_pot.scoring.diagnosis.constant_changes import constant_changes, explains_buffer
from pytest_pot.scoring.diagnosis.diagnosis import ConfigChange

from ...models import tiny


def changes_between(one: PreTrainedModel, other: PreTrainedModel) -> list[ConfigChange]:
    configs = [json.loads(model.config.to_json_string(use_diff=False)) for model in (one, other)]
    return list(constant_changes(constants_of(one), constants_of(other), config_changes(*configs)))


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("llama", {"rms_norm_eps": 1e-3}),
        ("llama", {"hidden_act": "gelu"}),
        ("llama", {"rope_parameters": {"rope_type": "yarn", "factor": 4.0, "rope_theta": 10000.0}}),
        ("gemma3", {"layer_types": ["full_attention", "sliding_attention"]}),
        ("gemma3", {"sliding_window": 4}),
        ("gemma2-softcap", {"query_pre_attn_scalar": 16}),
        ("gemma2-softcap", {"attn_logit_softcapping": 9.0}),
        ("mixtral", {"num_experts_per_tok": 1}),
        ("gpt2", {"layer_norm_epsilon": 1e-3}),
        ("gpt2", {"activation_function": "relu"}),
        ("gpt2", {"scale_attn_by_inverse_layer_idx": True}),
        ("opt", {"activation_function": "gelu"}),
        ("mamba", {"layer_norm_epsilon": 1e-3}),
    ],
)
def test_what_a_field_of_the_configuration_explains_is_not_repeated(name: str, fields: dict[str, Any]) -> None:
    one, other = tiny(name), tiny(name, **fields)
    assert constants_of(one) != constants_of(other), "the field reaches the modules"
    assert changes_between(one, other) == []


def on_layers(change: Callable[[nn.Module], None], layers: list[int]) -> PreTrainedModel:
    model = tiny("llama", num_hidden_layers=4)
    for layer in layers:
        change(model.model.layers[layer])
    return model


def scale(layer: nn.Module) -> None:
    layer.self_attn.scaling = 0.1  # type: ignore[union-attr]


def test_a_number_that_only_the_modules_keep_is_one_change_where_all_have_it() -> None:
    one = tiny("llama", num_hidden_layers=4)
    assert changes_between(one, on_layers(scale, [0, 1, 2, 3])) == [
        ConfigChange("model.layers.*.self_attn.scaling", 8**-0.5, 0.1, n_modules=4)
    ]
    assert [change.field for change in changes_between(one, on_layers(scale, [1, 3]))] == [
        "model.layers.1.self_attn.scaling",
        "model.layers.3.self_attn.scaling",
    ]


def test_a_field_does_not_hide_a_number_that_it_does_not_explain() -> None:
    one, other = tiny("llama"), tiny("llama", rms_norm_eps=1e-3)
    other.model.layers[1].self_attn.scaling = 0.1
    assert [change.field for change in changes_between(one, other)] == ["model.layers.1.self_attn.scaling"]


def test_a_wrapper_changes_no_names() -> None:
    one = tiny("llama")
    wrapped = nn.DataParallel(tiny("llama"))
    wrapped.module.model.layers[1].self_attn.scaling = 0.1
    changes = constant_changes(constants_of(one), constants_of(wrapped), ())
    assert [change.field for change in changes] == ["model.layers.1.self_attn.scaling"]


def test_rotary_frequencies_are_explained_by_what_they_are_made_of() -> None:
    buffer = "model.rotary_emb.inv_freq"
    assert explains_buffer(buffer, [ConfigChange("rope_theta", 1e4, 1e5)])
    assert explains_buffer(buffer, [ConfigChange("rope_parameters.factor", None, 2.0)])
    assert explains_buffer(buffer, [ConfigChange("head_dim", 8, 16)])
    assert not explains_buffer(buffer, [ConfigChange("rms_norm_eps", 1e-6, 1e-5)])
    assert not explains_buffer(buffer, [])


def test_what_scales_cosines_leaves_frequencies_and_the_other_way_round() -> None:
    theta = ConfigChange("rope_theta", 1e4, 1e5)
    one, other = ({"model.rotary_emb.attention_scaling": value} for value in (1.0, 1.3))
    assert constant_changes(one, other, [theta]) == (ConfigChange("model.rotary_emb.attention_scaling", 1.0, 1.3, n_modules=1),)
    for field in ("rope_type", "factor", "attention_factor", "mscale", "original_max_position_embeddings"):
        assert constant_changes(one, other, [ConfigChange(f"rope_parameters.{field}", 3, 5)]) == ()
    assert not explains_buffer("model.rotary_emb.inv_freq", [ConfigChange("rope_parameters.attention_factor", 1.0, 2.0)])
    assert explains_buffer("model.rotary_emb.cos_cached", [ConfigChange("rope_parameters.attention_factor", 1.0, 2.0)])


def test_a_number_of_the_same_module_explains_no_frequencies() -> None:
    scaling = ConfigChange("model.rotary_emb.attention_scaling", 1.0, 1.3, n_modules=1)
    assert not explains_buffer("model.rotary_emb.inv_freq", [scaling])
    assert explains_buffer("model.rotary_emb.inv_freq", [ConfigChange("model.layers.*.attn.rope_theta", 1e4, 1e5, n_modules=4)])


def test_a_field_of_one_type_of_layers_explains_nothing_of_another() -> None:
    change = ConfigChange("rope_parameters.full_attention.rope_theta", 1e4, 1e5)
    assert explains_buffer("model.rotary_emb.full_attention_inv_freq", [change])
    assert not explains_buffer("model.rotary_emb.sliding_attention_inv_freq", [change])
    assert explains_buffer("model.rotary_emb.inv_freq", [change])


@pytest.mark.parametrize(
    ("buffer", "field", "explained"),
    [
        ("logit_scale", "rms_norm_eps", False),
        ("logit_scale", "logit_scale", True),
        ("logit_scale", "logits_scaling", True),
        ("logit_scale", "rope_theta", False),
        ("model.alibi", "alibi", True),
        ("model.alibi", "hidden_act", False),
        ("model.embed_tokens.embed_scale", "hidden_size", True),
        ("model.embed_tokens.embed_scale", "embedding_multiplier", True),
        ("model.embed_tokens.embed_scale", "tie_word_embeddings", False),
        ("model.layers.0.attn.bias", "attention_bias", False),
        ("model.mup_vector", "mup_vector", True),
    ],
)
def test_another_buffer_is_explained_by_a_field_of_its_name(buffer: str, field: str, explained: bool) -> None:
    assert explains_buffer(buffer, [ConfigChange(field, 1, 2)]) == explained
