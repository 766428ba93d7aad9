"""Prompts in a JSON Lines file: one JSON object or string on each line."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from pytest_pot.core.errors import InvalidArgument, PotError
from pytest_pot.core.files import FILE, kind_of_file
from pytest_pot.core.git_files import refuse_git_leftovers
from pytest_pot.core.text import shorten
from pytest_pot.prompts.prompt import Prompt

__all__ = ["check_regular", "load_prompts", "parse_prompts"]

_FIELDS = ("text", "messages", "continuation", "kind", "id")
_MOST_BYTES = 1 << 28
"""The largest file that is read: far more than any suite that can be scored."""
_FORM = '{"text": ..., "continuation": ...}, {"messages": [...], "continuation": ...} or a string'


def load_prompts(path: str | Path) -> list[Prompt]:
    """The prompts of a JSON Lines file.

    Each line is ``{"text": ..., "continuation": ...}``, ``{"messages": [...], "continuation": ...}`` for a chat (see
    :meth:`Prompt.chat`), or a JSON string. ``continuation``, ``kind`` and ``id`` are optional. No two prompts may have the same
    ``id``, which is not used otherwise. Blank lines are skipped.

    Raises:
        PotError: the file cannot be read or has no prompt, or a line is invalid; the message names the line.
    """
    text = _read(path)
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
    prompts: list[Prompt] = []
    lines: dict[str, int] = {}
    # Not str.splitlines, which also splits at U+2028 and other separators that are allowed unescaped in JSON strings.
    for n, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        value = _parsed(line, f"{source}, line {n}")
        prompts.append(_prompt(value, f"{source}, line {n}"))
        if isinstance(value, dict) and value.get("id") is not None:
            key = json.dumps(value["id"], sort_keys=True)
            if key in lines:
                raise PotError(
                    f"{source}, line {n}: the id {shorten(key, 60)} is also that of line {lines[key]}; give each prompt an id "
                    "of its own, or none"
                )
            lines[key] = n
    return prompts


def check_regular(path: str | Path) -> None:
    """Refuse a file of prompts that is not a regular file: a FIFO would wait for a writer, and a device may never end.

    Raises:
        PotError: it is something else, or there is no such file.
    """
    try:
        os.stat(path)
    except (OSError, ValueError) as error:  # ValueError: the name has a NUL
        raise PotError(f"cannot read the prompts file {path}: {error}") from error
    kind = kind_of_file(path)
    if kind != FILE:
        raise PotError(f"cannot read the prompts file {path}: it is {kind}, not a regular file")


def _read(path: str | Path) -> str:
    """The text of a file; a byte order mark, which some editors write, is left out."""
    check_regular(path)
    problem = f"cannot read the prompts file {path}"
    try:
        with open(path, "rb") as file:
            content = file.read(_MOST_BYTES + 1)
    except OSError as error:
        raise PotError(f"{problem}: {error}") from error
    if len(content) > _MOST_BYTES:
        raise PotError(f"{problem}: it has more than {_MOST_BYTES >> 20} MiB, which is too much for a suite of prompts")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise PotError(f"{problem}, line {line}: {error}; save it as UTF-8") from error


def _parsed(line: str, where: str) -> Any:
    try:
        return json.loads(line, object_pairs_hook=_object)
    except RecursionError as error:
        raise PotError(f"{where}: brackets are nested too deeply for a prompt") from error
    except ValueError as error:  # no JSON, or a number of thousands of digits
        raise PotError(f"{where}: not JSON ({error}); each line is one JSON object or string") from error


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the field {shorten(ascii(twice), 60)} is there twice")
    return fields


def _prompt(value: Any, where: str) -> Prompt:
    try:
        if isinstance(value, str):
            return Prompt(value)
        if not isinstance(value, dict) or ("text" in value) == ("messages" in value):
            raise PotError(f"{where}: expected {_FORM}")
        unknown = sorted(set(value) - set(_FIELDS))
        if unknown:
            raise PotError(f"{where}: unknown field {unknown[0]!r}; the fields are {', '.join(_FIELDS)}")
        if "messages" in value:
            return Prompt.chat(value["messages"], value.get("continuation"), value.get("kind"))
        return Prompt(value["text"], value.get("continuation"), value.get("kind"))
    except InvalidArgument as error:
        raise PotError(f"{where}: {error}") from error
