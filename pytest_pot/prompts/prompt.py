"""A prompt: a text or a chat, and the continuation whose prediction is compared."""

from __future__ import annotations

import json
import reprlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pytest_pot.core.errors import InvalidArgument, PotError
from pytest_pot.core.text import shorten

__all__ = ["Prompt", "as_prompts", "as_prompts_or_none"]


@dataclass(frozen=True)
class Prompt:
    """A context, and the continuation whose prediction is compared.

    With ``continuation=None``, the reference samples a continuation with a fixed seed. A context is a text, encoded with the
    tokenizer's special tokens, or a chat; see :meth:`chat`.
    """

    text: str
    """The context. Of a chat: empty, and what it is rendered to once a tokenizer has done so."""
    continuation: str | None = None
    kind: str | None = None
    """The kind of text (``"code"``, ``"fact"``, ...); shown with the prompt; it does not change its score."""
    messages: Sequence[Mapping[str, Any]] | None = field(default=None, hash=False, kw_only=True)
    """A chat, message by message; None for a text."""

    @classmethod
    def chat(cls, messages: Sequence[Mapping[str, Any]], continuation: str | None = None, kind: str | None = None) -> Prompt:
        """A chat, and the answer whose prediction is compared.

        The tokenizer's own chat template renders the messages and the beginning of the assistant's turn. The result is
        encoded without adding special tokens, because a template writes those that it needs.

        Args:
            messages: each ``{"role": ..., "content": ...}``, with whatever else the template reads, in JSON types.
            continuation: how the assistant's turn goes on; None lets the reference sample it.

        Raises:
            InvalidArgument: ``messages`` is not a list of messages, or holds what JSON cannot.
        """
        if messages is None:
            raise InvalidArgument('Prompt.chat(None): messages must be a list of {"role": ..., "content": ...}')
        return cls("", continuation, kind, messages=messages)

    def __post_init__(self) -> None:
        for name in ("text", "continuation", "kind"):
            value = getattr(self, name)
            if not isinstance(value, str) and not (value is None and name != "text"):
                raise InvalidArgument(f"Prompt({name}={_shown(value)}): {name} must be a string")
            if value is not None:
                _check_characters(f"Prompt: {name}", value)
        if self.messages is not None:
            object.__setattr__(self, "messages", _checked_messages(self.messages))


def as_prompts(prompts: Iterable[str | Prompt], *, or_builtin: bool = False) -> list[Prompt]:
    """``prompts`` as a list of :class:`Prompt`; bare strings become prompts without a continuation.

    ``or_builtin``: whether omitting ``prompts`` selects the built-in suite; the error for an empty list then says so.

    Raises:
        PotError: ``prompts`` is empty.
        InvalidArgument: as :func:`as_prompts_or_none`.
    """
    converted = as_prompts_or_none(prompts)
    if not converted:
        alternative = ", or omit prompts to use the built-in suite" if or_builtin else ""
        raise PotError(f"there are no prompts to score; give at least one{alternative}")
    return converted


def as_prompts_or_none(prompts: Iterable[str | Prompt]) -> list[Prompt]:
    """:func:`as_prompts` for a list that may be empty.

    Raises:
        InvalidArgument: ``prompts`` is not a list, or an element is neither a string nor a :class:`Prompt`.
    """
    if isinstance(prompts, str | Prompt):
        raise InvalidArgument(f"prompts must be a list of prompts, not one: write [{prompts!r}]")
    if isinstance(prompts, Path):
        call = f"pytest_pot.prompts.load_prompts({str(prompts)!r})"
        raise InvalidArgument(f"prompts must be a list of prompts, not a file: {call} reads one")
    if isinstance(prompts, Mapping) or not isinstance(prompts, Iterable):
        kind = "None" if prompts is None else type(prompts).__name__
        raise InvalidArgument(f"prompts must be a list of strings and pytest_pot.Prompt, not {kind}")
    converted: list[Prompt] = []
    for index, prompt in enumerate(prompts):
        if isinstance(prompt, str):
            try:
                prompt = Prompt(prompt)
            except InvalidArgument as error:
                raise InvalidArgument(f"prompt {index}: {error}") from error
        if not isinstance(prompt, Prompt):
            raise InvalidArgument(f"prompt {index} is {type(prompt).__name__}, not a string or a pytest_pot.Prompt")
        converted.append(prompt)
    return converted


def _shown(value: object) -> str:
    """The beginning of a value that is no text."""
    try:
        return shorten(reprlib.repr(value), 80)
    except ValueError:  # a number of thousands of digits
        return type(value).__name__


def _check_characters(name: str, text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InvalidArgument(
            f"{name} has half of a character at index {error.start} ({text[error.start]!a}, a lone surrogate), which no "
            "tokenizer can read: it was cut inside a character, or decoded with surrogateescape"
        ) from error


def _checked_messages(messages: object) -> tuple[Mapping[str, Any], ...]:
    """A copy of ``messages`` in JSON types, so that it stays as it is.

    Raises:
        InvalidArgument: it is not a list of messages; the message says which one is wrong.
    """
    if isinstance(messages, str | Mapping) or not isinstance(messages, Iterable):
        raise InvalidArgument(
            f'Prompt.chat: messages must be a list of {{"role": ..., "content": ...}}, not {type(messages).__name__}'
        )
    listed = list(messages)
    if not listed:
        raise InvalidArgument("Prompt.chat: messages is empty; a chat has at least one message")
    for index, message in enumerate(listed):
        name = f"Prompt.chat: messages[{index}]"
        if not isinstance(message, Mapping):
            raise InvalidArgument(f'{name} is {type(message).__name__}, not {{"role": ..., "content": ...}}')
        if not isinstance(message.get("role"), str):
            raise InvalidArgument(f'{name} has no role; give it one, such as "role": "user"')
        content = message.get("content")
        if not isinstance(content, str | list | tuple) and not (content is None and message.get("tool_calls")):
            raise InvalidArgument(f"{name} has no content; it must be a string, or a list of parts")
    try:
        text = json.dumps(listed, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidArgument(f"Prompt.chat: messages hold something else than JSON types: {error}") from error
    _check_characters("Prompt.chat: messages, as JSON,", text)
    return tuple(json.loads(text))
