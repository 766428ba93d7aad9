"""Whether a model's content tells all of what it will say: its code is that of torch and transformers, and nothing else.

A record of what a model said may stand in for it only then. Code of the user's own may change while all weights stay the
same, and so may code that was patched at run time.
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
from types import FunctionType
from typing import Any

import torch
import transformers
from torch import Tensor, nn

from pytest_pot.core.hashing import digest
from pytest_pot.engines.pytorch.model_traits import PACKAGES

__all__ = ["content_of", "loads_as_known", "weights_digest"]

_SITE = Path(transformers.__file__).parents[1]
_BESIDE = ("transformers", "huggingface_hub", "safetensors", "tokenizers", "accelerate", "numpy", "tqdm", "packaging", "regex")
_HOMES = (
    *(str(_SITE / name) + os.sep for name in _BESIDE),
    str(Path(torch.__file__).parent) + os.sep,
    *(os.path.join(sysconfig.get_path("stdlib"), name + end) for name in sys.stdlib_module_names for end in (".py", os.sep)),
    "<",  # made at run time, as dataclasses make their methods: there is no file
)
"""Where code comes from that is the same as long as the versions of the libraries are, which a record's key names."""

_PLAIN = (bool, int, float, str, type(None), torch.dtype, torch.device, torch.Size)
_ELSEWHERE = frozenset({"config", "generation_config", "training", *vars(nn.Module())})
"""Attributes that are told by the configuration or by the weights, or are the bookkeeping of every module."""


def content_of(model: object) -> dict[str, Any] | None:
    """What tells ``model`` by its content: classes, plain attributes, configuration, weights. None where that is not all."""
    config: Any = getattr(model, "config", None)
    if not isinstance(model, nn.Module) or not hasattr(config, "to_json_string") or _global_hooks():
        return None
    if not all(map(_known_class, {type(module) for module in model.modules()})):
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
    """Whether loading the folder ``spec`` makes a model whose files tell all: weights and configuration of a known class.

    Not so of an adapter, which is made of another model too, or of a class that was registered for its configuration.
    """
    folder = Path(spec)
    if not (folder / "config.json").is_file() or (folder / "adapter_config.json").exists() or _global_hooks():
        return False
    try:
        config = transformers.AutoConfig.from_pretrained(spec, trust_remote_code=False)
        kind: Any = transformers.AutoModelForCausalLM._model_mapping[type(config)]
    except (OSError, ValueError, KeyError, AttributeError):
        return False
    return isinstance(kind, type) and _known_class(kind) and type(config).__module__.startswith(PACKAGES)


def _global_hooks() -> bool:
    hooks = torch.nn.modules.module
    return any(len(getattr(hooks, name)) for name in ("_global_forward_hooks", "_global_forward_pre_hooks"))


def _attributes(module: nn.Module) -> list[list[str]] | None:
    """The plain attributes of ``module``; None where it has others, or was changed in place."""
    if module._forward_hooks or module._forward_pre_hooks:
        return None
    found = []
    for name, value in vars(module).items():
        if name in _ELSEWHERE:
            continue
        if not _is_plain(value):
            return None
        found.append([name, _described(value)])
    return sorted(found)


def _is_plain(value: object) -> bool:
    if isinstance(value, list | tuple | set | frozenset):
        return all(map(_is_plain, value))
    if isinstance(value, dict):
        return all(map(_is_plain, value.values()))
    if isinstance(value, partial):
        return all(map(_is_plain, (value.func, value.args, value.keywords)))
    if isinstance(value, torch.Tensor):
        return False  # one that is no buffer: its bytes are in no digest
    if isinstance(value, FunctionType):
        return _is_known_function(value)
    if isinstance(value, type):
        return _known_class(value)
    return isinstance(value, _PLAIN) or type(value).__module__.startswith(PACKAGES) or type(value).__module__ == "builtins"


def _described(value: object) -> str:
    if isinstance(value, partial):
        return repr([_described(part) for part in (value.func, *value.args, *value.keywords.items())])
    if isinstance(value, transformers.PretrainedConfig):
        return str(value.to_json_string(use_diff=False))
    if isinstance(value, FunctionType | type):
        return f"{value.__module__}.{value.__qualname__}"
    return repr(value) if isinstance(value, (*_PLAIN, list, tuple)) else type(value).__qualname__


def _known_class(kind: type) -> bool:
    """Whether ``kind`` is of torch or transformers, with the methods that it has there, in modules that nobody has patched."""
    for base in kind.__mro__:
        if base.__module__ == "builtins" or not _of_models(base):
            continue
        if not base.__module__.startswith(PACKAGES) or not all(map(_is_known_function, _functions(base))):
            return False
        # Beside the class are functions that it calls, its own and imported ones of whatever library.
        if not all(_is_known_function(beside, installed=True) for beside in _functions(sys.modules[base.__module__])):
            return False
    return kind.__module__.startswith(PACKAGES)


def _of_models(base: type) -> bool:
    """Not the standard library's: abstract bases, generics, and the like compute nothing."""
    return base.__module__ not in sys.stdlib_module_names


def _functions(holder: object) -> Iterator[FunctionType]:
    return (value for value in vars(holder).values() if isinstance(value, FunctionType))


def _is_known_function(function: FunctionType, *, installed: bool = False) -> bool:
    """Whether its code is in a file of these libraries, and so what it wraps, if it is a decorator's.

    ``installed``: any library beside transformers will do; what is patched in by a test suite is not among them.
    """
    homes = (*_HOMES, str(_SITE) + os.sep) if installed else _HOMES
    seen: Any = function
    while isinstance(seen, FunctionType):
        file = seen.__code__.co_filename
        if not file.startswith(homes):
            return False
        seen = getattr(seen, "__wrapped__", None)
    return True


def weights_digest(model: nn.Module) -> str | None:
    """SHA-256 over names, types, shapes and bytes of all parameters and buffers; None where some have no bytes to read.

    Buffers that are computed and not saved (a table of rotary frequencies) count as well: they are part of what a model
    says. A tensor that is there under two names is read once.
    """
    tensors = {**dict(model.named_parameters(remove_duplicate=False)), **dict(model.named_buffers(remove_duplicate=False))}
    distinct = {id(tensor): tensor for tensor in tensors.values()}
    try:
        # hashlib lets other threads run meanwhile.
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
