"""The tokens that were added to a tokenizer: which of them prompts hold, and prompts that hold them all."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import Any

from pytest_pot.prompts.builtin import builtin_prompts
from pytest_pot.prompts.prompt import Prompt
from pytest_pot.prompts.tokenizer_parts import unchanged

__all__ = [
    "ADDED_TOKENS",
    "ADDED_TOKENS_NAME",
    "added_token_prompts",
    "added_without_row",
    "are_added_token_prompts",
    "asks_for_added_tokens",
    "expanded",
    "named_prompts",
    "unread_added_tokens",
]

ADDED_TOKENS_NAME = "added-tokens"
"""Names the built-in suite and these prompts, where a file of prompts can be named."""

_UNREAD_ROLES = ("sep_token", "pad_token", "cls_token", "mask_token")
"""Roles whose tokens a causal model may never have learnt, so that nothing is lost where no prompt holds them."""
_READ_ROLES = ("bos_token", "eos_token", "unk_token")
_KIND = "added token"
_PER_PROMPT = 4
"""Tokens per prompt: few enough that all of them are among the first 16 positions of a continuation."""
_COMPARED = 16
"""The fewest positions of a continuation that a preset compares."""
_LINES = 3
"""How often a prompt repeats its tokens before the continuation, so that a model expects them there."""
_WORDS = ("a", "b", "c", "d", "e")


class _AddedTokens(Prompt):
    """Stands in a list of prompts for :func:`added_token_prompts` of the tokenizer that will encode the list."""


ADDED_TOKENS: Prompt = _AddedTokens("", kind="added token")
"""In a list of prompts, this stands for :func:`added_token_prompts` of the tokenizer that encodes the list."""


def added_token_prompts(tokenizer: Any, n_rows: int | None = None) -> list[Prompt]:
    """Prompts that hold each token that was added to ``tokenizer``, in the context and in the continuation.

    So a gate compares what both models read from the token's row of the embeddings, and what they predict by its row of the
    output layer. Each prompt repeats up to four tokens, because a model that works expects a repetition to go on.

    Tokens that no text gives are left out, so the list is empty for a tokenizer without added tokens.

    Args:
        n_rows: how many rows the embeddings of the models have. Tokens whose ids have none, such as a padding token that was
            added to the tokenizer alone, are left out.
    """
    missing = {index: text for index, text in _added(tokenizer) if n_rows is None or index < n_rows}
    prompts: list[Prompt] = []
    # Tokens of white space run together with the spaces around them, and tokens without spaces around them may be cut
    # differently. So each layout is tried on the tokens that those before it lost, one by one and then together.
    for size, layout in ((_PER_PROMPT, _apart), (_PER_PROMPT, _between_words), (1, _apart), (1, _between_words)):
        alone = {index: text for index, text in missing.items() if index in _held(tokenizer, layout([text]))}
        for group in _groups(list(alone.items()), size):
            prompt = layout([text for _, text in group])
            held = _held(tokenizer, prompt) & dict(group).keys()
            if held:
                prompts.append(prompt)
            missing = {index: text for index, text in missing.items() if index not in held}
    return prompts


def are_added_token_prompts(prompts: Iterable[Prompt]) -> bool:
    """Whether any of ``prompts`` is one of :func:`added_token_prompts`."""
    return any(prompt.kind == _KIND for prompt in prompts)


def added_without_row(tokenizer: Any, n_rows: int | None) -> list[str]:
    """The added tokens whose ids are beyond the models' embeddings, as text."""
    return [] if n_rows is None else [text for index, text in _added(tokenizer) if index >= n_rows]


def named_prompts(name: str) -> list[Prompt] | None:
    """The prompts of a name that stands in the place of a file: :data:`ADDED_TOKENS_NAME`; None for any other name."""
    return [*builtin_prompts(), ADDED_TOKENS] if name == ADDED_TOKENS_NAME else None


def unread_added_tokens(tokenizer: Any, read: Iterable[Sequence[int]], n_rows: int | None = None) -> list[str]:
    """The added tokens that are in none of the sequences ``read`` of ids.

    Those for padding, separation and masks are not counted, unless they are BOS, EOS or UNK as well; nor are those without a
    row; see :func:`added_token_prompts`.
    """
    ids = {index for sequence in read for index in sequence}
    may_be_unread = _with_role(tokenizer, _UNREAD_ROLES) - _with_role(tokenizer, _READ_ROLES)
    return [
        text
        for index, text in _added(tokenizer)
        if index not in ids and text not in may_be_unread and (n_rows is None or index < n_rows)
    ]


def expanded(prompts: Sequence[Prompt], tokenizer: Any, n_rows: int | None = None) -> list[Prompt]:
    """``prompts`` with :data:`ADDED_TOKENS` replaced by what it stands for."""
    lists = (added_token_prompts(tokenizer, n_rows) if isinstance(prompt, _AddedTokens) else [prompt] for prompt in prompts)
    return [prompt for each in lists for prompt in each]


def asks_for_added_tokens(prompts: Iterable[object]) -> bool:
    """Whether :data:`ADDED_TOKENS` is among ``prompts``."""
    return any(isinstance(prompt, _AddedTokens) for prompt in prompts)


def _with_role(tokenizer: Any, roles: Iterable[str]) -> set[str]:
    return {str(token) for role in roles if (token := getattr(tokenizer, role, None)) is not None}


def _groups(items: Sequence[tuple[int, str]], size: int) -> Iterator[Sequence[tuple[int, str]]]:
    return (items[start : start + size] for start in range(0, len(items), size))


def _apart(tokens: Sequence[str]) -> Prompt:
    return _repeated(" ".join(tokens))


def _between_words(tokens: Sequence[str]) -> Prompt:
    return _repeated("".join(chain.from_iterable(zip(_WORDS, tokens, strict=False))) + _WORDS[-1])


def _repeated(line: str) -> Prompt:
    return Prompt("\n".join(["Again and again:", *[line] * _LINES, ""]), line, _KIND)


def _held(tokenizer: Any, prompt: Prompt) -> set[int]:
    """The ids that are in the context and in the compared part of the continuation."""
    return {*_ids(tokenizer, prompt.text)} & {*_ids(tokenizer, prompt.continuation or "")[:_COMPARED]}


def _added(tokenizer: Any) -> list[tuple[int, str]]:
    """The added tokens with their ids, by id; none for a tokenizer that does not list them."""
    tokens = getattr(tokenizer, "added_tokens_decoder", None)
    if not isinstance(tokens, dict):
        return []
    return sorted((int(index), str(token)) for index, token in tokens.items())


def _ids(tokenizer: Any, text: str) -> list[int]:
    with unchanged(tokenizer):
        return [int(token) for token in tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]]
