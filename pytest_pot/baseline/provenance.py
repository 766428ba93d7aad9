"""Where a recording comes from: digests of weights, tokenizer, prompts and configuration, to be compared later."""

from __future__ import annotations

import hashlib
import json
import os
import platform
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pytest_pot.core.config import ScoringConfig
from pytest_pot.core.git_files import pointer_at
from pytest_pot.core.hashing import digest
from pytest_pot.core.text import shorten
from pytest_pot.prompts.prompt import Prompt
from pytest_pot.prompts.tokenization import unchanged

__all__ = [
    "COMPARED_FIELDS",
    "Provenance",
    "config_differences",
    "digest_of_prompts",
    "file_digests",
    "libraries",
    "machine",
    "mapping_differences",
    "tokenizer_differences",
    "tokenizer_digests",
]

COMPARED_FIELDS = ("top_k", "tail", "positions_per_prompt", "max_length", "temperature", "dtype", "use_amp")
"""The fields of a :class:`ScoringConfig` that change what a recording holds. The others choose a metric, or how the same
numbers are computed: they change a score only by rounding error, and by which of equally likely tokens come last in top-k."""

_LIBRARIES = ("pytest-pot", "torch", "transformers", "tokenizers", "numpy")

_PROBE = (
    "The quick brown fox, 3.14159 and 12,345 — “naïve” café; Zürich 東京 Москва\n\n\tdef f(x):\n        return x  # ok\r\n"
    "  <s></s><|endoftext|><|im_start|> I'll don't WE'VE 🙂👩‍🚀 ﬁ ℌ\u00a0\u200b e\u0301 0000000 ==>!!! http://a.b/c?d=e_f&g"
)
"""A text that most tokenizers split differently: it has case, digits, spaces, several scripts and special tokens."""


_NAME = 100
"""The most characters of a recorded name that a message shows."""

_WHOLE = "whole"
_LARGE_PARTS = (_WHOLE, "vocabulary", "merges", "scores")
_LATEST: dict[str, str] = {}
"""Digests of the large parts of the last tokenizer, so that they are computed only once."""


@dataclass(frozen=True)
class Provenance:
    """What was recorded, with which libraries, and on what machine."""

    reference: str
    """The name of the model: a spec, or the class of an object."""
    weights: str | None
    """SHA-256 over the names, dtypes, shapes and bytes of the model's tensors; None if they cannot be read."""
    files: Mapping[str, str]
    """SHA-256 of the model's files, by name, if it was loaded from a folder or a file."""
    tokenizer: Mapping[str, str]
    """See :func:`tokenizer_digests`."""
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
    """SHA-256 over texts and continuations. Kinds are left out, because they change no score."""
    return digest(_json([prompt.text, prompt.continuation]) for prompt in prompts)


def tokenizer_digests(tokenizer: Any, recorded: Mapping[str, str] = MappingProxyType({})) -> dict[str, str]:
    """SHA-256 of each part of a tokenizer, by name. Except for ``whole``, they are the same in any version of the libraries.

    - ``vocabulary``: every token and its id.
    - ``added_tokens``: the tokens that are cut out of a text before anything else.
    - ``merges``: the merge rules of a byte-pair encoding, in order.
    - ``scores``: the token scores of a unigram model.
    - ``encoding``: the ids of a fixed text, which depend on all other parts.
    - ``whole``: a fast tokenizer as it serialises itself. If it is equal, everything is equal; if it differs, nothing
      follows, because it depends on the version of the library.

    A part that a tokenizer does not have, or cannot report, is left out. The tokenizer is not changed.

    The digests of vocabulary and rules take a quarter of a second. If ``whole`` is the same as in ``recorded``, they are
    copied from there.
    """
    parts: dict[str, Callable[[], Any]] = {
        "added_tokens": lambda: [
            [index, *_with_flags(token)] for index, token in sorted(tokenizer.added_tokens_decoder.items())
        ],
        "encoding": lambda: [
            list(map(int, tokenizer(_PROBE, add_special_tokens=special, verbose=False)["input_ids"]))
            for special in (True, False)
        ],
    }
    with unchanged(tokenizer):
        return {**_large_parts(tokenizer, recorded), **_digests(parts)}


def _large_parts(tokenizer: Any, recorded: Mapping[str, str]) -> dict[str, str]:
    """``whole``, vocabulary and rules. They are computed only once for a tokenizer that does not change."""
    whole = None
    with suppress(Exception):
        # A class from elsewhere may compute its vocabulary from anything, so that ``whole`` would prove nothing.
        if type(tokenizer).__module__.startswith("transformers."):
            whole = digest([type(tokenizer).__qualname__.encode(), tokenizer.backend_tokenizer.to_str().encode()])
    matches = [parts for parts in (_LATEST, recorded) if whole is not None and parts.get(_WHOLE) == whole]
    if matches:
        digests = {name: matches[0][name] for name in _LARGE_PARTS if name in matches[0]}
    else:
        vocabulary = {"vocabulary": lambda: sorted((repr(token), index) for token, index in tokenizer.get_vocab().items())}
        digests = _digests({**vocabulary, **_rules(tokenizer)})
        if whole is not None:
            digests[_WHOLE] = whole
    if whole is not None:
        _LATEST.clear()  # one entry is enough: a run uses its tokenizers one after the other
        _LATEST.update(digests)
    return digests


def _digests(parts: Mapping[str, Callable[[], Any]]) -> dict[str, str]:
    digests: dict[str, str] = {}
    for name, part in parts.items():
        # A tokenizer may be any object, and may raise any exception for a part that it does not have.
        with suppress(Exception):
            digests[name] = digest([_json(part())])
    return digests


def _with_flags(token: Any) -> list[Any]:
    flags = ("special", "lstrip", "rstrip", "single_word", "normalized")
    return [str(token), *(getattr(token, name, None) for name in flags)]


def _rules(tokenizer: Any) -> dict[str, Callable[[], Any]]:
    """The parts of a fast tokenizer's model other than its vocabulary."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    kind = type(getattr(backend, "model", None)).__name__

    def model() -> Any:
        return json.loads(backend.to_str())["model"]  # type: ignore[union-attr]

    if kind == "BPE":
        # As "left right", because the library has changed its own form of a merge over time.
        return {"merges": lambda: [pair if isinstance(pair, str) else " ".join(pair) for pair in model()["merges"]]}
    if kind == "Unigram":
        return {"scores": lambda: [score for _, score in model()["vocab"]]}
    return {}


def file_digests(spec: str) -> dict[str, str]:
    """SHA-256 of the files that a model is loaded from, by name: weights and configuration of a folder, or a GGUF file.

    Names in a folder are relative to it. Empty if ``spec`` is neither a folder nor a GGUF file on this machine.
    """
    path = Path(spec)
    if os.path.isdir(path):
        # Include weights in subfolders, which an index may name, and adapter configurations, which say how to apply an adapter.
        files = [*path.glob("*config.json"), *path.rglob("*.safetensors"), *path.glob("*.safetensors.index.json")]
    else:
        files = [path] if path.suffix == ".gguf" else []
    digests = {}
    for file in sorted(files):
        if os.path.isfile(file):
            name = file.name if file == path else file.relative_to(path).as_posix()
            pointer = pointer_at(file)
            if pointer is not None and pointer.sha256 is not None:
                digests[name] = pointer.sha256  # a Git LFS pointer has the digest of the file that it stands for
                continue
            with file.open("rb") as stream:
                digests[name] = hashlib.file_digest(stream, "sha256").hexdigest()
    return digests


def libraries(*others: str) -> dict[str, str]:
    """Versions of the libraries that compute the numbers, and of ``others``, as far as they are installed."""
    versions = {}
    for name in (*_LIBRARIES, *others):
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def machine() -> str:
    """The kind of machine, without its name: ``"Linux x86_64"``."""
    return f"{platform.system()} {platform.machine()}"


def config_differences(recorded: ScoringConfig, now: ScoringConfig) -> list[str]:
    """One line for each of the :data:`COMPARED_FIELDS` that differs."""
    pairs = ((name, getattr(recorded, name), getattr(now, name)) for name in COMPARED_FIELDS)
    return [f"config.{name}: {old!r} recorded, {new!r} now" for name, old, new in pairs if old != new]


def mapping_differences(prefix: str, recorded: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """One line for each digest that differs, or that only one side has."""
    names = sorted({*recorded, *now})
    pairs = ((name, recorded.get(name), now.get(name)) for name in names)
    return [
        f"{prefix}{shorten(name, _NAME)}: {_short(old)} recorded, {_short(new)} now" for name, old, new in pairs if old != new
    ]


def tokenizer_differences(recorded: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """One line for each part that differs. The encoding depends on the others, so it is listed only if they are equal."""
    old, new = ({name: value for name, value in parts.items() if name != _WHOLE} for parts in (recorded, now))
    lines = mapping_differences("tokenizer.", old, new)
    causes = [line for line in lines if not line.startswith("tokenizer.encoding:")]
    return causes or lines


def _short(sha256: str | None) -> str:
    return "nothing" if sha256 is None else f"sha256 {shorten(sha256, 13)}"


def _json(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()
