"""The prompts that an engine is checked on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pytest_pot.core.errors import PotError
from pytest_pot.core.text import quoted
from pytest_pot.engines.tokens import Tokens
from pytest_pot.prompts.prompt import Prompt, as_prompts
from pytest_pot.prompts.tokenization import tokenise

__all__ = ["tokens_of"]

_MOST_POSITIONS = 8

_TEXTS = (
    Prompt("The capital of France is Paris, and the capital of Japan", " is the city of Tokyo."),
    Prompt("def double(x):", "\n    return 2 * x\n"),
    Prompt("東京は日本の首都です。Zürich – größte Stadt der", " Schweiz 🙂 日本"),
    Prompt("1 + 1 = 2, 2 + 2 =", " 4, 4 + 4 = 8"),
    Prompt("It was a dark and stormy night; the rain fell in torrents, except at", " occasional intervals"),
    Prompt("1 + 1 = 2, 2 + 2 =", " 4, 4 + 4 = 8"),
    Prompt("Once", " upon a time there was"),
    Prompt("1 + 1 = 2, 2 + 2 =", " 5, 3 + 3 = 6"),
)
"""Different lengths in no order, so that sorting shows; two are equal, and one begins with a single token. The last shares its
context, but not its continuation, with those: a cache that goes by the context alone returns the rows of another."""
_SINGLE_TOKEN = 6
_SINGLE_POSITION = 4


def tokens_of(tokenizer: Any, prompts: Sequence[str | Prompt] | None, limit: int | None) -> list[Tokens]:
    """The token ids of ``prompts``, or of the built-in texts, each with at most 8 positions.

    The last half of a prompt without a continuation is its continuation. ``limit``: the most tokens of a sequence; longer ones
    lose their beginning.

    Raises:
        PotError: there is no prompt, or one has fewer than two tokens.
    """
    chosen = list(_TEXTS) if prompts is None else as_prompts(prompts)
    if not chosen:
        raise PotError("there are no prompts to check the engine on: give some, or leave prompts out for the built-in ones")
    tokens = []
    for index, (prompt, (context, continuation)) in enumerate(zip(chosen, tokenise(tokenizer, chosen), strict=True)):
        ids = [*context, *(continuation or ())]
        if len(ids) < 2:
            raise PotError(f"prompt {index} ({quoted(prompt.text, 40)}) has a single token and no continuation: give it one")
        positions = min(_MOST_POSITIONS, len(continuation or ()) or len(ids) // 2)
        start = len(context) if continuation else len(ids) - positions
        if prompts is None and index == _SINGLE_TOKEN:  # however many tokens the tokenizer makes of the word
            start = 1
        if prompts is None and index == _SINGLE_POSITION:
            positions = 1
        start, ids = _cut(ids[: start + positions], start, limit)
        tokens.append(Tokens(tuple(ids), start))
    return tokens


def _cut(ids: list[int], start: int, limit: int | None) -> tuple[int, list[int]]:
    """``ids`` without so many at their beginning that at most ``limit`` are left, and where their continuation starts."""
    extra = 0 if limit is None else max(0, len(ids) - limit)
    return max(1, start - extra), ids[extra:]
