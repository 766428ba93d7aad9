"""The files in a model's folder that are read when the model or its tokenizer is loaded."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

from pytest_pot.core.git_files import refuse_git_leftovers

__all__ = [
    "ONNX_FOLDER",
    "gguf_files",
    "missing_gguf_files",
    "n_gguf_files",
    "onnx_graphs_in",
    "refuse_git_leftovers_of_model",
    "refuse_git_leftovers_of_tokenizer",
]

_CONFIGS = ("config.json", "generation_config.json", "adapter_config.json")
_WEIGHTS = ("model.safetensors", "adapter_model.safetensors")
_INDEX = "model.safetensors.index.json"
_TOKENIZER = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "tokenizer.model",
    "spiece.model",
    "sentencepiece.bpe.model",
    "chat_template.jinja",
)

_SPLIT_GGUF = re.compile(r"(?P<start>.*)-\d{5}-of-(?P<count>\d{5})\.gguf", re.DOTALL)
"""What llama.cpp calls the files of a model that is split."""

ONNX_FOLDER = "onnx"
"""The sub-folder in which a repository of the hub has its ONNX graphs."""


def onnx_graphs_in(folder: Path) -> list[Path]:
    """The ONNX files of ``folder``: at its top, and in its sub-folder ``onnx``."""
    if not os.path.isdir(folder):
        return []
    return sorted(path for place in (folder, folder / ONNX_FOLDER) for path in place.glob("*.onnx") if os.path.isfile(path))


def gguf_files(path: str | Path) -> list[Path]:
    """The files of the model in the GGUF file ``path`` that are there: itself, or all that it is split into, in their order.

    llama.cpp is given the first, and finds the others by their names, ``model-00002-of-00003.gguf``.
    """
    return [file for file in _named_gguf_files(Path(path)) if os.path.isfile(file)]


def missing_gguf_files(path: str | Path) -> list[Path]:
    """The files of the model in ``path`` (:func:`gguf_files`) that are not there."""
    return [file for file in _named_gguf_files(Path(path)) if not os.path.isfile(file)]


def n_gguf_files(path: str | Path) -> int:
    """How many files the model in ``path`` has, there or not, as its name says."""
    return len(_named_gguf_files(Path(path)))


def _named_gguf_files(path: Path) -> list[Path]:
    split = _SPLIT_GGUF.fullmatch(path.name)
    n = 1 if split is None else int(split["count"])
    if split is None or n < 2:
        return [path]
    return [path.with_name(f"{split['start']}-{i:05d}-of-{n:05d}.gguf") for i in range(1, n + 1)]


def refuse_git_leftovers_of_model(spec: str, role: str) -> None:
    """Raise :class:`~pytest_pot.PotError` if Git left something else in the place of a file of the model ``spec``.

    Only files that are read count: a folder may have more weights, which nobody has fetched on purpose.
    """
    if not os.path.exists(spec):
        return
    path = Path(spec)
    if not path.is_dir():
        refuse_git_leftovers(f"cannot load the {role} {spec!r}", gguf_files(path))
        return
    files = [path / name for name in (*_CONFIGS, _INDEX)]
    refuse_git_leftovers(f"cannot load the {role} {spec!r}", files)  # before the index is read
    refuse_git_leftovers(f"cannot load the {role} {spec!r}", [path / name for name in (*_WEIGHTS, *_shards(path / _INDEX))])


def refuse_git_leftovers_of_tokenizer(spec: str, role: str | None = None) -> None:
    """:func:`refuse_git_leftovers_of_model` for the tokenizer ``spec``; ``role``: of the model beside it, if there is one."""
    if os.path.exists(spec):
        path = Path(spec)
        files = [path / name for name in _TOKENIZER] if path.is_dir() else [path]
        refuse_git_leftovers(f"cannot load the tokenizer {f'of the {role} ' if role else ''}{spec!r}", files)


def _shards(index: Path) -> list[str]:
    """The weights files that an index names; none if it cannot be read: the loader will say why."""
    try:
        names = set(json.loads(index.read_bytes())["weight_map"].values())
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return []
    return sorted(name for name in names if isinstance(name, str) and "\0" not in name)
