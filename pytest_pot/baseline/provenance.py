"""Where a recording comes from: digests of weights, tokenizer, prompts and configuration, to be compared later."""

from __future__ import annotations

import hashlib
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache, partial
from importlib import metadata
from pathlib import Path
from typing import Any

from pytest_pot.core.brief import Brief
from pytest_pot.core.config import ScoringConfig
from pytest_pot.core.files import KeptFiles
from pytest_pot.core.git_files import pointer_at
from pytest_pot.core.hashing import digest, json_bytes
from pytest_pot.core.text import shorten
from pytest_pot.engines.llamacpp.spec import path_in
from pytest_pot.engines.model_files import gguf_files
from pytest_pot.engines.onnxruntime.model import graph_files
from pytest_pot.prompts.prompt import Prompt
from pytest_pot.prompts.tokenizer_digests import tokens_beyond
from pytest_pot.prompts.tokenizer_parts import VERSIONED_PARTS, different_parts

__all__ = [
    "COMPARED_FIELDS",
    "Provenance",
    "config_differences",
    "digest_of_prompts",
    "file_digests",
    "libraries",
    "machine",
    "mapping_differences",
    "tokenizer_changes",
    "tokenizer_differences",
    "tolerated_tokenizer_differences",
    "unseen_tokenizer_parts",
]

COMPARED_FIELDS = ("top_k", "tail", "positions_per_prompt", "max_length", "temperature", "dtype", "use_amp")
"""The fields of a :class:`ScoringConfig` that change what a recording holds. The others choose a metric, or how the same
numbers are computed: they change a score only by rounding error, and by which of equally likely tokens come last in top-k."""

_SET_BY = {"positions_per_prompt": "positions", "max_length": "max_length", "dtype": "--pot-dtype"}
"""What people set a field of a :class:`ScoringConfig` by, where that is not the preset: a marker's argument, or an option."""

_SOFT_PARTS = ("whole", "chat_template", "special_tokens", "sentencepiece", *VERSIONED_PARTS)
"""Parts of a tokenizer that do not make a recording stale by themselves."""

_LIBRARIES = ("pytest-pot", "torch", "transformers", "tokenizers", "numpy")

_FILE_DIGESTS: KeptFiles[str] = KeptFiles(most=1024)
"""Digests of files by path: many gates compare the same models, whose files take seconds to read."""

_NAME = 100
"""The most characters of a recorded name that a message shows."""


@dataclass(frozen=True, repr=False)
class Provenance(Brief):
    """What was recorded, with which libraries, and on what machine."""

    reference: str
    """The name of the model: a spec, or the class of an object."""
    weights: str | None
    """SHA-256 over the names, dtypes, shapes and bytes of the model's tensors; None if they cannot be read."""
    files: Mapping[str, str]
    """SHA-256 of the model's files, by name, if it was loaded from a folder or a file."""
    tokenizer: Mapping[str, str]
    """See :func:`~pytest_pot.prompts.tokenizer_digests.tokenizer_digests`."""
    prompts: str
    """See :func:`digest_of_prompts`."""
    label: str
    """Precision and device on which the reference ran: ``"float32 on cpu"``."""
    libraries: Mapping[str, str]
    machine: str

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return asdict(self)


def digest_of_prompts(prompts: Sequence[Prompt]) -> str:
    """SHA-256 over texts or chats and continuations. Kinds are left out, because they change no score."""
    contexts = (prompt.text if prompt.messages is None else list(prompt.messages) for prompt in prompts)
    return digest(json_bytes([context, prompt.continuation]) for context, prompt in zip(contexts, prompts, strict=True))


def file_digests(spec: str) -> dict[str, str]:
    """SHA-256 of the files that a model is loaded from, by name: weights and configuration of a folder, all files of a GGUF
    model, or an ONNX graph with the files of its weights.

    Names in a folder are relative to it, and those beside a graph to its folder. Empty if ``spec`` is none of these on this
    machine. A file is read again only if it was written since.
    """
    path = Path(path_in(spec) or spec)
    folder = path if os.path.isdir(path) else path.parent
    if os.path.isdir(path):
        # Include weights in subfolders, which an index may name, and adapter configurations, which say how to apply an adapter.
        files = [*path.glob("*config.json"), *path.rglob("*.safetensors"), *path.glob("*.safetensors.index.json")]
    else:
        files = gguf_files(path) if path.suffix == ".gguf" else []
    digests = {}
    for file in sorted([*files, *graph_files(spec)]):
        if os.path.isfile(file):
            name = Path(os.path.relpath(file, folder)).as_posix()
            digests[name] = _FILE_DIGESTS.get(file, partial(_file_digest, file))
    return digests


def _file_digest(file: Path) -> str:
    pointer = pointer_at(file)
    if pointer is not None and pointer.sha256 is not None:
        return pointer.sha256  # a Git LFS pointer has the digest of the file that it stands for
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def libraries(*others: str) -> dict[str, str]:
    """Versions of the libraries that compute the numbers, and of ``others``, as far as they are installed."""
    versions = {name: _version(name) for name in (*_LIBRARIES, *others)}
    return {name: version for name, version in versions.items() if version is not None}


def machine() -> str:
    """The kind of machine, without its name: ``"Linux x86_64"``."""
    return f"{platform.system()} {platform.machine()}"


def config_differences(recorded: ScoringConfig, now: ScoringConfig) -> list[str]:
    """One line for each of the :data:`COMPARED_FIELDS` that differs."""
    pairs = ((name, getattr(recorded, name), getattr(now, name)) for name in COMPARED_FIELDS)
    return [
        f"{_SET_BY.get(name, f'preset ({name})')}: {_setting(old)} recorded, {_setting(new)} now"
        for name, old, new in pairs
        if old != new
    ]


def _setting(value: object) -> str:
    return "the whole vocabulary" if value is None else repr(value)  # only top_k may be None


def mapping_differences(prefix: str, recorded: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """One line for each digest that differs, or that only one side has."""
    names = sorted({*recorded, *now})
    pairs = ((name, recorded.get(name), now.get(name)) for name in names)
    return [
        f"{prefix}{shorten(name, _NAME)}: {_short(old)} recorded, {_short(new)} now" for name, old, new in pairs if old != new
    ]


def tokenizer_differences(
    recorded: Mapping[str, str], now: Mapping[str, str], *, bare_texts: bool = True, but_for: Sequence[str] = ()
) -> list[str]:
    """One line for each part that differs and makes a recording stale.

    Not among them are the parts of :func:`tolerated_tokenizer_differences`. The encoding of a fixed text depends on the others,
    so it is listed only if they are equal, and with the parts that may explain it.

    Args:
        bare_texts: whether any prompt is a text. Chats are encoded without special tokens, which the encoding has.
        but_for: parts that may differ.
    """
    soft = {*_SOFT_PARTS, *but_for}
    old, new = ({name: value for name, value in parts.items() if name not in soft} for parts in (recorded, now))
    if "sentencepiece" in recorded and "sentencepiece" in now:  # older recordings do not have it
        old, new = ({**parts, "sentencepiece": full["sentencepiece"]} for parts, full in ((old, recorded), (new, now)))
    lines = mapping_differences("tokenizer.", old, new)
    causes = [line for line in lines if not line.startswith("tokenizer.encoding:")]
    if causes or not bare_texts:
        return causes
    if lines:
        known = [name for name in VERSIONED_PARTS if name in recorded and name in now]
        sides = ({name: parts[name] for name in known} for parts in (recorded, now))
        causes = mapping_differences("tokenizer.", *sides)
    return causes or lines


def tolerated_tokenizer_differences(
    recorded: Provenance, now: Mapping[str, str], version: str | None = None
) -> dict[str, tuple[str, str]]:
    """The digests, recorded and now, of parts of a tokenizer that differ without making a recording stale.

    Most of them cannot be compared where another version of the tokenizers library wrote the recorded ones.

    Args:
        version: of the library that wrote ``now``; by default the installed one.
    """
    same_version = recorded.libraries.get("tokenizers") == (version or _version("tokenizers"))
    names = ("chat_template", "special_tokens", "encoding", *(VERSIONED_PARTS if same_version else ()))
    old, new = ({name: parts[name] for name in names if name in parts} for parts in (recorded.tokenizer, now))
    return {name: (old[name], new[name]) for name in different_parts(old, new) if name in old and name in new}


def unseen_tokenizer_parts(recorded: Mapping[str, str], now: Mapping[str, str], tokenizer: Any) -> tuple[str, ...]:
    """Parts that may differ where every prompt has the recorded ids: those that change no token that was there.

    Args:
        now: the digests of ``tokenizer``.
    """
    same_ids = "vocabulary" in now and now["vocabulary"] == recorded.get("vocabulary")
    if same_ids or tokens_beyond(recorded, tokenizer):
        return "encoding", "added_tokens", "vocabulary"
    return ("encoding",)


def tokenizer_changes(old: Provenance, new: Provenance) -> list[str]:
    """One line for each part that differs between the tokenizers of two recordings."""
    lines = tokenizer_differences(old.tokenizer, new.tokenizer)
    tolerated = tolerated_tokenizer_differences(old, new.tokenizer, new.libraries.get("tokenizers"))
    for name, (before, after) in tolerated.items():
        lines += mapping_differences("tokenizer.", {name: before}, {name: after})
    return list(dict.fromkeys(lines))


@cache  # what is installed stays as it is while it runs
def _version(library: str) -> str | None:
    try:
        return metadata.version(library)
    except metadata.PackageNotFoundError:
        return None


def _short(sha256: str | None) -> str:
    return "nothing" if sha256 is None else f"sha256 {shorten(sha256, 13)}"
