"""Prompts: the texts on which two models are compared, the built-in suite, and its JSON Lines form."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from pytest_pot.core.errors import InvalidArgument, PotError
from pytest_pot.prompts.long_contexts import compose

__all__ = ["Prompt", "as_prompts", "builtin_prompts", "listed", "load_prompts", "shorten"]

_FIRST = 32
"""The prompts that come before the first long one; the presets' ``max_length`` would cut those."""
_KINDS = 8
"""The kinds that are stored, in turns; after each round of them beyond the first prompts comes one of kind ``"long"``."""
_PASSAGES = (4, 5, 7)
"""How many passages stand before the last one of a long prompt, in turns."""
_PASSAGES_MULTILINGUAL = (2,)
"""The same where a passage has up to 800 tokens, as tokenizers made for English split other scripts."""
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


def builtin_prompts(n: int | None = 32) -> list[Prompt]:
    """The first ``n`` prompts of the suite that comes with pytest-pot; None is all 257 of them.

    The order is for good: eight kinds take turns, and from the 33rd prompt on a ninth, ``"long"``, with contexts of 512 to
    2,000 tokens composed from the prompts before. So every 32 in a row are balanced over the kinds. Every continuation has
    at least 64 tokens.

    Raises:
        InvalidArgument: the suite does not have ``n`` prompts, or ``n`` is less than 1.
    """
    text = resources.files("pytest_pot.prompts").joinpath("data/builtin.jsonl").read_text(encoding="utf-8")
    suite = _with_long_ones(_parse(text, "the built-in suite"))
    if n is None:
        return suite
    if isinstance(n, bool) or not isinstance(n, int) or not 1 <= n <= len(suite):
        raise InvalidArgument(f"builtin_prompts({n!r}): ask for 1 to {len(suite)} prompts, or None for all of them")
    return suite[:n]


def _with_long_ones(stored: list[Prompt]) -> list[Prompt]:
    suite = stored[:_FIRST]
    for index, end in enumerate(range(_FIRST + _KINDS, len(stored) + 1, _KINDS)):
        suite += stored[end - _KINDS : end]
        suite.append(_long(stored[:end], index))
    return suite


def _long(stored: list[Prompt], index: int) -> Prompt:
    """From ``stored``, what came before in the suite: later prompts may be added and change nothing."""
    kind = stored[index % _KINDS].kind or ""
    passages = [(prompt.text, prompt.continuation or "") for prompt in stored if prompt.kind == kind]
    last = passages.pop(index // _KINDS)
    counts = _PASSAGES_MULTILINGUAL if kind == "multilingual" else _PASSAGES
    text, continuation = compose(passages[-counts[index % len(counts)] :], last, form=index)
    return Prompt(text, continuation, "long")


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
