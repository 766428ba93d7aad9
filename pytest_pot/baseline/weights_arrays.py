"""What a recording keeps of the reference's weights, as two flat arrays.

``weights`` has 52 bytes per tensor, little-endian:

==========  ===========  =====================================================================================================
bytes       type         holds
==========  ===========  =====================================================================================================
0 to 8                   the digest
8 to 12     F32          the norm, exact to 6e-8 of itself; NaN if a value is not finite
12 to 16    U32          how many values are 0; 4294967295 stands for so many or more
16 to 20    F32          the largest magnitude of the 16 projections; NaN with the norm
20 to 52    I16 [16]     the projections, in units of that magnitude / 32767: off by at most 1.6e-5 of it, which is mostly below
                         4e-5 of the norm
==========  ===========  =====================================================================================================

A print has this precision from the start, so that one in memory equals the one in its file.

``weights_index`` is a JSON object, compressed by zlib: the class of the model, its configuration, and for each tensor its name,
shape, type, grid, and whether a checkpoint holds it.

The file may come from an untrusted source. Nothing in these arrays can change a score, but they are checked like the rest.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from math import prod
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from pytest_pot.baseline.file_validation import WEIGHTS, WEIGHTS_INDEX, Malformed, check_text, check_weights_shapes
from pytest_pot.engines.weights import TensorInfo, TensorPrint, WeightsPrint

__all__ = ["weights_arrays", "weights_in"]

_ROW: Any = np.dtype([("digest", "u1", 8), ("norm", "<f4"), ("zeros", "<u4"), ("largest", "<f4"), ("projection", "<i2", 16)])
_MOST_INTEGER = 2**15 - 1
_MOST_ZEROS = 2**32 - 1
_MOST_INDEX, _MOST_INDEX_PER_TENSOR = 1 << 20, 1 << 9
"""Bytes of the index, uncompressed, apart from the tensors; and per tensor."""
_MOST_TEXT, _MOST_DIMENSIONS, _MOST_VALUES, _MOST_DEPTH = 1000, 16, 1 << 62, 32

_T = TypeVar("_T")


def weights_arrays(printed: WeightsPrint | None) -> Mapping[str, npt.NDArray[Any]]:
    """The two arrays, by name; none where nothing is known of the weights. Equal prints give equal bytes.

    What could not be read back is not written: a configuration that is too large or too deep is kept as none, and where a name
    is too long, or the like, nothing is kept.
    """
    if printed is None or not printed.tensors:
        return {}
    for each in (printed, replace(printed, config=None)):
        try:
            arrays = _arrays(each)
            check_weights_shapes(*(arrays[name].shape for name in (WEIGHTS, WEIGHTS_INDEX)))
            weights_in(arrays)
        except (Malformed, TypeError, ValueError, RecursionError):  # the others: what is no JSON
            continue
        return arrays
    return {}


def _arrays(printed: WeightsPrint) -> dict[str, npt.NDArray[Any]]:
    rows: Any = np.zeros(len(printed.tensors), dtype=_ROW)
    for row, tensor in zip(rows, printed.tensors.values(), strict=True):
        row["digest"] = np.frombuffer(tensor.digest, dtype=np.uint8)
        row["norm"] = tensor.norm
        row["zeros"] = min(tensor.zeros, _MOST_ZEROS)
        row["largest"] = largest = np.float32(np.abs(tensor.projection).max())
        if largest > 0:
            row["projection"] = np.rint(tensor.projection / np.float64(largest) * _MOST_INTEGER)
    index = json.dumps(_index_of(printed), ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")
    return {
        WEIGHTS: rows.view(np.uint8).reshape(len(rows), -1),
        WEIGHTS_INDEX: np.frombuffer(zlib.compress(index, 9), dtype=np.uint8),
    }


def _index_of(printed: WeightsPrint) -> dict[str, Any]:
    positions = {name: position for position, name in enumerate(printed.tensors)}
    infos = [tensor.info for tensor in printed.tensors.values()]
    return {
        "class": printed.model_class,
        "config": None if printed.config is None else dict(printed.config),
        "names": list(positions),
        "shapes": _distinct([list(info.shape) for info in infos]),
        "dtypes": _distinct([info.dtype for info in infos]),
        "grids": _distinct([tensor.grid for tensor in printed.tensors.values()]),
        "computed": [index for index, info in enumerate(infos) if not info.saved],
        "ties": {name: positions[tied] for name, tied in printed.ties.items()},
    }


def _distinct(values: Sequence[Any]) -> list[Any]:
    """The different values, and which of them each is."""
    kinds: dict[str, int] = {}
    positions = [kinds.setdefault(json.dumps(value), len(kinds)) for value in values]
    return [[json.loads(kind) for kind in kinds], positions]


def weights_in(arrays: Mapping[str, npt.NDArray[Any]]) -> WeightsPrint | None:
    """The print in a file's arrays; None if there is none.

    Raises:
        Malformed: no recording has such arrays.
    """
    if WEIGHTS not in arrays:
        return None
    rows = _checked_rows(arrays[WEIGHTS])
    index = _read_index(arrays[WEIGHTS_INDEX], len(rows))
    names = [_text("a name of a tensor", name) for name in _sized(index, "names", list, len(rows))]
    if len(set(names)) < len(names):
        raise Malformed("weights_index has two tensors of one name")
    shapes = _by_kind(index, "shapes", len(rows), _shape)
    dtypes = _by_kind(index, "dtypes", len(rows), lambda dtype: _text("a type of tensors", dtype))
    grids = _by_kind(index, "grids", len(rows), lambda grid: None if grid is None else _text("a grid", grid))
    computed = {_position(each, len(rows)) for each in _sized(index, "computed", list)}
    tensors = {}
    for position, (name, row) in enumerate(zip(names, rows, strict=True)):
        info = TensorInfo(shapes[position], dtypes[position], saved=position not in computed)
        tensors[name] = _tensor(name, row, info, grids[position])
    ties = {_text("a tied name", name): names[_position(tied, len(rows))] for name, tied in _sized(index, "ties", dict).items()}
    if not ties.keys().isdisjoint(names):
        raise Malformed(f"weights_index has the tensor {min(ties.keys() & set(names))!r} and ties it to another one")
    return WeightsPrint(_text("the model's class", index.get("class")), _config(index.get("config")), tensors, ties)


def _checked_rows(array: npt.NDArray[Any]) -> Any:
    rows: Any = np.ascontiguousarray(array).view(_ROW)[:, 0]
    known = np.isfinite(rows["norm"])
    wrong_largest = ~np.where(known, np.isfinite(rows["largest"]), np.isnan(rows["largest"])) | (rows["largest"] < 0)
    integers = np.abs(rows["projection"].astype(np.int64)).max(axis=1)
    expected = np.where(known & (rows["largest"] > 0), _MOST_INTEGER, 0)
    for wrong, what in (
        (~known & ~np.isnan(rows["norm"]) | (rows["norm"] < 0), "its norm is infinite or negative"),
        (wrong_largest, "the magnitude of its projections is infinite or negative, or its norm is unknown"),
        (integers != expected, "its projections are not in units of their magnitude"),
    ):
        if wrong.any():
            raise Malformed(f"weights, tensor {int(np.argmax(wrong))}: {what}")
    return rows


def _tensor(name: str, row: Any, info: TensorInfo, grid: str | None) -> TensorPrint:
    zeros = int(row["zeros"])
    if zeros > 2 * prod(info.shape):  # complex numbers are two values each
        raise Malformed(f"weights has {zeros} zeros in {name!r}, which has the shape {list(info.shape)}")
    largest = float(row["largest"])
    projection = row["projection"].astype(np.float64) / _MOST_INTEGER * largest
    return TensorPrint(info, row["digest"].tobytes(), float(row["norm"]), zeros, projection, grid)


def _read_index(array: npt.NDArray[Any], n_tensors: int) -> Mapping[str, Any]:
    limit = _MOST_INDEX + n_tensors * _MOST_INDEX_PER_TENSOR
    decompressor = zlib.decompressobj()
    try:
        text = decompressor.decompress(array.tobytes(), limit)
    except zlib.error as error:
        raise Malformed(f"weights_index is not compressed by zlib: {error}") from error
    if decompressor.unconsumed_tail:
        raise Malformed(f"weights_index is larger than {limit} bytes, which is enough for {n_tensors} tensors")
    if not decompressor.eof or decompressor.unused_data:
        raise Malformed("weights_index ends too early, or too late")
    try:
        index = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Malformed("weights_index is not JSON") from error
    if not isinstance(index, dict):
        raise Malformed("weights_index is not a JSON object")
    return index


def _sized(index: Mapping[str, Any], name: str, kind: type[_T], size: int | None = None) -> _T:
    value = index.get(name)
    if not isinstance(value, kind):
        raise Malformed(f"weights_index.{name} is {type(value).__name__}, not {kind.__name__}")
    if size is not None and len(value) != size:  # type: ignore[arg-type]
        raise Malformed(f"weights_index.{name} has {len(value)} entries, not {size}")  # type: ignore[arg-type]
    return value


def _by_kind(index: Mapping[str, Any], name: str, n: int, check: Callable[[Any], _T]) -> list[_T]:
    """The value of each tensor, from :func:`_distinct`."""
    kinds, positions = _sized(index, name, list, 2)
    if not isinstance(kinds, list) or not isinstance(positions, list) or len(positions) != n:
        raise Malformed(f"weights_index.{name} does not have one entry for each of {n} tensors")
    checked = [check(kind) for kind in kinds]
    return [checked[_position(position, len(checked))] for position in positions]


def _position(value: object, n: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < n:
        raise Malformed(f"weights_index has the entry {value!r} of {n}")
    return value


def _text(what: str, value: object) -> str:
    check_text(f"weights_index: {what}", value)
    assert isinstance(value, str)
    if len(value) > _MOST_TEXT:
        raise Malformed(f"weights_index: {what} is longer than {_MOST_TEXT} characters")
    return value


def _shape(value: object) -> tuple[int, ...]:
    sizes = value if isinstance(value, list) else [None]
    valid = len(sizes) <= _MOST_DIMENSIONS and all(type(size) is int and 0 <= size < _MOST_VALUES for size in sizes)
    if not valid or prod(sizes) >= _MOST_VALUES:
        raise Malformed("weights_index has a shape that no tensor has")
    return tuple(sizes)


def _config(value: object) -> Mapping[str, Any] | None:
    if value is None:
        return None
    if not isinstance(value, dict):
        raise Malformed(f"weights_index.config is {type(value).__name__}, not a JSON object")
    level: Iterable[Any] = [value]
    for _ in range(_MOST_DEPTH):
        level = [each for outer in level for each in _inside(outer)]
        if not level:
            return value
    raise Malformed(f"weights_index.config is nested more than {_MOST_DEPTH} deep")


def _inside(value: Any) -> Iterable[Any]:
    """The entries of a JSON object or list, and the names of an object's fields, which are texts too."""
    if isinstance(value, str):
        check_text("weights_index.config", value)
    if isinstance(value, dict):
        return [*value, *value.values()]
    return value if isinstance(value, list) else ()
