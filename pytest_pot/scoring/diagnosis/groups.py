"""Changes of tensors as a person would say them: a sentence for each group that changed in the same way."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from pytest_pot.core.text import count, number
from pytest_pot.engines.weights import ChangeKind, TensorChange, TensorInfo
from pytest_pot.scoring.diagnosis.change_words import change_words
from pytest_pot.scoring.diagnosis.subjects import Subject, Tensors, layers_in_words, short_name
from pytest_pot.scoring.diagnosis.tensor_names import TensorName

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
    for change in changes:
        tie = _tie(change, tensors)
        if tie is not None:
            told.append(tie)
        elif change.kind is ChangeKind.LOW_RANK:
            groups[change.kind, model.is_linear(change.name)].append(change)
        elif change.kind is not ChangeKind.MOVED:
            groups[change.kind, change.what if change.kind in _APART_BY_WHAT else "", change.searched].append(change)
    moved = [change for change in changes if change.kind is ChangeKind.MOVED]
    told += [_Told(words, n) for n, words in _moved(moved, changes, model)]
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
    structured = any(change.what for change in group) or any(size is not None and not size < _FAR for size in sizes)
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


def _moved(moved: Sequence[TensorChange], changes: Sequence[TensorChange], model: Tensors) -> list[tuple[int, str]]:
    """Sentences about layers and tensors that hold the values of others."""
    by_layers: dict[tuple[str, int, str, int], list[TensorChange]] = defaultdict(list)
    single = []
    for change in moved:
        here, there = TensorName.of(change.name), TensorName.of(change.what)
        whole = here.layer is not None and there.layer is not None and here.rest == there.rest
        if whole and here.layer is not None and there.layer is not None:
            by_layers[here.stack, here.layer, there.stack, there.layer].append(change)
        else:
            single.append(change)
    # A layer whose other tensors changed in other ways did not move as a whole.
    others: dict[tuple[str, int | None], int] = defaultdict(int)
    for change in changes:
        if change.kind is not ChangeKind.MOVED:
            parsed = TensorName.of(change.name)
            others[parsed.stack, parsed.layer] += 1
    sources: dict[tuple[str, int], tuple[str, int]] = {}
    for (stack, layer, other_stack, other), group in by_layers.items():
        if others[stack, layer] == 0 and len(group) > 1 and (stack, layer) not in sources:
            sources[stack, layer] = (other_stack, other)
        else:
            single += group
    sizes = {
        (stack, layer): len(group)
        for (stack, layer, *there), group in by_layers.items()
        if sources.get((stack, layer)) == tuple(there)
    }
    told = _layers_moved(sources, sizes)
    for change in single:
        partner = next((other for other in single if (other.name, other.what) == (change.what, change.name)), None)
        if partner is None:
            told.append((1, f"{model.named(change.name)} holds the values of {short_name(change.what)}"))
        elif change.name < partner.name:
            told.append((2, f"{short_name(change.name)} and {short_name(partner.name)} are swapped"))
    return told


def _layers_moved(
    sources: Mapping[tuple[str, int], tuple[str, int]], sizes: Mapping[tuple[str, int], int]
) -> list[tuple[int, str]]:
    told = []
    rest = dict(sources)
    for here, there in sources.items():
        if here in rest and sources.get(there) == here:
            del rest[here], rest[there]
            n = sizes[here] + sizes[there]
            low, high = sorted((here, there))
            told.append((n, f"layers {low[1]} and {high[1]} are swapped ({count(n, 'tensor')})"))
    by_offset: dict[tuple[str, str, int], list[int]] = defaultdict(list)
    for (stack, layer), (other_stack, other) in rest.items():
        by_offset[stack, other_stack, other - layer].append(layer)
    for (stack, _, offset), numbers in by_offset.items():
        n = sum(sizes[stack, layer] for layer in numbers)
        where = layers_in_words(sorted(numbers), 0)
        verb = "holds" if len(numbers) == 1 else "hold"
        what = {-1: "the layer before", 1: "the layer after"}.get(offset)
        if len(numbers) == 1:
            what = f"layer {numbers[0] + offset}"
        elif what is None:
            what = f"the layer {abs(offset)} {'before' if offset < 0 else 'after'}"
        told.append((n, f"{where} {verb} the weights of {what} ({count(n, 'tensor')})"))
    return told
