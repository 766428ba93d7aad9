from __future__ import annotations

import json
from typing import Any

import pytest
from transformers import CohereConfig, GraniteConfig, LlamaConfig, PretrainedConfig, RobertaConfig

from pytest_pot.scoring.diagnosis.config_changes import config_changes
from pytest_pot.scoring.diagnosis.diagnosis import ConfigChange

from ...models import ATTENTION, CONFIGS, MORE_CONFIGS

ALL = CONFIGS | MORE_CONFIGS

SMOLLM2: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "hidden_act": "silu",
    "hidden_size": 576,
    "initializer_range": 0.041666666666666664,
    "intermediate_size": 1536,
    "is_llama_config": True,
    "max_position_embeddings": 8192,
    "model_type": "llama",
    "num_attention_heads": 9,
    "num_hidden_layers": 30,
    "num_key_value_heads": 3,
    "pretraining_tp": 1,
    "rms_norm_eps": 1e-05,
    "rope_interleaved": False,
    "rope_scaling": None,
    "rope_theta": 100000,
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.40.1",
    "use_cache": True,
    "vocab_size": 49152,
}
"""config.json of SmolLM2-135M, as it was published."""


def document(config: PretrainedConfig) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(config.to_json_string(use_diff=False))
    return content


def as_of_version_4(config: dict[str, Any]) -> dict[str, Any]:
    """``config`` with the names that transformers 4 had, and what it wrote besides."""
    old = {**config, "transformers_version": "4.56.0", "torch_dtype": "bfloat16"}
    old |= {"is_decoder": False, "cross_attention_hidden_size": None, "top_k": 50, "temperature": 1.0, "prefix": None}
    old.pop("dtype")
    rope = dict(old.pop("rope_parameters", None) or {})
    if "full_attention" in rope:
        full, local = rope["full_attention"], rope["sliding_attention"]
        old |= {"rope_theta": full["rope_theta"], "rope_local_base_freq": local["rope_theta"], "rope_scaling": None}
    elif rope:
        old["rope_theta"] = rope.pop("rope_theta")
        if "partial_rotary_factor" in rope:
            old["partial_rotary_factor"] = rope.pop("partial_rotary_factor")
        old["rope_scaling"] = None if rope == {"rope_type": "default"} else rope
    if config["model_type"] == "llama":
        old["head_dim"] = None
    return old


@pytest.mark.parametrize("name", ALL)
def test_a_configuration_does_not_differ_from_itself_nor_from_its_form_in_version_4(name: str) -> None:
    config = document(ALL[name]())
    assert config_changes(config, document(ALL[name]())) == ()
    assert config_changes(as_of_version_4(config), config) == ()
    assert config_changes(config, as_of_version_4(config)) == ()


def test_a_published_configuration_does_not_differ_from_that_of_the_model_that_is_made_of_it() -> None:
    assert config_changes(SMOLLM2, document(LlamaConfig(**SMOLLM2))) == ()
    other = document(LlamaConfig(**{**SMOLLM2, "rope_theta": 10000.0}))
    assert config_changes(SMOLLM2, other) == (ConfigChange("rope_theta", 100000, 10000.0),)


@pytest.mark.parametrize(
    ("name", "field", "value"),
    [
        ("llama", "rms_norm_eps", 1e-3),
        ("llama", "tie_word_embeddings", True),
        ("llama", "vocab_size", 128),
        ("llama", "hidden_act", "gelu"),
        ("mistral-window", "sliding_window", 4),
        ("mistral-window", "sliding_window", None),
        ("gemma3", "sliding_window", 4),
        ("gemma3", "layer_types", ["full_attention", "full_attention"]),
        ("gemma2-softcap", "final_logit_softcapping", 30.0),
        ("gemma2-softcap", "attn_logit_softcapping", None),
        ("gemma2-softcap", "query_pre_attn_scalar", 16),
        ("mixtral", "num_experts_per_tok", 1),
        ("gpt2", "scale_attn_by_inverse_layer_idx", True),
        ("gpt2", "layer_norm_epsilon", 1e-3),
        ("opt", "do_layer_norm_before", False),
        ("mamba", "residual_in_fp32", False),
        ("falcon-alibi", "alibi", False),
        ("llama", "a_field_of_tomorrow", 3),
    ],
)
def test_a_field_that_changes_what_is_computed_is_named_with_both_values(name: str, field: str, value: object) -> None:
    reference, config = ALL[name](), ALL[name]()
    before = getattr(reference, field, None)
    setattr(config, field, value)
    (change,) = config_changes(document(reference), document(config))
    assert (change.field, change.reference, change.candidate) == (field, before, value)
    (back,) = config_changes(as_of_version_4(document(config)), document(reference))
    assert (back.field, back.reference, back.candidate) == (field, value, before)


def test_the_attention_multiplier_is_named() -> None:
    configs = [document(GraniteConfig(**ATTENTION, attention_multiplier=value)) for value in (0.25, 0.5)]
    assert config_changes(*configs) == (ConfigChange("attention_multiplier", 0.25, 0.5),)


@pytest.mark.parametrize("name", ["llama", "qwen3", "mixtral", "phi", "falcon-alibi"])
def test_the_base_of_rotary_embeddings_has_its_plain_name(name: str) -> None:
    one, other = document(ALL[name]()), document(ALL[name]())
    before = one["rope_parameters"]["rope_theta"]
    other["rope_parameters"]["rope_theta"] = 500.0
    for reference in (one, as_of_version_4(one)):
        assert config_changes(reference, other) == (ConfigChange("rope_theta", before, 500.0),)


def test_rotary_embeddings_of_each_type_of_layer_are_told_apart() -> None:
    one, other = document(ALL["gemma3"]()), document(ALL["gemma3"]())
    other["rope_parameters"]["full_attention"]["rope_theta"] = 500.0
    for reference in (one, as_of_version_4(one)):
        (change,) = config_changes(reference, other)
        assert (change.field, change.candidate) == ("rope_parameters.full_attention.rope_theta", 500.0)
    for kind in ("full_attention", "sliding_attention"):
        one["rope_parameters"][kind]["rope_theta"] = 1000.0
        other["rope_parameters"][kind]["rope_theta"] = 500.0
    assert config_changes(one, other) == (ConfigChange("rope_theta", 1000.0, 500.0),)


def test_the_scaling_of_rotary_embeddings_is_named_field_by_field() -> None:
    scaling: dict[str, Any] = {"rope_scaling": {"type": "linear", "factor": 2.0}}
    one, other = document(LlamaConfig(**ATTENTION)), document(LlamaConfig(**ATTENTION, **scaling))
    names = {change.field: (change.reference, change.candidate) for change in config_changes(one, other)}
    assert names == {"rope_parameters.rope_type": ("default", "linear"), "rope_parameters.factor": (None, 2.0)}


def test_types_of_layers_that_an_older_version_did_not_write_are_no_change() -> None:
    new = document(ALL["gemma2-softcap"]())
    assert new["layer_types"]
    old = {name: value for name, value in as_of_version_4(new).items() if name != "layer_types"}
    assert config_changes(old, new) == config_changes(new, old) == ()
    same_version = {name: value for name, value in new.items() if name != "layer_types"}
    assert [change.field for change in config_changes(same_version, new)] == ["layer_types"]


def test_rotary_embeddings_of_all_layers_are_those_of_each_type() -> None:
    new = document(ALL["gemma3"]())
    parameters = {"rope_type": "default", "rope_theta": 1000.0}
    nested = {**new, "rope_parameters": {"full_attention": parameters, "sliding_attention": parameters}}
    assert config_changes({**new, "rope_parameters": parameters}, nested) == ()


def test_the_original_length_is_the_configured_one_unless_given() -> None:
    scaling: dict[str, Any] = {"rope_type": "yarn", "factor": 4.0, "rope_theta": 10000.0}
    old = {**document(ALL["llama"]()), "rope_parameters": scaling}
    new = {**old, "rope_parameters": {**scaling, "original_max_position_embeddings": 128}}
    assert config_changes(old, new) == ()
    other = {**old, "rope_parameters": {**scaling, "original_max_position_embeddings": 64}}
    field = "rope_parameters.original_max_position_embeddings"
    assert config_changes(old, other) == (ConfigChange(field, 128, 64),)


def test_the_configured_length_matters_where_frequencies_depend_on_it() -> None:
    def with_length(length: int, kind: str) -> dict[str, Any]:
        rope = {"rope_type": kind, "factor": 2.0, "rope_theta": 10000.0}
        return {**document(ALL["llama"]()), "rope_parameters": rope, "max_position_embeddings": length}

    assert config_changes(with_length(128, "linear"), with_length(256, "linear")) == ()
    changes = config_changes(with_length(128, "dynamic"), with_length(256, "dynamic"))
    assert changes == (ConfigChange("max_position_embeddings", 128, 256),)


@pytest.mark.parametrize(
    "fields",
    [
        {"_name_or_path": "elsewhere", "transformers_version": "5.99.0", "architectures": ["Other"], "dtype": "bfloat16"},
        {"bos_token_id": 7, "eos_token_id": [7, 8], "pad_token_id": 9},
        {"attention_dropout": 0.5, "initializer_range": 0.5, "use_cache": False, "output_attentions": True},
        {"quantization_config": {"quant_method": "bitsandbytes", "load_in_8bit": True}},
        {"id2label": {"0": "spam"}, "label2id": {"spam": 0}, "problem_type": "regression"},
        {"_attn_implementation": "eager", "pretraining_tp": 2, "chunk_size_feed_forward": 8},
        {"rms_norm_eps": 9.999999974752427e-07},  # 1e-6 in float32, as a GGUF keeps it
        {"max_position_embeddings": 4096},
        {"vision_config": {"hidden_size": 3}},
    ],
)
def test_fields_that_change_no_logits_are_left_out(fields: dict[str, Any]) -> None:
    config = document(ALL["llama"]())
    assert config_changes(config, {**config, **fields}) == ()


def test_a_larger_difference_of_a_small_number_is_one() -> None:
    config = document(ALL["llama"]())
    assert config_changes(config, {**config, "rms_norm_eps": 1.001e-6})


def test_the_padding_id_counts_where_positions_are_numbered_from_it() -> None:
    one, other = (document(RobertaConfig(pad_token_id=value, is_decoder=True)) for value in (1, 5))
    assert config_changes(one, other) == (ConfigChange("pad_token_id", 1, 5),)


def test_a_model_of_several_inputs_is_compared_by_its_language_model() -> None:
    text = document(ALL["llama"]())
    several = {"model_type": "llama", "text_config": dict(text), "vision_config": {"hidden_size": 8}, "image_token_id": None}
    assert config_changes(several, text) == ()
    changed = {**text, "rms_norm_eps": 0.1}
    assert config_changes(several, changed) == (ConfigChange("rms_norm_eps", 1e-6, 0.1),)
    both = {**several, "text_config": changed}
    assert config_changes(several, both) == (ConfigChange("text_config.rms_norm_eps", 1e-6, 0.1),)
    assert several["text_config"] == text, "the given configurations stay as they are"


def test_two_model_types_are_compared_by_what_both_have() -> None:
    changes = config_changes(document(ALL["llama"]()), document(ALL["gpt2"]()))
    assert changes[0] == ConfigChange("model_type", "llama", "gpt2")
    assert {change.field for change in changes[1:]} == {"num_key_value_heads", "tie_word_embeddings", "rope_theta"}


@pytest.mark.parametrize(
    ("name", "field", "value", "before"),
    [
        ("mistral-window", "sliding_window", 8, None),
        ("gemma2-softcap", "final_logit_softcapping", 5.0, None),
        ("gemma2-softcap", "attn_logit_softcapping", 3.0, None),
        ("gemma2-softcap", "query_pre_attn_scalar", 32, 8),
        ("gemma2-softcap", "layer_types", ["sliding_attention", "full_attention"], ["full_attention"] * 2),
        ("granite", "attention_multiplier", 0.25, 8**-0.5),
        ("granite", "residual_multiplier", 0.5, None),
        ("granite", "embedding_multiplier", 12.0, None),
        ("granite", "logits_scaling", 8.0, None),
        ("cohere", "logit_scale", 0.0625, None),
    ],
)
def test_of_two_model_types_the_fields_that_matter_wherever_they_are_are_named(
    name: str, field: str, value: object, before: object
) -> None:
    made = {"granite": GraniteConfig, "cohere": CohereConfig}
    fields: dict[str, Any] = {field: value}
    config = made[name](**ATTENTION, **fields) if name in made else ALL[name]()
    setattr(config, field, value)
    llama, other = document(ALL["llama"]()), document(config)
    for one in (llama, as_of_version_4(llama)):
        for pair, values in (((one, other), (before, value)), ((other, one), (value, before))):
            changes = {change.field: change for change in config_changes(*pair)}
            assert (changes[field].reference, changes[field].candidate) == values


def test_of_two_model_types_fields_that_do_nothing_are_not_named() -> None:
    granite = document(GraniteConfig(**ATTENTION, attention_multiplier=8**-0.5))
    fields = {change.field for change in config_changes(document(ALL["llama"]()), granite)}
    assert fields == {"model_type"}
    qwen = {**document(ALL["qwen3"]()), "sliding_window": None}
    assert {change.field for change in config_changes(document(ALL["llama"]()), qwen)} == {"model_type"}
    without_use = {**qwen, "sliding_window": 16, "use_sliding_window": False}
    assert {change.field for change in config_changes(document(ALL["llama"]()), without_use)} == {"model_type"}


def test_without_one_of_the_configurations_nothing_is_said() -> None:
    assert config_changes(None, {}) == config_changes({}, None) == ()
