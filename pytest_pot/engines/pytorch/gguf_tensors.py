"""Tensors of a GGUF file that transformers leaves out without a word: biases that the model has not, and too many layers.

Other names that it does not know are not reported here: files may hold what is computed when they are read (``rope_freqs``),
and models may split or join what a file holds in other parts.
"""

from __future__ import annotations

import mmap
import os
import re
import struct
from pathlib import Path
from typing import Any

__all__ = ["gguf_path", "left_out"]

_BLOCK = re.compile(r"blk\.(\d+)\.")
_SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
"""Bytes of a value, by the number of its type in GGUF."""
_STRING, _ARRAY = 8, 9


def gguf_path(folder: str, name: str) -> Path:
    """Where the GGUF file ``name`` of ``folder`` lies, a folder or hub id; the file of a hub id is fetched if need be.

    Raises:
        OSError: the hub has no such file, or cannot be reached.
    """
    if os.path.isdir(folder):
        return Path(folder) / name
    from transformers.utils import hub

    return Path(str(hub.cached_file(folder, name)))


def left_out(path: Path, model: Any) -> set[str]:
    """The tensors in the GGUF file ``path`` that have no place in ``model``, which was made of it."""
    import gguf

    architecture, stored = _names_in(path)
    kinds = {name: kind for kind, name in gguf.MODEL_ARCH_NAMES.items()}
    if architecture not in kinds:
        return set()
    n_layers = model.config.get_text_config().num_hidden_layers
    names = gguf.get_tensor_name_map(kinds[architecture], n_layers)
    placed = {names.get_name(name, try_suffixes=(".weight", ".bias")) for name in model.state_dict()}
    biases = {
        name
        for name in stored - placed
        if name.endswith(".bias") and f"{name.removesuffix('.bias')}.weight" in placed  # both are cut up alike
    }
    blocks: dict[int, set[str]] = {}
    for name in stored:
        if (block := _BLOCK.match(name)) is not None:
            blocks.setdefault(int(block[1]), set()).add(name)
    # A block with nextn tensors predicts further tokens, which no logit of the next one depends on.
    layers = (block for index, block in blocks.items() if index >= n_layers and not any(".nextn." in name for name in block))
    return biases.union(*layers)


def _names_in(path: Path) -> tuple[str, set[str]]:
    """The architecture in the GGUF file ``path``, and the names of its tensors; nothing if it is of an old or rare kind.

    gguf's own reader takes seconds for the vocabulary of a tokenizer, which we skip.
    """
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        magic, version, n_tensors, n_values = struct.unpack_from("<4sIQQ", data)
        if magic != b"GGUF" or version not in (2, 3):
            return "", set()
        at, architecture = 24, ""
        for _ in range(n_values):
            key, at = _string(data, at)
            start, at = at, _after(data, at + 4, *struct.unpack_from("<I", data, at))
            if key == "general.architecture":
                architecture = _string(data, start + 4)[0]
        names = set()
        for _ in range(n_tensors):
            name, at = _string(data, at)
            (n_dimensions,) = struct.unpack_from("<I", data, at)
            at += 4 + 8 * n_dimensions + 4 + 8  # shape, type and place of the tensor
            names.add(name)
    return architecture, names


def _after(data: mmap.mmap, at: int, kind: int) -> int:
    """Where the value of that kind at ``at`` ends."""
    if kind == _STRING:
        return at + 8 + int(struct.unpack_from("<Q", data, at)[0])
    if kind != _ARRAY:
        return at + _SIZES[kind]
    kind, n_elements = struct.unpack_from("<IQ", data, at)
    at += 12
    if kind in _SIZES:
        return at + int(n_elements) * _SIZES[kind]
    for _ in range(n_elements):
        at = _after(data, at, kind)
    return at


def _string(data: mmap.mmap, at: int) -> tuple[str, int]:
    (length,) = struct.unpack_from("<Q", data, at)
    end = at + 8 + length
    return data[at + 8 : end].decode("utf-8", "replace"), end
