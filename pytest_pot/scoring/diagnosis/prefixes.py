"""What wrappers and outer models put before names: what is known of torch, peft and transformers, and what both models tell.

:func:`stripped` takes off the former. :func:`without_prefixes` finds what one model has before all its names: ``"m."`` for
``self.m = model`` in a module of one's own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

from pytest_pot.core.text import first_difference

__all__ = ["Shape", "counterparts", "stripped", "without_prefixes"]

Shape = tuple[int, ...]

_WRAPPERS = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "base_layer")
"""Modules that torch.compile, FSDP and peft put around others."""

_PREFIXES = ("module.", "base_model.model.", "model.", "transformer.", "language_model.", "decoder.")

_MIN_SHARE = 0.9
"""The share of the names, of the model that has fewer, that are alike without a prefix, for us to take it for one."""


def stripped(name: str) -> str:
    """``name`` without what wrappers and outer models put before it."""
    name = ".".join(part for part in name.split(".") if part not in _WRAPPERS)
    name = name.replace(".parametrizations.weight.original", ".weight")
    while prefix := next((prefix for prefix in _PREFIXES if name.startswith(prefix)), None):
        name = name.removeprefix(prefix)
    return name


def without_prefixes(reference: Mapping[str, Shape], candidate: Mapping[str, Shape]) -> tuple[dict[str, str], dict[str, str]]:
    """The names of both models, each with the name that it has without what a wrapper puts before all of them.

    Names stay as they are where that matches as many, or where it could be one of two prefixes.
    """
    as_they_are = {name: name for name in reference}, {name: name for name in candidate}
    options = {("", ""): None, (_common(reference), _common(candidate)): None}
    options |= {("", prefix): None for prefix in _likely(candidate, reference)}
    options |= {(prefix, ""): None for prefix in _likely(reference, candidate)}
    found = {prefixes: _alike(prefixes, reference, candidate) for prefixes in options}
    score = {
        prefixes: (len(pairs), sum(reference[one] == candidate[other] for one, other in pairs.items()))
        for prefixes, pairs in found.items()
    }
    best = max(score.values())
    if score["", ""][0] == best[0] or best[0] < _MIN_SHARE * min(len(reference), len(candidate)):
        return as_they_are
    ways = [prefixes for prefixes in options if score[prefixes] == best]
    if any(found[way] != found[ways[0]] for way in ways):
        return as_they_are
    shortest = min(ways, key=lambda prefixes: sum(map(len, prefixes)))
    return _shortened(reference, shortest[0]), _shortened(candidate, shortest[1])


def counterparts(reference: Mapping[str, Shape], candidate: Mapping[str, Shape]) -> dict[str, str]:
    """The candidate's name for each of the reference's names that is the same but for what wrappers put before or into it."""
    ours, theirs = without_prefixes(reference, candidate)
    equal = {bare: name for name, bare in theirs.items()}
    alike = {stripped(bare): name for name, bare in theirs.items()}
    found = {name: equal.get(bare, alike.get(stripped(bare))) for name, bare in ours.items()}
    return {name: other for name, other in found.items() if other is not None}


def _likely(names: Iterable[str], others: Iterable[str]) -> list[str]:
    """The prefixes without which most of ``names`` are among ``others``."""
    wanted = {stripped(name) for name in others}
    votes: Counter[str] = Counter()
    for name in names:
        votes.update(prefix for prefix in _prefixes(name) if stripped(name.removeprefix(prefix)) in wanted)
    most = max(votes.values(), default=0)
    return [prefix for prefix, n in votes.items() if n == most]


def _prefixes(name: str) -> Iterator[str]:
    return (name[: i + 1] for i, character in enumerate(name) if character == ".")


def _common(names: Iterable[str]) -> str:
    """What all names begin with, in whole modules."""
    modules = sorted(name.split(".")[:-1] for name in names)
    if not modules:
        return ""
    first, last = modules[0], modules[-1]
    n = first_difference(first, last)
    return "".join(f"{module}." for module in first[:n])


def _alike(prefixes: tuple[str, str], reference: Mapping[str, Shape], candidate: Mapping[str, Shape]) -> dict[str, str]:
    """The candidate's name for each of the reference's that is alike without ``prefixes``."""
    ours, theirs = (
        {stripped(name.removeprefix(prefix)): name for name in names if name.startswith(prefix)}
        for prefix, names in zip(prefixes, (reference, candidate), strict=True)
    )
    return {name: theirs[rest] for rest, name in ours.items() if rest in theirs}


def _shortened(names: Iterable[str], prefix: str) -> dict[str, str]:
    """``names`` without ``prefix``. What is outside of the wrapped model keeps its name, if that is not one inside of it."""
    names = list(names)
    inside = {name: name.removeprefix(prefix) for name in names if name.startswith(prefix)}
    taken = set(inside.values())
    return {name: inside.get(name, f"{name} (outside)" if name in taken else name) for name in names}
