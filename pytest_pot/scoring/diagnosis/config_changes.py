"""Which fields of two transformers configurations make the models compute something else.

Fields that change no logits are left out, by name. A field that is not known here is kept: a line too many does less harm than
a change that is not told. What follows from the weights (their precision, how they are quantised) is left to the weights.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

from pytest_pot.scoring.diagnosis.diagnosis import ConfigChange
from pytest_pot.scoring.diagnosis.rope_fields import ROPE, with_standard_rope

__all__ = ["config_changes"]

_NAMES = {
    "_name_or_path", "name_or_path", "architectures", "auto_map", "is_llama_config", "tokenizer_class", "prefix",
    "finetuning_task", "task_specific_params", "id2label", "label2id", "num_labels", "problem_type", "transformers.js_config",
    "_commit_hash",
}  # fmt: skip
_TOLD_BY_WEIGHTS = {"dtype", "torch_dtype", "quantization_config", "compression_config", "pruned_heads", "use_bfloat16"}
_OUTPUTS = {
    "output_attentions", "output_hidden_states", "output_router_logits", "output_past", "return_dict", "use_return_dict",
    "use_cache", "torchscript", "tie_last_hidden_states",
}  # fmt: skip
_TRAINING = {
    "gradient_checkpointing", "loss_type", "tf_legacy_loss", "router_aux_loss_coef", "router_z_loss_coef",
    "router_jitter_noise", "jitter_noise", "aux_loss_alpha", "seq_aux", "init_std", "rescale_prenorm_residual",
    "initializer_factor", "time_step_init_scheme",
}  # fmt: skip
_IMPLEMENTATION = {
    # Which kernels compute; results differ by rounding. pretraining_tp splits a product into several (Llama in transformers 4,
    # Bloom).
    "attn_implementation", "_attn_implementation", "_attn_implementation_internal", "_attn_implementation_autoset",
    "experts_implementation", "_experts_implementation", "_experts_implementation_internal", "chunk_size_feed_forward",
    "pretraining_tp", "use_mambapy", "use_associative_scan", "use_mamba_kernels",
}  # fmt: skip
_GENERATION = {
    "max_length", "min_length", "max_new_tokens", "do_sample", "early_stopping", "num_beams", "temperature", "top_p",
    "typical_p", "repetition_penalty", "length_penalty", "no_repeat_ngram_size", "encoder_no_repeat_ngram_size",
    "bad_words_ids", "num_return_sequences", "output_scores", "return_dict_in_generate", "remove_invalid_values",
    "exponential_decay_length_penalty", "suppress_tokens", "begin_suppress_tokens", "num_beam_groups", "diversity_penalty",
    "top_k",
}  # fmt: skip
"""Settings of generation that configurations of transformers 4 hold. Those of experts have other names."""

_OTHER_INPUTS = {"vision_config", "audio_config"}
"""What only images and sounds go through."""

_LEFT_OUT = _NAMES | _TOLD_BY_WEIGHTS | _OUTPUTS | _TRAINING | _IMPLEMENTATION | _GENERATION | _OTHER_INPUTS
_LEFT_OUT_PATTERN = re.compile(
    r"dropout|pdrop|layerdrop|drop_path|initializer_range|^summary_|_version$"
    # Ids matter to those who generate. In a forward, the padding id only stops a row from being trained.
    r"|^(bos|eos|pad|sep|cls|mask|unk|decoder_start|forced_bos|forced_eos)_token_ids?$"
)
_POSITIONS_FROM_PADDING = re.compile(
    r"roberta|camembert|xmod|xglm|data2vec|luke|longformer|mpnet|m2m|nllb|esm|kosmos|trocr|fsmt|ibert|lilt|markuplm"
)
"""Models that number their positions from the padding id on, so that it does affect logits."""

_MAX_POSITIONS = "max_position_embeddings"
_ROPE_WITHOUT_LENGTH = {"default", "linear", "llama3", "proportional"}
"""Rotary embeddings that do not depend on the configured length. Of positions with weights, the weights tell how many."""

_OTHER_NAMES = {
    "n_embd": "hidden_size", "n_layer": "num_hidden_layers", "n_head": "num_attention_heads", "n_inner": "intermediate_size",
    "n_positions": _MAX_POSITIONS, "n_ctx": _MAX_POSITIONS, "num_kv_heads": "num_key_value_heads",
}  # fmt: skip
_WHEREVER = re.compile(
    rf"(?:^|\.)(?:{ROPE}\..*|sliding_window|layer_types|\w*logit_softcapping|logit_scale|logits_scaling|query_pre_attn_scalar"
    r"|\w+_multiplier)$"
)
"""Fields that change what is computed in every architecture that has them: one that has no such field computes as with a value
that does nothing."""

_RELATIVE_ROUNDING = 1e-6
"""Files of other formats keep their numbers in float32."""


def config_changes(reference: Mapping[str, Any] | None, candidate: Mapping[str, Any] | None) -> tuple[ConfigChange, ...]:
    """The fields that change what is computed, in the reference's order, then those that only the candidate has.

    Both configurations are in JSON types, as ``to_json_string(use_diff=False)`` writes them, by any version of transformers. Of
    two model types, only the fields that both have are compared, after the types themselves, and a few that matter wherever
    they are.
    """
    if reference is None or candidate is None:
        return ()
    one, other = _alike(dict(reference), dict(candidate))
    fields_of_one, fields_of_other = dict(_flat(one)), dict(_flat(other))
    paths = [*fields_of_one, *(path for path in fields_of_other if path not in fields_of_one)]
    kinds = [fields.get("model_type") for fields in (fields_of_one, fields_of_other)]
    if kinds[0] != kinds[1]:
        paths = [
            path
            for path in paths
            if _WHEREVER.search(path) or (fields_of_one.get(path) is not None and fields_of_other.get(path) is not None)
        ]
        paths.insert(0, "model_type")
    changes = []
    for path in dict.fromkeys(paths):
        values = fields_of_one.get(path), fields_of_other.get(path)
        if not _same(path, *values) and not _left_out(path, one, other):
            changes.append(ConfigChange(path, *values))
    return tuple(_merged_by_layer_type(changes, fields_of_one))


def _alike(one: dict[str, Any], other: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Both configurations with the same names for the same fields."""
    if ("text_config" in one) != ("text_config" in other):  # a model of several kinds of input, and its language model alone
        one, other = _of_text(one), _of_text(other)
    elif isinstance(one.get("text_config"), dict) and isinstance(other.get("text_config"), dict):
        one["text_config"], other["text_config"] = _alike(dict(one["text_config"]), dict(other["text_config"]))
    for name, standard in _OTHER_NAMES.items():
        for config, opposite in ((one, other), (other, one)):
            if name in config and name not in opposite and standard in opposite and standard not in config:
                config[standard] = config.pop(name)
    one, other = with_standard_rope(one, other)
    for config, opposite in ((one, other), (other, one)):
        for name, value in _derived(config).items():
            if config.get(name) is None and opposite.get(name) is not None:
                config[name] = value
        if config.get("model_type") != opposite.get("model_type") and config.get("use_sliding_window") is False:
            config["sliding_window"] = None
        if "layer_types" in opposite and "layer_types" not in config:  # derived by newer versions, from other fields
            versions = config.get("transformers_version"), opposite.get("transformers_version")
            if config.get("model_type") != opposite.get("model_type"):
                config["layer_types"] = [_only_type(config)] * len(opposite["layer_types"] or ())
            elif versions[0] != versions[1]:
                config["layer_types"] = opposite["layer_types"]
    return one, other


def _only_type(config: Mapping[str, Any]) -> str:
    """That of all layers, where none is named."""
    return "sliding_attention" if config.get("sliding_window") else "full_attention"


def _of_text(config: Mapping[str, Any]) -> dict[str, Any]:
    rest = dict(config)
    return rest | (rest.pop("text_config", None) or {})


def _derived(config: Mapping[str, Any]) -> dict[str, Any]:
    """What models compute where the field is missing or None."""
    heads, hidden = (config.get(name) for name in ("num_attention_heads", "hidden_size"))
    derived: dict[str, Any] = {}
    if isinstance(heads, int) and heads:
        derived["num_key_value_heads"] = heads
        if isinstance(hidden, int):
            derived["head_dim"] = hidden // heads
            width = config.get("head_dim") or hidden // heads
            derived |= {"query_pre_attn_scalar": width, "attention_multiplier": width**-0.5}
    if isinstance(hidden, int) and config.get("model_type") == "gpt2":
        derived["n_inner"] = 4 * hidden
    return derived


def _flat(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in config.items():
        if isinstance(value, Mapping) and value and name not in _LEFT_OUT:
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def _left_out(path: str, one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    name = path.rpartition(".")[2]
    parents = path.split(".")[:-1]
    for parent in parents:
        one, other = (config.get(parent) or {} for config in (one, other))
    if name == "pad_token_id" and any(_POSITIONS_FROM_PADDING.search(str(config.get("model_type"))) for config in (one, other)):
        return False
    if name in (_MAX_POSITIONS, *(old for old, new in _OTHER_NAMES.items() if new == _MAX_POSITIONS)):
        return all(kind in _ROPE_WITHOUT_LENGTH for config in (one, other) for kind in _rope_types(config))
    if name in ("sliding_window_pattern", "_sliding_window_pattern", "max_window_layers"):
        return all(config.get("layer_types") for config in (one, other))  # which tell it layer by layer
    return name in _LEFT_OUT or bool(_LEFT_OUT_PATTERN.search(name))


def _rope_types(config: Mapping[str, Any]) -> set[str]:
    rope = config.get(ROPE) or {}
    nested = [value for value in rope.values() if isinstance(value, Mapping)]
    return {str(parameters.get("rope_type", "default")) for parameters in nested or [rope]}


def _same(path: str, one: Any, other: Any) -> bool:
    if one is None or other is None:
        return _changes_nothing(path, one) and _changes_nothing(path, other)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(_same(path, *pair) for pair in zip(one, other, strict=True))
    if isinstance(one, int | float) and isinstance(other, int | float):
        both_nan = one != one and other != other
        return both_nan or math.isclose(one, other, rel_tol=_RELATIVE_ROUNDING)
    return bool(one == other)


def _changes_nothing(path: str, value: Any) -> bool:
    """Whether a field of this value does the same as no field, as of a version of transformers that does not have it."""
    if value is None or value in (False, "", [], {}) or (ROPE in path and value == "default"):
        return True
    return value == 1 and any(word in path for word in ("multiplier", "factor", "scale", "scaling"))


def _merged_by_layer_type(changes: list[ConfigChange], fields: Mapping[str, Any]) -> Iterator[ConfigChange]:
    """``changes`` with those of rotary embeddings under the field's own name where it is the same in all types of layers."""
    pattern = re.compile(rf"(.*\b){ROPE}\.(?:(\w+)\.)?(\w+)")
    told = set()
    for change in changes:
        match = pattern.fullmatch(change.field)
        if match is None:
            yield change
            continue
        parent, kind, name = match.groups()
        alike = [other for other in changes if (other_match := pattern.fullmatch(other.field)) and other_match[3] == name]
        n_kinds = len({m[2] for field in fields if (m := pattern.fullmatch(field)) and m[2] and m[1] == parent})
        everywhere = kind is None or (
            len(alike) == n_kinds and all((a.reference, a.candidate) == (change.reference, change.candidate) for a in alike)
        )
        field = f"{parent}{name}" if name == "rope_theta" else f"{parent}{ROPE}.{name}"
        field = field if everywhere else change.field
        if field not in told:
            told.add(field)
            yield ConfigChange(field, change.reference, change.candidate)
