"""The digest of a model's weights: the same for the same tensors, however they were loaded."""

from __future__ import annotations

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor, nn

from pytest_pot.provenance import digest

__all__ = ["content_of", "weights_digest"]

_KNOWN_CODE = ("torch.", "transformers.")


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


def content_of(model: object) -> dict[str, str] | None:
    """What tells ``model`` by its content: class, configuration and weights. None where they do not tell all.

    That is so of a class outside torch and transformers, whose code may change between two runs while its weights stay, and
    of a module that was changed in place: a hook on it, a forward of its own.
    """
    config: Any = getattr(model, "config", None)
    if not isinstance(model, nn.Module) or not hasattr(config, "to_json_string"):
        return None
    for module in model.modules():
        changed = "forward" in vars(module) or module._forward_hooks or module._forward_pre_hooks
        if changed or not type(module).__module__.startswith(_KNOWN_CODE):
            return None
    weights = weights_digest(model)
    if weights is None:
        return None
    described: str = config.to_json_string(use_diff=False)
    attention = str(getattr(config, "_attn_implementation", None))
    return {"class": type(model).__qualname__, "config": described, "attention": attention, "weights": weights}


def _hash(tensor: Tensor) -> str:
    raw = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    return hashlib.sha256(raw.data).hexdigest()
