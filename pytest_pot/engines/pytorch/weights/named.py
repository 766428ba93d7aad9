"""The weights of a model in this process: a :class:`~pytest_pot.engines.weights.Weights`."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cached_property, partial
from typing import Any

from torch import Tensor, nn

from pytest_pot.engines.kept_config import kept_config
from pytest_pot.engines.pytorch.weights.changes import brief_change_between, change_between
from pytest_pot.engines.pytorch.weights.constants import constants_of
from pytest_pot.engines.pytorch.weights.grids import GridSearch
from pytest_pot.engines.pytorch.weights.prints import digest_of, print_from, sums_of
from pytest_pot.engines.pytorch.weights.recorded_changes import brief_change_since, change_since
from pytest_pot.engines.pytorch.weights.stored import Stored, base_of, stored_tensors, why_unreadable
from pytest_pot.engines.weights import TensorChange, TensorInfo, TensorPrint, Weights, WeightsPrint

__all__ = ["NamedWeights"]

_MOST_READERS = 8


class NamedWeights:
    """A :class:`~pytest_pot.engines.weights.Weights`. Nothing is read before it is asked for."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._digests: dict[str, bytes] = {}
        self._grids = GridSearch()

    @property
    def model_class(self) -> str:
        return type(base_of(self._model)).__name__

    @cached_property
    def config(self) -> Mapping[str, Any] | None:
        model = self._model
        while not hasattr(model, "config") and isinstance(inner := getattr(model, "module", None), nn.Module):
            model = inner  # DataParallel and its like
        to_json = getattr(getattr(model, "config", None), "to_json_string", None)
        if to_json is None:
            return None
        try:
            return kept_config(json.loads(to_json(use_diff=False)))
        except (
            AttributeError,
            RecursionError,
            TypeError,
            ValueError,
        ):  # a class of the user's, or values that JSON does not have
            return None

    @cached_property
    def tensors(self) -> Mapping[str, TensorInfo]:
        return {name: stored.info for name, stored in self._all.items() if name not in self.ties}

    @cached_property
    def ties(self) -> Mapping[str, str]:
        first = {stored.identity: name for name, stored in reversed(list(self._all.items()))}
        names = {name: first[stored.identity] for name, stored in self._all.items()}
        return {name: tied for name, tied in names.items() if tied != name}

    @cached_property
    def constants(self) -> Mapping[str, float | int | bool | str | None]:
        return constants_of(base_of(self._model))

    @cached_property
    def unreadable(self) -> str | None:
        return why_unreadable(self._model, self._all)

    def values(self, name: str) -> Tensor:
        """The values of the tensor ``name``, in the tensor's shape and on its device; floats in the precision that they are
        kept in. Packed weights are dequantised, anew each time."""
        return self._all[name].read()

    def digest(self, name: str) -> bytes:
        """See :meth:`Weights.digest`. The tensors that follow are read too, a few at a time: whoever asks for
        one mostly asks for all, in their order."""
        name = self.ties.get(name, name)
        if name not in self._digests:
            names = list(self.tensors)
            following = names[names.index(name) :]
            self._read_digests([each for each in following if each not in self._digests][: self._n_readers])
        return self._digests[name]

    def change(self, name: str, reference: Weights | WeightsPrint, reference_name: str) -> TensorChange | None:
        other_name = None if name == reference_name else name
        if isinstance(reference, WeightsPrint):
            before, digest = reference.tensors[reference_name], partial(self.digest, name)
            return change_since(before, self.values(name), reference_name, other_name, digest, self._grids)
        if isinstance(reference, NamedWeights):
            return change_between(reference.values(reference_name), self.values(name), reference_name, other_name, self._grids)
        raise NotImplementedError

    def brief_change(self, name: str, reference: Weights | WeightsPrint, reference_name: str) -> TensorChange | None:
        other_name = None if name == reference_name else name
        if isinstance(reference, WeightsPrint):
            change = brief_change_since(reference.tensors[reference_name], self.values(name), partial(self.digest, name))
        elif isinstance(reference, NamedWeights):
            change = brief_change_between(reference.values(reference_name), self.values(name))
        else:
            raise NotImplementedError
        return None if change is None else replace(change, name=reference_name, candidate_name=other_name)

    def print(self) -> WeightsPrint:
        """See :meth:`Weights.print`. Tensors are read one after the other, twice: for the digests, and for the sums."""
        self._read_digests([name for name in self.tensors if name not in self._digests])
        grids = GridSearch()
        return WeightsPrint(
            model_class=self.model_class,
            config=self.config,
            tensors={name: self._print_of(name, grids) for name in self.tensors},
            ties=self.ties,
        )

    def _print_of(self, name: str, grids: GridSearch) -> TensorPrint:
        values = self.values(name)
        return print_from(self.tensors[name], self.digest(name), sums_of(values), grids.name(values))

    def _read_digests(self, names: Sequence[str]) -> None:
        # Threads help, because hashlib releases the GIL while it hashes.
        with ThreadPoolExecutor(self._n_readers) as pool:
            self._digests.update(zip(names, pool.map(lambda name: digest_of(self.values(name)), names), strict=True))

    @cached_property
    def _n_readers(self) -> int:
        """How many tensors are read at the same time: one where each is dequantised, which takes memory."""
        return 1 if any(stored.packed for stored in self._all.values()) else min(os.cpu_count() or 1, _MOST_READERS)

    @cached_property
    def _all(self) -> Mapping[str, Stored]:
        """All parameters and buffers by name, also those with several names."""
        return stored_tensors(self._model)
