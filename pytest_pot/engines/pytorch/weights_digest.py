"""Digest of a model's weights: equal tensors give the same digest, however they were loaded."""

from __future__ import annotations

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor, nn

from pytest_pot.baseline.provenance import digest

__all__ = ["weights_digest"]


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
