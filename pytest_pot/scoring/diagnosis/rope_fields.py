"""The fields of rotary embeddings, as transformers 5 writes them, from the names of older versions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["ROPE", "with_standard_rope"]

ROPE = "rope_parameters"

_BASES = ("rope_theta", "rotary_emb_base", "global_rope_theta")
_LOCAL_BASES = ("rope_local_base_freq", "local_rope_theta")
_SHARES = ("partial_rotary_factor", "rotary_pct")
_ORIGINAL_LENGTH = "original_max_position_embeddings"
_WITH_ORIGINAL_LENGTH = ("llama3", "yarn", "longrope")
_OTHER_TYPES = {"su": "longrope"}


def with_standard_rope(one: Mapping[str, Any], other: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Both configurations with all that they say of rotary embeddings under ``rope_parameters``: for all layers, or, where one
    of them distinguishes types of layers, for each type. What has no known form stays as it is."""
    configs = [_standard(config) for config in (one, other)]
    kinds = {name: None for config in configs for name in _by_layer_type(config.get(ROPE))}
    for config in configs:
        rope = config.get(ROPE)
        if kinds and isinstance(rope, Mapping) and rope and not _by_layer_type(rope):
            config[ROPE] = {kind: dict(rope) for kind in kinds}
    return configs[0], configs[1]


def _by_layer_type(rope: Any) -> dict[str, dict[str, Any]]:
    """The parameters of each type of layers; empty where they are those of all layers."""
    if not isinstance(rope, Mapping) or not all(isinstance(value, Mapping) for value in rope.values()):
        return {}
    return {kind: dict(value) for kind, value in rope.items()}


def _standard(config: Mapping[str, Any]) -> dict[str, Any]:
    rest = dict(config)
    for name in (ROPE, "rope_scaling"):
        if isinstance(rest.get(name), str):  # the type alone
            rest[name] = {"rope_type": rest[name]} if rest[name] else None
        if not isinstance(rest.get(name) or {}, Mapping):
            return rest
    rope = dict(rest.pop(ROPE, None) or rest.pop("rope_scaling", None) or {})
    rest.pop("rope_scaling", None)
    base, local_base, share = (_first(rest, names) for names in (_BASES, _LOCAL_BASES, _SHARES))
    original_length = rest.pop(_ORIGINAL_LENGTH, None)
    nested = _by_layer_type(rope)
    if not nested and local_base is not None:
        nested = {"full_attention": rope, "sliding_attention": {"rope_theta": local_base}}
    if not nested and not rope and base is None:
        return rest
    for parameters in nested.values() or [rope]:
        kind = parameters.pop("type", None)
        kind = parameters.get("rope_type") or kind or "default"
        parameters["rope_type"] = kind = _OTHER_TYPES.get(kind, kind) if isinstance(kind, str) else kind
        for name, value in (("rope_theta", base), ("partial_rotary_factor", share)):
            if value is not None:
                parameters.setdefault(name, value)
        if kind in _WITH_ORIGINAL_LENGTH:
            parameters.setdefault(_ORIGINAL_LENGTH, original_length or rest.get("max_position_embeddings"))
    rest[ROPE] = nested or rope
    return rest


def _first(config: dict[str, Any], names: tuple[str, ...]) -> Any:
    """The value of the first of ``names`` that ``config`` has; all of them are taken out."""
    values = [config.pop(name, None) for name in names]
    return next((value for value in values if value is not None), None)
