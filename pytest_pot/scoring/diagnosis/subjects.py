"""Sets of tensors as a person would name them: all matrices, layers 3 to 7, the q_proj matrices of all layers."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from pytest_pot.core.text import count, shorten
from pytest_pot.engines.weights import TensorInfo
from pytest_pot.scoring.diagnosis.prefixes import stripped
from pytest_pot.scoring.diagnosis.tensor_names import Role, TensorName, role, template

__all__ = ["Subject", "Tensors", "layers_in_words", "short_name"]

_MOST_NAMES = 3
_MOST_NUMBERS = 6
_MOST_KINDS = 4
_MOST_OTHERS, _MIN_MANY = 2, 20
"""Of so many tensors, so few that are left out are named."""

_NAME, _STACK = 80, 40
"""The longest names that are written out."""

_NOUNS = {Role.NORM: "norms", Role.BIAS: "biases", Role.OTHER: "other tensors"}


@dataclass(frozen=True)
class Subject:
    """A set of tensors in words."""

    words: str
    names: frozenset[str]

    @property
    def is_name(self) -> bool:
        """Whether the words are the name of one tensor, and no more."""
        return len(self.names) == 1 and self.words == short_name(*self.names)


class Tensors:
    """All tensors of a model, to name sets of them."""

    def __init__(self, tensors: Mapping[str, TensorInfo], ties: Mapping[str, str] | None = None) -> None:
        self._tensors = tensors
        further: dict[str, list[str]] = defaultdict(list)
        for name, first in (ties or {}).items():
            further[first].append(name)
        self._tied = frozenset(further)
        self._roles = {name: _role((name, *further[name]), info) for name, info in tensors.items()}

    def subjects(self, names: Iterable[str]) -> list[Subject]:
        """``names`` in words, the largest subject first; every name is in one subject."""
        left = dict.fromkeys(names)
        subjects = []
        broad = [(words, group) for words, group in self._groups if len(group) > 1]
        for groups, most_others in ((broad, 0), (broad, _MOST_OTHERS), (self._groups, 0)):
            for words, group in groups:
                others = [name for name in group if name not in left]
                names_here = [name for name in group if name in left]
                if not group or len(others) > most_others or (others and not self._may_be_left_out(group, others)):
                    continue
                if others:
                    without = f"without {_listed([self.named(name) for name in others])}"
                    words = f"{len(names_here)} of {words.removeprefix('all ')}"
                    words = f"{words[:-1]}, {without})" if words.endswith(")") else f"{words} ({without})"
                subjects.append(Subject(words, frozenset(names_here)))
                for name in names_here:
                    del left[name]
        for part in (self._layers, self._kinds):
            for subject in part(left):
                subjects.append(subject)
                for name in subject.names:
                    del left[name]
        return sorted([*subjects, *self._rest(left)], key=lambda subject: -len(subject.names))

    def _may_be_left_out(self, group: Sequence[str], others: Sequence[str]) -> bool:
        """Whether ``others`` are few of many, and none that a person would name first."""
        return len(group) >= _MIN_MANY and not any(self._roles[name] in _OUTER for name in others)

    @cached_property
    def _groups(self) -> list[tuple[str, list[str]]]:
        """What a person would name first, from all to the particular."""
        names = list(self._tensors)
        of = {kind: [name for name in names if self._roles[name] is kind] for kind in Role}
        inner = of[Role.MATRIX] + of[Role.EXPERT]
        outer = of[Role.EMBEDDINGS] + of[Role.POSITIONS] + of[Role.OUTPUT]
        groups = [(f"all {count(len(names), 'tensor')}", names)]
        if len(inner) > 1:
            if outer:
                words = f"all {len(inner) + len(outer)} matrices (with {self._outer_words(of)})"
                groups.append((words, inner + outer))
            groups += [(f"all {len(inner)} matrices", inner)]
            if of[Role.OUTPUT]:
                groups.insert(2, (f"all {len(inner) + 1} matrices (with the output layer)", inner + of[Role.OUTPUT]))
        for kind, words in ((Role.EXPERT, "matrices of the experts"), (Role.NORM, "norm tensors"), (Role.BIAS, "biases")):
            groups += [(f"all {len(of[kind])} {words}", of[kind])] if len(of[kind]) > 1 else []
        groups += [(self._outer_words({kind: of[kind]}), of[kind]) for kind in _OUTER if len(of[kind]) == 1]
        return groups

    def _outer_words(self, of: Mapping[Role, Sequence[str]]) -> str:
        words = []
        for kind in _OUTER:
            if of.get(kind):
                words.append(f"the {kind.value}")
                if kind is Role.EMBEDDINGS and any(name in self._tied for name in of[kind]):
                    words.append("the tied output layer")
        return _listed(words)

    def _layers(self, left: Mapping[str, None]) -> list[Subject]:
        """Layers all of whose tensors, or matrices, are left."""
        subjects: list[Subject] = []
        taken: set[str] = set()
        for words, keep in _PARTS_OF_LAYERS:
            parts = {layer: [name for name in names if keep(self._roles[name])] for layer, names in self._by_layer.items()}
            whole = [
                layer
                for layer, names in parts.items()
                if len(names) > 1 and all(name in left and name not in taken for name in names)
            ]
            for stack in dict.fromkeys(stack for stack, _ in whole):
                numbers = sorted(number for other, number in whole if other == stack)
                names = [name for number in numbers for name in parts[stack, number]]
                taken.update(names)
                in_words = self.layers_named(stack, numbers)
                subjects.append(Subject(f"all {len(names)} {words} of {in_words}", frozenset(names)))
        return subjects

    def _kinds(self, left: Mapping[str, None]) -> list[Subject]:
        """Tensors with the same place in several layers."""
        places: dict[tuple[str, str], list[str]] = defaultdict(list)
        for name in left:
            parsed = TensorName.of(name)
            if parsed.layer is not None:
                places[parsed.stack, template(parsed.rest)].append(name)
        by_layers: dict[tuple[str, tuple[int, ...], str], list[tuple[str, list[str]]]] = defaultdict(list)
        for (stack, rest), names in places.items():
            numbers = tuple(sorted({layer for name in names if (layer := TensorName.of(name).layer) is not None}))
            if len(numbers) > 1 or len(names) > _MOST_NAMES:
                by_layers[stack, numbers, self._noun(names[0])].append((rest, names))
        subjects = []
        for (stack, numbers, noun), kinds in by_layers.items():
            if len(kinds) > _MOST_KINDS:
                continue
            in_words = _listed([self._short(rest) for rest, _ in kinds])
            names = [name for _, some in kinds for name in some]
            layers = self.layers_named(stack, numbers)
            subjects.append(Subject(f"the {in_words} {noun} of {layers}", frozenset(names)))
        return subjects

    def _rest(self, left: Mapping[str, None]) -> list[Subject]:
        if not left:
            return []
        if len(left) <= _MOST_NAMES:
            return [Subject(self.named(name), frozenset([name])) for name in left]
        subjects = []
        for words, kinds in (
            ("matrices", (Role.MATRIX, Role.EXPERT, *_OUTER)),
            *((words, (kind,)) for kind, words in _NOUNS.items()),
        ):
            names = [name for name in left if self._roles[name] in kinds]
            n = sum(self._roles[name] in kinds for name in self._tensors)
            if 0 < len(names) <= _MOST_NAMES:
                subjects += [Subject(self.named(name), frozenset([name])) for name in names]
            elif names:
                subjects.append(Subject(f"{len(names)} of {n} {words}{self._where(names)}", frozenset(names)))
        return subjects

    def _where(self, names: Sequence[str]) -> str:
        """In which layers, if those are few."""
        layers = {(parsed.stack, parsed.layer) for parsed in map(TensorName.of, names)}
        numbers = sorted({layer for _, layer in layers if layer is not None})
        stacks = {stack for stack, _ in layers}
        if len(stacks) > 1 or len(numbers) != len(layers) or len(numbers) > _MOST_NUMBERS:
            return ""
        (stack,) = stacks
        return f" (in {self.layers_named(stack, numbers)})"

    def is_linear(self, name: str) -> bool:
        """Whether ``name`` is what an adapter is merged into: a matrix of a linear layer or of experts, or embeddings."""
        kind = self._roles.get(name)
        is_weight = stripped(name).endswith("weight") and len(self._tensors[name].shape) == 2 if kind else False
        return kind in (Role.EXPERT, *_OUTER) or (kind is Role.MATRIX and is_weight)

    def is_all_of_the_layers(self, names: Iterable[str]) -> bool:
        """Whether all matrices of the layers, and there are several, are in ``names``."""
        matrices = [name for name, kind in self._roles.items() if kind in (Role.MATRIX, Role.EXPERT)]
        return len(matrices) > 1 and set(names).issuperset(matrices)

    def is_kinds_of_matrices(self, names: Iterable[str]) -> bool:
        """Whether ``names`` are all matrices of some places in the layers: those that an adapter is told to adapt."""
        places = {(TensorName.of(name).stack, template(TensorName.of(name).rest)) for name in names}
        alike = {
            name
            for name in self._tensors
            if TensorName.of(name).layer is not None
            and (TensorName.of(name).stack, template(TensorName.of(name).rest)) in places
        }
        return len(alike) > 1 and alike == set(names)

    def named(self, name: str) -> str:
        """One tensor in words."""
        kind = self._roles.get(name)
        if kind in _OUTER and sum(other is kind for other in self._roles.values()) == 1:
            return f"{self._outer_words({kind: [name]})} {short_name(name)}"
        return short_name(name)

    def layers(self, stack: str) -> dict[int, frozenset[str]]:
        """The tensors of each layer of ``stack``, in the order of the layers."""
        layers = {number: frozenset(names) for (other, number), names in self._by_layer.items() if other == stack}
        return dict(sorted(layers.items()))

    @cached_property
    def _by_layer(self) -> dict[tuple[str, int], list[str]]:
        layers: dict[tuple[str, int], list[str]] = defaultdict(list)
        for name in self._tensors:
            parsed = TensorName.of(name)
            if parsed.layer is not None:
                layers[parsed.stack, parsed.layer].append(name)
        return layers

    def _n_layers(self, stack: str) -> int:
        return sum(1 for other, _ in self._by_layer if other == stack)

    def layers_named(self, stack: str, numbers: Sequence[int]) -> str:
        """Some layers of ``stack`` in words: ``"layers 3 to 7 of encoder.block"``."""
        return layers_in_words(numbers, self._n_layers(stack)) + self.of_stack(stack)

    def of_stack(self, stack: str) -> str:
        """`` of encoder.block``, behind layers of a model that has several stacks; empty of one that has one."""
        stacks = {other for other, number in self._by_layer if number > 0}
        return f" of {shorten(stack, _STACK, keep='end')}" if len(stacks | {stack}) > 1 else ""

    def _noun(self, name: str) -> str:
        if self._roles[name] is Role.BIAS:
            return "biases"
        if self._roles[name] is Role.NORM:
            return "weights" if name.endswith("weight") else "biases"
        return "matrices" if len(self._tensors[name].shape) >= 2 else "vectors"

    def _short(self, rest: str) -> str:
        """As much of a place in a layer as tells it from all others: ``"q_proj"``, ``"attn.c_proj"``."""
        others = {template(TensorName.of(name).rest) for name in self._tensors} - {rest}
        others = {_module(other) for other in others} - {_module(rest)}
        parts = _module(rest).split(".")
        for n in range(1, len(parts)):
            short = ".".join(parts[-n:])
            if not any(other == short or other.endswith("." + short) for other in others) and parts[-n] != "*":
                return short
        return _module(rest)


_OUTER = (Role.EMBEDDINGS, Role.POSITIONS, Role.OUTPUT)
_PARTS_OF_LAYERS: tuple[tuple[str, Callable[[Role], bool]], ...] = (
    ("tensors", lambda kind: kind in Role),
    ("matrices", lambda kind: kind in (Role.MATRIX, Role.EXPERT)),
)


def short_name(name: str) -> str:
    """The name of one tensor; of a long one its end, which tells most."""
    return shorten(name, _NAME, keep="end")


def layers_in_words(numbers: Sequence[int], n_layers: int) -> str:
    """``"layer 5"``, ``"layers 3 to 7"``, ``"all 30 layers"``, ``"layers 1, 4 and 9 to 12"``, ``"14 of 30 layers"``."""
    if len(numbers) == n_layers and n_layers > 1:
        return f"all {n_layers} layers"
    if len(numbers) == 1:
        return f"layer {numbers[0]}"
    parts = []
    for run in _runs(numbers):
        parts += [f"{run[0]} to {run[-1]}"] if len(run) > 2 else [str(number) for number in run]
    return f"layers {_listed(parts)}" if len(parts) <= _MOST_NUMBERS else f"{len(numbers)} of {n_layers} layers"


def _role(names: Sequence[str], info: TensorInfo) -> Role:
    """That of a tensor with several names: embeddings that the output layer shares are embeddings."""
    roles = [role(name, info) for name in names]
    return Role.EMBEDDINGS if Role.EMBEDDINGS in roles else roles[0]


def _module(rest: str) -> str:
    """The module that holds a tensor; the tensor itself where it is no plain weight or bias."""
    parent, _, last = rest.rpartition(".")
    return parent if last in ("weight", "bias") and parent else rest


def _runs(numbers: Iterable[int]) -> list[list[int]]:
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return runs


def _listed(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
