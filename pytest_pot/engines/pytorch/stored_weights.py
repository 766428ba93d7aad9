"""What the files of a model hold, read from their headers: the precision of safetensors, and the types of a GGUF file."""

from __future__ import annotations

import json
import mmap
import struct
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

__all__ = ["gguf_types", "safetensors_dtype"]

_DTYPES = {"F16": "float16", "BF16": "bfloat16", "F32": "float32", "F64": "float64"}
_MAX_HEADER = 100_000_000
"""Bytes; the limit of the safetensors format itself."""


def safetensors_dtype(files: Iterable[Path]) -> str | None:
    """The float dtype in which most numbers of these files are kept; None if they have none."""
    counts: Counter[str] = Counter()
    for file in files:
        with file.open("rb") as stream:
            (length,) = struct.unpack("<Q", stream.read(8))
            header = json.loads(stream.read(min(length, _MAX_HEADER)))
        for name, tensor in header.items():
            if name != "__metadata__" and tensor["dtype"] in _DTYPES:
                start, stop = tensor["data_offsets"]
                counts[_DTYPES[tensor["dtype"]]] += stop - start
    return counts.most_common(1)[0][0] if counts else None


_SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
"""Bytes of a metadata value, by the number of its type; strings (8) and arrays (9) say their length."""
_STRING, _ARRAY = 8, 9


def gguf_types(file: Path) -> Counter[str]:
    """How many numbers of the matrices in a GGUF file have which type: ``{"Q4_1": 106168320, "Q8_0": 28311552}``.

    Raises:
        Exception: the file is no GGUF file, or ends early.
    """
    import gguf

    with file.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
        header = _Header(data)
        counts: Counter[str] = Counter()
        for shape, kind in header.tensors():
            if len(shape) > 1:
                size = 1
                for length in shape:
                    size *= length
                counts[gguf.GGMLQuantizationType(kind).name] += size
        return counts


class _Header:
    """Reads a GGUF file's header front to back. The ``gguf`` package keeps all of it, which takes seconds for a vocabulary."""

    def __init__(self, data: mmap.mmap) -> None:
        self._data = data
        self._at = 8  # after the magic number and the version
        self._n_tensors, self._n_values = self._take("<QQ")

    def tensors(self) -> Iterable[tuple[tuple[int, ...], int]]:
        """The shape of each tensor and the number of its type."""
        for _ in range(self._n_values):
            self._skip_string()
            self._skip_value(*self._take("<I"))
        for _ in range(self._n_tensors):
            self._skip_string()
            (n_dimensions,) = self._take("<I")
            shape = self._take(f"<{n_dimensions}Q")
            kind, _ = self._take("<IQ")
            yield shape, kind

    def _take(self, layout: str) -> tuple[int, ...]:
        values = struct.unpack_from(layout, self._data, self._at)
        self._at += struct.calcsize(layout)
        return values

    def _skip_string(self) -> None:
        (length,) = self._take("<Q")
        self._at += length

    def _skip_value(self, kind: int) -> None:
        if kind == _STRING:
            self._skip_string()
        elif kind == _ARRAY:
            item, count = self._take("<IQ")
            if item in _SIZES:
                self._at += count * _SIZES[item]
            else:
                for _ in range(count):
                    self._skip_value(item)
        else:
            self._at += _SIZES[kind]
