"""Properties of a model: the arguments of its forward, its maximum length, and whether sequences can share a batch."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from contextlib import suppress
from inspect import Parameter
from typing import Any

from torch import nn

from pytest_pot.engines.pytorch.model_facts import ModelFacts, facts_of

__all__ = [
    "PACKAGES",
    "accepted",
    "embedding_rows",
    "generating_module",
    "has_own_code",
    "is_causal",
    "max_positions",
    "reads_alone",
    "takes_columns",
]

PACKAGES = ("torch.", "transformers.")
"""Modules whose classes are not the user's own code."""

_UNPADDED_TYPES = ("cpmant", "prophetnet", "xlm", "xlnet")
"""Model types in which padding on the right changes a token's hidden states, whatever the attention mask says."""


def accepted(model: nn.Module) -> frozenset[str]:
    """The names of the arguments that the forward of ``model`` accepts, including those that its ``**kwargs`` pass on."""
    parameters = inspect.signature(model.forward).parameters.values()
    names = frozenset(p.name for p in parameters if p.kind not in (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD))
    if not any(parameter.kind is Parameter.VAR_KEYWORD for parameter in parameters):
        return names
    if _has_known_forward(model):
        # XLNet has "use_mems" instead, and warns of the other name.
        return names if "use_mems" in names else names | {"use_cache"}
    # We do not know what a user's own forward does with its **kwargs.
    inner = _wrapped(model)
    return names if inner is None else names | accepted(inner)


def takes_columns(model: nn.Module) -> bool:
    """Whether ``logits_to_keep`` may be a tensor of sequence indices, as in transformers; others may take only a number."""
    inner = _wrapped(model)
    return _has_known_forward(model) or (inner is not None and takes_columns(inner))


def has_own_code(model: nn.Module | ModelFacts) -> bool:
    """Whether any module of ``model`` has a class from outside torch and transformers."""
    return not all(kind.__module__.startswith(PACKAGES) for kind in facts_of(model).classes)


def is_causal(model: nn.Module | ModelFacts) -> bool:
    """Whether a token's hidden states are known not to depend on the tokens to its right, nor on how many there are."""
    facts = facts_of(model)
    config, flags = _text_config(facts.model), facts.causal_flags
    return bool(flags) and all(flags) and getattr(config, "is_causal", True) is not False and _longrope_limit(config) is None


def max_positions(model: object) -> int | None:
    """The maximum sequence length of a transformers model, in tokens; None if it has no limit, or does not tell."""
    limit = getattr(_text_config(model), "max_position_embeddings", None)
    return limit if isinstance(limit, int) and limit > 0 else None


def embedding_rows(model: object) -> int | None:
    """Number of rows of the input embedding; None if the model does not report it, as plain modules do not."""
    rows = None
    with suppress(Exception):  # a class of one's own may raise anything
        lookup: Any = getattr(model, "get_input_embeddings", None)
        rows = getattr(None if lookup is None else lookup(), "num_embeddings", None)
    return rows if isinstance(rows, int) else None


def reads_alone(model: object, length: int) -> bool:
    """Whether each sequence must run alone, because a batch padded to ``length`` tokens would change its hidden states."""
    config = _text_config(model)
    limit = _longrope_limit(config)
    return getattr(config, "model_type", None) in _UNPADDED_TYPES or (limit is not None and length > limit)


def generating_module(model: nn.Module) -> nn.Module | None:
    """The transformers model whose forward ``model.generate`` runs: ``model``, or what an adapter or torch.compile wraps.

    None if there is none, or if it reads prompts by an encoder.
    """
    from transformers import GenerationMixin

    can = getattr(model, "can_generate", None)
    if isinstance(model, GenerationMixin) and callable(can) and can():
        return None if getattr(model.config, "is_encoder_decoder", False) else model
    inner = _wrapped(model) if callable(getattr(model, "generate", None)) else None
    return None if inner is None else generating_module(inner)


def _has_known_forward(model: nn.Module) -> bool:
    return type(model).forward.__module__.startswith("transformers.")


def _text_config(model: object) -> Any:
    config: Any = getattr(model, "config", None)
    return config.get_text_config() if hasattr(config, "get_text_config") else config


def _wrapped(model: nn.Module) -> nn.Module | None:
    """The model to which an adapter, torch.compile, DistributedDataParallel or FSDP passes all arguments; else None."""
    library = type(model).__module__.partition(".")[0]
    inner: Any
    if library == "peft":
        # Soft prompts put tokens of their own before the text, which shifts the sequence indices.
        soft = getattr(getattr(model, "active_peft_config", None), "is_prompt_learning", True)
        inner = None if soft else getattr(model, "get_base_model", lambda: None)()
    elif library == "torch" and not isinstance(model, nn.DataParallel):  # it would split a tensor of indices across devices
        inner = getattr(model, "_orig_mod", None) or getattr(model, "module", None)
    else:
        inner = None
    return inner if isinstance(inner, nn.Module) else None


def _longrope_limit(config: Any) -> int | None:
    """The length above which LongRoPE (Phi-3) rotates every token of a batch by other angles; None without LongRoPE."""
    rope = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None)
    limits = []
    for settings in _rope_settings(rope):
        if "longrope" in (settings.get("rope_type"), settings.get("type")):
            limit = settings.get("original_max_position_embeddings", getattr(config, "original_max_position_embeddings", None))
            limits.append(limit if isinstance(limit, int) else 0)
    return min(limits, default=None)


def _rope_settings(rope: Any) -> Iterator[Mapping[str, Any]]:
    """The settings of the rotary position embeddings: for all layers, or for each type of layer."""
    if isinstance(rope, Mapping):
        yield rope
        yield from (part for part in rope.values() if isinstance(part, Mapping))
