"""Changes of tensors as a person would say them: a sentence for each group that changed in the same way."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence

from pytest_pot.core.text import count, number, shorten
from pytest_pot.engines.weights import ChangeKind, TensorChange, TensorInfo
from pytest_pot.scoring.diagnosis.subjects import Subject, Tensors, layers_in_words
from pytest_pot.scoring.diagnosis.tensor_names import TensorName

__all__ = ["summary"]

_FAR_APART = 8.0
"""By what factor two sizes have to differ, with none in between, so that we tell their tensors apart."""

_FIRST = (ChangeKind.NOT_FINITE, ChangeKind.MISSING, ChangeKind.EXTRA, ChangeKind.SHAPE)
"""What matters more than how many tensors it is about."""

_APART_BY_WHAT = (ChangeKind.SHAPE, ChangeKind.ROUNDED, ChangeKind.PERMUTED, ChangeKind.TRANSPOSED)
"""Two of these are different changes where ``what`` differs; in others it is a detail of one tensor."""

_MOST_SUBJECTS = 3
_Part = tuple[Subject, list[TensorChange]]


class _Words:
    """The words for a kind of change, behind the tensors that it is about."""

    def __init__(self, what: str, amount: Callable[[float], str] | None = None, relative: bool = True) -> None:
        self._what = what
        self._amount = amount
        self._relative = relative

    def of(self, changes: Sequence[TensorChange], model: Tensors, recorded: bool) -> str:
        what = changes[0].what
        if changes[0].kind is ChangeKind.TRANSPOSED and what:
            what = f" {what}" if what.startswith("and ") else f", {what}"
        words = self._what.format(what=what, amount=self._amounts(changes))
        sizes = [change.relative for change in changes if change.relative is not None]
        if not self._relative or not sizes:
            return words
        span = f"{'about ' if recorded else ''}{_span(sizes, number)}"
        return f"{words} (relative change {span}{_most(changes, model)})"

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
    ChangeKind.PRUNED: _Words(": {amount} of the values are new zeros, as of pruning", _percent),
    ChangeKind.SCALED: _Words(" multiplied by {amount}", lambda factor: f"{factor:.4g}", relative=False),
    ChangeKind.PERMUTED: _Words(": {what} in another order (permuted)", relative=False),
    ChangeKind.TRANSPOSED: _Words(" transposed{what}", relative=False),
    ChangeKind.MOVED: _Words(" with the values of {what}", relative=False),
    ChangeKind.LOW_RANK: _Words(": a difference of rank {amount}, as of a merged adapter", lambda rank: f"{rank:.0f}"),
    ChangeKind.REORDERED: _Words(": the same values in another order", relative=False),
    ChangeKind.CHANGED: _Words(" changed"),
}


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
    told: list[tuple[bool, int, str]] = []  # (not among the first, how many tensors, sentence)
    for change in changes:
        tie = _tie(change, tensors)
        if tie is not None:
            told.append((not tie[0], 1, tie[1]))
        elif change.kind is not ChangeKind.MOVED:
            groups[change.kind, change.what if change.kind in _APART_BY_WHAT else ""].append(change)
    moved = [change for change in changes if change.kind is ChangeKind.MOVED]
    told += [(True, n, words) for n, words in _moved(moved, changes, model)]
    for (kind, _), group in groups.items():
        sentences = _sentences(group, with_extra if kind is ChangeKind.EXTRA else model, recorded)
        told += [(kind not in _FIRST, n, words) for n, words in sentences]
    return tuple(words for *_, words in sorted(told, key=lambda line: (line[0], -line[1])))


def _sentences(group: Sequence[TensorChange], model: Tensors, recorded: bool) -> list[tuple[int, str]]:
    """How many tensors, and the sentence, of changes of one kind."""
    by_name = {change.name: change for change in group}
    parts = [
        (subject, [change for name, change in by_name.items() if name in subject.names]) for subject in model.subjects(by_name)
    ]
    sentences = []
    for some in _by_size(parts) if group[0].kind is ChangeKind.CHANGED else [parts]:
        joined = [some] if len(some) <= _MOST_SUBJECTS else [[part] for part in some]
        for sentence in joined:
            changes = [change for _, part in sentence for change in part]
            words = _WORDS[group[0].kind].of(changes, model, recorded)
            sentences.append((len(changes), _joined([subject for subject, _ in sentence], len(changes)) + words))
    return sentences


def _joined(subjects: Sequence[Subject], n: int) -> str:
    if all(subject.words in subject.names for subject in subjects):
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
    return f", most in {_listed(subject.words for subject in subjects)}" if len(subjects) <= _MOST_SUBJECTS else ""


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
