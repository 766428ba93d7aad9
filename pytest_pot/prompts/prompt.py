"""A prompt: a text, and the continuation whose prediction is compared."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from pytest_pot.core.errors import InvalidArgument, PotError

__all__ = ["Prompt", "as_prompts", "as_prompts_or_none"]


@dataclass(frozen=True)
class Prompt:
    """A context, and the text whose prediction is compared.

    ``continuation=None`` lets the reference continue the prompt itself, by seeded sampling.
    """

    text: str
    continuation: str | None = None
    kind: str | None = None
    """What sort of text this is (``"code"``, ``"fact"``, ...); shown with the prompt, never used in the arithmetic."""

    def __post_init__(self) -> None:
        for name in ("text", "continuation", "kind"):
            value = getattr(self, name)
            if not isinstance(value, str) and not (value is None and name != "text"):
                raise InvalidArgument(f"Prompt({name}={value!r}): {name} must be a string")


def as_prompts(prompts: Iterable[str | Prompt], *, or_builtin: bool = False) -> list[Prompt]:
    """``prompts`` as a list of :class:`Prompt`; bare strings become prompts without a continuation.

    ``or_builtin``: whether leaving ``prompts`` out means the built-in suite; where there is none, the message says so.

    Raises:
        PotError: there is no prompt, or :func:`as_prompts_or_none` raises it.
    """
    converted = as_prompts_or_none(prompts)
    if not converted:
        way_out = ", or none at all to use the built-in suite" if or_builtin else ""
        raise PotError(f"there are no prompts to score; give at least one{way_out}")
    return converted


def as_prompts_or_none(prompts: Iterable[str | Prompt]) -> list[Prompt]:
    """:func:`as_prompts` for a list that may be empty.

    Raises:
        InvalidArgument: that is no list of prompts, or one is neither a string nor a :class:`Prompt`.
    """
    if isinstance(prompts, str | Prompt):
        raise InvalidArgument(f"prompts must be a list of prompts, not one: write [{prompts!r}]")
    if isinstance(prompts, Path):
        reads = f"pytest_pot.prompts.load_prompts({str(prompts)!r}) reads one"
        raise InvalidArgument(f"prompts must be a list of prompts, not a file: {reads}")
    if isinstance(prompts, Mapping) or not isinstance(prompts, Iterable):
        kind = "None" if prompts is None else type(prompts).__name__
        raise InvalidArgument(f"prompts must be a list of strings and pytest_pot.Prompt, not {kind}")
    converted: list[Prompt] = []
    for index, prompt in enumerate(prompts):
        if isinstance(prompt, str):
            prompt = Prompt(prompt)
        if not isinstance(prompt, Prompt):
            raise InvalidArgument(f"prompt {index} is {type(prompt).__name__}, not a string or a pytest_pot.Prompt")
        converted.append(prompt)
    return converted
