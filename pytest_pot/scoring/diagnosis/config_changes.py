"""Which fields of two transformers configurations make the models compute something else.

Fields that change no logits are left out, by name. A field that is not known here is kept: a line too many does less harm than
a change that is not told. What follows from the weights (their precision, how they are quantised) is left to the weights; how
activations and the cache are quantised is not.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

from pytest_pot.scoring.diagnosis.diagnosis import ConfigChange
from pytest_pot.scoring.diagnosis.rope_fields import ROPE, with_standard_rope

__all__ = ["config_changes"]

_Path = tuple[str, ...]
"""The names of a field and of those around it, the outermost first."""
_Change = tuple[_Path, Any, Any]

_MODEL_TYPE: _Path = ("model_type",)

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
    "max_length", "min_length", "max_new_tokens", "do_sample", "early_stopping", "num_beams", "top_p",
    "typical_p", "repetition_penalty", "length_penalty", "no_repeat_ngram_size", "encoder_no_repeat_ngram_size",
    "bad_words_ids", "num_return_sequences", "output_scores", "return_dict_in_generate", "remove_invalid_values",
    "exponential_decay_length_penalty", "suppress_tokens", "begin_suppress_tokens", "num_beam_groups", "diversity_penalty",
}  # fmt: skip
"""Settings of generation that configurations of transformers 4 hold."""
_GENERATION_OR_EXPERTS = {"top_k", "temperature"}
"""They are settings of generation beside others of these; alone, they may be a router's."""

_OTHER_INPUTS = {"vision_config", "audio_config"}
"""What only images and sounds go through."""

_LEFT_OUT = _NAMES | _TOLD_BY_WEIGHTS | _OUTPUTS | _TRAINING | _IMPLEMENTATION | _GENERATION | _OTHER_INPUTS
_LEFT_OUT_PATTERN = re.compile(
    r"dropout|pdrop|layerdrop|drop_path|initializer_range|^summary_|_version$"
    # Ids matter to those who generate. In a forward, the padding id only stops a row from being trained.
    r"|^(bos|eos|pad|sep|cls|mask|unk|decoder_start|forced_bos|forced_eos)_token_ids?$"
)
_QUANTIZATION = "quantization_config"
_QUANTIZATION_OF_RESULTS = re.compile(r"activation|kv_cache|threshold|compute_dtype|act_quant|act_bits|act_dynamic")
"""Parts of ``quantization_config`` that the weights do not tell."""
_OBSERVER = re.compile(r"observer|actorder|desc_act|static_groups")
"""How a quantiser found its settings."""
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
    r"sliding_window|layer_types|\w*logit_softcapping|logit_scale|logits_scaling|query_pre_attn_scalar|\w+_multiplier"
)
"""Fields that change what is computed in every architecture that has them, as those of rotary embeddings do: one that has no
such field computes as with a value that does nothing."""

_OF_ATTENTION = re.compile(r"att(n|ention)|softmax|query|qk")
_WIDEST = 1 << 31
"""Beyond this, a width is none; an integer in a file may be beyond all floats."""
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
    kinds = [fields.get(_MODEL_TYPE) for fields in (fields_of_one, fields_of_other)]
    if kinds[0] != kinds[1]:
        paths = [
            path
            for path in paths
            if _counts_wherever(path) or (fields_of_one.get(path) is not None and fields_of_other.get(path) is not None)
        ]
        paths.insert(0, _MODEL_TYPE)
    changes: list[_Change] = []
    for path in dict.fromkeys(paths):
        values = fields_of_one.get(path), fields_of_other.get(path)
        if not _same(path[-1], *values) and not _left_out(path, one, other):
            changes.append((path, *values))
    return tuple(_merged_by_layer_type(changes, {*fields_of_one, *fields_of_other}))


def _counts_wherever(path: _Path) -> bool:
    return ROPE in path[:-1] or _WHEREVER.fullmatch(path[-1]) is not None


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
            types = opposite["layer_types"]
            if config.get("model_type") != opposite.get("model_type"):
                config["layer_types"] = [_only_type(config)] * (len(types) if isinstance(types, list) else 0)
            elif versions[0] != versions[1]:
                config["layer_types"] = opposite["layer_types"]
    return one, other


def _only_type(config: Mapping[str, Any]) -> str:
    """That of all layers, where none is named."""
    return "sliding_attention" if config.get("sliding_window") else "full_attention"


def _of_text(config: Mapping[str, Any]) -> dict[str, Any]:
    text = config.get("text_config")
    return {name: value for name, value in config.items() if name != "text_config"} | dict(_mapping(text))


def _derived(config: Mapping[str, Any]) -> dict[str, Any]:
    """What models compute where the field is missing or None."""
    heads, hidden = (config.get(name) for name in ("num_attention_heads", "hidden_size"))
    derived: dict[str, Any] = {}
    if isinstance(heads, int) and heads:
        derived["num_key_value_heads"] = heads
        if isinstance(hidden, int):
            derived["head_dim"] = hidden // heads
            width = config.get("head_dim") or hidden // heads
            if isinstance(width, int) and 0 < width < _WIDEST:
                derived |= {"query_pre_attn_scalar": width, "attention_multiplier": width**-0.5}
    if isinstance(hidden, int) and config.get("model_type") == "gpt2":
        derived["n_inner"] = 4 * hidden
    return derived


def _flat(config: Mapping[str, Any], around: _Path = ()) -> Iterator[tuple[_Path, Any]]:
    for name, value in config.items():
        if isinstance(value, Mapping) and value and (name not in _LEFT_OUT or name == _QUANTIZATION):
            yield from _flat(value, (*around, name))
        else:
            yield (*around, name), value


def _left_out(path: _Path, one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    *parents, name = path
    for depth, parent in enumerate(parents):
        one, other = (_mapping(config.get(parent)) for config in (one, other))
        if parent == _QUANTIZATION:
            return not (one and other) or not _of_results(path[depth + 1 :], one, other)
    if name == "pad_token_id" and any(_POSITIONS_FROM_PADDING.search(str(config.get("model_type"))) for config in (one, other)):
        return False
    if name in (_MAX_POSITIONS, *(old for old, new in _OTHER_NAMES.items() if new == _MAX_POSITIONS)):
        return all(kind in _ROPE_WITHOUT_LENGTH for config in (one, other) for kind in _rope_types(config))
    if name in ("sliding_window_pattern", "_sliding_window_pattern", "max_window_layers"):
        return all(config.get("layer_types") for config in (one, other))  # which tell it layer by layer
    if name in _GENERATION_OR_EXPERTS:
        return all(not config.keys().isdisjoint(_GENERATION) for config in (one, other) if config.get(name) is not None)
    return name in _LEFT_OUT or bool(_LEFT_OUT_PATTERN.search(name))


def _of_results(path: _Path, one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether a field inside ``quantization_config`` is about what is computed with the weights, in the models at hand."""
    for prefix, switch in (("llm_int8_", "load_in_8bit"), ("bnb_4bit_", "load_in_4bit")):
        if path[0].startswith(prefix) and not any(config.get(switch, True) for config in (one, other)):
            return False
    return any(map(_QUANTIZATION_OF_RESULTS.search, path)) and not any(map(_OBSERVER.search, path))


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _rope_types(config: Mapping[str, Any]) -> set[str]:
    rope = _mapping(config.get(ROPE))
    nested = [value for value in rope.values() if isinstance(value, Mapping)]
    return {str(parameters.get("rope_type", "default")) for parameters in nested or [rope]}


def _same(name: str, one: Any, other: Any) -> bool:
    if one is None or other is None:
        return _changes_nothing(name, one) and _changes_nothing(name, other)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(_same(name, *pair) for pair in zip(one, other, strict=True))
    if isinstance(one, int) and isinstance(other, int):
        return one == other
    if isinstance(one, int | float) and isinstance(other, int | float):
        return (one != one and other != other) or _nearly_same(one, other)
    return bool(one == other)


def _nearly_same(one: float, other: float) -> bool:
    try:
        return math.isclose(one, other, rel_tol=_RELATIVE_ROUNDING)
    except OverflowError:  # an integer beyond all floats
        return False


def _changes_nothing(name: str, value: Any) -> bool:
    """Whether a field of this value does the same as no field, as of a version of transformers that does not have it."""
    if value is None or value in (False, "", [], {}) or (name == "rope_type" and value == "default"):
        return True
    if isinstance(value, int | float) and not isinstance(value, bool) and _OF_ATTENTION.search(name):
        return False  # where it is absent, attention is mostly scaled by 1 / sqrt(head_dim)
    return bool(value == 1) and any(word in name for word in ("multiplier", "factor", "scale", "scaling"))


def _merged_by_layer_type(changes: list[_Change], paths: set[_Path]) -> Iterator[ConfigChange]:
    """``changes`` with those of rotary embeddings under the field's own name where it is the same in all types of layers."""
    told = set()
    for path, reference, candidate in changes:
        if ROPE not in path[-3:-1]:
            yield ConfigChange(".".join(path), reference, candidate)
            continue
        at, name = path.index(ROPE), path[-1]
        around, kinds = path[:at], path[at + 1 : -1]
        alike = [values for other, *values in changes if _is_of_rope(other, around) and other[-1] == name]
        n_kinds = len({other[at + 1] for other in paths if _is_of_rope(other, around) and len(other) > at + 2})
        everywhere = not kinds or (len(alike) == n_kinds and all(values == [reference, candidate] for values in alike))
        if everywhere:
            path = (*around, name) if name == "rope_theta" else (*around, ROPE, name)
        if path not in told:
            told.add(path)
            yield ConfigChange(".".join(path), reference, candidate)


def _is_of_rope(path: _Path, around: _Path) -> bool:
    """Whether ``path`` is that of a field of the rotary embeddings that the fields ``around`` hold."""
    return path[: len(around) + 1] == (*around, ROPE) and len(around) + 2 <= len(path) <= len(around) + 3
