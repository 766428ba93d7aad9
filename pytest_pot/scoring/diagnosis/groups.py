"""Changes of tensors as a person would say them: a sentence for each group that changed in the same way."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence

from pytest_pot.core.text import count, number, shorten
from pytest_pot.engines.weights import ChangeKind, TensorChange, TensorInfo
from pytest_pot.scoring.diagnosis.subjects import Subject, Tensors, layers_in_words
from pytest_pot.scoring.diagnosis.tensor_names import TensorName

__all__ = ["summary"]

_FAR_APART = 8.0
"""By what factor two sizes have to differ, with none in between, so that we tell their tensors apart."""

_FIRST = (ChangeKind.NOT_FINITE, ChangeKind.MISSING, ChangeKind.EXTRA, ChangeKind.SHAPE)
"""What matters more than how many tensors it is about."""

_MOST_SUBJECTS = 3


class _Words:
    """The words for a kind of change, behind the tensors that it is about."""

    def __init__(self, what: str, amount: Callable[[float], str] | None = None, relative: bool = True) -> None:
        self._what = what
        self._amount = amount
        self._relative = relative

    def of(self, changes: Sequence[TensorChange], recorded: bool) -> str:
        words = self._what.format(what=changes[0].what, amount=self._amounts(changes))
        sizes = [change.relative for change in changes if change.relative is not None]
        if not self._relative or not sizes:
            return words
        return f"{words} (relative change {'about ' if recorded else ''}{_span(sizes, number)})"

    def _amounts(self, changes: Sequence[TensorChange]) -> str:
        amounts = [change.amount for change in changes if change.amount is not None]
        return _span(amounts, self._amount) if amounts and self._amount is not None else "some"


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"


_WORDS: Mapping[ChangeKind, _Words] = {
    ChangeKind.MISSING: _Words(" missing in the candidate", relative=False),
    ChangeKind.EXTRA: _Words(" only in the candidate", relative=False),
    ChangeKind.SHAPE: _Words(" with another shape: {what}", relative=False),
    ChangeKind.NOT_FINITE: _Words(": NaN or infinite values", relative=False),
    ChangeKind.ZERO: _Words(": all values are 0", relative=False),
    ChangeKind.ROUNDED: _Words(" rounded to {what}"),
    ChangeKind.PRUNED: _Words(": {amount} of the values are new zeros (pruned)", _percent),
    ChangeKind.SCALED: _Words(" multiplied by {amount}", lambda factor: f"{factor:.4g}", relative=False),
    ChangeKind.PERMUTED: _Words(": {what} in another order (permuted)", relative=False),
    ChangeKind.TRANSPOSED: _Words(" transposed", relative=False),
    ChangeKind.MOVED: _Words(" with the values of {what}", relative=False),
    ChangeKind.LOW_RANK: _Words(": a difference of rank {amount}, as of a merged adapter", lambda rank: f"{rank:.0f}"),
    ChangeKind.REORDERED: _Words(": the same values in another order", relative=False),
    ChangeKind.CHANGED: _Words(" changed"),
}


def summary(
    changes: Sequence[TensorChange],
    tensors: Mapping[str, TensorInfo],
    ties: Mapping[str, str],
    *,
    recorded: bool = False,
) -> tuple[str, ...]:
    """The sentences, the largest group first.

    ``tensors``: the saved tensors of the reference, with the candidate's extra ones under their names; ``ties``: further names
    of the reference's. ``recorded``: whether sizes are estimates.
    """
    model = Tensors(tensors, ties)
    groups: dict[tuple[object, ...], list[TensorChange]] = defaultdict(list)
    told: list[tuple[bool, int, str]] = []  # (not among the first, how many tensors, sentence)
    for change in changes:
        tie = _tie(change, tensors)
        if tie is not None:
            told.append((not tie[0], 1, tie[1]))
        elif change.kind is not ChangeKind.MOVED:
            groups[change.kind, change.what].append(change)
    moved = [change for change in changes if change.kind is ChangeKind.MOVED]
    told += [(True, n, words) for n, words in _moved(moved, changes, model)]
    for (kind, _), group in groups.items():
        for part in _by_size(group) if kind is ChangeKind.CHANGED else [group]:
            told += [(kind not in _FIRST, n, words) for n, words in _sentences(part, model, recorded)]
    return tuple(words for *_, words in sorted(told, key=lambda line: (line[0], -line[1])))


def _sentences(group: Sequence[TensorChange], model: Tensors, recorded: bool) -> list[tuple[int, str]]:
    """How many tensors, and the sentence, of changes of one kind."""
    by_name = {change.name: change for change in group}
    subjects = model.subjects(by_name)
    parts = [[by_name[name] for name in by_name if name in subject.names] for subject in subjects]
    words = _WORDS[group[0].kind]
    if len(subjects) > _MOST_SUBJECTS:
        return [
            (len(part), _prefixed(subject) + words.of(part, recorded)) for subject, part in zip(subjects, parts, strict=True)
        ]
    # Different figures get sentences of their own, except that "and" joins what is about alike.
    return [(len(group), _joined(subjects, len(by_name)) + words.of(group, recorded))]


def _prefixed(subject: Subject) -> str:
    return f"one tensor: {subject.words}" if subject.words in subject.names else subject.words


def _joined(subjects: Sequence[Subject], n: int) -> str:
    if all(subject.words in subject.names for subject in subjects):
        return f"{'one tensor' if n == 1 else f'{n} tensors'}: {', '.join(subject.words for subject in subjects)}"
    words = [subject.words for subject in subjects]
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def _by_size(group: Sequence[TensorChange]) -> list[list[TensorChange]]:
    """The changes apart where their sizes are far apart."""
    known = sorted((c for c in group if c.relative is not None and c.relative > 0), key=lambda c: c.relative or 0.0)
    parts: list[list[TensorChange]] = []
    for change in known:
        if parts and (change.relative or 0.0) <= _FAR_APART * (parts[-1][-1].relative or 0.0):
            parts[-1].append(change)
        else:
            parts.append([change])
    rest = [change for change in group if not any(change is other for other in known)]
    order = {id(change): index for index, change in enumerate(group)}
    return [sorted(part, key=lambda change: order[id(change)]) for part in [*parts, *([rest] if rest else [])]]


def _tie(change: TensorChange, tensors: Mapping[str, TensorInfo]) -> tuple[bool, str] | None:
    """Whether it is serious, and the sentence, of a change of what is tied; None of other changes."""
    name = shorten(change.name, 80)
    if change.kind is ChangeKind.UNTIED:
        own = f"{name} is a tensor of its own now, no longer tied to {shorten(change.what, 80)}"
        if change.relative == 0:
            return False, f"{own}; its values are still equal"
        return True, own + ("" if change.relative is None else f", and {number(change.relative)} away from it")
    if change.kind is ChangeKind.MISSING and change.what:
        return True, f"{name} was lost: the candidate uses {shorten(change.what, 80)} in its place (tied)"
    if change.kind is ChangeKind.MISSING and change.name not in tensors:
        return True, f"{name} is missing: the candidate has nothing in its place"
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
            told.append((1, f"{model.named(change.name)} holds the values of {shorten(change.what, 100)}"))
        elif change.name < partner.name:
            told.append((2, f"{shorten(change.name, 80)} and {shorten(partner.name, 80)} are swapped"))
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


def _span(values: Sequence[float], words: Callable[[float], str]) -> str:
    """One figure where all are written alike, else the smallest and the largest."""
    finite = [value for value in values if math.isfinite(value)]
    if not finite:
        return words(values[0])
    low, high = words(min(finite)), words(max(finite))
    return low if low == high else f"{low} to {high}"
