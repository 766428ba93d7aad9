"""Encode prompts as token ids, each text once, and check that two tokenizers agree."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any, TypeAlias

from pytest_pot.core.errors import PotError
from pytest_pot.core.text import shorten
from pytest_pot.engines.tokens import Tokens
from pytest_pot.prompts.prompt import Prompt, as_prompts

__all__ = ["Encoded", "EncodedPrompts", "fit", "tokenise", "unchanged"]

Encoded: TypeAlias = tuple[list[int], list[int] | None]
"""The ids of a prompt's text and of its continuation; None instead of the latter if there is no continuation."""


class EncodedPrompts:
    """Prompts and their token ids by one tokenizer, encoded once, at the first use.

    Prompts are checked at the first use too, so that the gate that uses them reports the error.
    """

    def __init__(self, prompts: Iterable[str | Prompt], tokenizer: Any, *, or_builtin: bool = False) -> None:
        """``or_builtin``: whether omitting the prompts selects the built-in suite; the error for an empty list then says so."""
        self._prompts = prompts
        self._or_builtin = or_builtin
        self.tokenizer = tokenizer

    @property
    def is_empty(self) -> bool:
        """Whether there is no prompt; the first use then raises."""
        return isinstance(self._prompts, Sequence) and not self._prompts

    @cached_property
    def prompts(self) -> list[Prompt]:
        """The prompts.

        Raises:
            PotError: there is no prompt, or an element is neither a string nor a :class:`Prompt`.
        """
        return as_prompts(self._prompts, or_builtin=self._or_builtin)

    @cached_property
    def ids(self) -> list[Encoded]:
        """The ids of every prompt.

        Raises:
            PotError: as :func:`tokenise`.
        """
        return tokenise(self.tokenizer, self.prompts)

    def __len__(self) -> int:
        return len(self.prompts)

    def first(self, n: int) -> EncodedPrompts:
        """The first ``n`` prompts, which are encoded separately."""
        return EncodedPrompts(self.prompts[:n], self.tokenizer)

    def check_same(self, tokenizer: Any) -> None:
        """Raise :class:`PotError` unless the candidate's ``tokenizer`` gives the same ids.

        The message shows the first prompt that differs, with both tokenizers' ids.
        """
        if tokenizer is self.tokenizer:
            return
        other_ids = tokenise(tokenizer, self.prompts)
        for index, (encoded, other_encoded) in enumerate(zip(self.ids, other_ids, strict=True)):
            for part, ids, other in zip(("text", "continuation"), encoded, other_encoded, strict=True):
                if ids != other:
                    raise PotError(
                        f"the tokenizers of reference and candidate disagree on the {part} of prompt {index} "
                        f"({shorten(getattr(self.prompts[index], part), 60)!r}):\n"
                        f"  reference: {_listed(ids)}\n  candidate: {_listed(other)}\n"
                        "Both models must read the same tokens. If the candidate's tokenizer is not meant to be used, name the "
                        "one to use with --pot-tokenizer or the pot_tokenizer fixture."
                    )


def tokenise(tokenizer: Any, prompts: Sequence[Prompt]) -> list[Encoded]:
    """The ids of each prompt's text, with the tokenizer's special tokens, and of its continuation, without them.

    The tokenizer's settings are restored.

    Raises:
        PotError: a text or a continuation has no tokens, so there would be no position to score.
    """
    encoded: list[Encoded] = []
    with unchanged(tokenizer):
        for index, prompt in enumerate(prompts):
            context = _encode(tokenizer, prompt.text, special=True)
            if not context:
                raise PotError(
                    f"prompt {index} ({prompt.text!r}) has no tokens with this tokenizer, so nothing predicts the first "
                    "token of its continuation: give it a text"
                )
            continuation = None
            if prompt.continuation is not None:
                continuation = _encode(tokenizer, prompt.continuation, special=False)
                if not continuation:
                    raise PotError(
                        f"prompt {index} ({shorten(prompt.text, 40)!r}) has the continuation {prompt.continuation!r}, which "
                        "has no tokens: there is no position to score. Give it a text, or None to let the reference "
                        "continue the prompt"
                    )
            encoded.append((context, continuation))
    return encoded


def fit(index: int, context: Sequence[int], continuation: Sequence[int], max_length: int) -> Tokens:
    """``context``, cut on the left, and ``continuation``, never cut: at most ``max_length`` tokens together.

    Raises:
        PotError: the continuation leaves no room for even one token of ``context``.
    """
    room = max_length - len(continuation)
    if room < 1:
        raise PotError(
            f"prompt {index}: its continuation of {len(continuation)} tokens leaves no room for the prompt in "
            f"max_length={max_length}; raise max_length or lower positions_per_prompt"
        )
    kept = context[-room:]
    return Tokens((*kept, *continuation), len(kept), truncated=len(kept) < len(context))


def _encode(tokenizer: Any, text: str, *, special: bool) -> list[int]:
    # verbose=False: the warning about long texts would also change the tokenizer's state.
    # int: a custom tokenizer may return numpy integers, which json cannot write.
    return [int(token) for token in tokenizer(text, add_special_tokens=special, verbose=False)["input_ids"]]


def _listed(ids: list[int] | None, most: int = 24) -> str:
    if ids is None:
        return "none"
    return f"{ids}" if len(ids) <= most else f"[{', '.join(map(str, ids[:most]))}, … {len(ids)} ids]"


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
