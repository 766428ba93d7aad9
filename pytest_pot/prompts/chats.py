"""Render chats by a tokenizer's own chat template."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from pytest_pot.core.errors import PotError
from pytest_pot.core.text import shorten
from pytest_pot.prompts.prompt import Prompt

__all__ = ["rendered", "writes_the_date"]

_REASON = 300
"""Characters of a template's error that a message quotes."""


def rendered(tokenizer: Any, prompts: Sequence[Prompt], whose: str = "the tokenizer") -> list[Prompt]:
    """``prompts`` with the text of each chat rendered by ``tokenizer``; texts stay as they are.

    ``whose``: what an error calls the tokenizer, in front of its name.

    Raises:
        PotError: the tokenizer has no chat template, or the template refuses a chat; the message names the prompt.
    """
    return [
        prompt if prompt.messages is None else replace(prompt, text=_render(tokenizer, prompt, index, whose))
        for index, prompt in enumerate(prompts)
    ]


def writes_the_date(tokenizer: Any) -> bool:
    """Whether the chat template may write today's date, so that it renders a chat differently from day to day."""
    return "strftime_now" in str(getattr(tokenizer, "chat_template", None))


def _render(tokenizer: Any, prompt: Prompt, index: int, whose: str) -> str:
    called = _called(whose, tokenizer)
    if not callable(getattr(tokenizer, "apply_chat_template", None)) or not getattr(tokenizer, "chat_template", None):
        raise PotError(
            f"prompt {index} is a chat, and {called} has no chat template to render it with. Put the template "
            "(chat_template.jinja) beside the tokenizer's files; name a tokenizer that has one with --pot-tokenizer or the "
            "pot_tokenizer fixture; or give the prompt as a text"
        )
    try:
        text = tokenizer.apply_chat_template(list(prompt.messages or ()), tokenize=False, add_generation_prompt=True)
    except Exception as error:  # a template is a program that others wrote, and may raise anything
        reason = shorten(" ".join(str(error).split()) or type(error).__name__, _REASON).rstrip(".")
        raise PotError(
            f"prompt {index}: the chat template of {called} cannot render this chat: {reason}. Give messages that "
            "the template takes, or another template"
        ) from error
    if not isinstance(text, str):
        raise PotError(f"prompt {index}: the chat template of {called} rendered {type(text).__name__} instead of a text")
    return text


def _called(whose: str, tokenizer: Any) -> str:
    name = getattr(tokenizer, "name_or_path", None)
    return f"{whose} {shorten(str(name), 200)}" if name else f"{whose} ({type(tokenizer).__name__})"
