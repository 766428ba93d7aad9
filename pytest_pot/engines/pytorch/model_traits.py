"""What a model tells of itself: what its forward takes, how far it reads, and which sequences may be read together."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from inspect import Parameter
from typing import Any

from torch import nn

__all__ = ["PACKAGES", "accepted", "has_own_code", "is_causal", "max_positions", "reads_alone", "takes_columns"]

PACKAGES = ("torch.", "transformers.")
"""Where the classes of models come from that are nobody's own."""

_ALONE = ("cpmant", "prophetnet", "xlm", "xlnet")
"""Model types in which a token sees padding on its right, whatever the mask says."""


def accepted(model: nn.Module) -> frozenset[str]:
    """The arguments that ``model``'s forward takes by name, also where it hands on what it does not name itself."""
    parameters = inspect.signature(model.forward).parameters.values()
    names = frozenset(p.name for p in parameters if p.kind not in (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD))
    if not any(parameter.kind is Parameter.VAR_KEYWORD for parameter in parameters):
        return names
    if _has_known_forward(model):
        return names | {"use_cache"}
    # Of a user's own module nobody knows what it does with what it does not name.
    inner = _wrapped(model)
    return names if inner is None else names | accepted(inner)


def takes_columns(model: nn.Module) -> bool:
    """Whether ``logits_to_keep`` may be a tensor of columns: to transformers' forwards; for others it may be a number."""
    inner = _wrapped(model)
    return _has_known_forward(model) or (inner is not None and takes_columns(inner))


def has_own_code(model: nn.Module) -> bool:
    """Whether some module of ``model`` is of a class outside torch and transformers."""
    return not all(type(module).__module__.startswith(PACKAGES) for module in model.modules())


def is_causal(model: nn.Module) -> bool:
    """Whether ``model`` is known to let no token see what stands to its right, nor how much of it there is."""
    config = _text_config(model)
    says = [bool(module.is_causal) for module in model.modules() if hasattr(module, "is_causal")]
    return bool(says) and all(says) and getattr(config, "is_causal", True) is not False and _short_reach(config) is None


def max_positions(model: object) -> int | None:
    """The longest sequence that a transformers model takes; None where it has no limit, or does not say."""
    limit = getattr(_text_config(model), "max_position_embeddings", None)
    return limit if isinstance(limit, int) and limit > 0 else None


def reads_alone(model: object, length: int) -> bool:
    """Whether a sequence in a batch that is ``length`` tokens long would be read otherwise than alone."""
    config = _text_config(model)
    reach = _short_reach(config)
    return getattr(config, "model_type", None) in _ALONE or (reach is not None and length > reach)


def _has_known_forward(model: nn.Module) -> bool:
    return type(model).forward.__module__.startswith("transformers.")


def _text_config(model: object) -> Any:
    config: Any = getattr(model, "config", None)
    return config.get_text_config() if hasattr(config, "get_text_config") else config


def _wrapped(model: nn.Module) -> nn.Module | None:
    """The model that ``model`` calls with whatever it is given: of adapters, torch.compile, DistributedDataParallel, FSDP."""
    library = type(model).__module__.partition(".")[0]
    inner: Any
    if library == "peft":
        # Soft prompts put tokens of their own before the text: columns are others then.
        soft = getattr(getattr(model, "active_peft_config", None), "is_prompt_learning", True)
        inner = None if soft else getattr(model, "get_base_model", lambda: None)()
    elif library == "torch" and not isinstance(model, nn.DataParallel):  # which would deal out columns to devices
        inner = getattr(model, "_orig_mod", None) or getattr(model, "module", None)
    else:
        inner = None
    return inner if isinstance(inner, nn.Module) else None


def _short_reach(config: Any) -> int | None:
    """LongRoPE (Phi-3) turns every token by other angles as soon as the longest sequence of a batch is above this length."""
    rope = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None)
    reaches = []
    for part in _ropes(rope):
        if "longrope" in (part.get("rope_type"), part.get("type")):
            reach = part.get("original_max_position_embeddings", getattr(config, "original_max_position_embeddings", None))
            reaches.append(reach if isinstance(reach, int) else 0)
    return min(reaches, default=None)


def _ropes(rope: Any) -> Iterator[Mapping[str, Any]]:
    """The settings of rotary positions: of all layers, or by the type of the layer."""
    if isinstance(rope, Mapping):
        yield rope
        yield from (part for part in rope.values() if isinstance(part, Mapping))
