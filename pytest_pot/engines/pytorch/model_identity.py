"""Identify a model by its content, if that determines its logits: if it runs only the code of torch and transformers.

Only then may recorded logits replace a run of the model. A user's own code may change while all weights stay the same, and so
may code that is patched at run time.
"""

from __future__ import annotations

import hashlib
import os
import sys
import sysconfig
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from types import BuiltinFunctionType, FunctionType
from typing import Any

import torch
import transformers
from torch import Tensor, nn

from pytest_pot.core.hashing import digest
from pytest_pot.engines.pytorch.model_traits import PACKAGES

__all__ = ["content_of", "loads_as_known", "weights_digest"]

_SITE_PACKAGES = Path(transformers.__file__).parents[1]
_LIBRARIES = (
    "transformers",
    "huggingface_hub",
    "safetensors",
    "tokenizers",
    "accelerate",
    "numpy",
    "tqdm",
    "packaging",
    "regex",
)
_KNOWN_PATHS = (
    *(str(_SITE_PACKAGES / name) + os.sep for name in _LIBRARIES),
    str(Path(torch.__file__).parent) + os.sep,
    *(os.path.join(sysconfig.get_path("stdlib"), name + end) for name in sys.stdlib_module_names for end in (".py", os.sep)),
    "<",  # code without a file, such as the methods that dataclasses generate
)
"""Paths of code that changes only with the versions of the libraries, which are part of the key of each cached reference."""

_PLAIN_TYPES = (bool, int, float, str, type(None), torch.dtype, torch.device, torch.Size)
_SKIPPED_ATTRIBUTES = frozenset({"config", "generation_config", "training", *vars(nn.Module())})
"""Attributes that the config or the weights already cover, or in which every module keeps its internal state."""


def content_of(model: object) -> dict[str, Any] | None:
    """The content of ``model``: classes, plain attributes, config, weights. None if this does not determine its logits."""
    config: Any = getattr(model, "config", None)
    if not isinstance(model, nn.Module) or not hasattr(config, "to_json_string") or _global_hooks():
        return None
    if not all(map(_is_known_class, {type(module) for module in model.modules()})):
        return None
    structure = []
    for name, module in model.named_modules():
        attributes = _attributes(module)
        if attributes is None:
            return None
        structure.append([name, type(module).__module__, type(module).__qualname__, attributes])
    weights = weights_digest(model)
    if weights is None:
        return None
    return {
        "structure": structure,
        "config": config.to_json_string(use_diff=False),
        "attention": str(getattr(config, "_attn_implementation", None)),
        "device": str(next((tensor.device for tensor in model.parameters()), None)),
        "weights": weights,
    }


def loads_as_known(spec: str) -> bool:
    """Whether the files in the folder ``spec`` determine the loaded model: weights and config of a known class.

    False for an adapter, which also needs its base model, and if someone registered another class for the config.
    """
    folder = Path(spec)
    if not os.path.isfile(folder / "config.json") or os.path.exists(folder / "adapter_config.json") or _global_hooks():
        return False
    try:
        config = transformers.AutoConfig.from_pretrained(spec, trust_remote_code=False)
        kind: Any = transformers.AutoModelForCausalLM._model_mapping[type(config)]
    except (OSError, ValueError, KeyError, AttributeError):
        return False
    return isinstance(kind, type) and _is_known_class(kind) and type(config).__module__.startswith(PACKAGES)


def _global_hooks() -> bool:
    hooks = torch.nn.modules.module
    return any(len(getattr(hooks, name)) for name in ("_global_forward_hooks", "_global_forward_pre_hooks"))


def _attributes(module: nn.Module) -> list[list[str]] | None:
    """The plain attributes of ``module``, as [name, description]; None if it has any other attributes, or hooks."""
    if module._forward_hooks or module._forward_pre_hooks:
        return None
    attributes = []
    for name, value in vars(module).items():
        if name in _SKIPPED_ATTRIBUTES:
            continue
        if not _is_plain(value):
            return None
        attributes.append([name, _description(value)])
    return sorted(attributes)


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
        return _is_known_function(value)
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
    """Whether ``kind`` is a class of torch or transformers, and nobody patched its methods or the modules that define it."""
    for base in kind.__mro__:
        if base.__module__ == "builtins" or not _may_compute(base):
            continue
        if not base.__module__.startswith(PACKAGES) or not all(map(_is_known_function, _functions(base))):
            return False
        # The class may call any function of its module, also functions imported from other libraries.
        if not all(_is_known_function(function, installed=True) for function in _functions(sys.modules[base.__module__])):
            return False
    return kind.__module__.startswith(PACKAGES)


def _may_compute(base: type) -> bool:
    """Whether ``base`` may affect logits: classes of the standard library (abstract base classes, generics) do not."""
    return base.__module__ not in sys.stdlib_module_names


def _functions(holder: object) -> Iterator[FunctionType]:
    return (value for value in vars(holder).values() if isinstance(value, FunctionType))


def _is_known_function(function: FunctionType, *, installed: bool = False) -> bool:
    """Whether the code of ``function``, and of what it wraps if a decorator made it, is in a file under ``_KNOWN_PATHS``.

    ``installed``: also accept any library that is installed next to transformers; patches of a test suite are not.
    """
    paths = (*_KNOWN_PATHS, str(_SITE_PACKAGES) + os.sep) if installed else _KNOWN_PATHS
    current: Any = function
    while isinstance(current, FunctionType):
        file = current.__code__.co_filename
        if not file.startswith(paths):
            return False
        current = getattr(current, "__wrapped__", None)
    return True


def weights_digest(model: nn.Module) -> str | None:
    """SHA-256 over names, dtypes, shapes and bytes of all parameters and buffers; None if we cannot read the bytes of some.

    Buffers that are computed and not saved (a table of rotary frequencies) count too, because they affect the logits. A tensor
    with two names is read once.
    """
    tensors = {**dict(model.named_parameters(remove_duplicate=False)), **dict(model.named_buffers(remove_duplicate=False))}
    distinct = {id(tensor): tensor for tensor in tensors.values()}
    try:
        # Threads help, because hashlib releases the GIL while it hashes.
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            hashes = dict(zip(distinct, pool.map(_hash, distinct.values()), strict=True))
    except (RuntimeError, NotImplementedError, TypeError):
        return None  # on the meta device, offloaded to disk, or packed in a class that shows no bytes
    return digest(
        f"{name} {tensor.dtype} {tuple(tensor.shape)} {hashes[id(tensor)]}".encode() for name, tensor in sorted(tensors.items())
    )


def _hash(tensor: Tensor) -> str:
    raw = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    return hashlib.sha256(raw.data).hexdigest()
