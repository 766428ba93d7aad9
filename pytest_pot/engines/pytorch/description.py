"""What ran: how a model's weights are kept, and in which precision and where they were multiplied.

A model in memory does not tell what its files held: transformers drops the settings of a format that it dequantises, and leaves
``config.dtype`` as it was when a model is converted. So what is loaded here is remembered, by the model object.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn

from pytest_pot.engines.base import ModelDescription
from pytest_pot.engines.pytorch.device import own_dtype
from pytest_pot.engines.pytorch.gguf_tensors import gguf_path
from pytest_pot.engines.pytorch.model_facts import ModelFacts
from pytest_pot.engines.pytorch.quantised import is_quantised, methods_of, package_of, settings_in
from pytest_pot.engines.pytorch.stored_weights import gguf_types, safetensors_dtype

__all__ = [
    "Origin",
    "adapter_name",
    "describe",
    "format_name",
    "note",
    "note_adapter",
    "origin_of_file",
    "origin_of_folder",
    "remember",
]

_IN_MEMORY = "in memory"
_ADAPTERS = {"LORA": "LoRA", "": "peft"}
"""What people call an adapter, by peft's name for it, where that is another word."""
_SAMPLED = 1 << 16
"""Numbers of each tensor that are looked at, to see whether they were once rounded to half precision."""
_HALF = {"float16": torch.float16, "bfloat16": torch.bfloat16}
_UNQUANTISED = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}


@dataclass(frozen=True)
class Origin:
    """Where a loaded model's weights came from."""

    format: str
    stored_dtype: str | None = None
    """The float dtype of the files; None if they hold quantised weights, or do not tell."""
    quantised: bool = False
    notes: tuple[str, ...] = ()


_ORIGINS: WeakKeyDictionary[nn.Module, Origin] = WeakKeyDictionary()


def remember(model: nn.Module, origin: Origin) -> None:
    """Keep ``origin`` for :func:`describe`, as long as ``model`` lives."""
    _ORIGINS[model] = origin


def note(model: nn.Module, line: str) -> None:
    """Add a line to what is remembered of ``model``."""
    if model in _ORIGINS:
        _ORIGINS[model] = replace(_ORIGINS[model], notes=(*_ORIGINS[model].notes, line))


def note_adapter(model: nn.Module, kind: str) -> None:
    """Remember that an adapter of this kind was applied to ``model``."""
    if model in _ORIGINS:
        _ORIGINS[model] = _with_adapter(_ORIGINS[model], kind)


def origin_of_folder(spec: str, settings: Mapping[str, Any] | None, loaded_dtype: torch.dtype | None) -> Origin:
    """What a folder or hub id with safetensors holds.

    ``settings``: its quantisation, from its config; ``loaded_dtype``: the precision that its config made of it; None if
    another one was asked for.
    """
    if settings is not None:
        return Origin(format_name(settings), quantised=True)
    stored, loaded = None, _name(loaded_dtype)
    with suppress(Exception):  # only a remark depends on it
        stored = safetensors_dtype(sorted(_folder_of(spec).glob("model*.safetensors")))
    if stored == "float32" and loaded in _HALF:
        notes: tuple[str, ...] = (f"its files hold float32, which was rounded to {loaded}: its config asks for that",)
        return Origin("safetensors", loaded, notes=notes)
    return Origin("safetensors", stored or loaded)


def _folder_of(spec: str) -> Path:
    """The folder ``spec``, or that in which the files of a hub id were put when they were loaded."""
    if os.path.exists(spec):
        return Path(spec)
    from transformers.utils import hub

    return Path(str(hub.cached_file(spec, "config.json", local_files_only=True))).parent


def origin_of_file(folder: str, name: str) -> Origin:
    """What the ``.gguf`` file ``name`` of ``folder`` holds, a folder or hub id."""
    kinds: list[str] = []
    with suppress(Exception):  # only a remark depends on it
        kinds = [kind for kind, _ in gguf_types(gguf_path(folder, name)).most_common()]
    stored = _UNQUANTISED.get(kinds[0]) if kinds else None
    return Origin(" ".join(["GGUF", " and ".join(kinds)]).strip(), stored, quantised=stored is None)


def describe(facts: ModelFacts, running: ModelFacts, precision: str, device: torch.device) -> ModelDescription:
    """What ran when the ``running`` model was scored in ``precision``: that of ``facts``, or a converted copy of it."""
    origin = _ORIGINS.get(facts.model) or _with_adapters(facts, _origin_of_object(facts))
    stored = origin.stored_dtype
    return ModelDescription(
        format=origin.format,
        dtype=precision,
        device=str(device),
        stored_dtype=stored if stored != precision else None,
        dequantised=origin.quantised and _is_dequantised(running),
        notes=origin.notes,
    )


def _is_dequantised(facts: ModelFacts) -> bool:
    """Whether plain matrix products ran, on weights that were quantised in the files."""
    if not is_quantised(facts):
        return True
    # Without a kernel for fp8, compressed-tensors unpacks all weights before the first forward, and simulates the rest.
    return "compressed-tensors" in methods_of(facts) and not any("FP8Linear" in kind.__name__ for kind in facts.classes)


def _origin_of_object(facts: ModelFacts) -> Origin:
    model = facts.model
    for config in facts.configs:
        settings = getattr(config, "quantization_config", None)
        if settings is not None:
            values = settings if isinstance(settings, Mapping) else settings.to_dict()
            return Origin(format_name(values), quantised=True)
    if is_quantised(facts):
        return Origin(package_of(model), quantised=True)
    source = getattr(getattr(model, "config", None), "_name_or_path", None)
    settings = settings_in(source) if source and os.path.isdir(source) else None
    if settings is not None:  # transformers drops the settings of what it dequantises
        return Origin(format_name(settings), quantised=True)
    own = own_dtype(facts)
    return Origin(_IN_MEMORY, _rounded_to(model) if own == torch.float32 else _name(own))


def _with_adapters(facts: ModelFacts, origin: Origin) -> Origin:
    """``origin`` with the adapters that peft holds in the model, apart from its weights."""
    adapters = (config.values() for config in facts.peft_configs if isinstance(config, Mapping))
    names = [adapter_name(settings) for settings in chain.from_iterable(adapters)]
    for name in dict.fromkeys(names):
        origin = _with_adapter(origin, name)
    return origin


def adapter_name(settings: Any) -> str:
    """The kind of adapter that peft's ``settings`` describe, an object or a mapping: ``"LoRA"``."""
    kind = settings.get("peft_type") if isinstance(settings, Mapping) else getattr(settings, "peft_type", None)
    name = str(getattr(kind, "value", kind) or "")
    return _ADAPTERS.get(name, name)


def _with_adapter(origin: Origin, name: str) -> Origin:
    """``origin``, which is that of the base model, with an adapter of this kind."""
    return replace(origin, format=f"{origin.format} with a {name} adapter")


def _rounded_to(model: nn.Module) -> str:
    """The half precision from which ``model``, which is in float32 now, was converted; float32 if it was not.

    Its config may name what its files held, also where training has changed the weights since. Its weights show whether that
    still holds.
    """
    config: Any = getattr(model, "config", None)
    half = _HALF.get(str(getattr(config, "dtype", None)).removeprefix("torch."))
    if half is not None and all(_has_values_of(half, parameter) for parameter in model.parameters()):
        return _name(half) or "float32"
    return "float32"


def _has_values_of(half: torch.dtype, parameter: torch.Tensor) -> bool:
    if parameter.is_meta or not parameter.is_floating_point():
        return True
    values = parameter.detach().reshape(-1)[:_SAMPLED]
    return bool(torch.equal(values.to(half).to(values.dtype), values))


def _name(dtype: torch.dtype | None) -> str | None:
    return None if dtype is None else str(dtype).removeprefix("torch.")


def format_name(settings: Mapping[str, Any]) -> str:
    """What people call the format with these quantisation ``settings``: ``"compressed-tensors w4a16 pack-quantized"``."""
    method = str(getattr(settings.get("quant_method"), "value", settings.get("quant_method") or "bitsandbytes"))
    with suppress(Exception):  # settings from a file may have any shape
        if method.startswith("bitsandbytes"):
            bits = "int8" if settings.get("load_in_8bit") else str(settings.get("bnb_4bit_quant_type", "fp4"))
            return f"bitsandbytes {bits}"
        if method == "compressed-tensors":
            schemes = dict.fromkeys(_scheme(group) for group in settings["config_groups"].values())
            return " ".join([method, *schemes, str(settings.get("format") or "")]).strip()
        if method == "torchao":
            return f"torchao {_torchao_kind(settings['quant_type'])}"
        if method in ("fp8", "mxfp8"):
            return f"{method} {settings.get('fmt') or 'e4m3'}"
        bits = settings.get("bits", settings.get("nbits", settings.get("num_bits")))
        if bits is not None:
            return f"{method} {bits}-bit"
    return "GGUF" if method == "gguf" else method


def _scheme(group: Mapping[str, Any]) -> str:
    """``"w4a16"``: the bits of weights and activations."""
    weights, activations = group.get("weights"), group.get("input_activations")
    parts = [(letter, values["num_bits"] if values else 16) for letter, values in (("w", weights), ("a", activations))]
    return "".join(f"{letter}{bits}" for letter, bits in parts)


def _torchao_kind(kind: Any) -> str:
    """The class of torchao's config and what it says of the weights, from JSON: ``"IntxWeightOnly int4"``."""
    if not isinstance(kind, Mapping):
        return str(kind)  # older versions gave a name, such as "int8_weight_only"
    if "_type" not in kind:
        return _torchao_kind(next(iter(kind.values())))
    weights = (kind.get("_data") or {}).get("weight_dtype") or {}
    return " ".join([kind["_type"].removesuffix("Config"), *([str(weights["_data"])] if "_data" in weights else [])])
