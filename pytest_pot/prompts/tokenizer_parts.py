"""What a tokenizer is made of, and a digest of each part."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager, suppress
from functools import partial
from operator import attrgetter
from types import MappingProxyType
from typing import Any

from pytest_pot.core.hashing import digest_of_json

__all__ = [
    "COMPONENTS",
    "PART_NAMES",
    "VERSIONED_PARTS",
    "added_tokens",
    "added_tokens_digest",
    "component",
    "different_parts",
    "model_settings",
    "small_parts",
    "special_tokens",
    "unchanged",
    "vocabulary_and_rules",
    "vocabulary_digest",
    "with_flags",
]

PART_NAMES: Mapping[str, str] = MappingProxyType(
    {
        "vocabulary": "vocabulary",
        "added_tokens": "added tokens",
        "merges": "merges",
        "scores": "token scores",
        "sentencepiece": "SentencePiece model",
        "model": "settings of the tokenizer's model",
        "normalizer": "normalizer",
        "pre_tokenizer": "pre-tokenizer",
        "post_processor": "post-processor",
        "decoder": "decoder",
        "special_tokens": "special tokens",
        "chat_template": "chat template",
        "encoding": "encoding of a fixed text",
    }
)
"""The parts that are compared, as people call them; see :func:`~pytest_pot.prompts.tokenizer_digests.tokenizer_digests`."""

COMPONENTS = ("normalizer", "pre_tokenizer", "post_processor", "decoder")
VERSIONED_PARTS = ("model", *COMPONENTS)
"""Parts as the tokenizers library writes them: compared only where the same version of it wrote both."""

_ROLES = ("bos_token", "eos_token", "unk_token", "sep_token", "cls_token", "mask_token")
_FLAGS = ("special", "lstrip", "rstrip", "single_word", "normalized")
_content_and_flags = attrgetter("content", *_FLAGS)

_PROBE = (
    "The quick brown fox, 3.14159 and 12,345 — “naïve” café; Zürich 東京 Москва\n\n\tdef f(x):\n        return x  # ok\r\n"
    "  <s></s><|endoftext|><|im_start|> I'll don't WE'VE 🙂👩‍🚀 ﬁ ℌ\u00a0\u200b e\u0301 0000000 ==>!!! http://a.b/c?d=e_f&g"
)
"""A text that most tokenizers split differently: it has case, digits, spaces, several scripts and special tokens."""


def different_parts(one: Mapping[str, str], other: Mapping[str, str]) -> list[str]:
    """The names of the parts whose digests differ, or that only one side has.

    The encoding depends on the others, so it is listed only if all others are equal.
    """
    names = [name for name in PART_NAMES if one.get(name) != other.get(name)]
    return [name for name in names if name != "encoding"] or names


@contextmanager
def unchanged(tokenizer: Any) -> Iterator[None]:
    """Restore a fast tokenizer's truncation and padding settings, which every call of the tokenizer overwrites."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    truncation, padding = getattr(backend, "truncation", None), getattr(backend, "padding", None)
    try:
        yield
    finally:
        if backend is not None and truncation is not None:
            backend.enable_truncation(**truncation)
        if backend is not None and padding is not None:
            backend.enable_padding(**padding)


def small_parts(tokenizer: Any) -> dict[str, str]:
    """The parts that are read again each time."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    parts: dict[str, Callable[[], Any]] = {
        "added_tokens": lambda: _entries(added_tokens(tokenizer)),
        "special_tokens": lambda: special_tokens(tokenizer),
        "chat_template": lambda: tokenizer.chat_template,
        "encoding": lambda: [
            list(map(int, tokenizer(_PROBE, add_special_tokens=special, verbose=False)["input_ids"]))
            for special in (True, False)
        ],
        "sentencepiece": lambda: tokenizer.sp_model.serialized_model_proto().hex(),
    }
    if backend is not None:
        parts |= {name: partial(component, backend, name) for name in COMPONENTS}
    return _digests(parts)


def vocabulary_and_rules(tokenizer: Any) -> dict[str, str]:
    """Digests of the parts that take long: vocabulary, merges, scores, settings of the model."""
    rules: dict[str, Callable[[], Any]] = {}
    with suppress(Exception):  # it has no backend, or one with parts in Python, which cannot be written
        rules = _rules(tokenizer.backend_tokenizer.to_str())
    return _digests({**_vocabulary(tokenizer), **rules})


def _vocabulary(tokenizer: Any, but_for: Set[int] = frozenset()) -> dict[str, Callable[[], Any]]:
    """``but_for``: ids to leave out."""
    return {
        "vocabulary": lambda: sorted(
            (repr(token), index) for token, index in tokenizer.get_vocab().items() if index not in but_for
        )
    }


def _rules(text: str) -> dict[str, Callable[[], Any]]:
    """The parts of a fast tokenizer's model other than its vocabulary; ``text``: the tokenizer as it serialises itself."""
    model = json.loads(text)["model"]
    parts: dict[str, Callable[[], Any]] = {"model": lambda: model_settings(model)}
    if "merges" in model:
        # As "left right", because the library has changed its own form of a merge over time.
        parts["merges"] = lambda: [pair if isinstance(pair, str) else " ".join(pair) for pair in model["merges"]]
    if isinstance(model.get("vocab"), list):
        parts["scores"] = lambda: [score for _, score in model["vocab"]]
    return parts


def added_tokens_digest(tokens: Sequence[tuple[int, Any]]) -> str:
    """The digest of the part ``added_tokens`` where a tokenizer has these, with their ids."""
    return digest_of_json(_entries(tokens))


def vocabulary_digest(tokenizer: Any, but_for: Set[int]) -> str:
    """The digest of the part ``vocabulary`` without the ids ``but_for``."""
    return _digests(_vocabulary(tokenizer, but_for))["vocabulary"]


def _entries(tokens: Sequence[tuple[int, Any]]) -> list[list[Any]]:
    return [[index, *with_flags(token)] for index, token in tokens]


def _digests(parts: Mapping[str, Callable[[], Any]]) -> dict[str, str]:
    digests: dict[str, str] = {}
    for name, part in parts.items():
        # A tokenizer may be any object, and may raise any exception for a part that it does not have.
        with suppress(Exception):
            digests[name] = digest_of_json(part())
    return digests


def component(backend: Any, name: str) -> str | None:
    """A component of a fast tokenizer as it serialises itself; None where it has none."""
    component = getattr(backend, name)
    return None if component is None else component.__getstate__().decode()


def added_tokens(tokenizer: Any) -> list[tuple[int, Any]]:
    """The added tokens with their ids, by id."""
    return sorted(tokenizer.added_tokens_decoder.items())


def special_tokens(tokenizer: Any) -> dict[str, str | None]:
    """The tokens by their roles, as text; None for a role without a token.

    Raises:
        AttributeError: the tokenizer knows of no roles.
    """
    tokens = {role: getattr(tokenizer, role) for role in _ROLES if hasattr(tokenizer, role)}
    if not tokens:
        raise AttributeError("no special tokens")
    return {role: None if token is None else str(token) for role, token in tokens.items()}


def with_flags(token: Any) -> list[Any]:
    """The text of an added token, and the rules by which it is cut out of a text."""
    try:
        return list(_content_and_flags(token))  # at once: a tokenizer may have thousands of added tokens
    except AttributeError:
        return [str(token), *(getattr(token, name, None) for name in _FLAGS)]


def model_settings(model: Mapping[str, Any]) -> dict[str, Any]:
    """What a fast tokenizer's model has beside tokens and merges."""
    return {name: value for name, value in model.items() if name not in ("vocab", "merges")}
