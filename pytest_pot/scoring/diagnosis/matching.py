"""Which tensor of a candidate is which of the reference.

By name, without what wrappers and outer models put before a name, then by patterns of names, then by a shape that no other
tensor has. What is ambiguous is left unmatched.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from pytest_pot.core.errors import PotError
from pytest_pot.scoring.diagnosis.known_weights import KnownWeights
from pytest_pot.scoring.diagnosis.name_patterns import Side, places
from pytest_pot.scoring.diagnosis.prefixes import stripped, without_prefixes

__all__ = ["Matching", "Tie", "UnmatchedWeights", "comparable_shapes", "match"]

Key = TypeVar("Key", bound=Hashable)

_MIN_MATCHED = 0.5
"""The share of the smaller model's tensors that has to be matched: fewer are said to be no match at all."""


class UnmatchedWeights(PotError):
    """The tensors of two models cannot be matched; the message says why."""


@dataclass(frozen=True)
class Tie:
    """A tensor that one of the two models shares with another tensor, and the other does not."""

    name: str
    """The reference's name of the tensor, such as ``"lm_head.weight"``."""
    shared_with: str
    """The reference's name of the tensor that it is shared with, such as the embeddings."""
    candidate_name: str | None
    """The candidate's tensor in this place; None if it has none."""


@dataclass(frozen=True)
class Matching:
    """The saved tensors of two models, side by side."""

    pairs: Mapping[str, str]
    """The candidate's tensor for each of the reference's, in the reference's order."""
    missing: tuple[str, ...]
    """Of the reference."""
    extra: tuple[str, ...]
    """Of the candidate."""
    untied: tuple[Tie, ...] = ()
    """Shared in the reference only; those without a tensor of the candidate were lost."""
    tied: tuple[Tie, ...] = ()
    """Shared in the candidate only, so that the reference's tensor was lost."""
    unmatched: tuple[str, ...] = ()
    """Of the reference; the candidate has tensors of the same shapes, but nothing tells which is which."""
    unmatched_of_candidate: tuple[str, ...] = ()
    """These tensors."""
    unconfirmed: tuple[str, ...] = ()
    """Those of ``pairs`` that were matched by equal values alone: no name says that they are in their places."""


def match(reference: KnownWeights, candidate: KnownWeights) -> Matching:
    """The tensors of the two models side by side.

    Raises:
        UnmatchedWeights: the two have too little in common, or most tensors have other sizes.
    """
    bare = _without_wrappers(reference, candidate)
    pairs = _by_names(reference, candidate, bare)
    unconfirmed = _add_by_patterns(pairs, reference, candidate)
    _add_by_shape(pairs, reference, candidate)
    _add_lost(pairs, reference, candidate, bare)
    untied, tied = _ties(pairs, reference, candidate, bare)
    shared = {tie.name for tie in tied}
    of_pairs = {one: pairs[one] for one in reference.saved if one in pairs and one not in shared}
    placed = {*of_pairs.values(), *(tie.candidate_name for tie in untied)}
    missing = [name for name in reference.saved if name not in of_pairs and name not in shared]
    extra = [name for name in candidate.saved if name not in placed]
    # What both models have left of one shape may well be the same tensors.
    shapes = {reference.saved[name].shape for name in missing} & {candidate.saved[name].shape for name in extra}
    matching = Matching(
        of_pairs,
        missing=tuple(name for name in missing if reference.saved[name].shape not in shapes),
        extra=tuple(name for name in extra if candidate.saved[name].shape not in shapes),
        untied=untied,
        tied=tied,
        unmatched=tuple(name for name in missing if reference.saved[name].shape in shapes),
        unmatched_of_candidate=tuple(name for name in extra if candidate.saved[name].shape in shapes),
        unconfirmed=tuple(name for name in of_pairs if name in unconfirmed),
    )
    _check(matching, reference, candidate)
    return matching


def comparable_shapes(one: tuple[int, ...], other: tuple[int, ...]) -> bool:
    """Whether two tensors have the same shape, or are matrices with transposed shapes."""
    return one == other or (len(one) == 2 and one == other[::-1])


def _names(weights: KnownWeights) -> dict[str, str]:
    """All names of saved tensors, each with the tensor's first name."""
    further = {name: first for name, first in weights.ties.items() if first in weights.saved}
    return {**{name: name for name in weights.saved}, **further}


@dataclass(frozen=True)
class _BareNames:
    """All names of saved tensors, each without what a wrapper puts before all of them."""

    of_reference: Mapping[str, str]
    of_candidate: Mapping[str, str]


def _without_wrappers(reference: KnownWeights, candidate: KnownWeights) -> _BareNames:
    shapes = [
        {name: weights.saved[first].shape for name, first in _names(weights).items()} for weights in (reference, candidate)
    ]
    return _BareNames(*without_prefixes(*shapes))


def _by_names(reference: KnownWeights, candidate: KnownWeights, bare: _BareNames) -> dict[str, str]:
    of_reference, of_candidate = _names(reference), _names(candidate)
    equal = _unique_by(of_candidate, lambda name: bare.of_candidate[name])
    alike = _unique_by(of_candidate, lambda name: stripped(bare.of_candidate[name]))
    alike_here = _unique_by(of_reference, lambda name: stripped(bare.of_reference[name]))

    def counterpart(name: str) -> str | None:
        bare_name = bare.of_reference[name]
        found = equal.get(bare_name)
        if found is None and stripped(bare_name) in alike_here:
            found = alike.get(stripped(bare_name))
        return None if found is None else of_candidate[found]

    pairs: dict[str, str] = {}
    for name in [*reference.saved, *(name for name in of_reference if name not in reference.saved)]:
        tensor = counterpart(name)
        first = of_reference[name]
        # Under its other names a tensor may be another one in the candidate; its first name comes first.
        if tensor is not None and first not in pairs:
            pairs[first] = tensor
    return pairs


def _add_by_patterns(pairs: dict[str, str], reference: KnownWeights, candidate: KnownWeights) -> frozenset[str]:
    """Match what patterns of names place, and tell which of these were placed by equal values alone."""
    sides = []
    for weights, names in zip((reference, candidate), _unmatched(pairs, reference, candidate), strict=True):
        sides.append(Side({name: weights.saved[name] for name in names}, weights.digest))
    if any(not side.tensors for side in sides) or any(weights.unreadable for weights in (reference, candidate)):
        return frozenset()
    found = places(*sides)
    pairs.update(found.pairs)
    return found.unconfirmed


def _add_by_shape(pairs: dict[str, str], reference: KnownWeights, candidate: KnownWeights) -> None:
    """Match tensors that are the only ones of their shape, in the whole model or in a layer of the same number.

    Only where both models have as many tensors of each shape: else they are two architectures, and a shape in common is chance.
    """
    ours, theirs = _unmatched(pairs, reference, candidate)
    if Counter(reference.saved[name].shape for name in ours) != Counter(candidate.saved[name].shape for name in theirs):
        return
    keys = [
        _unique_by(names, lambda name, weights=weights: (weights.saved[name].shape, _numbers(name)))  # type: ignore[misc]
        for weights, names in ((reference, ours), (candidate, theirs))
    ]
    pairs.update({name: keys[1][key] for key, name in keys[0].items() if key in keys[1]})


def _unmatched(pairs: Mapping[str, str], reference: KnownWeights, candidate: KnownWeights) -> tuple[list[str], list[str]]:
    placed = set(pairs.values())
    return [name for name in reference.saved if name not in pairs], [name for name in candidate.saved if name not in placed]


def _ties(
    pairs: Mapping[str, str], reference: KnownWeights, candidate: KnownWeights, bare: _BareNames
) -> tuple[tuple[Tie, ...], tuple[Tie, ...]]:
    names = _names(candidate)
    equal = _unique_by(names, lambda name: bare.of_candidate[name])
    alike = _unique_by(names, lambda name: stripped(bare.of_candidate[name]))

    def of_candidate(name: str) -> str | None:
        bare_name = bare.of_reference[name]
        found = equal.get(bare_name) or alike.get(stripped(bare_name))
        return None if found is None else names[found]

    untied = []
    spare = _spare_ties(reference, candidate, bare)
    for name, first in reference.ties.items():
        if first not in pairs or (tensor := of_candidate(name)) == pairs[first]:
            continue
        if tensor is None and spare[pairs[first]]:
            spare[pairs[first]] -= 1  # it is shared there, too, under another name
            continue
        untied.append(Tie(name, first, tensor or _left_of_shape(reference.saved[first].shape, pairs, candidate)))

    def is_named(name: str, tensor: str) -> bool:
        return stripped(bare.of_reference[name]) == stripped(bare.of_candidate[tensor])

    tied = []
    owners: dict[str, str] = {}
    for name, tensor in pairs.items():
        owner = owners.setdefault(tensor, name)
        if owner != name:
            # The name that the tensor itself has in the candidate owns it.
            lost, kept = (owner, name) if is_named(name, tensor) else (name, owner)
            owners[tensor] = kept
            tied.append(Tie(lost, kept, tensor))
    return tuple(untied), tuple(tied)


def _spare_ties(reference: KnownWeights, candidate: KnownWeights, bare: _BareNames) -> Counter[str]:
    """How many further names each of the candidate's tensors has that the reference does not know."""
    known = {stripped(bare.of_reference[name]) for name in _names(reference)}
    further = {name: first for name, first in candidate.ties.items() if first in candidate.saved}
    return Counter(first for name, first in further.items() if stripped(bare.of_candidate[name]) not in known)


def _left_of_shape(shape: tuple[int, ...], pairs: Mapping[str, str], candidate: KnownWeights) -> str | None:
    """The one tensor of the candidate that has this shape and no place yet."""
    placed = set(pairs.values())
    left = [name for name, info in candidate.saved.items() if info.shape == shape and name not in placed]
    return left[0] if len(left) == 1 else None


def _add_lost(pairs: dict[str, str], reference: KnownWeights, candidate: KnownWeights, bare: _BareNames) -> None:
    """Match the one tensor left of a shape with one that the candidate shares under a name unknown to the reference."""
    ours, theirs = _unmatched(pairs, reference, candidate)
    by_shape = _unique_by(ours, lambda name: reference.saved[name].shape)
    taken = {candidate.saved[name].shape for name in theirs}
    used = {pairs[first] for first in reference.ties.values() if first in pairs}
    shared = _unique_by(_spare_ties(reference, candidate, bare), lambda name: candidate.saved[name].shape)
    for shape, tensor in shared.items():
        if shape in by_shape and shape not in taken and tensor not in used:
            pairs[by_shape[shape]] = tensor


def _check(matching: Matching, reference: KnownWeights, candidate: KnownWeights) -> None:
    n_reference, n_candidate = len(reference.saved), len(candidate.saved)
    n_pairs = len(matching.pairs)
    if n_pairs < _MIN_MATCHED * min(n_reference, n_candidate) or n_pairs == 0:
        only = f" (only {n_pairs} of them can be)" if n_pairs else ""
        raise UnmatchedWeights(
            f"the candidate is a {candidate.model_class} with {n_candidate} tensors, the reference a "
            f"{reference.model_class} with {n_reference}: their weights cannot be matched{only}"
        )
    others = [
        (one, reference.saved[one].shape, candidate.saved[other].shape)
        for one, other in matching.pairs.items()
        if not comparable_shapes(reference.saved[one].shape, candidate.saved[other].shape)
    ]
    if 2 * len(others) > n_pairs:
        name, shape, other_shape = others[0]
        raise UnmatchedWeights(
            f"{len(others)} of {n_reference} tensors have other shapes, {name} {list(other_shape)} instead of {list(shape)}: "
            "the two models have other sizes, and their weights cannot be compared"
        )


def _numbers(name: str) -> tuple[str, ...]:
    return tuple(part for part in name.split(".") if part.isdigit())


def _unique_by(names: Iterable[str], key: Callable[[str], Key]) -> dict[Key, str]:
    """Each of ``names`` by its key, without those that share theirs."""
    keys = {name: key(name) for name in names}
    counts = Counter(keys.values())
    return {value: name for name, value in keys.items() if counts[value] == 1}
