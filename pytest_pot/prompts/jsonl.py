"""Prompts in a JSON Lines file: one JSON object or string on each line."""

from __future__ import annotations

import json
from pathlib import Path

from pytest_pot.core.errors import InvalidArgument, PotError
from pytest_pot.core.git_files import refuse_git_leftovers
from pytest_pot.prompts.prompt import Prompt

__all__ = ["load_prompts", "parse_prompts"]

_FIELDS = ("text", "continuation", "kind", "id")


def load_prompts(path: str | Path) -> list[Prompt]:
    """The prompts of a JSON Lines file; each line is ``{"text": ..., "continuation": ...}`` or a JSON string.

    ``continuation`` and ``kind`` are optional, and so is ``id``, which is ignored; blank lines are skipped.

    Raises:
        PotError: the file cannot be read or has no prompt, or a line is invalid; the message names the line.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, ValueError) as error:  # ValueError: not UTF-8, or a name with NUL
        raise PotError(f"cannot read the prompts file {path}: {error}") from error
    refuse_git_leftovers("cannot read the prompts", [Path(path)])
    prompts = parse_prompts(text, str(path))
    if not prompts:
        raise PotError(f"the prompts file {path} holds no prompt")
    return prompts


def parse_prompts(text: str, source: str) -> list[Prompt]:
    """The prompts of ``text``, the content of a JSON Lines file; ``source`` names it in messages.

    Raises:
        PotError: a line is invalid; the message names the line.
    """
    # Not str.splitlines, which also splits at U+2028 and other separators that are allowed unescaped in JSON strings.
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
