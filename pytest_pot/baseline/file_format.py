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
=================  ==================  ================================================================================

The log-probability of an id is ``value / temperature - log_normaliser``. With F32 values, a position takes ``8 k + 21``
bytes, or ``6 k + 21`` if ids fit into 16 bits, plus its tokens and texts.

A file may come from an untrusted source, so all of it is checked. safetensors checks that header, shapes and size agree before
it allocates memory. The checksum finds accidental damage, and :mod:`pytest_pot.baseline.file_validation` finds forged values.

This module handles arrays and JSON only; :class:`~pytest_pot.Baseline` is converted to them and built from them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn, TypeAlias

import numpy.typing as npt

from pytest_pot.baseline.file_validation import Malformed, check_header, check_prompts
from pytest_pot.core.errors import InvalidArgument, PotError
from pytest_pot.core.hashing import digest
from pytest_pot.core.text import shorten

__all__ = ["FORMAT", "Arrays", "checksum", "pack", "reading_errors", "unpack"]

FORMAT = 1
"""The version of the format; files of any other version are refused."""

_KEY = "pytest_pot"
_REASON = 400
"""The most characters of a reason, which may quote the file."""
Arrays: TypeAlias = Mapping[str, npt.NDArray[Any]]
"""The tensors of a file by name."""


def pack(arrays: Arrays, document: Mapping[str, Any]) -> bytes:
    """The content of a file; equal arrays and documents give equal bytes.

    Args:
        arrays: contiguous, as in the table above.
        document: the metadata, in JSON types.

    Raises:
        PotError: a text in ``document`` cannot be encoded as UTF-8.
    """
    from safetensors.numpy import save

    # One metadata key, because safetensors writes several keys in no fixed order.
    text = _json({**document, "checksum": checksum(arrays, document)})
    try:
        return bytes(save(dict(arrays), {_KEY: text}))
    except UnicodeEncodeError as error:
        raise PotError(f"cannot record a text with half of a character (a lone surrogate): {error}") from error


def unpack(path: Path) -> tuple[Arrays, dict[str, Any]]:
    """Read the arrays and the metadata of the file ``path``; check the shapes and the checksum.

    Raises:
        Malformed: the file is not a recording, or is damaged; :func:`reading_errors` turns this into a :class:`PotError`.
    """
    from safetensors import safe_open

    with safe_open(str(path), framework="numpy") as file:
        document = _metadata(file)
        arrays = _read_arrays(file, check_prompts(document))
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
        f"the baseline {path} is damaged, or not a recording of pytest-pot: {shorten(reason, _REASON)}. Restore it from "
        "version control, or record it again with --pot-update"
    ) from error


def checksum(arrays: Arrays, document: Mapping[str, Any]) -> str:
    """SHA-256 over every tensor's name, type, shape and bytes, and over the metadata."""

    def parts() -> Any:
        yield _json(document).encode("utf-8", "surrogatepass")
        for name, array in sorted(arrays.items()):
            yield f"{name} {array.dtype.str} {array.shape}".encode()
            yield array.data.cast("B")

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


def _read_arrays(file: Any, n_prompts: int) -> Arrays:
    slices = {name: file.get_slice(name) for name in sorted(file.keys())}
    check_header({name: (part.get_dtype(), tuple(part.get_shape())) for name, part in slices.items()}, n_prompts)
    return {name: file.get_tensor(name) for name in slices}


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"), allow_nan=False)
