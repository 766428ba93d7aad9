"""Encode texts in few calls of the tokenizer, and keep their ids while the tokenizer stays as it is."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from pytest_pot.prompts.tokenizer_parts import unchanged
from pytest_pot.prompts.tokenizer_state import tokenizer_state

__all__ = ["Text", "encoded_texts"]

Text: TypeAlias = tuple[str, bool]
"""A text, and whether the tokenizer adds its special tokens to it."""

_MOST_TOKENS = 1 << 19
"""Tokens that are kept for one tokenizer: some 20 MB, and about eight times the built-in suite."""


@dataclass
class _Kept:
    """The ids of texts by a tokenizer in one state."""

    state: str
    n_tokens: int = 0
    ids: dict[Text, list[int]] = field(default_factory=dict)
    tokens: dict[int, str | None] = field(default_factory=dict)
    """The token of each id in ``ids``."""

    def has_tokens_of(self, backend: Any) -> bool:
        """Whether every id that is kept still stands for the same token."""
        return list(map(backend.id_to_token, self.tokens)) == list(self.tokens.values())

    def add(self, encoded: dict[Text, list[int]], backend: Any) -> None:
        """Keep ``encoded``, and forget all else where that would be too much."""
        n_tokens = sum(map(len, encoded.values()))
        if self.n_tokens + n_tokens > _MOST_TOKENS:
            self.ids, self.tokens, self.n_tokens = {}, {}, 0
        if n_tokens <= _MOST_TOKENS:
            self.ids.update(encoded)
            self.n_tokens += n_tokens
            new = set[int]().union(*encoded.values()) - self.tokens.keys()
            self.tokens.update((token, backend.id_to_token(token)) for token in new)


_KEPT: weakref.WeakKeyDictionary[Any, _Kept] = weakref.WeakKeyDictionary()


def encoded_texts(tokenizer: Any, texts: Sequence[Text]) -> list[list[int]]:
    """The ids of each of ``texts``. The tokenizer's settings are restored.

    The ids by a fast tokenizer of transformers are kept. They are used again while its state is the same (see
    :func:`~pytest_pot.prompts.tokenizer_state.tokenizer_state` for what that sees) and every id that is kept still stands for
    the same token. Otherwise all texts are encoded.

    Not seen are other merges or scores in a model that stays in its place (``backend_tokenizer.train``), where all kept ids
    still stand for the same tokens, and the fixed text that is part of the state still has the same ids.
    """
    state = tokenizer_state(tokenizer)
    if state is None:
        with unchanged(tokenizer):
            return [_encode(tokenizer, text, special=special) for text, special in texts]
    backend, kept = tokenizer.backend_tokenizer, _KEPT.get(tokenizer)
    if kept is None or kept.state != state or not kept.has_tokens_of(backend):
        kept = _KEPT[tokenizer] = _Kept(state)
    missing = dict.fromkeys(text for text in texts if text not in kept.ids)
    encoded: dict[Text, list[int]] = {}
    with unchanged(tokenizer):
        for special in (True, False):
            group = [text for text, is_special in missing if is_special == special]
            if group:
                # verbose=False: the warning about long texts would also change the tokenizer's state.
                ids = tokenizer(group, add_special_tokens=special, verbose=False)["input_ids"]
                encoded.update(zip(((text, special) for text in group), ids, strict=True))
    known = {**kept.ids, **encoded} if encoded else kept.ids
    kept.add(encoded, backend)
    return [known[text].copy() for text in texts]


def _encode(tokenizer: Any, text: str, *, special: bool) -> list[int]:
    # int: a custom tokenizer may return numpy integers, which json cannot write.
    return [int(token) for token in tokenizer(text, add_special_tokens=special, verbose=False)["input_ids"]]
