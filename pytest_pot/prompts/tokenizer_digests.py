"""Digests that tell whether two tokenizers are the same, and in which part they differ."""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from contextlib import suppress
from types import MappingProxyType
from typing import Any

from pytest_pot.core.hashing import digest
from pytest_pot.prompts.tokenizer_parts import (
    added_tokens,
    added_tokens_digest,
    small_parts,
    unchanged,
    vocabulary_and_rules,
    vocabulary_digest,
)
from pytest_pot.prompts.tokenizer_state import state_of

__all__ = ["tokenizer_digests", "tokenizer_identity", "tokens_beyond"]

_WHOLE = "whole"
_LARGE_PARTS = (_WHOLE, "vocabulary", "merges", "scores", "model")
_KEPT = 8

_BY_CONTENT: dict[str, dict[str, str]] = {}
"""Digests of the large parts, by ``whole``, of the last few tokenizers, so that equal tokenizers are analysed only once."""
_BY_OBJECT: weakref.WeakKeyDictionary[Any, tuple[str, str]] = weakref.WeakKeyDictionary()
"""``whole`` by tokenizer, after a digest of its small parts: while these stay, it is not serialised again."""
_OWN_CLASSES: weakref.WeakKeyDictionary[Any, tuple[str, dict[str, str]]] = weakref.WeakKeyDictionary()
"""Digests of the large parts by tokenizer, likewise, for classes that another package defines: these have no ``whole``."""


def tokenizer_digests(tokenizer: Any, recorded: Mapping[str, str] = MappingProxyType({})) -> dict[str, str]:
    """SHA-256 of each part of a tokenizer, by name.

    The first eight are the same in any version of the libraries:

    - ``vocabulary``: every token and its id.
    - ``added_tokens``: the tokens that are cut out of a text before anything else.
    - ``merges``: the merge rules of a byte-pair encoding, in order.
    - ``scores``: the token scores of a unigram model.
    - ``sentencepiece``: the model file of a tokenizer that runs SentencePiece.
    - ``special_tokens``: which tokens are BOS, EOS and so on; but for padding, which changes no result.
    - ``chat_template``: the template that renders chats, which may be None.
    - ``encoding``: the ids of a fixed text, which depend on all other parts.
    - ``model``, ``normalizer``, ``pre_tokenizer``, ``post_processor``, ``decoder``: the other parts of a fast tokenizer, as
      it serialises them; see :data:`~pytest_pot.prompts.tokenizer_parts.VERSIONED_PARTS`.
    - ``whole``: a fast tokenizer as it serialises itself. If it is equal, everything is equal; if it differs, nothing
      follows, because it depends on the version of the library.

    A part that a tokenizer does not have, or cannot report, is left out. The tokenizer is not changed.

    The digests of vocabulary and rules of a large tokenizer take a second. They are computed once for a tokenizer that does
    not change; if ``whole`` is the same as in ``recorded``, they are copied from there.
    """
    with unchanged(tokenizer):
        small = small_parts(tokenizer)
        return {**_large_parts(tokenizer, small, recorded), **small}


def tokenizer_identity(tokenizer: Any) -> dict[str, str]:
    """The digests that identify a tokenizer: where they are equal, all are. They take less time than all."""
    with unchanged(tokenizer):
        small = small_parts(tokenizer)
        whole = _whole(tokenizer, small)
        return {**({_WHOLE: whole} if whole else _own_parts(tokenizer, small)), **small}


def tokens_beyond(recorded: Mapping[str, str], tokenizer: Any) -> dict[int, str]:
    """The added tokens, by id, that ``tokenizer`` has beyond those of the ``recorded`` digests, and after them.

    Empty where there are none, and where anything else differs in the added tokens or the vocabulary.
    """
    with suppress(Exception):  # a tokenizer may be any object
        tokens = added_tokens(tokenizer)
        for n in reversed(range(len(tokens))):
            if added_tokens_digest(tokens[:n]) == recorded.get("added_tokens"):
                more = {index: str(token) for index, token in tokens[n:]}
                return more if vocabulary_digest(tokenizer, more.keys()) == recorded.get("vocabulary") else {}
    return {}


def _large_parts(tokenizer: Any, small: Mapping[str, str], recorded: Mapping[str, str]) -> dict[str, str]:
    """``whole``, vocabulary and rules."""
    whole = _whole(tokenizer, small)
    if not whole:
        return _own_parts(tokenizer, small)
    if whole not in _BY_CONTENT:
        if recorded.get(_WHOLE) == whole and "model" in recorded:  # not kept: the file may have been forged
            return {name: recorded[name] for name in _LARGE_PARTS if name in recorded}
        while len(_BY_CONTENT) >= _KEPT:
            del _BY_CONTENT[next(iter(_BY_CONTENT))]
        _BY_CONTENT[whole] = {**vocabulary_and_rules(tokenizer), _WHOLE: whole}
    return dict(_BY_CONTENT[whole])


def _own_parts(tokenizer: Any, small: Mapping[str, str]) -> dict[str, str]:
    """Vocabulary and rules of a tokenizer without ``whole``; kept for a fast one while its small parts stay."""
    if getattr(tokenizer, "backend_tokenizer", None) is None:
        return vocabulary_and_rules(tokenizer)
    state = state_of(tokenizer, small)
    known, digests = "", dict[str, str]()
    with suppress(TypeError):  # a class may allow no weak references, or no hashes
        known, digests = _OWN_CLASSES.get(tokenizer, (known, digests))
    if known != state:
        digests = vocabulary_and_rules(tokenizer)
        with suppress(TypeError):
            _OWN_CLASSES[tokenizer] = state, digests
    return dict(digests)


def _whole(tokenizer: Any, small: Mapping[str, str]) -> str:
    """``whole``; empty where a tokenizer does not serialise itself."""
    # A class from elsewhere may compute its vocabulary from anything, so that nothing would prove that it stayed the same.
    backend: Any = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None or not type(tokenizer).__module__.startswith("transformers."):
        return ""
    state = state_of(tokenizer, small)
    known, whole = _BY_OBJECT.get(tokenizer, ("", ""))
    if known != state:
        whole = ""
        with suppress(Exception):  # it may have parts in Python, which cannot be written
            text = backend.to_str()
            # Without the settings in front, for truncation and padding, which are not used here.
            content = text[text.find('"added_tokens":') :]
            whole = digest([type(tokenizer).__qualname__.encode(), content.encode()])
        _BY_OBJECT[tokenizer] = state, whole
    return whole
