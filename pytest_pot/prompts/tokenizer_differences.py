"""What two tokenizers differ in, in words."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from pytest_pot.prompts.tokenizer_parts import PART_NAMES, added, with_flags

__all__ = ["listed_parts"]


def listed_parts(names: list[str], reference: Any, candidate: Any) -> str:
    """``names`` of parts as people call them, with an example of what differs: ``"added tokens ('<x>' only ...), merges"``."""
    described = {name: _described(name, reference, candidate) for name in names}
    if not described.get("vocabulary", True) and len(names) > 1:
        del described["vocabulary"]  # it differs in the added tokens only, which are listed
    return ", ".join(PART_NAMES[name] + (f" ({what})" if what else "") for name, what in described.items())


def _described(name: str, reference: Any, candidate: Any) -> str:
    """An example of how two tokenizers differ in the part ``name``; empty where there is none to give."""
    with suppress(Exception):  # a tokenizer may be any object
        if name == "added_tokens":
            flags = [{index: with_flags(token) for index, token in added(side)} for side in (reference, candidate)]
            tokens = [{index: token[0] for index, token in side.items()} for side in flags]
            return _first_entry(*tokens) or _first_flag(*flags)
        if name == "vocabulary":
            return _first_entry(_without_added(reference), _without_added(candidate))
    return ""


def _without_added(tokenizer: Any) -> dict[int, str]:
    added = {index for index, _ in added(tokenizer)}
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
