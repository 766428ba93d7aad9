"""A prompt: a text, and the continuation whose prediction is compared."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from pytest_pot.core.errors import InvalidArgument, PotError

__all__ = ["Prompt", "as_prompts", "as_prompts_or_none"]


@dataclass(frozen=True)
class Prompt:
    """A context, and the continuation whose prediction is compared.

    With ``continuation=None``, the reference samples a continuation with a fixed seed.
    """

    text: str
    continuation: str | None = None
    kind: str | None = None
    """The kind of text (``"code"``, ``"fact"``, ...); shown with the prompt; it does not change its score."""

    def __post_init__(self) -> None:
        for name in ("text", "continuation", "kind"):
            value = getattr(self, name)
            if not isinstance(value, str) and not (value is None and name != "text"):
                raise InvalidArgument(f"Prompt({name}={value!r}): {name} must be a string")


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
            prompt = Prompt(prompt)
        if not isinstance(prompt, Prompt):
            raise InvalidArgument(f"prompt {index} is {type(prompt).__name__}, not a string or a pytest_pot.Prompt")
        converted.append(prompt)
    return converted
