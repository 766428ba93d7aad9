"""Tensors that hold the values of another tensor of the reference, as when layers were swapped."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

from pytest_pot.engines.weights import ChangeKind, TensorChange
from pytest_pot.scoring.diagnosis.known_weights import KnownWeights
from pytest_pot.scoring.diagnosis.tensor_names import TensorName

__all__ = ["with_moved"]

_LOOKED_UP = {ChangeKind.CHANGED, ChangeKind.REORDERED, ChangeKind.PERMUTED, ChangeKind.LOW_RANK, ChangeKind.SCALED}
_MIN_RELATIVE = 0.5
"""Two tensors of a model that have nothing to do with each other are about 1.4 apart. Below this we do not look, because each
look reads all values of the tensor, and of those of the reference that have its shape."""

_MAX_MISSES = 16
"""After as many of the smallest tensors, all of them new values, we take it that the model was trained, and look no further."""


def with_moved(
    changes: Iterable[TensorChange], pairs: Mapping[str, str], reference: KnownWeights, digest: Callable[[str], bytes]
) -> tuple[TensorChange, ...]:
    """``changes``, with the kind MOVED for those of other tensors' values. ``digest`` is of the candidate's tensors."""
    changes = list(changes)
    by_shape: dict[tuple[int, ...], list[str]] = defaultdict(list)
    for name, info in reference.saved.items():
        by_shape[info.shape].append(name)
    sources: dict[str, str] = {}
    misses = 0
    for change in sorted(changes, key=lambda change: _size(reference, change.name)):
        reset = change.kind is ChangeKind.CHANGED and change.detail  # to one value: any other such tensor has the same
        if change.kind in _LOOKED_UP and not reset and (change.relative is None or not change.relative < _MIN_RELATIVE):
            own = digest(pairs[change.name])
            alike = [
                name
                for name in by_shape[reference.saved[change.name].shape]
                if name != change.name and reference.digest(name) == own
            ]
            if len(alike) == 1:
                sources[change.name] = alike[0]
            misses += not alike
            if misses == _MAX_MISSES and not sources:
                break
    sources.update(_rest_of_layers(changes, sources, pairs, reference, digest))
    return tuple(
        replace(change, kind=ChangeKind.MOVED, what=sources[change.name], amount=None, detail="")
        if change.name in sources
        else change
        for change in changes
    )


def _rest_of_layers(
    changes: Iterable[TensorChange],
    sources: Mapping[str, str],
    pairs: Mapping[str, str],
    reference: KnownWeights,
    digest: Callable[[str], bytes],
) -> dict[str, str]:
    """The other tensors of layers that were moved: norms of two layers may be alike, but are looked up here."""
    layers = {TensorName.of(name).place: TensorName.of(source).place for name, source in sources.items()}
    rest = {}
    for change in changes:
        name = TensorName.of(change.name)
        if change.kind not in _LOOKED_UP or change.name in sources or name.place not in layers:
            continue
        stack, number = layers[name.place]
        source = f"{stack}.{number}.{name.rest}"
        if source in reference.saved and name.layer is not None and digest(pairs[change.name]) == reference.digest(source):
            rest[change.name] = source
    return rest


def _size(reference: KnownWeights, name: str) -> int:
    return math.prod(reference.saved[name].shape) if name in reference.saved else 0
