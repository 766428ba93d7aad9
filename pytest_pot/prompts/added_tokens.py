"""The tokens that were added to a tokenizer: which of them prompts hold, and prompts that hold them all."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from pytest_pot.prompts.builtin import builtin_prompts
from pytest_pot.prompts.prompt import Prompt
from pytest_pot.prompts.tokenizer_parts import unchanged

__all__ = ["ADDED_TOKENS", "ADDED_TOKENS_NAME", "added_token_prompts", "expanded", "named_prompts", "unread_added_tokens"]

ADDED_TOKENS_NAME = "added-tokens"
"""Names the built-in suite and these prompts, where a file of prompts can be named."""

_ROLES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
_PER_PROMPT = 4
"""Tokens per prompt: few enough that all of them are among the first 16 positions of a continuation."""
_LINES = 3
"""How often a prompt repeats its tokens before the continuation, so that a model expects them there."""


class _AddedTokens(Prompt):
    """Stands in a list of prompts for :func:`added_token_prompts` of the tokenizer that will encode the list."""


ADDED_TOKENS: Prompt = _AddedTokens("", kind="added token")
"""In a list of prompts, this stands for :func:`added_token_prompts` of the tokenizer that encodes the list."""


def added_token_prompts(tokenizer: Any) -> list[Prompt]:
    """Prompts that hold each token that was added to ``tokenizer``, in the context and in the continuation.

    So a gate compares what both models read from the token's row of the embeddings, and what they predict by its row of the
    output layer. Each prompt repeats four tokens, because a model that works expects a repetition to go on.

    Tokens that no text gives are left out, so the list is empty for a tokenizer without added tokens.
    """
    tokens = [text for index, text in _added(tokenizer) if index in _ids(tokenizer, f"a {text} a {text}")[1:]]
    groups = (tokens[start : start + _PER_PROMPT] for start in range(0, len(tokens), _PER_PROMPT))
    return [_prompt(group) for group in groups]


def named_prompts(name: str) -> list[Prompt] | None:
    """The prompts of a name that stands in the place of a file: :data:`ADDED_TOKENS_NAME`; None for any other name."""
    return [*builtin_prompts(), ADDED_TOKENS] if name == ADDED_TOKENS_NAME else None


def unread_added_tokens(tokenizer: Any, read: Iterable[Sequence[int]]) -> list[str]:
    """The added tokens that are in none of the sequences ``read`` of ids.

    Those with a role that every tokenizer has, such as BOS and padding, are not counted.
    """
    ids = {index for sequence in read for index in sequence}
    roles = {str(getattr(tokenizer, role, None)) for role in _ROLES}
    return [text for index, text in _added(tokenizer) if index not in ids and text not in roles]


def expanded(prompts: Sequence[Prompt], tokenizer: Any) -> list[Prompt]:
    """``prompts`` with :data:`ADDED_TOKENS` replaced by what it stands for."""
    lists = (added_token_prompts(tokenizer) if isinstance(prompt, _AddedTokens) else [prompt] for prompt in prompts)
    return [prompt for each in lists for prompt in each]


def _prompt(tokens: Sequence[str]) -> Prompt:
    line = " ".join(tokens)
    return Prompt("\n".join(["Again and again:", *[line] * _LINES, ""]), line, "added token")


def _added(tokenizer: Any) -> list[tuple[int, str]]:
    """The added tokens with their ids, by id; none for a tokenizer that does not list them."""
    tokens = getattr(tokenizer, "added_tokens_decoder", None)
    if not isinstance(tokens, dict):
        return []
    return sorted((int(index), str(token)) for index, token in tokens.items())


def _ids(tokenizer: Any, text: str) -> list[int]:
    with unchanged(tokenizer):
        return [int(token) for token in tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]]
