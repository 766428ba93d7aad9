"""Which tensor is which where two models name them differently: by patterns, such as ``layers.*.mlp.up`` to ``h.*.ff.w3``.

Equal values alone place no tensor: a model whose tensors were swapped has all values, too. They are votes for patterns, and the
majority places all tensors of a pattern, also those whose values say otherwise.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from pytest_pot.engines.weights import TensorInfo
from pytest_pot.scoring.diagnosis.tensor_names import TensorName

__all__ = ["Places", "Side", "places"]

_Name = TypeVar("_Name", bound=Hashable)
_Value = TypeVar("_Value", bound=Hashable)
_Shape = tuple[int, ...]
_Key = tuple[str, str]
"""A pattern of names: what is before the layer's number, and what is behind it."""

_WORDS: Mapping[str, tuple[str, ...]] = {
    "query": ("q", "wq", "query"),
    "key": ("k", "wk", "key"),
    "value": ("v", "wv", "value"),
    "gate": ("gate",),
    "up": ("up",),
    "down": ("down",),
    "first": ("fc1",),
    "second": ("fc2",),
    "embeddings": ("embed", "embd", "emb", "embedding", "embeddings", "tok", "wte"),
    "positions": ("wpe", "pos", "position", "positions"),
    "output": ("o", "wo", "out", "output", "head", "unembed"),
    "encoder": ("encoder",),
    "decoder": ("decoder",),
}
_MEANING = {word: meaning for meaning, words in _WORDS.items() for word in words}
_NO_ROLE = frozenset({"encoder", "decoder"})
"""These alone do not tell what a tensor is for."""


@dataclass(frozen=True)
class Side:
    """The tensors of one model that have no place yet, in the model's order."""

    tensors: Mapping[str, TensorInfo]
    digest: Callable[[str], bytes]
    """Of the values of a tensor."""


@dataclass(frozen=True)
class Places:
    """The candidate's tensor for tensors of the reference."""

    pairs: Mapping[str, str]
    unconfirmed: frozenset[str]
    """Those of ``pairs``, by the reference's name, that were placed by equal values alone: others of the same shape could be in
    their place, and neither names nor the order of the tensors say otherwise."""


def places(reference: Side, candidate: Side) -> Places:
    """Where patterns of names, learned from words in names and from equal values, put the tensors of ``reference``."""
    ours, theirs = _kinds(reference), _kinds(candidate)
    shapes = {info.shape for info in reference.tensors.values()} & {info.shape for info in candidate.tensors.values()}
    digests = [
        {name: side.digest(name) for name, info in side.tensors.items() if info.shape in shapes}
        for side in (reference, candidate)
    ]
    votes = _votes(ours, theirs, digests)
    by_words = _by_words(ours, theirs)
    by_values = _by_values(ours, theirs, digests, votes)
    # A word that values contradict holds only where both tensors of these values have a place by their own words.
    owners = {two: one for one, two in by_values.items()}
    by_words = {
        one: two
        for one, two in by_words.items()
        if by_values.get(one, two) in by_words.values() and owners.get(two, one) in by_words
    }
    taken = set(by_words.values())
    by_values = {one: two for one, two in by_values.items() if one not in by_words and two not in taken}
    pairs: dict[str, str] = {}
    unconfirmed: set[str] = set()
    doubtful = _out_of_order(by_values, ours, theirs)
    for one, two in {**by_words, **by_values}.items():
        shift = _shift(ours[one], theirs[two], votes[one, two])
        for layer, name in ours[one].names.items():
            other = theirs[two].names.get(None if layer is None else layer + shift)
            if other is not None and reference.tensors[name].shape == candidate.tensors[other].shape:
                pairs[name] = other
                if one in doubtful:
                    unconfirmed.add(name)
    rest = [
        _unique({name: digest for name, digest in known.items() if name not in placed})
        for known, placed in zip(digests, (pairs, set(pairs.values())), strict=True)
    ]
    by_digest = {name: rest[1][digest] for digest, name in rest[0].items() if digest in rest[1]}
    return Places({**pairs, **by_digest}, frozenset({*unconfirmed, *by_digest}))


@dataclass
class _Kind:
    """The tensors of one pattern, by layer; None for one that is in no layer."""

    shape: _Shape
    """Of the first."""
    names: dict[int | None, str] = field(default_factory=dict)


def _kinds(side: Side) -> dict[_Key, _Kind]:
    kinds: dict[_Key, _Kind] = {}
    for name, info in side.tensors.items():
        parsed = TensorName.of(name)
        kinds.setdefault((parsed.stack, parsed.rest), _Kind(info.shape)).names[parsed.layer] = name
    return kinds


def _class(kind: _Kind) -> tuple[_Shape, bool]:
    """Kinds of different classes cannot be taken for each other."""
    return kind.shape, None in kind.names


def _votes(
    ours: Mapping[_Key, _Kind], theirs: Mapping[_Key, _Kind], digests: list[dict[str, bytes]]
) -> dict[tuple[_Key, _Key], Counter[int]]:
    """For each two patterns, how many tensors of equal values they have, by how far apart the layers' numbers are."""
    unique = [_unique(known) for known in digests]
    places = [
        {name: (key, layer) for key, kind in kinds.items() for layer, name in kind.names.items()} for kinds in (ours, theirs)
    ]
    votes: dict[tuple[_Key, _Key], Counter[int]] = defaultdict(Counter)
    for digest, name in unique[0].items():
        if digest in unique[1]:
            (one, layer), (two, other) = places[0][name], places[1][unique[1][digest]]
            if (layer is None) == (other is None):
                votes[one, two][(other or 0) - (layer or 0)] += 1
    return votes


def _by_words(ours: Mapping[_Key, _Kind], theirs: Mapping[_Key, _Kind]) -> dict[_Key, _Key]:
    """Patterns that are the only ones of their shape with these words: the same last words, or words of the same meaning."""
    found: dict[_Key, _Key] = {}
    for words in (_last_words, _meaning):
        left = [key for key in ours if key not in found], [key for key in theirs if key not in found.values()]
        unique = [
            _unique({key: (_class(kinds[key]), what) for key in keys if (what := words(key)) is not None})
            for kinds, keys in zip((ours, theirs), left, strict=True)
        ]
        found |= {one: unique[1][place] for place, one in unique[0].items() if place in unique[1]}
    return found


def _last_words(key: _Key) -> Hashable:
    """``"input_layernorm.weight"``, with numbers behind that of the layer, as of experts; None where they tell nothing."""
    *_, module, last = ("", *key[1].split("."))
    return None if not module or module.isdigit() else (module, last, _numbers(key))


def _meaning(key: _Key) -> Hashable:
    """The known words in names, and numbers behind that of the layer; None where no word tells what the tensor is for."""
    parts = re.split(r"[._]", ".".join(key).lower())
    words = {_MEANING[part] for part in parts if part in _MEANING}
    if "positions" in words:
        words.discard("embeddings")
    if not words - _NO_ROLE:
        return None
    return frozenset(words), parts[-1] in ("bias", "b"), _numbers(key)


def _numbers(key: _Key) -> tuple[str, ...]:
    return tuple(part for part in key[1].split(".") if part.isdigit())


def _by_values(
    ours: Mapping[_Key, _Kind],
    theirs: Mapping[_Key, _Kind],
    digests: list[dict[str, bytes]],
    votes: Mapping[tuple[_Key, _Key], Counter[int]],
) -> dict[_Key, _Key]:
    """Patterns with more than half of the votes of either; and those all of whose values are equal, in their order."""
    contents: list[dict[object, list[_Key]]] = [defaultdict(list), defaultdict(list)]
    for kinds, known, by_content in zip((ours, theirs), digests, contents, strict=True):
        for key, kind in kinds.items():
            names = [kind.names[layer] for layer in sorted(kind.names, key=lambda layer: layer or 0)]
            if all(name in known for name in names):
                by_content[_class(kind), tuple(known[name] for name in names)].append(key)
    found: dict[_Key, _Key] = {}
    for content, keys in contents[0].items():
        if len(keys) == len(contents[1].get(content, ())):
            found.update(zip(keys, contents[1][content], strict=True))
    left = {pair: counts.total() for pair, counts in votes.items()}
    while True:
        taken = set(found.values())
        left = {(one, two): n for (one, two), n in left.items() if one not in found and two not in taken}
        totals: Counter[tuple[int, _Key]] = Counter()
        for pair, n in left.items():
            totals.update(dict.fromkeys(enumerate(pair), n))
        new = {one: two for (one, two), n in left.items() if 2 * n > max(totals[0, one], totals[1, two])}
        if not new:
            break
        found |= new  # what they have left to others may make a majority
    return found


def _out_of_order(patterns: Mapping[_Key, _Key], ours: Mapping[_Key, _Kind], theirs: Mapping[_Key, _Kind]) -> set[_Key]:
    """The patterns that could be taken for each other, and whose order in one model is not that in the other."""
    order = {key: index for index, key in enumerate(theirs)}
    by_class: dict[object, list[_Key]] = defaultdict(list)
    for one in ours:  # in the model's order
        if one in patterns:
            by_class[_class(ours[one])].append(one)
    return {
        key
        for keys in by_class.values()
        for index, one in enumerate(keys)
        for other in keys[index + 1 :]
        if order[patterns[one]] > order[patterns[other]]
        for key in (one, other)
    }


def _shift(one: _Kind, other: _Kind, votes: Counter[int]) -> int:
    """What to add to the number of a layer, as where one model counts its layers from 1."""
    here, there = ({layer for layer in kind.names if layer is not None} for kind in (one, other))
    if not here or not there or here == there:
        return 0
    if len(votes) == 1:
        return next(iter(votes))
    if here <= there or there <= here:
        return 0
    ((most, n),) = votes.most_common(1) or [(0, 0)]
    return most if 2 * n > votes.total() else min(there) - min(here)


def _unique(values: Mapping[_Name, _Value]) -> dict[_Value, _Name]:
    """Each key by its value, without those that share theirs."""
    counts = Counter(values.values())
    return {value: name for name, value in values.items() if counts[value] == 1}
