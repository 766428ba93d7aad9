"""The file of a recorded reference: one safetensors file of flat tensors, with JSON metadata and a checksum over all of it.

=================  ==================  ================================================================================
tensor             shape and type      holds
=================  ==================  ================================================================================
tokens             [ids] U16 or U32    prompt and continuation of every prompt, one after the other
lengths            [prompts, 3] U32    per prompt: tokens of the prompt, positions, and 1 where the prompt was cut
ids                [n, k] U16 or U32   the likeliest ids at each of the n positions; absent for the whole vocabulary
values             [n, k] F32 or F64   the logits at those ids
target_values      [n] like values     the logit of the continuation's own token
log_normalisers    [n] F64             log-sum-exp of all logits over the temperature; of those at ``ids`` alone where the
                                       tail is renormalised
log_tail           [n] F64             log of the mass of all other ids; absent for the whole vocabulary
clear              [n] U8              1 where the first id leads the second by more than rounding error
=================  ==================  ================================================================================

The log-probability of an id is its value over the temperature less the normaliser. A position costs ``8 k + 21`` bytes, or
``6 k + 21`` where ids fit into 16 bits, beside its tokens and texts.

A file may come from anywhere, so nothing in it is believed: safetensors checks that header, shapes and size agree before
anything is allocated, the checksum finds what time and transport did, and :mod:`pytest_pot.baseline.validation` what a
forger did.
"""

from __future__ import annotations

import glob
import json
import os
import secrets
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from pytest_pot.baseline.baseline import Baseline, Recorded
from pytest_pot.baseline.naming import SUFFIX, is_baseline
from pytest_pot.baseline.provenance import Provenance, digest
from pytest_pot.baseline.validation import Malformed, check_baseline
from pytest_pot.core.config import ScoringConfig
from pytest_pot.core.errors import InvalidArgument, PotError
from pytest_pot.prompts.prompt import Prompt
from pytest_pot.prompts.tokenization import Tokens

__all__ = ["FORMAT", "read", "to_bytes", "write", "write_bytes"]

FORMAT = 1
"""Of the file; a reader refuses a later one."""

_KEY = "pytest_pot"
_DTYPES = {
    "tokens": ("U16", "U32"),
    "lengths": ("U32",),
    "ids": ("U16", "U32"),
    "values": ("F32", "F64"),
    "target_values": ("F32", "F64"),
    "log_normalisers": ("F64",),
    "log_tail": ("F64",),
    "clear": ("U8",),
}
_OPTIONAL = ("ids", "log_tail")
_UNFINISHED = ".tmp"
_ABANDONED_S = 600.0
_MOST_TOKENS = 1 << 17
"""Of one prompt and its continuation, in a file that is not refused."""

Arrays = Mapping[str, npt.NDArray[Any]]


def to_bytes(baseline: Baseline) -> bytes:
    """The file as bytes; the same for the same recording."""
    from safetensors.numpy import save

    arrays = _arrays(baseline)
    # One metadata key, because safetensors writes several in no fixed order.
    document = _document(baseline)
    text = _json({**document, "checksum": _checksum(arrays, document)})
    try:
        return bytes(save(dict(arrays), {_KEY: text}))
    except UnicodeEncodeError as error:
        raise PotError(f"cannot record a text that holds half of a character (a lone surrogate): {error}") from error


def write(baseline: Baseline, path: Path) -> Path:
    """See :meth:`Baseline.save`."""
    if not is_baseline(path):
        raise InvalidArgument(
            f"the baseline's name {str(path)!r} must end in {SUFFIX}, which is how a reference is told from it"
        )
    return write_bytes(to_bytes(baseline), path)


def write_bytes(content: bytes, path: Path) -> Path:
    """Put what :func:`to_bytes` made in the place of ``path``, in one step.

    Raises:
        PotError: it cannot be written.
    """
    path = Path(os.path.realpath(path))  # what a link points to is written, and the link stays
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _replace(path, content)
    except OSError as error:
        raise PotError(f"cannot write the baseline {path}: {error}") from error
    return path


def _replace(path: Path, content: bytes) -> None:
    """Put ``content`` in the place of ``path`` in one step; whoever is killed meanwhile leaves the old file as it was."""
    _sweep(path)
    beside = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}{_UNFINISHED}")
    try:
        with beside.open("xb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        if path.exists():
            beside.chmod(path.stat().st_mode & 0o777)
        beside.replace(path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


def _sweep(path: Path) -> None:
    """Remove what writers that were killed have left beside ``path`` long enough ago not to be at work still."""
    for left in path.parent.glob(f".{glob.escape(path.name)}.*{_UNFINISHED}"):
        with suppress(OSError):
            if time.time() - left.stat().st_mtime > _ABANDONED_S:
                left.unlink()


def read(path: Path) -> Baseline:
    """See :meth:`Baseline.load`."""
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise PotError(f"there is no baseline {path}")
    try:
        with safe_open(str(path), framework="numpy") as file:
            document = _metadata(file)
            arrays = _read_arrays(file, _n_prompts(document))
        checksum = document.pop("checksum", None)
        if checksum != _checksum(arrays, document):
            raise Malformed("its checksum is wrong")
        baseline = _baseline(arrays, document, str(path))
        check_baseline(baseline)
    except (Malformed, SafetensorError, OSError, InvalidArgument, MemoryError) as error:
        _refuse(path, str(error) or "it does not fit into memory", error)
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        # The metadata is some JSON of another form; which part is of no use to anyone.
        _refuse(path, f"its metadata has another form ({type(error).__name__}: {error})", error)
    return baseline


def _refuse(path: Path, reason: str, error: Exception) -> NoReturn:
    raise PotError(
        f"the baseline {path} is damaged, or no recording of pytest-pot: {reason}. Take it from version control again, or "
        "record it anew with --pot-update"
    ) from error


def _arrays(baseline: Baseline) -> Arrays:
    recorded = baseline.recorded
    token_type = np.uint16 if baseline.vocab_size <= 1 << 16 else np.uint32
    found = {
        "tokens": np.array([index for tokens in baseline.tokens for index in tokens.ids], dtype=token_type),
        "lengths": np.array([[t.prompt_len, t.n_positions, t.truncated] for t in baseline.tokens], dtype=np.uint32),
        "ids": recorded.ids,
        "values": recorded.values,
        "target_values": recorded.target_values,
        "log_normalisers": recorded.log_normalisers,
        "log_tail": recorded.log_tail,
        "clear": recorded.clear.astype(np.uint8),
    }
    return {name: np.ascontiguousarray(array) for name, array in found.items() if array is not None}


def _document(baseline: Baseline) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "config": asdict(baseline.config),
        "vocab_size": baseline.vocab_size,
        "batch_size": baseline.batch_size,
        "provenance": baseline.provenance.to_dict(),
        "prompts": [[prompt.text, prompt.continuation, prompt.kind] for prompt in baseline.prompts],
    }


def _checksum(arrays: Arrays, document: Mapping[str, Any]) -> str:
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
        raise Malformed(f"its format is {version!r}, and this version of pytest-pot reads {FORMAT}")
    return document


def _n_prompts(document: Mapping[str, Any]) -> int:
    prompts = document.get("prompts")
    if not isinstance(prompts, list) or not prompts:
        raise Malformed("its metadata has no list of prompts")
    return len(prompts)


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _read_arrays(file: Any, n_prompts: int) -> Arrays:
    names = set(file.keys())
    missing, unknown = set(_DTYPES) - set(_OPTIONAL) - names, names - set(_DTYPES)
    if missing or unknown:
        raise Malformed(f"the tensor {min(missing or unknown)!r} is {'missing' if missing else 'not part of a recording'}")
    for name in names:
        dtype = file.get_slice(name).get_dtype()
        if dtype not in _DTYPES[name]:
            raise Malformed(f"the tensor {name!r} has the type {dtype}, not {' or '.join(_DTYPES[name])}")
    _check_sizes({name: tuple(file.get_slice(name).get_shape()) for name in names}, n_prompts)
    return {name: file.get_tensor(name) for name in names}


def _check_sizes(shapes: Mapping[str, tuple[int, ...]], n_prompts: int) -> None:
    """Refuse what no recording is, before anything is allocated: a file with holes can claim any size that it likes."""
    n = shapes["log_normalisers"][0] if len(shapes["log_normalisers"]) == 1 else 0
    ids = shapes["tokens"][0] if len(shapes["tokens"]) == 1 else 0
    per_prompt = _MOST_TOKENS * n_prompts
    if shapes["lengths"] != (n_prompts, 3) or not 0 < n < ids <= per_prompt:
        raise Malformed(
            f"it claims {ids} tokens and {n} positions of {shapes['lengths'][0]} prompts, and has {n_prompts} texts"
        )
    for name, shape in shapes.items():
        if name not in ("tokens", "lengths") and (shape[:1] != (n,) or len(shape) != 1 + (name in ("ids", "values"))):
            raise Malformed(f"the tensor {name!r} has the shape {list(shape)}, and there are {n} positions")


def _baseline(arrays: Arrays, document: Mapping[str, Any], source: str) -> Baseline:
    known = {field.name for field in fields(ScoringConfig)}
    config = ScoringConfig(**{name: value for name, value in document["config"].items() if name in known})
    prompts = tuple(Prompt(*entry) for entry in document["prompts"])
    for index, prompt in enumerate(prompts):
        _text(f"prompt {index}", f"{prompt.text}{prompt.continuation}{prompt.kind}")
    return Baseline(
        config=config,
        prompts=prompts,
        tokens=_tokens(arrays["tokens"], arrays["lengths"]),
        recorded=Recorded(
            ids=arrays.get("ids"),
            values=arrays["values"],
            target_values=arrays["target_values"],
            log_normalisers=arrays["log_normalisers"],
            log_tail=arrays.get("log_tail"),
            clear=arrays["clear"].astype(np.bool_),
        ),
        vocab_size=_count(document, "vocab_size"),
        batch_size=_count(document, "batch_size"),
        provenance=_provenance(document["provenance"]),
        source=source,
    )


def _provenance(entries: Mapping[str, Any]) -> Provenance:
    provenance = Provenance(**entries)
    for name in ("reference", "prompts", "label", "machine"):
        _text(f"provenance.{name}", getattr(provenance, name))
    if provenance.weights is not None:
        _text("provenance.weights", provenance.weights)
    for name in ("files", "tokenizer", "libraries"):
        for key, value in getattr(provenance, name).items():
            _text(f"provenance.{name}.{key}", value)
    return provenance


def _text(name: str, value: object) -> None:
    if not isinstance(value, str):
        raise Malformed(f"{name} is {type(value).__name__}, not a string")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise Malformed(f"{name} is no text: it holds half of a character") from error


def _count(document: Mapping[str, Any], name: str) -> int:
    value = document[name]
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value < 1 << 31:
        raise Malformed(f"{name} is {value!r}, not a count")
    return value


def _tokens(ids: npt.NDArray[Any], lengths: npt.NDArray[Any]) -> tuple[Tokens, ...]:
    if ids.ndim != 1 or lengths.ndim != 2 or lengths.shape[1] != 3 or not len(lengths):
        raise Malformed(f"tokens and lengths have the shapes {ids.shape} and {lengths.shape}, not [ids] and [prompts, 3]")
    counts = lengths.astype(np.int64)
    for index, (context, positions, cut) in enumerate(counts.tolist()):
        if context < 1 or positions < 1 or cut > 1:
            raise Malformed(f"prompt {index} claims {context} tokens and {positions} positions")
    if counts[:, :2].sum() != len(ids):
        raise Malformed(f"the prompts claim {counts[:, :2].sum()} tokens in all, and there are {len(ids)}")
    found, start = [], 0
    flat = ids.tolist()
    for context, positions, cut in counts.tolist():
        stop = start + context + positions
        found.append(Tokens(tuple(flat[start:stop]), context, truncated=bool(cut)))
        start = stop
    return tuple(found)


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"), allow_nan=False)
