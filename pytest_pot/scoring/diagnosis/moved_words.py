"""Sentences about layers and tensors that hold the values of others, and about layers that were taken out."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from pytest_pot.core.text import count
from pytest_pot.engines.weights import ChangeKind, TensorChange
from pytest_pot.scoring.diagnosis.subjects import Tensors, layers_in_words, short_name
from pytest_pot.scoring.diagnosis.tensor_names import TensorName

__all__ = ["MovedSentence", "moved_sentences"]

_Layer = tuple[str, int]
"""The stack of layers, and the layer's number."""


@dataclass(frozen=True)
class MovedSentence:
    """One sentence."""

    words: str
    n_tensors: int
    removed: frozenset[str] = frozenset()
    """The missing tensors that it explains: those of the last numbers, where layers before them were taken out."""


def moved_sentences(changes: Sequence[TensorChange], model: Tensors) -> list[MovedSentence]:
    """What to say of the changes of the kind MOVED among ``changes``, which are all changes of ``model``."""
    moved = [change for change in changes if change.kind is ChangeKind.MOVED]
    layers, single = _whole_layers(moved, changes)
    sources = {here: there for here, (there, _) in layers.items()}
    sizes = {here: n for here, (_, n) in layers.items()}
    sentences = [*_removed(sources, sizes, changes, model)]
    told = {stack for sentence in sentences for stack in _stacks(sentence.removed)}
    sentences += _layers_moved({here: there for here, there in sources.items() if here[0] not in told}, sizes, model)
    for change in single:
        partner = next((other for other in single if (other.name, other.what) == (change.what, change.name)), None)
        if partner is None:
            sentences.append(MovedSentence(f"{model.named(change.name)} holds the values of {short_name(change.what)}", 1))
        elif change.name < partner.name:
            sentences.append(MovedSentence(f"{short_name(change.name)} and {short_name(partner.name)} are swapped", 2))
    return sentences


def _whole_layers(
    moved: Sequence[TensorChange], changes: Sequence[TensorChange]
) -> tuple[dict[_Layer, tuple[_Layer, int]], list[TensorChange]]:
    """The layers that moved as a whole, each with where its weights are from and how many tensors moved; and all other
    tensors that moved."""
    by_layers: dict[tuple[_Layer, _Layer], list[TensorChange]] = defaultdict(list)
    single = []
    for change in moved:
        here, there = TensorName.of(change.name), TensorName.of(change.what)
        if here.layer is not None and there.layer is not None and here.rest == there.rest:
            by_layers[(here.stack, here.layer), (there.stack, there.layer)].append(change)
        else:
            single.append(change)
    # A layer whose other tensors changed in other ways did not move as a whole.
    others = {TensorName.of(change.name).place for change in changes if change.kind is not ChangeKind.MOVED}
    layers: dict[_Layer, tuple[_Layer, int]] = {}
    for (here_layer, there_layer), group in by_layers.items():
        if here_layer not in others and len(group) > 1 and here_layer not in layers:
            layers[here_layer] = there_layer, len(group)
        else:
            single += group
    return layers, single


def _removed(
    sources: Mapping[_Layer, _Layer], sizes: Mapping[_Layer, int], changes: Sequence[TensorChange], model: Tensors
) -> Iterator[MovedSentence]:
    """Layers were taken out, and those behind them moved up: the last numbers are missing, and the order is kept."""
    missing = frozenset(change.name for change in changes if change.kind is ChangeKind.MISSING)
    places = {
        TensorName.of(change.name).place for change in changes if change.kind not in (ChangeKind.MISSING, ChangeKind.MOVED)
    }
    for stack in _stacks(missing):
        layers = model.layers(stack)
        numbers = list(layers)
        gone = [number for number, names in layers.items() if names <= missing]
        left = numbers[: len(numbers) - len(gone)]
        moved = [number for number in left if (stack, number) in sources]
        if not moved or gone != numbers[len(left) :]:
            continue
        origins = [sources.get((stack, number), (stack, number)) for number in left]
        removed = [number for number in numbers if (stack, number) not in origins]
        in_order = all(one[0] == stack and one < other for one, other in pairwise([*origins, (stack, numbers[-1] + 1)]))
        # Nobody knows whether a changed layer beside the gap is what its number says, or one of those that are missing.
        if not in_order or any((stack, number + side) in places for number in removed for side in (-1, 1)):
            continue
        names = frozenset[str]().union(*(layers[number] for number in gone))
        offsets = {sources[stack, number][1] - number for number in moved}
        where = _neighbour(offsets.pop()) if len(offsets) == 1 else "later ones"
        hold = f"{layers_in_words(moved, len(numbers))} hold{'s' * (len(moved) == 1)} the weights of {where}"
        words = f"{model.layers_named(stack, removed)} {'was' if len(removed) == 1 else 'were'} taken out: {hold}"
        yield MovedSentence(words, len(names) + sum(sizes[stack, number] for number in moved), names)


def _layers_moved(sources: Mapping[_Layer, _Layer], sizes: Mapping[_Layer, int], model: Tensors) -> Iterator[MovedSentence]:
    rest = dict(sources)
    for here, there in sources.items():
        if here in rest and sources.get(there) == here:
            del rest[here], rest[there]
            n = sizes[here] + sizes[there]
            low, high = sorted((here, there))
            of_low, of_high = model.of_stack(low[0]), model.of_stack(high[0])
            where = f"{low[1]}{of_low} and {high[1]}{of_high}" if low[0] != high[0] else f"{low[1]} and {high[1]}{of_low}"
            yield MovedSentence(f"layers {where} are swapped ({count(n, 'tensor')})", n)
    by_offset: dict[tuple[str, str, int], list[int]] = defaultdict(list)
    for (stack, layer), (other_stack, other) in rest.items():
        by_offset[stack, other_stack, other - layer].append(layer)
    for (stack, other_stack, offset), numbers in by_offset.items():
        n = sum(sizes[stack, layer] for layer in numbers)
        where = model.layers_named(stack, sorted(numbers))
        verb = "holds" if len(numbers) == 1 else "hold"
        what = f"layer {numbers[0] + offset}" if len(numbers) == 1 else _neighbour(offset)
        what += model.of_stack(other_stack) if other_stack != stack else ""
        yield MovedSentence(f"{where} {verb} the weights of {what} ({count(n, 'tensor')})", n)


def _neighbour(offset: int) -> str:
    if not offset:
        return "the layer of the same number"
    side = "after" if offset > 0 else "before"
    return f"the layer {side}" if abs(offset) == 1 else f"the layer {abs(offset)} {side}"


def _stacks(names: frozenset[str]) -> list[str]:
    """The stacks of layers that ``names`` are of."""
    return sorted({name.stack for name in map(TensorName.of, names) if name.layer is not None})
