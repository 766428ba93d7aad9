"""JSON of a server, read so that nothing it says twice gets lost."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from itertools import chain
from typing import Any

from pytest_pot.core.gc_pause import gc_paused
from pytest_pot.core.text import shorten

__all__ = ["parse"]

_LARGE = 1 << 16
"""Bytes from which on an answer is read by a library that takes a third of the time."""


class _Repeating(dict[str, Any]):
    """An object of an answer that has a name twice."""

    repeated: str


def parse(content: bytes | str, hide: Callable[[str], str] = str) -> Any:
    """What ``content`` says. ``NaN`` and ``Infinity``, which are no JSON, become numbers: whoever reads them can say where.

    Args:
        hide: takes secrets out of a name before it is shortened for a message: a part of a secret is not found.

    Raises:
        ValueError: it is no JSON, has a name twice in one object, or is nested too deep; with what is wrong, as a clause.
    """
    if isinstance(content, bytes) and len(content) >= _LARGE:
        import orjson

        # What it cannot read is read again below, which says why; and so is what seems to have a name twice, of which it keeps
        # one: a quotation mark and a colon are the end of a name, unless the mark is a part of a text.
        with suppress(orjson.JSONDecodeError), gc_paused():
            value = orjson.loads(content)
            if _count_names(value) == content.count(b'":') - content.count(b'\\":'):
                return value
    repeating: list[_Repeating] = []

    def of_pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        names = dict(pairs)
        if len(names) == len(pairs):
            return names
        seen: set[str] = set()
        repeated = _Repeating(names)
        repeated.repeated = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        repeating.append(repeated)
        return repeated

    try:
        with gc_paused():  # millions of new objects are no garbage, and none is collected with the stack full
            value = json.loads(content, object_pairs_hook=of_pairs)
        if repeating:
            first = repeating[0]
            raise ValueError(f"{shorten(repr(hide(first.repeated)), 60)} is there twice{_place(value, first, hide)}")
    except RecursionError:
        raise ValueError("its parts are nested too deep") from None
    except UnicodeDecodeError:
        raise ValueError("it is not UTF-8") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"{error.msg} at character {error.pos}") from None
    return value


def _count_names(value: Any) -> int:
    """How many names the objects in ``value`` have together."""
    n = 0
    level = [value]
    while level:
        objects = [part for part in level if type(part) is dict]
        n += sum(map(len, objects))
        parts = chain(chain.from_iterable(map(dict.values, objects)), *(part for part in level if type(part) is list))
        level = [part for part in parts if type(part) in _HOLDERS]
    return n


_HOLDERS = (dict, list)


def _place(value: Any, wanted: object, hide: Callable[[str], str]) -> str:
    """Where ``wanted`` is in ``value``: ``" in choices[0].logprobs[7]"``; empty at the top."""
    waiting = [(value, "")]
    while waiting:
        part, path = waiting.pop()
        if part is wanted:
            return f" in {path.removeprefix('.')}" if path else ""
        if isinstance(part, dict):
            waiting += [(each, f"{path}.{shorten(hide(name), 40)}") for name, each in part.items()]
        elif isinstance(part, list):
            waiting += [(each, f"{path}[{index}]") for index, each in enumerate(part)]
    return ""
