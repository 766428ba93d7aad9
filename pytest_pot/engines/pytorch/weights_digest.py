"""The digest of a model's weights, computed anew only if a fast checksum over all their bytes says that they have changed.

A gate must not use what is known of other weights, and the version counters of tensors miss changes through ``.data`` or
NumPy. SHA-256 over the weights takes long beside a short suite of prompts, so later gates read them with a checksum instead:
products of the bytes with random numbers, by the instructions for 8-bit integers.

The checksum is a random one, and no file holds it. Let x and y be two different rows of bytes, and w a column of independent
random bytes, all signed. If x·w = y·w, then at an index where x and y differ, the other bytes of w leave at most one of 256
values for w. With 16 columns, a change goes unseen with a probability of at most 2^-128. That needs exact sums, in 32 bits.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from pytest_pot.core.files import Kept
from pytest_pot.core.hashing import digest

__all__ = ["weights_digest"]

_WIDTH, _COLUMNS = 4096, 16
"""Bytes per row, whose sum of products cannot exceed 2^26; random columns, which make the result 64 times smaller."""
_MIN_ROWS = 64
"""Tensors of fewer rows are hashed as they are."""
_TRIAL_ROWS = 1024
_KEPT_DIGESTS = 16

_DIGESTS: Kept[str] = Kept(_KEPT_DIGESTS)
"""Digests of the last few models by their checksums."""


def weights_digest(model: nn.Module) -> str | None:
    """SHA-256 over names, dtypes, shapes and bytes of all parameters and buffers; None if we cannot read the bytes of some.

    Buffers that are computed and not saved (a table of rotary frequencies) count too, because they affect the logits. A tensor
    with two names is read once.
    """
    tensors = {**dict(model.named_parameters(remove_duplicate=False)), **dict(model.named_buffers(remove_duplicate=False))}
    try:
        if not all(_has_checksum(device) for device in {tensor.device for tensor in tensors.values()}):
            return _combined(tensors, _hashed)
        checksum = _combined(tensors, _checksums)
        known = _DIGESTS.get(checksum)
        if known is None:
            known = _combined(tensors, _hashed)
            _DIGESTS.keep(checksum, known, 0)
        return known
    except (RuntimeError, NotImplementedError, TypeError):
        return None  # on the meta device, offloaded to disk, or packed in a class that shows no bytes


def _combined(tensors: dict[str, Tensor], hashed: Callable[[list[Tensor]], list[str]]) -> str:
    """One digest of all ``tensors``; ``hashed``: gives one of the bytes of each."""
    distinct = {id(tensor): tensor for tensor in tensors.values()}
    hashes = dict(zip(distinct, hashed(list(distinct.values())), strict=True))
    return digest(
        f"{name} {tensor.dtype} {tuple(tensor.shape)} {hashes[id(tensor)]}".encode(errors="surrogatepass")
        for name, tensor in sorted(tensors.items())
    )


def _hashed(tensors: list[Tensor]) -> list[str]:
    # Threads help, because hashlib releases the GIL while it hashes.
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(_hash, tensors))


def _hash(tensor: Tensor) -> str:
    return hashlib.sha256(_bytes_of(tensor).cpu().numpy().data).hexdigest()


def _checksums(tensors: list[Tensor]) -> list[str]:
    return [_checksum(tensor) for tensor in tensors]


def _checksum(tensor: Tensor) -> str:
    if tensor.is_quantized or tensor.nbytes < _MIN_ROWS * _WIDTH:  # no view of a quantised tensor shows plain bytes
        return _hash(tensor)
    raw = _bytes_of(tensor)
    n_rows = len(raw) // _WIDTH
    end = n_rows * _WIDTH
    sums = _products(raw[:end].view(n_rows, _WIDTH), _random_columns(raw.device))
    sha256 = hashlib.sha256(sums.cpu().numpy().data)
    sha256.update(raw[end:].cpu().numpy().data)
    return sha256.hexdigest()


def _bytes_of(tensor: Tensor) -> Tensor:
    if tensor.is_quantized:
        tensor = tensor.int_repr()
    return tensor.detach().contiguous().reshape(-1).view(torch.int8)


def _products(rows: Tensor, columns: Tensor) -> Tensor:
    """The matrix product of int8 tensors, [n, width] and [width, columns], in int32."""
    multiply: Any = torch._int_mm
    product: Tensor = multiply(rows, columns)
    return product


@cache
def _random_columns(device: torch.device) -> Tensor:
    numbers = bytearray(os.urandom(_WIDTH * _COLUMNS))
    return torch.frombuffer(numbers, dtype=torch.int8).reshape(_WIDTH, _COLUMNS).to(device)


@cache
def _has_checksum(device: torch.device) -> bool:
    """Whether products of 8-bit integers are exact on ``device``, and at least twice as fast as SHA-256.

    Some processors round them to 16 bits on the way, and some versions of torch have no fast code for them.
    """
    if device.type == "meta":
        return False
    try:
        trial = _trial_rows()
        columns = [torch.full((_WIDTH, _COLUMNS), value, dtype=torch.int8) for value in (-128, 127)]
        for each in (*columns, _random_columns(device).cpu()):
            expected = trial.to(torch.float64) @ each.to(torch.float64)  # exact: the sums are far below 2^53
            for n_rows in (_MIN_ROWS, len(trial)):
                product = _products(trial[:n_rows].to(device), each.to(device)).cpu().to(torch.float64)
                if not torch.equal(product, expected[:n_rows]):
                    return False
        trial = trial.to(device)
        return 2 * _seconds(lambda: _checksum(trial)) < _seconds(lambda: _hash(trial))
    except (AttributeError, NotImplementedError, RuntimeError):
        return False


def _trial_rows() -> Tensor:
    """[rows, width] int8: the largest and the smallest numbers, apart and mixed, and random ones."""
    kinds = [torch.full((_WIDTH,), 127), torch.full((_WIDTH,), -128), torch.full((_WIDTH,), -128)]
    kinds[2][::3] = 127
    extreme = torch.stack(kinds).to(torch.int8)
    random = torch.frombuffer(bytearray(os.urandom((_TRIAL_ROWS - len(kinds)) * _WIDTH)), dtype=torch.int8)
    return torch.cat([extreme, random.reshape(-1, _WIDTH)])


def _seconds(work: Callable[[], object]) -> float:
    """The shortest of a few runs."""
    seconds = []
    for _ in range(3):
        started = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - started)
    return min(seconds)
