"""Where a recording comes from, as digests that can be compared later: weights, tokenizer, prompts, configuration."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pytest_pot.core.config import ScoringConfig
from pytest_pot.core.hashing import digest
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
numbers are come by: they move a score by rounding error, and by which of equally likely tokens are the last compared."""

_LIBRARIES = ("pytest-pot", "torch", "transformers", "tokenizers", "numpy")

_PROBE = (
    "The quick brown fox, 3.14159 and 12,345 — “naïve” café; Zürich 東京 Москва\n\n\tdef f(x):\n        return x  # ok\r\n"
    "  <s></s><|endoftext|><|im_start|> I'll don't WE'VE 🙂👩‍🚀 ﬁ ℌ\u00a0\u200b e\u0301 0000000 ==>!!! http://a.b/c?d=e_f&g"
)
"""A text that most ways of cutting a text treat differently: case, digits, spaces, several scripts, special tokens."""


_WHOLE = "whole"
_LARGE = (_WHOLE, "vocabulary", "merges", "scores")
_LATEST: dict[str, str] = {}
"""The large parts of the last tokenizer that was looked at."""


@dataclass(frozen=True)
class Provenance:
    """What was recorded, with what, where."""

    reference: str
    """The model as it was named: a spec, or the class of an object."""
    weights: str | None
    """SHA-256 over the names, types, shapes and bytes of the model's tensors; None where they cannot be read."""
    files: Mapping[str, str]
    """SHA-256 of the model's files by name, where it was loaded from a folder or a file."""
    tokenizer: Mapping[str, str]
    """See :func:`tokenizer_digests`."""
    prompts: str
    """SHA-256 over the prompts as they were given."""
    label: str
    """Precision and device that the reference ran with: ``"float32 on cpu"``."""
    libraries: Mapping[str, str]
    machine: str

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return asdict(self)


def digest_of_prompts(prompts: Sequence[Prompt]) -> str:
    """SHA-256 over texts and continuations; a prompt's kind changes no number."""
    return digest(_json([prompt.text, prompt.continuation]) for prompt in prompts)


def tokenizer_digests(tokenizer: Any, recorded: Mapping[str, str] = MappingProxyType({})) -> dict[str, str]:
    """SHA-256 of what a tokenizer is made of, by part, each the same in any version of the libraries.

    ``vocabulary``: every token and its id. ``added_tokens``: those that are cut out of a text before all else. ``merges``:
    the rules of a byte-pair encoding in their order. ``scores``: those of a unigram model. ``encoding``: the ids of a fixed
    text, which depend on all the rest. A part that a tokenizer has not got, or cannot tell, is left out. The tokenizer is
    left as it was.

    ``whole`` is of a fast tokenizer as it writes itself, and depends on the library's version: where it is the same, so is
    all else, and where it is not, nothing follows. Vocabulary and rules, which take a quarter of a second, are then those
    of ``recorded``.
    """
    parts: dict[str, Callable[[], Any]] = {
        "added_tokens": lambda: [[index, *_added(token)] for index, token in sorted(tokenizer.added_tokens_decoder.items())],
        "encoding": lambda: [
            list(map(int, tokenizer(_PROBE, add_special_tokens=special, verbose=False)["input_ids"]))
            for special in (True, False)
        ],
    }
    with unchanged(tokenizer):
        return {**_large_parts(tokenizer, recorded), **_digests(parts)}


def _large_parts(tokenizer: Any, recorded: Mapping[str, str]) -> dict[str, str]:
    """``whole``, vocabulary and rules: sorted and parsed once for a tokenizer that stays as it is."""
    whole = None
    with suppress(Exception):
        # What is not the library's own may make its vocabulary of anything.
        if type(tokenizer).__module__.startswith("transformers."):
            whole = digest([type(tokenizer).__qualname__.encode(), tokenizer.backend_tokenizer.to_str().encode()])
    known = [parts for parts in (_LATEST, recorded) if whole is not None and parts.get(_WHOLE) == whole]
    if known:
        found = {name: known[0][name] for name in _LARGE if name in known[0]}
    else:
        vocabulary = {"vocabulary": lambda: sorted((repr(token), index) for token, index in tokenizer.get_vocab().items())}
        found = _digests({**vocabulary, **_rules(tokenizer)})
        if whole is not None:
            found[_WHOLE] = whole
    if whole is not None:
        _LATEST.clear()  # a run has one tokenizer, or one after the other
        _LATEST.update(found)
    return found


def _digests(parts: Mapping[str, Callable[[], Any]]) -> dict[str, str]:
    found: dict[str, str] = {}
    for name, part in parts.items():
        # A tokenizer may be any object, and raise what it likes where it has no answer.
        with suppress(Exception):
            found[name] = digest([_json(part())])
    return found


def _added(token: Any) -> list[Any]:
    flags = ("special", "lstrip", "rstrip", "single_word", "normalized")
    return [str(token), *(getattr(token, name, None) for name in flags)]


def _rules(tokenizer: Any) -> dict[str, Callable[[], Any]]:
    """What a fast tokenizer's model has beside its vocabulary."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    kind = type(getattr(backend, "model", None)).__name__

    def model() -> Any:
        return json.loads(backend.to_str())["model"]  # type: ignore[union-attr]

    if kind == "BPE":
        # As "left right": the library's own form of a merge has changed over time.
        return {"merges": lambda: [pair if isinstance(pair, str) else " ".join(pair) for pair in model()["merges"]]}
    if kind == "Unigram":
        return {"scores": lambda: [score for _, score in model()["vocab"]]}
    return {}


def file_digests(spec: str) -> dict[str, str]:
    """SHA-256 by name of the files that a model is loaded from: a folder's weights and its configuration, or a GGUF file.

    Empty where ``spec`` names no such thing on this machine.
    """
    path = Path(spec)
    if path.is_dir():
        # Also weights in folders below, which an index may name, and what says how an adapter is applied.
        files = [*path.glob("*config.json"), *path.rglob("*.safetensors"), *path.glob("*.safetensors.index.json")]
    else:
        files = [path] if path.suffix == ".gguf" else []
    found = {}
    for file in sorted(files):
        if file.is_file():
            with file.open("rb") as stream:
                found[file.relative_to(path).as_posix() if path.is_dir() else file.name] = hashlib.file_digest(
                    stream, "sha256"
                ).hexdigest()
    return found


def libraries(*others: str) -> dict[str, str]:
    """Versions of what the numbers were made with."""
    found = {}
    for name in (*_LIBRARIES, *others):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def machine() -> str:
    """The kind of machine, without its name: ``"Linux x86_64"``."""
    return f"{platform.system()} {platform.machine()}"


def config_differences(recorded: ScoringConfig, now: ScoringConfig) -> list[str]:
    """A line for each field that changes the numbers and differs."""
    pairs = ((name, getattr(recorded, name), getattr(now, name)) for name in COMPARED_FIELDS)
    return [f"config.{name}: {old!r} recorded, {new!r} now" for name, old, new in pairs if old != new]


def mapping_differences(prefix: str, recorded: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """A line for each digest that differs, also where one side has none."""
    names = sorted({*recorded, *now})
    pairs = ((name, recorded.get(name), now.get(name)) for name in names)
    return [f"{prefix}{name}: {_short(old)} recorded, {_short(new)} now" for name, old, new in pairs if old != new]


def tokenizer_differences(recorded: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """A line for each part of two tokenizers that differs; the encoding follows from the others, and counts by itself."""
    old, new = ({name: value for name, value in parts.items() if name != _WHOLE} for parts in (recorded, now))
    lines = mapping_differences("tokenizer.", old, new)
    causes = [line for line in lines if not line.startswith("tokenizer.encoding:")]
    return causes or lines


def _short(sha256: str | None) -> str:
    return "nothing" if sha256 is None else f"sha256 {sha256[:12]}…"


def _json(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()
