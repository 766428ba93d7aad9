"""What two tokenizers differ in, in words."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from pytest_pot.core.text import shorten
from pytest_pot.prompts.tokenizer_parts import (
    COMPONENTS,
    PART_NAMES,
    added_tokens,
    component,
    model_settings,
    special_tokens,
    with_flags,
)

__all__ = ["listed_parts"]

_WIDTH = 60
"""Characters of a value that a message shows."""
_NOTHING = object()


def listed_parts(names: list[str], reference: Any, candidate: Any) -> str:
    """``names`` of parts as people call them, with an example of what differs: ``"added tokens ('<x>' only ...), merges"``."""
    described = {name: _described(name, reference, candidate) for name in names}
    if not described.get("vocabulary", True) and len(names) > 1:
        del described["vocabulary"]  # it differs in the added tokens only, which are listed
    return ", ".join(PART_NAMES[name] + (f" ({what})" if what else "") for name, what in described.items())


def _described(name: str, reference: Any, candidate: Any) -> str:
    """An example of how two tokenizers differ in the part ``name``; empty where there is none to give."""
    sides = reference, candidate
    with suppress(Exception):  # a tokenizer may be any object
        if name == "added_tokens":
            flags = [{index: with_flags(token) for index, token in added_tokens(side)} for side in sides]
            tokens = [{index: token[0] for index, token in side.items()} for side in flags]
            return _first_entry(*tokens) or _first_flag(*flags)
        if name == "vocabulary":
            return _first_entry(_without_added(reference), _without_added(candidate))
        if name == "special_tokens":
            return _in_words(_first_key(special_tokens(reference), special_tokens(candidate)))
        if name == "model":
            ours, theirs = (model_settings(json.loads(side.backend_tokenizer.to_str())["model"]) for side in sides)
            return _in_words(_first_key(ours, theirs))
        if name in COMPONENTS:
            one, other = (json.loads(component(side.backend_tokenizer, name) or "null") for side in sides)
            return _in_words(_first_key(one, other))
    return ""


def _without_added(tokenizer: Any) -> dict[int, str]:
    added = {index for index, _ in added_tokens(tokenizer)}
    return {index: token for token, index in tokenizer.get_vocab().items() if index not in added}


def _first_entry(one: Mapping[int, str], other: Mapping[int, str]) -> str:
    """The first id that is another token in the other mapping, and how many such ids there are."""
    ids = [index for index in sorted({*one, *other}) if one.get(index) != other.get(index)]
    if not ids:
        return ""
    sides = [f"{tokens[ids[0]]!r}" if ids[0] in tokens else "nothing" for tokens in (one, other)]
    more = f"; {len(ids)} ids differ" if len(ids) > 1 else ""
    return f"id {ids[0]} is {sides[0]} in the reference's and {sides[1]} in the candidate's{more}"


def _first_flag(one: Mapping[int, list[Any]], other: Mapping[int, list[Any]]) -> str:
    for index, token in one.items():
        if token != other[index]:
            return f"{token[0]!r} is cut out of a text by other rules"
    return ""


def _first_key(one: Any, other: Any, path: str = "") -> tuple[str, Any, Any] | None:
    """The first key at which two JSON values differ, as its path ``"normalizers[1].content"``, and the values there."""
    if type(one) is type(other) and isinstance(one, dict):
        keys = [
            (f"{path}.{key}" if path else key, one.get(key, _NOTHING), other.get(key, _NOTHING)) for key in {**one, **other}
        ]
    elif type(one) is type(other) and isinstance(one, list):
        items = [[*side, *[_NOTHING] * (max(len(one), len(other)) - len(side))] for side in (one, other)]
        keys = [(f"{path}[{index}]", *pair) for index, pair in enumerate(zip(*items, strict=True))]
    else:
        return None if one == other and type(one) is type(other) else (path, one, other)
    return next(filter(None, (_first_key(a, b, key) for key, a, b in keys)), None)


def _in_words(difference: tuple[str, Any, Any] | None) -> str:
    if difference is None:
        return ""
    key, *values = difference
    ours, theirs = map(_value, values)
    return (f"{key}: " if key else "") + f"{ours} in the reference's, {theirs} in the candidate's"


def _value(value: Any) -> str:
    if value is None or value is _NOTHING:
        return "nothing"
    # A component has a type, which says more than the beginning of all it has.
    return (
        str(value["type"]) if isinstance(value, dict) and isinstance(value.get("type"), str) else shorten(repr(value), _WIDTH)
    )
