"""The bytes of a file are those that safetensors writes, and its checksum covers all of it."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from safetensors.numpy import save

from pytest_pot.baseline.file_format import checksum, pieces

ARRAYS: dict[str, npt.NDArray[Any]] = {
    "tokens": np.arange(7, dtype=np.uint16),
    "lengths": np.array([[2, 5, 1]], dtype=np.uint32),
    "ids": np.arange(15, dtype=np.uint32).reshape(5, 3),
    "values": np.linspace(-3, 3, 15, dtype=np.float32).reshape(5, 3),
    "target_values": np.linspace(-2, 2, 5, dtype=np.float32),
    "log_normalisers": np.linspace(1, 2, 5),
    "log_tail": np.linspace(-9, -8, 5),
    "clear": np.array([0, 1, 1, 0, 1], dtype=np.uint8),
}
DOCUMENT = {"format": 1, "prompts": [['a "b" \\ / \t\r\n\x00\x1f\x7f\u2028', None, "é 漢 😀"]], "vocab_size": 97}
FORMS: dict[str, dict[str, npt.NDArray[Any]]] = {
    "top-k": ARRAYS,
    "ids of 16 bits": {**ARRAYS, "ids": ARRAYS["ids"].astype(np.uint16)},
    "tokens of 32 bits": {**ARRAYS, "tokens": ARRAYS["tokens"].astype(np.uint32)},
    "the whole vocabulary": {name: array for name, array in ARRAYS.items() if name not in ("ids", "log_tail")},
    "float64": {**ARRAYS, "values": ARRAYS["values"] / 3.0, "target_values": ARRAYS["target_values"] / 3.0},
}


def with_checksum(arrays: dict[str, npt.NDArray[Any]]) -> str:
    return json.dumps(
        {**DOCUMENT, "checksum": checksum(arrays, DOCUMENT)}, ensure_ascii=False, sort_keys=True, separators=(",", ":")
    )


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("padding", range(9))
def test_the_bytes_are_those_that_safetensors_writes(form: str, padding: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(DOCUMENT, "machine", "x" * padding)  # the header's length is rounded up
    content = b"".join(pieces(FORMS[form], DOCUMENT))
    assert content == save(FORMS[form], {"pytest_pot": with_checksum(FORMS[form])})


def test_the_pieces_are_views() -> None:
    content = pieces(ARRAYS, DOCUMENT)
    for array in ARRAYS.values():
        assert any(np.shares_memory(array, np.frombuffer(piece, np.uint8)) for piece in content[1:])


@pytest.mark.parametrize("form", FORMS)
def test_the_checksum_covers_metadata_and_names_types_shapes_and_bytes_of_tensors(form: str) -> None:
    parts = [json.dumps(DOCUMENT, ensure_ascii=False, sort_keys=True, separators=(",", ":")).encode()]
    for name, array in sorted(FORMS[form].items()):
        parts += [f"{name} {array.dtype.str} {array.shape}".encode(), array.tobytes()]
    sha256 = hashlib.sha256(b"".join(len(part).to_bytes(8, "little") + part for part in parts))
    assert checksum(FORMS[form], DOCUMENT) == sha256.hexdigest()
