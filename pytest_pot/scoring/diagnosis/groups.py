"""Changes of tensors as a person would say them: a sentence for each group that changed in the same way."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from pytest_pot.core.text import number
from pytest_pot.engines.weights import ChangeKind, TensorChange, TensorInfo
from pytest_pot.scoring.diagnosis.change_words import change_words
from pytest_pot.scoring.diagnosis.moved_words import moved_sentences
from pytest_pot.scoring.diagnosis.subjects import Subject, Tensors, short_name

__all__ = ["summary"]

_FAR_APART = 8.0
"""By what factor two sizes have to differ, with none in between, so that we tell their tensors apart."""

_FIRST = (ChangeKind.NOT_FINITE, ChangeKind.MISSING, ChangeKind.EXTRA, ChangeKind.SHAPE)
"""What matters more than how many tensors it is about."""

_APART_BY_WHAT = (
    ChangeKind.SHAPE, ChangeKind.ROUNDED, ChangeKind.PERMUTED, ChangeKind.SCALED, ChangeKind.TRANSPOSED,
)  # fmt: skip
"""Two of these are different changes where ``what`` differs; in others it is a detail of one tensor."""

_MOST_SUBJECTS = 3
_WIDTH = 120
"""Characters up to which subjects share a sentence."""

_MOST_WIDTH = 70
_FAR = 1.0
"""A relative change from here on leaves nothing of a tensor: these are other weights, and we say no more of them."""

_Part = tuple[Subject, list[TensorChange]]


class _Told(NamedTuple):
    """A sentence, and what its place among others depends on."""

    words: str
    n_tensors: int
    size: float = math.inf
    """The usual relative change; infinite where it is not known, or says nothing."""
    serious: bool = False

    @property
    def place(self) -> tuple[bool, int, float]:
        return not self.serious, -self.n_tensors, -self.size


def summary(
    changes: Sequence[TensorChange],
    tensors: Mapping[str, TensorInfo],
    ties: Mapping[str, str],
    extra: Mapping[str, TensorInfo] | None = None,
    *,
    recorded: bool = False,
) -> tuple[str, ...]:
    """The sentences, the largest group first.

    ``tensors``: the saved tensors of the reference; ``ties``: further names of these; ``extra``: the tensors that only the
    candidate has. ``recorded``: whether sizes are estimates.
    """
    model = Tensors(tensors, ties)
    with_extra = Tensors({**tensors, **(extra or {})}, ties)
    groups: dict[tuple[object, ...], list[TensorChange]] = defaultdict(list)
    told: list[_Told] = []
    for moved in moved_sentences(changes, model):
        told.append(_Told(moved.words, moved.n_tensors, serious=bool(moved.removed)))
        changes = [change for change in changes if change.name not in moved.removed]
    for change in changes:
        tie = _tie(change, tensors)
        if tie is not None:
            told.append(tie)
        elif change.kind is ChangeKind.LOW_RANK:
            groups[change.kind, model.is_linear(change.name)].append(change)
        elif change.kind is not ChangeKind.MOVED:
            groups[change.kind, change.what if change.kind in _APART_BY_WHAT else "", change.searched].append(change)
    for (kind, *_), group in groups.items():
        hint = _hint(group, model, recorded) if len(group) == len(changes) or kind is ChangeKind.LOW_RANK else ""
        told += _sentences(group, with_extra if kind is ChangeKind.EXTRA else model, hint, recorded)
    return tuple(line.words for line in sorted(told, key=lambda line: line.place))


def _hint(group: Sequence[TensorChange], model: Tensors, recorded: bool) -> str:
    """What a change like this comes from, where the tensors that it is about, and that nothing else changed, show it."""
    names = [change.name for change in group]
    linear = all(model.is_linear(name) for name in names)
    if group[0].kind is ChangeKind.LOW_RANK:
        return "as of a merged adapter" if linear else ""
    sizes = [change.relative for change in group]
    structured = any(change.what or change.detail for change in group) or any(
        size is not None and not size < _FAR for size in sizes
    )
    if group[0].kind is not ChangeKind.CHANGED or structured or not group[0].searched:
        return ""
    if model.is_all_of_the_layers(names):
        return "as of training, a merged adapter or noise" if recorded else "as of training or noise"
    if recorded and linear and model.is_kinds_of_matrices(names):
        return "as of a merged adapter or training: which one, a recording does not tell"
    return ""


def _sentences(group: Sequence[TensorChange], model: Tensors, hint: str, recorded: bool) -> list[_Told]:
    """The sentences about changes of one kind."""
    kind = group[0].kind
    by_name = {change.name: change for change in group}
    parts = [
        (subject, [change for name, change in by_name.items() if name in subject.names]) for subject in model.subjects(by_name)
    ]
    sentences = [
        sentence
        for some in (_by_size(parts) if kind is ChangeKind.CHANGED else [parts])
        for sentence in ([some] if _fits(some) else [[part] for part in some])
    ]
    told = []
    for sentence in sentences:
        changes = [change for _, part in sentence for change in part]
        subjects = _joined([subject for subject, _ in sentence], len(changes))
        words = change_words(
            changes,
            recorded=recorded,
            hint=hint if len(sentences) == 1 or kind is ChangeKind.LOW_RANK else "",
            most=_most(changes, model),
        )
        told.append(_Told(subjects + words, len(changes), _median(changes), serious=kind in _FIRST))
    return told


def _fits(parts: Sequence[_Part]) -> bool:
    """Whether a sentence can be about all of ``parts``."""
    return len(parts) <= _MOST_SUBJECTS and sum(len(subject.words) + 2 for subject, _ in parts) <= _WIDTH


def _joined(subjects: Sequence[Subject], n: int) -> str:
    if all(subject.is_name for subject in subjects):
        return f"{'one tensor' if n == 1 else f'{n} tensors'}: {', '.join(subject.words for subject in subjects)}"
    return _listed(subject.words for subject in subjects)


def _listed(words: Iterable[str]) -> str:
    *others, last = words
    return f"{', '.join(others)} and {last}" if others else last


def _by_size(parts: Sequence[_Part]) -> list[list[_Part]]:
    """The subjects apart where the sizes of their changes are far apart; within each part, in the given order."""
    sizes = {id(part): _median(part[1]) for part in parts}
    order = {id(part): index for index, part in enumerate(parts)}
    clusters: list[list[_Part]] = []
    for part in sorted(parts, key=lambda part: sizes[id(part)]):
        if clusters and sizes[id(part)] <= _FAR_APART * sizes[id(clusters[-1][-1])]:
            clusters[-1].append(part)
        else:
            clusters.append([part])
    return [sorted(cluster, key=lambda part: order[id(part)]) for cluster in clusters]


def _median(changes: Sequence[TensorChange]) -> float:
    sizes = sorted(change.relative for change in changes if change.relative is not None and math.isfinite(change.relative))
    return sizes[len(sizes) // 2] if sizes else math.inf


def _most(changes: Sequence[TensorChange], model: Tensors) -> str:
    """Where a few of many tensors changed by far more than the others."""
    usual = _median(changes)
    outliers = [change.name for change in changes if (change.relative or 0.0) > _FAR_APART * usual]
    if not outliers or 4 * len(outliers) > len(changes):
        return ""
    subjects = model.subjects(outliers)
    words = _listed(subject.words for subject in subjects)
    return f", most in {words}" if len(subjects) <= _MOST_SUBJECTS and len(words) <= _MOST_WIDTH else ""


def _tie(change: TensorChange, tensors: Mapping[str, TensorInfo]) -> _Told | None:
    """The sentence about a change of what is tied; None of other changes."""
    name, other = short_name(change.name), short_name(change.what)
    if change.kind is ChangeKind.UNTIED:
        own = f"{name} is a tensor of its own now, no longer tied to {other}"
        if change.relative == 0:
            return _Told(f"{own}; its values are still equal", 1, 0.0)
        away = "" if change.relative is None else f", and {number(change.relative)} away from it"
        return _Told(own + away, 1, serious=True)
    if change.kind is ChangeKind.MISSING and change.what:
        return _Told(f"{name} was lost: the candidate uses {other} in its place (tied)", 1, serious=True)
    if change.kind is ChangeKind.MISSING and change.name not in tensors:
        return _Told(f"{name} is missing: the candidate has nothing in its place", 1, serious=True)
    return None
