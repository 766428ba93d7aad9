"""What one walk over the modules of a model tells: everything that opening it asks of its modules, parameters and buffers.

A large model has thousands of modules, and a walk takes milliseconds, so an opening makes one and hands its result on. It is
not kept beyond the opening, because the caller may change the model in between.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from torch import nn

__all__ = ["FREQUENCIES", "ModelFacts", "facts_of"]

FREQUENCIES = "inv_freq"
"""What the names of buffers with rotary frequencies have in them."""

_QUANTISERS = ("hf_quantizer", "quantization_method")
_QUANTISED_FLAGS = ("is_loaded_in_4bit", "is_loaded_in_8bit")
_ATTRIBUTES = frozenset((*_QUANTISERS, *_QUANTISED_FLAGS, "_hf_hook", "config", "is_causal", "peft_config"))
"""What libraries attach to modules. A module lacks most of these, and torch takes long to look up what a module lacks."""


@dataclass(frozen=True, eq=False)
class ModelFacts:
    """What a walk over a model has shown. It holds no tensors, so that a model can free those that it replaces."""

    model: nn.Module
    classes: frozenset[type[nn.Module]]
    """The classes of all modules."""
    training: tuple[nn.Module, ...]
    """The modules that are in training mode."""
    embeddings: tuple[nn.Embedding, ...]
    float_dtypes: tuple[torch.dtype, ...]
    """The different dtypes of the floating-point parameters, in the order in which they first occur."""
    devices: tuple[torch.device, ...]
    """The different devices of the parameters, likewise."""
    parameter_classes: frozenset[type]
    has_meta_tensors: bool
    """Whether a parameter or buffer is on torch's ``meta`` device, and so holds no numbers."""
    is_sharded: bool
    """Whether a parameter is a part of one that several processes share: a ``DTensor`` of torch.distributed."""
    has_hooks: bool
    """Whether accelerate moves inputs or weights when a module runs."""
    quantisers: tuple[nn.Module, ...]
    """The modules that transformers may have quantised."""
    is_flagged_quantised: bool
    """Whether bitsandbytes has quantised a module, by its flag."""
    causal_flags: tuple[bool, ...]
    """``is_causal`` of the modules that have it."""
    configs: tuple[Any, ...]
    """The different configs of the modules, in the order in which they first occur."""
    peft_configs: tuple[Any, ...]
    """What peft keeps of its adapters, module by module."""
    rotary: tuple[nn.Module, ...]
    """The modules with rotary frequencies that are computed, and no part of a checkpoint."""

    @classmethod
    def of(cls, model: nn.Module) -> ModelFacts:
        modules = list(model.modules())
        possible = {kind: _possible_attributes(kind) for kind in {type(module) for module in modules}}
        noted: dict[str, list[tuple[nn.Module, Any]]] = {name: [] for name in _ATTRIBUTES}
        for module in modules:
            names = possible[type(module)]
            if names or not _ATTRIBUTES.isdisjoint(vars(module)):
                for name in names | (_ATTRIBUTES & vars(module).keys()):
                    if hasattr(module, name):
                        noted[name].append((module, getattr(module, name)))
        values = {name: [value for _, value in pairs] for name, pairs in noted.items()}
        # torch's parameters() would look at each module again, and leave out what is shared, which takes as long as the walk.
        parameters = [tensor for module in modules for tensor in module._parameters.values() if tensor is not None]
        buffers = (tensor for module in modules for tensor in module._buffers.values() if tensor is not None)
        dtypes = dict.fromkeys(parameter.dtype for parameter in parameters)
        return cls(
            model=model,
            classes=frozenset(possible),
            training=tuple(module for module in modules if module.training),
            embeddings=tuple(module for module in modules if isinstance(module, nn.Embedding)),
            float_dtypes=tuple(dtype for dtype in dtypes if dtype.is_floating_point),
            devices=tuple(dict.fromkeys(parameter.device for parameter in parameters)),
            parameter_classes=frozenset(map(type, parameters)),
            has_meta_tensors=any(tensor.is_meta for tensor in chain(parameters, buffers)),
            is_sharded=any(hasattr(parameter, "device_mesh") for parameter in parameters),
            has_hooks=bool(values["_hf_hook"]),
            quantisers=tuple({id(module): module for name in _QUANTISERS for module, _ in noted[name]}.values()),
            is_flagged_quantised=any(flag for name in _QUANTISED_FLAGS for flag in values[name]),
            causal_flags=tuple(map(bool, values["is_causal"])),
            configs=tuple({id(config): config for config in values["config"]}.values()),
            peft_configs=tuple(values["peft_config"]),
            rotary=tuple(
                module for module in modules if any(FREQUENCIES in name for name in module._non_persistent_buffers_set)
            ),
        )


def facts_of(model: nn.Module | ModelFacts) -> ModelFacts:
    """``model`` itself where it is known already, or what a walk over it shows."""
    return model if isinstance(model, ModelFacts) else ModelFacts.of(model)


def _possible_attributes(kind: type[nn.Module]) -> frozenset[str]:
    """Those of :data:`_ATTRIBUTES` that a module of this class may have beside what is in its ``__dict__``."""
    plain: Any = nn.Module
    if kind.__getattr__ is not plain.__getattr__ or kind.__getattribute__ is not object.__getattribute__:
        return _ATTRIBUTES  # a wrapper, which hands on what it is asked
    return frozenset(name for name in _ATTRIBUTES if hasattr(kind, name))
