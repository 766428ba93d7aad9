"""The print of a tensor: what a recording keeps of it, in some 50 bytes.

The *digest* tells whether values are equal, whatever the precision that they are kept in. The *projection* tells how far two
tensors are apart when only one of them is at hand: each of its 16 numbers is the sum of all values with random signs, so its
square is the squared norm of the tensor on average. It is linear, and so the difference of two projections is the projection
of the difference: its root mean square over the 16 numbers estimates the norm of the difference, with a standard deviation of
18 %.

The signs are products of three: a value at column c of row r (a row has 4096 values, whatever the tensor's shape) gets
``mixing[r % 64, c] * columns[c, j] * rows[r, j]`` in the j-th number. So a tensor of any size needs 16 new signs per row only,
and most of the work is a matrix product. Differences that are alike in many places (a constant, one column, one rank) would
show products of few random numbers with two of these factors, and their estimates would scatter; the mixing prevents it.

All signs come from SHAKE-256, and so they are the same on every platform and in every version.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from pytest_pot.engines.distributions import Floats
from pytest_pot.engines.pytorch.weights.plain_values import count_zeros
from pytest_pot.engines.weights import TensorInfo, TensorPrint

__all__ = ["PROJECTIONS", "Sums", "digest_of", "norms_differ", "print_from", "print_of", "projection_of", "sums_of"]

PROJECTIONS = 16
_WIDTH, _BLOCK = 4096, 64
"""Values per row; rows per block, after which the mixing signs repeat."""
_SEED = "pytest-pot weights 1"
_DIGEST_BYTES = 8
_DIGEST_VALUES, _DIGEST_VALUES_ON_GPU = 1 << 18, 1 << 20
"""Values that are hashed at a time: what fits into a processor's cache, and what a copy from a GPU pays for."""
_BLOCKS_ON_GPU = 64
"""Blocks of one step on a GPU, 16 million values; elsewhere one, which fits into a processor's cache."""
_NORM_ERROR, _LEAST_NORM = 2e-4, 1e-10
"""More than the relative error of a norm that is summed in float32, in rows of 4096: at most 4096 * 2^-25, where all values are
equal and nothing is summed side by side; and the norm from which on it is that small."""
_MAX_ZEROS = 2**32 - 1
_MAX_INTEGER = 2**15 - 1


_LARGEST = 1e150
"""Larger float64 values count as this, because their squares would be infinite."""


@dataclass(frozen=True, eq=False)
class Sums:
    """Norm, zeros and projection of a tensor, in full precision."""

    norm: float
    """NaN where a value is NaN or infinite."""
    zeros: int
    projection: Floats
    """[16]; NaN where ``norm`` is."""


def print_of(values: Tensor, info: TensorInfo, grid: str | None = None) -> TensorPrint:
    """The print of the tensor with these ``values``, of any shape, type and device, rounded as a file keeps it.

    ``norm`` has float32 precision, and each number of the projection is off by at most 1.6e-5 times the largest of the 16. Of
    more than 2^32 - 1 zeros, so many are counted. NaN or infinite values make the norm and the projection NaN; the digest still
    tells them apart.
    """
    return print_from(info, digest_of(values), sums_of(values), grid)


def print_from(info: TensorInfo, digest: bytes, sums: Sums, grid: str | None = None) -> TensorPrint:
    """:func:`print_of`, from its parts."""
    norm = min(sums.norm, float(np.finfo(np.float32).max))  # min keeps a NaN that comes first
    return TensorPrint(
        info=info,
        digest=digest,
        norm=float(np.float32(norm)),
        zeros=min(sums.zeros, _MAX_ZEROS),
        projection=_rounded(sums.projection),
        grid=grid,
    )


def _rounded(projection: Floats) -> Floats:
    """``projection`` as 16-bit integers would hold it, with its largest magnitude, in float32, as their unit."""
    largest = float(np.abs(projection).max())
    if math.isnan(largest):
        return np.full(PROJECTIONS, np.nan)
    unit = float(np.float32(min(largest, float(np.finfo(np.float32).max))))
    if unit == 0.0:
        return np.zeros(PROJECTIONS)
    integers = np.clip(np.rint(projection / unit * _MAX_INTEGER), -_MAX_INTEGER, _MAX_INTEGER)
    rounded: Floats = integers / _MAX_INTEGER * unit
    return rounded + 0.0  # no -0.0


def projection_of(values: Tensor) -> Floats:
    """Random projections of ``values``: [16] float64, in full precision. NaN where a value is NaN or infinite."""
    return sums_of(values).projection


def digest_of(values: Tensor) -> bytes:
    """The first 8 bytes of a SHA-256 over ``values``; equal values have equal digests, whatever their precision or device.

    Floats are hashed as float32, or as float64 where float32 cannot hold all of them; 0.0 and -0.0 are equal. Integers and
    booleans are hashed as int64, and so they differ from floats. The shape does not count.
    """
    values = _plain(values)
    kind = torch.int64
    if values.dtype.is_floating_point:
        kind = torch.float64 if values.dtype == torch.float64 and not _fit_float32(values) else torch.float32
    sha256 = hashlib.sha256()
    for chunk in _chunks(values, _DIGEST_VALUES if values.device.type == "cpu" else _DIGEST_VALUES_ON_GPU):
        array = chunk.cpu().to(kind).numpy()
        with np.errstate(invalid="ignore"):  # of a NaN from some 8-bit floats
            array = array + array.dtype.type(0)  # -0.0 + 0.0 is 0.0
        sha256.update(array.astype(array.dtype.newbyteorder("<"), copy=False).data)
    return sha256.digest()[:_DIGEST_BYTES]


def norms_differ(values: Tensor, reference: TensorPrint) -> bool:
    """Whether ``values`` have another norm than the tensor that ``reference`` is a print of. Their digests then differ as well,
    and take fifteen times as long. Norms that are nearly the same, or not finite, tell nothing."""
    values = _plain(values)
    squares = torch.zeros((), dtype=torch.float64)
    for chunk in _chunks(values, _DIGEST_VALUES if values.device.type == "cpu" else _DIGEST_VALUES_ON_GPU):
        whole = len(chunk) // _WIDTH * _WIDTH
        for part in (chunk[:whole].view(-1, _WIDTH), chunk[whole:].view(1, -1)):
            squares += torch.linalg.vector_norm(part.float(), dim=1).cpu().double().square().sum()
    norm = float(squares.sqrt())
    smaller, larger = sorted((norm, reference.norm))
    return _LEAST_NORM < larger < math.inf and larger - smaller > _NORM_ERROR * larger


def _fit_float32(values: Tensor) -> bool:
    for chunk in _chunks(values, _DIGEST_VALUES):
        rounded = chunk.to(torch.float32).to(torch.float64)
        if not bool(((rounded == chunk) | chunk.isnan()).all()):
            return False
    return True


def sums_of(values: Tensor) -> Sums:
    """Norm, zeros and projection of ``values``, in one pass, on their device if that has float64.

    The sums are in float64. Their last digits, some 1e-15 of the norm, depend on how many threads torch uses.
    """
    values = _plain(values)
    if values.device.type == "cuda":
        return _sums(values, values.device, _BLOCKS_ON_GPU)
    return _sums(values, torch.device("cpu"), 1)  # few other devices have float64


def _sums(values: Tensor, device: torch.device, n_blocks: int) -> Sums:
    mixing, columns = _signs(device)
    projection = torch.zeros(PROJECTIONS, dtype=torch.float64, device=device)
    square = torch.zeros((), dtype=torch.float64, device=device)
    zeros = torch.zeros((), dtype=torch.int64, device=device)
    n_rows = min(-(-values.numel() // _WIDTH), n_blocks * _BLOCK)
    rows = torch.empty((n_rows, _WIDTH), dtype=torch.float64, device=device)
    for index, chunk in enumerate(_chunks(values, n_rows * _WIDTH)):
        n_used = -(-len(chunk) // _WIDTH)
        used = rows[:n_used]
        used.view(-1)[: len(chunk)].copy_(chunk)
        used.view(-1)[len(chunk) :].zero_()
        zeros += count_zeros(used.view(-1)[: len(chunk)])
        if values.dtype == torch.float64:  # no square of another type is infinite
            used.masked_fill_(used.isinf(), math.nan).clamp_(-_LARGEST, _LARGEST)
        _mix(used, mixing)
        square += torch.dot(used.view(-1), used.view(-1))
        signs = _row_signs(index * n_blocks, n_used, device)
        projection += (torch.mm(columns, used.T) * signs).sum(1)  # on CPUs twice as fast as the product of the transposes
    norm = float(square.sqrt())
    if not math.isfinite(norm):
        norm = math.nan
        projection.fill_(math.nan)
    return Sums(norm, int(zeros), projection.cpu().numpy())


def _mix(rows: Tensor, mixing: Tensor) -> None:
    if len(rows) < _BLOCK:
        rows *= mixing[: len(rows)]
        return
    whole = len(rows) // _BLOCK * _BLOCK
    rows[:whole].view(-1, _BLOCK, _WIDTH).mul_(mixing)
    rows[whole:] *= mixing[: len(rows) - whole]


def _plain(values: Tensor) -> Tensor:
    """``values`` without gradients, with complex numbers as pairs."""
    values = values.detach()
    return torch.view_as_real(values.resolve_conj()) if values.is_complex() else values


def _chunks(values: Tensor, size: int) -> Iterator[Tensor]:
    """``values`` in row-major order, ``size`` at a time, without a copy of all of them."""
    if values.is_contiguous():
        yield from values.view(-1).split(size) if values.numel() else ()
        return
    per_item = values[0].numel()
    for start in range(0, values.numel(), size):
        stop = min(start + size, values.numel())
        first = start // per_item
        yield values[first : -(-stop // per_item)].reshape(-1)[start - first * per_item : stop - first * per_item]


@lru_cache(maxsize=4)
def _signs(device: torch.device) -> tuple[Tensor, Tensor]:
    """The signs of mixing [64, 4096] and of columns, transposed: [16, 4096]; in float64."""
    mixing = _random_signs("mixing", _BLOCK * _WIDTH).view(_BLOCK, _WIDTH)
    columns = _random_signs("columns", _WIDTH * PROJECTIONS).view(_WIDTH, PROJECTIONS)
    return mixing.to(device), columns.T.contiguous().to(device)


def _row_signs(first_block: int, n_rows: int, device: torch.device) -> Tensor:
    """The signs of ``n_rows`` rows from a block's first on, transposed: [16, rows]."""
    blocks = range(first_block, first_block - (-n_rows // _BLOCK))
    signs = _signs_of_block(first_block) if len(blocks) == 1 else torch.cat([_signs_of_block(block) for block in blocks], 1)
    return signs[:, :n_rows].to(device)


@lru_cache(maxsize=256)  # 2 MB, for tensors of up to 67 million values; most have a few blocks
def _signs_of_block(block: int) -> Tensor:
    """[16, 64]"""
    return _random_signs(f"rows {block}", _BLOCK * PROJECTIONS).view(_BLOCK, PROJECTIONS).T.contiguous()


def _random_signs(label: str, n: int) -> Tensor:
    """``n`` numbers 1.0 or -1.0 that ``label`` determines; ``n`` is a multiple of 8."""
    raw = hashlib.shake_256(f"{_SEED} {label}".encode()).digest(n // 8)
    bits = np.unpackbits(np.frombuffer(raw, dtype=np.uint8), bitorder="little")
    return torch.from_numpy(bits.astype(np.float64) * -2.0 + 1.0)
