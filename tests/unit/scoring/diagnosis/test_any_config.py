"""Configurations of any form are compared: what one has that no other has is no reason to say nothing of the rest."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_pot.engines.kept_config import kept_config
from pytest_pot.scoring.diagnosis.config_changes import config_changes

NAMES = [
    "hidden_size", "num_attention_heads", "num_key_value_heads", "head_dim", "n_embd", "n_head", "n_positions", "model_type",
    "max_position_embeddings", "rope_scaling", "rope_parameters", "rope_theta", "rope_local_base_freq", "partial_rotary_factor",
    "original_max_position_embeddings", "type", "rope_type", "factor", "full_attention", "sliding_attention", "layer_types",
    "text_config", "vision_config", "quantization_config", "llm_int8_threshold", "load_in_8bit", "input_activations", "top_k",
    "temperature", "top_p", "transformers_version", "transformers.js_config", "pad_token_id", "sliding_window_pattern",
    "attention_multiplier", "a.b", "",
]  # fmt: skip
numbers = st.integers(-4, 4) | st.just(10**400) | st.floats() | st.booleans()
texts = st.sampled_from(["linear", "yarn", "llama", "gpt2", "default", "su", "", "x"])
values = st.recursive(
    st.none() | numbers | texts,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES) | st.text(max_size=3), inner, max_size=5)
    ),
    max_leaves=6,
)
configs = st.dictionaries(st.sampled_from(NAMES), values, max_size=6)


@settings(max_examples=150, deadline=None)
@given(configs, configs)
def test_any_two_configurations_are_compared_the_same_in_both_directions(one: dict[str, Any], other: dict[str, Any]) -> None:
    there, back = config_changes(one, other), config_changes(other, one)
    assert {change.field for change in there} == {change.field for change in back}
    assert len(there) == len(back)


@settings(max_examples=60, deadline=None)
@given(configs)
def test_a_configuration_does_not_differ_from_itself(config: dict[str, Any]) -> None:
    assert config_changes(config, config) == ()


@settings(max_examples=60, deadline=None)
@given(configs, configs)
def test_a_field_that_differs_is_told_whatever_is_beside_it(one: dict[str, Any], other: dict[str, Any]) -> None:
    kind = {"model_type": "llama"}
    fields = [change.field for change in config_changes({**one, "z": 2, **kind}, {**other, "z": 3, **kind})]
    assert "z" in fields


@settings(max_examples=60, deadline=None)
@given(configs)
def test_what_is_kept_of_a_configuration_is_kept_for_good(config: dict[str, Any]) -> None:
    kept = kept_config(config)
    assert config_changes(kept, kept_config(kept)) == ()
