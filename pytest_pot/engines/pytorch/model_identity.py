"""Identify a model by its content, if that determines its logits: if it runs only the code of torch and transformers.

Only then may recorded logits replace a run of the model. A user's own code may change while all weights stay the same, and so
may code that is patched at run time.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import BuiltinFunctionType, FunctionType
from typing import Any

import torch
import transformers
from torch import nn

from pytest_pot.engines.pytorch.library_code import is_known_code, owner_of
from pytest_pot.engines.pytorch.model_traits import PACKAGES
from pytest_pot.engines.pytorch.quantised import settings_in
from pytest_pot.engines.pytorch.weights_digest import weights_digest

__all__ = ["content_of", "loads_as_known", "why_no_content"]

_PLAIN_TYPES = (bool, int, float, str, type(None), torch.dtype, torch.device, torch.Size)
_SKIPPED_ATTRIBUTES = frozenset({"config", "generation_config", "training", *vars(nn.Module())})
"""Attributes that the config or the weights already cover, or in which every module keeps its internal state."""


class _UnknownCode(Exception):
    """The logits of a model depend on more than its content; the message says on what."""


def content_of(model: object) -> dict[str, Any] | None:
    """The content of ``model``: classes, plain attributes, config, weights. None if this does not determine its logits."""
    try:
        return _content(model)
    except _UnknownCode:
        return None


def why_no_content(model: object) -> str:
    """Why :func:`content_of` is None, as a clause: ``"transformer.h.0 has a forward hook"``. Empty if it is not."""
    try:
        _content(model)
    except _UnknownCode as unknown:
        return str(unknown)
    return ""


def _content(model: object) -> dict[str, Any]:
    config: Any = getattr(model, "config", None)
    if not isinstance(model, nn.Module) or not hasattr(config, "to_json_string"):
        raise _UnknownCode("it is no model of transformers")
    _check_no_global_hooks()
    libraries: set[str] = set()
    for kind in {type(module) for module in model.modules()}:
        libraries |= _libraries_of(kind)
    structure = [
        [name, type(module).__module__, type(module).__qualname__, _attributes(name, module)]
        for name, module in model.named_modules()
    ]
    weights = weights_digest(model)
    if weights is None:
        raise _UnknownCode("its weights cannot be read")
    return {
        "structure": structure,
        "config": config.to_json_string(use_diff=False),
        "attention": str(getattr(config, "_attn_implementation", None)),
        "device": str(next((tensor.device for tensor in model.parameters()), None)),
        "weights": weights,
        "libraries": sorted(libraries),
    }


def loads_as_known(spec: str) -> bool:
    """Whether the files in the folder ``spec`` determine the loaded model: weights and config of a known class.

    False for an adapter, which also needs its base model; for quantised weights; if someone registered another class for the
    config; and if the class may call libraries whose versions no key of a cached reference has.
    """
    folder = Path(spec)
    if not os.path.isfile(folder / "config.json") or os.path.exists(folder / "adapter_config.json"):
        return False
    if settings_in(spec) is not None:
        return False
    try:
        _check_no_global_hooks()
        config = transformers.AutoConfig.from_pretrained(spec, trust_remote_code=False)
        kind: Any = transformers.AutoModelForCausalLM._model_mapping[type(config)]
        return isinstance(kind, type) and not _libraries_of(kind) and type(config).__module__.startswith(PACKAGES)
    except (OSError, ValueError, KeyError, AttributeError, _UnknownCode):
        return False


def _check_no_global_hooks() -> None:
    hooks = torch.nn.modules.module
    if any(len(getattr(hooks, name)) for name in ("_global_forward_hooks", "_global_forward_pre_hooks")):
        raise _UnknownCode("torch has a forward hook for all modules")


def _attributes(name: str, module: nn.Module) -> list[list[str]]:
    """The plain attributes of ``module``, which is called ``name`` in the model, as [name, description]."""
    called = name or "the model"
    if module._forward_hooks or module._forward_pre_hooks:
        raise _UnknownCode(f"{called} has a forward hook")
    attributes = []
    for attribute, value in vars(module).items():
        if attribute in _SKIPPED_ATTRIBUTES:
            continue
        if not _is_plain(value):
            raise _UnknownCode(f"{called} has the attribute {attribute}, {_kind_of(value)} that is in no weights and no config")
        attributes.append([attribute, _description(value)])
    return sorted(attributes)


def _kind_of(value: object) -> str:
    return "a function" if isinstance(value, FunctionType) else f"an object of the class {type(value).__name__}"


def _is_plain(value: object) -> bool:
    if isinstance(value, list | tuple | set | frozenset):
        return all(map(_is_plain, value))
    if isinstance(value, dict):
        return all(map(_is_plain, value.values()))
    if isinstance(value, partial):
        return all(map(_is_plain, (value.func, value.args, value.keywords)))
    if isinstance(value, torch.Tensor):
        return False  # a tensor that is not a buffer is missing from the weights digest
    if isinstance(value, FunctionType):
        return _unknown_file(value) is None
    if isinstance(value, type):
        return _is_known_class(value)
    return (
        isinstance(value, _PLAIN_TYPES) or type(value).__module__.startswith(PACKAGES) or type(value).__module__ == "builtins"
    )


def _description(value: object) -> str:
    if isinstance(value, partial):
        return repr([_description(part) for part in (value.func, *value.args, *value.keywords.items())])
    if isinstance(value, transformers.PretrainedConfig):
        return str(value.to_json_string(use_diff=False))
    if isinstance(value, FunctionType | BuiltinFunctionType | type):
        return f"{value.__module__}.{value.__qualname__}"
    if isinstance(value, dict):
        return repr(sorted((repr(key), _description(item)) for key, item in value.items()))
    if isinstance(value, set | frozenset):
        return repr(sorted(map(_description, value)))
    if isinstance(value, list | tuple):
        return repr([_description(item) for item in value])
    return repr(value) if isinstance(value, _PLAIN_TYPES) else type(value).__qualname__


def _is_known_class(kind: type) -> bool:
    try:
        return not _libraries_of(kind)
    except _UnknownCode:
        return False


def _libraries_of(kind: type) -> set[str]:
    """Other libraries that ``kind``, a class of torch or transformers, may call, with their versions.

    Raises:
        _UnknownCode: it is no such class, or someone patched its methods or the module that defines it.
    """
    libraries = set()
    for base in kind.__mro__:
        if base.__module__ == "builtins" or not _may_compute(base):
            continue
        if not base.__module__.startswith(PACKAGES):
            raise _UnknownCode(f"the class {base.__qualname__} is of {base.__module__}, not of torch or transformers")
        for function in _functions(base):
            if (file := _unknown_file(function)) is not None:
                raise _UnknownCode(f"{base.__qualname__}.{function.__name__} is code in {file}, of no library that is known")
        # The class may call any function of its module, also functions imported from other libraries.
        for function in _functions(sys.modules[base.__module__]):
            if (file := _unknown_file(function)) is not None:
                if (owner := owner_of(file)) is None:
                    raise _UnknownCode(f"{base.__module__}.{function.__name__} is code in {file}, of no installed library")
                libraries.add(owner)
    if not kind.__module__.startswith(PACKAGES):
        raise _UnknownCode(f"the class {kind.__qualname__} is of {kind.__module__}, not of torch or transformers")
    return libraries


def _may_compute(base: type) -> bool:
    """Whether ``base`` may affect logits: classes of the standard library (abstract base classes, generics) do not."""
    return base.__module__ not in sys.stdlib_module_names


def _functions(holder: object) -> Iterator[FunctionType]:
    return (value for value in vars(holder).values() if isinstance(value, FunctionType))


def _unknown_file(function: FunctionType) -> str | None:
    """The first file of the code of ``function``, or of what it wraps if a decorator made it, that is of no known library."""
    current: Any = function
    while isinstance(current, FunctionType):
        file = current.__code__.co_filename
        if not is_known_code(file):
            return file
        current = getattr(current, "__wrapped__", None)
    return None
