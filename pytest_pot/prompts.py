"""Prompts: the texts on which two models are compared, the built-in suite, and its JSON Lines form."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from pytest_pot.errors import InvalidArgument, PotError

__all__ = ["Prompt", "as_prompts", "builtin_prompts", "listed", "load_prompts", "shorten"]

_BUILTIN_SIZE = 32
_FIELDS = ("text", "continuation", "kind", "id")


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
        PotError: there is no prompt, or :func:`listed` raises it.
    """
    taken = listed(prompts)
    if not taken:
        way_out = ", or none at all to use the built-in suite" if or_builtin else ""
        raise PotError(f"there are no prompts to score; give at least one{way_out}")
    return taken


def listed(prompts: Iterable[str | Prompt]) -> list[Prompt]:
    """:func:`as_prompts`, where there may be none.

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
    taken: list[Prompt] = []
    for index, prompt in enumerate(prompts):
        if isinstance(prompt, str):
            prompt = Prompt(prompt)
        if not isinstance(prompt, Prompt):
            raise InvalidArgument(f"prompt {index} is {type(prompt).__name__}, not a string or a pytest_pot.Prompt")
        taken.append(prompt)
    return taken


def builtin_prompts() -> list[Prompt]:
    """The first 32 prompts of the suite that comes with pytest-pot, balanced over its kinds."""
    text = resources.files("pytest_pot").joinpath("data/prompts.jsonl").read_text(encoding="utf-8")
    return _parse(text, "the built-in suite")[:_BUILTIN_SIZE]


def load_prompts(path: str | Path) -> list[Prompt]:
    """The prompts of a JSON Lines file: on each line ``{"text": ..., "continuation": ...}`` or a bare JSON string.

    ``continuation`` and ``kind`` are optional, and so is an ``id`` for people to refer to; blank lines are skipped.

    Raises:
        PotError: the file cannot be read, holds no prompt, or a line has another form; the line is named.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise PotError(f"cannot read the prompts file {path}: {error}") from error
    prompts = _parse(text, str(path))
    if not prompts:
        raise PotError(f"the prompts file {path} holds no prompt")
    return prompts


def _parse(text: str, source: str) -> list[Prompt]:
    # Not str.splitlines, which also breaks at U+2028 and other separators that JSON strings may hold as they are.
    return [_parse_line(line, f"{source}, line {n}") for n, line in enumerate(text.split("\n"), 1) if line.strip()]


def _parse_line(line: str, where: str) -> Prompt:
    try:
        value = json.loads(line)
    except json.JSONDecodeError as error:
        raise PotError(f"{where}: not JSON ({error}); each line is one JSON object or string") from error
    if isinstance(value, str):
        return Prompt(value)
    if not isinstance(value, dict) or "text" not in value:
        raise PotError(f'{where}: expected {{"text": ..., "continuation": ...}} or a string')
    unknown = sorted(set(value) - set(_FIELDS))
    if unknown:
        raise PotError(f"{where}: unknown field {unknown[0]!r}; the fields are {', '.join(_FIELDS)}")
    try:
        return Prompt(value["text"], value.get("continuation"), value.get("kind"))
    except InvalidArgument as error:
        raise PotError(f"{where}: {error}") from error


def shorten(text: str, width: int, *, keep: str = "start") -> str:
    """``text`` on one line of at most ``width`` characters, its start or its end kept."""
    line = text.replace("\n", "\\n").replace("\r", "\\r").replace("\t", "\\t")
    if len(line) <= width:
        return line
    return "…" + line[-(width - 1) :] if keep == "end" else line[: width - 1] + "…"
