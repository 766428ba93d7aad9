"""The file of a recorded reference: one safetensors file of flat tensors, with JSON metadata and a checksum over all of it.

=================  ==================  ================================================================================
tensor             shape and type      holds
=================  ==================  ================================================================================
tokens             [ids] U16 or U32    prompt and continuation of every prompt, one after the other
lengths            [prompts, 3] U32    per prompt: tokens of the prompt, positions, and 1 where the prompt was cut
ids                [n, k] U16 or U32   the likeliest ids at each of the n positions; absent for the whole vocabulary
values             [n, k] F32 or F64   the logits at those ids
target_values      [n] like values     the logit of the continuation's token
log_normalisers    [n] F64             log-sum-exp of logits / temperature over the whole vocabulary, or over ``ids`` only if
                                       the tail is renormalised
log_tail           [n] F64             log of the probability of all other ids; absent for the whole vocabulary
clear              [n] U8              1 where the first id leads the second by more than rounding error
weights            [tensors, 52] U8    what is kept of the reference's weights, see :mod:`pytest_pot.baseline.weights_arrays`;
                                       absent with the next where nothing is known of them, as in older files
weights_index      [bytes] U8          their names, shapes and so on, and the configuration: JSON, compressed by zlib
=================  ==================  ================================================================================

The log-probability of an id is ``value / temperature - log_normaliser``. With F32 values, a position takes ``8 k + 21``
bytes, or ``6 k + 21`` if ids fit into 16 bits, plus its tokens and texts. A tensor of the model takes less than 60 bytes.

Versions of pytest-pot that do not know ``weights`` refuse files that have it; all files without it can be read by both.

A file may come from an untrusted source, so all of it is checked. safetensors checks that header, shapes and size agree before
it allocates memory. The checksum finds accidental damage, and :mod:`pytest_pot.baseline.file_validation` finds forged values.

A recording of the whole vocabulary takes gigabytes. It is written piece by piece, and its ``ids`` and ``values`` are mapped
from the file when it is read: the system loads the pages that are used, and can drop them again.

This module handles arrays and JSON only; :class:`~pytest_pot.Baseline` is converted to them and built from them.
"""

from __future__ import annotations

import json
import mmap
import os
import struct
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from math import prod
from pathlib import Path
from typing import Any, NoReturn, TypeAlias

import numpy as np
import numpy.typing as npt

from pytest_pot.baseline.atomic_write import Pieces
from pytest_pot.baseline.file_validation import Malformed, check_header, check_prompts
from pytest_pot.core.errors import InvalidArgument, PotError
from pytest_pot.core.hashing import digest
from pytest_pot.core.text import shorten

__all__ = ["FORMAT", "Arrays", "checksum", "pieces", "reading_errors", "unpack"]

FORMAT = 1
"""The version of the format; files of any other version are refused."""

_KEY = "pytest_pot"
_ALIGNMENT = 8
"""safetensors pads its header to a multiple of so many bytes."""
_REASON = 400
"""The most characters of a reason, which may quote the file."""
_MAPPED_BYTES = 1 << 26
"""The size from which a file is mapped instead of read. Far above that of a top-k recording: whoever overwrites a mapped file,
instead of replacing it, changes the arrays, or ends the process if the file gets shorter."""
_CAN_MAP = os.name == "posix" and sys.byteorder == "little"
"""Windows does not let a mapped file be replaced, and so ``--pot-update`` would fail there. The file is little-endian."""
_LARGE = ("ids", "values")
"""The tensors that are mapped."""
Arrays: TypeAlias = Mapping[str, npt.NDArray[Any]]
"""The tensors of a file by name."""


def pieces(arrays: Arrays, document: Mapping[str, Any]) -> Pieces:
    """The content of a file, piece by piece; equal arrays and documents give equal bytes, those that safetensors writes.

    The pieces are the header, and views of ``arrays``: the save functions of safetensors hold all of the content in memory,
    or leave a file that only its owner can read, depending on the version.

    Args:
        arrays: contiguous, as in the table above.
        document: the metadata, in JSON types.

    Raises:
        PotError: a text in ``document`` cannot be encoded as UTF-8.
    """
    text = _json({**document, "checksum": checksum(arrays, document)})
    header: dict[str, Any] = {"__metadata__": {_KEY: text}}
    data: list[memoryview] = []
    end = 0
    # The order of safetensors: the widest types first, so that all are aligned, and floats before integers.
    for name, array in sorted(arrays.items(), key=lambda item: (-item[1].itemsize, item[1].dtype.kind, item[0])):
        bits = f"{array.dtype.kind.upper()}{8 * array.itemsize}"
        header[name] = {"dtype": bits, "shape": array.shape, "data_offsets": [end, end + array.nbytes]}
        end += array.nbytes
        data.append(_bytes(array.astype(array.dtype.newbyteorder("<"), copy=False)))
    try:
        encoded = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    except UnicodeEncodeError as error:
        raise PotError(f"cannot record a text with half of a character (a lone surrogate): {error}") from error
    encoded += b" " * (-len(encoded) % _ALIGNMENT)
    return [struct.pack("<Q", len(encoded)) + encoded, *data]


def unpack(path: Path) -> tuple[Arrays, dict[str, Any]]:
    """Read the arrays and the metadata of the file ``path``; check the shapes and the checksum.

    Of a large file, ``ids`` and ``values`` are mapped. To write to them changes neither the file nor what others see.

    Raises:
        Malformed: the file is not a recording, or is damaged; :func:`reading_errors` turns this into a :class:`PotError`.
    """
    from safetensors import safe_open

    with safe_open(str(path), framework="numpy") as file:
        document = _metadata(file)
        arrays = _read_arrays(file, path, check_prompts(document))
    if document.pop("checksum", None) != checksum(arrays, document):
        raise Malformed("its checksum is wrong")
    return arrays, document


@contextmanager
def reading_errors(path: Path) -> Iterator[None]:
    """Turn every error while a file is read and interpreted into a :class:`PotError` that names the file."""
    from safetensors import SafetensorError

    try:
        yield
    except (Malformed, SafetensorError, OSError, InvalidArgument, MemoryError) as error:
        _refuse(path, str(error) or "it does not fit into memory", error)
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        # The metadata is JSON with another structure; a user could not act on more details.
        _refuse(path, f"its metadata has another structure ({type(error).__name__}: {error})", error)


def _refuse(path: Path, reason: str, error: Exception) -> NoReturn:
    raise PotError(
        f"the recording {path} is damaged, or not a recording of pytest-pot: {shorten(reason, _REASON)}. Restore it from "
        "version control, or record it again with --pot-update"
    ) from error


def checksum(arrays: Arrays, document: Mapping[str, Any]) -> str:
    """SHA-256 over every tensor's name, type, shape and bytes, and over the metadata."""

    def parts() -> Any:
        yield _json(document).encode("utf-8", "surrogatepass")
        for name, array in sorted(arrays.items()):
            yield f"{name} {array.dtype.str} {array.shape}".encode()
            yield _bytes(array)

    return digest(parts())


def _metadata(file: Any) -> dict[str, Any]:
    text = (file.metadata() or {}).get(_KEY)
    if text is None:
        raise Malformed("it is a safetensors file without the metadata of a recording")
    try:
        document = json.loads(text, parse_constant=_no_constant)
    except ValueError as error:
        raise Malformed("its metadata is not JSON") from error
    if not isinstance(document, dict):
        raise Malformed("its metadata is not a JSON object")
    version = document.get("format")
    if version != FORMAT:
        raise Malformed(f"its format is {version!r}, but this version of pytest-pot reads {FORMAT}")
    return document


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _read_arrays(file: Any, path: Path, n_prompts: int) -> Arrays:
    slices = {name: file.get_slice(name) for name in sorted(file.keys())}
    tensors = {name: (part.get_dtype(), tuple(part.get_shape())) for name, part in slices.items()}
    check_header(tensors, n_prompts)
    mapped: dict[str, npt.NDArray[Any]] = {}
    if _CAN_MAP and path.stat().st_size >= _MAPPED_BYTES:
        mapped = _map_arrays(path, {name: tensors[name] for name in _LARGE if name in tensors})
    return {name: mapped[name] if name in mapped else file.get_tensor(name) for name in tensors}


def _map_arrays(path: Path, tensors: Mapping[str, tuple[str, tuple[int, ...]]]) -> dict[str, npt.NDArray[Any]]:
    """Views of the file ``path``, which safetensors has opened and so found valid; the mapping lasts as long as they do.

    Args:
        tensors: type and shape of each, by name.
    """
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(length))
        # A private mapping, and not a read-only one: torch warns of arrays that cannot be written to.
        content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    arrays: dict[str, npt.NDArray[Any]] = {}
    for name, (dtype, shape) in tensors.items():
        offset = 8 + length + header[name]["data_offsets"][0]
        array = np.frombuffer(content, f"<{dtype[0].lower()}{int(dtype[1:]) // 8}", prod(shape), offset).reshape(shape)
        if array.flags.aligned:
            arrays[name] = array
    return arrays


def _bytes(array: npt.NDArray[Any]) -> memoryview:
    return array.data.cast("B")


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"), allow_nan=False)
