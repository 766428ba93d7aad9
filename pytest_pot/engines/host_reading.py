"""Readings from arrays on the host: of an engine of one's own, and of stored distributions."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pytest_pot.engines.base import Engine, GivenIds, PositionError
from pytest_pot.engines.distributions import Ints, StoredArrays, TopK
from pytest_pot.engines.pytorch.transfer import rows_to_device, to_device
from pytest_pot.engines.tensors import Distributions, as_distributions
from pytest_pot.engines.tokens import Tokens

__all__ = ["HostReading", "StoredReading", "refuse_foreign_ids"]


def refuse_foreign_ids(top: TopK, batch: Sequence[Tokens], engine: Engine) -> None:
    """Raise :class:`PositionError` if ``engine`` said ids that are none of its vocabulary; ``top``: its answer for ``batch``.

    Arrays would take a negative id for one that counts from their end.
    """
    for name, ids in (("ids", top.ids), ("top_ids", top.top_ids)):
        if ids is None or not ids.size or (ids.min() >= 0 and ids.max() < top.vocab_size):
            continue
        rows = ids.reshape(len(ids), -1)
        wrong = (rows < 0) | (rows >= top.vocab_size)
        row = int(wrong.any(axis=1).argmax())
        prompt, position = [(i, j) for i, tokens in enumerate(batch) for j in range(tokens.n_positions)][row]
        raise PositionError(
            f"the engine {type(engine).__name__} ({engine.label}) returned the id {int(rows[row][wrong[row]][0])} in {name}, "
            f"but its vocabulary has 0 to {int(top.vocab_size) - 1}",
            position,
            prompt,
        )


class HostReading:
    """What an :class:`~pytest_pot.engines.base.Engine` that returns arrays says of one batch."""

    def __init__(
        self,
        engine: Engine,
        batch: Sequence[Tokens],
        device: torch.device,
        *,
        k: int | None = None,
        at: Callable[[Sequence[Tokens], Ints | int], TopK] | None = None,
    ) -> None:
        """``k``: how many likeliest ids a reference is asked for; None: for all. ``at``: the method of ``engine`` that reads at
        given ids; by default its ``at``."""
        self._engine = engine
        self._batch = batch
        self._device = device
        self._k = k
        self._at = engine.at if at is None and isinstance(engine, GivenIds) else at
        self._top: TopK | None = None

    def __len__(self) -> int:
        return sum(tokens.n_positions for tokens in self._batch)

    @property
    def vocab_size(self) -> int:
        return int(self._likeliest.vocab_size)

    @property
    def partial(self) -> bool:
        return not isinstance(self._engine, GivenIds) and self._likeliest.log_tail is not None

    def top_k(self, k: int) -> Distributions:  # noqa: ARG002 - it is known from the beginning
        return as_distributions(self._likeliest, self._device)

    @property
    def _likeliest(self) -> TopK:
        if self._top is None:
            top = self._engine.top_k(self._batch, self._k)
            refuse_foreign_ids(top, self._batch, self._engine)
            self._top = top
        return self._top

    def at(self, ids: Tensor, size: int) -> Distributions:  # noqa: ARG002 - the engine checks them
        return as_distributions(self._read_at(ids.cpu().numpy()), self._device)

    def _read_at(self, ids: Ints | int) -> TopK:
        assert self._at is not None, "an engine that knows only its own likeliest ids is not asked for others"
        top = self._at(self._batch, ids)
        refuse_foreign_ids(top, self._batch, self._engine)
        return top

    def n_shared(self, size: int) -> int:
        if self._top is None:
            self._top = self._read_at(size)
        return min(size, int(self._top.log_probs.shape[1]))

    def blocks(self, first: int, height: int) -> Iterator[Distributions]:
        self.n_shared(first)
        assert self._top is not None
        top = self._top
        for start in range(0, len(top), height):
            part = as_distributions(top.rows(start, min(start + height, len(top))), self._device)
            yield part if part.log_tail is not None else part.in_order().first(first)


class StoredReading:
    """Some positions of stored distributions. A whole vocabulary is read and copied to the device one block at a time."""

    def __init__(self, arrays: StoredArrays, positions: Ints, device: torch.device) -> None:
        """``positions``: [n], the indices of the batch's positions."""
        self._arrays = arrays
        self._positions = positions
        self._device = device
        self.vocab_size = arrays.vocab_size
        self.partial = arrays.log_tail is not None

    def __len__(self) -> int:
        return len(self._positions)

    def top_k(self, k: int) -> Distributions:  # noqa: ARG002 - what is stored fixes k
        return self._part(self._positions)

    def at(self, ids: Tensor, size: int) -> Distributions:
        raise NotImplementedError("stored distributions have values only for the ids that were stored")

    def n_shared(self, size: int) -> int:
        return min(size, self.vocab_size)

    def blocks(self, first: int, height: int) -> Iterator[Distributions]:
        for start in range(0, len(self), height):
            yield self._part(self._positions[start : start + height]).in_order().first(first)

    def _part(self, positions: Ints) -> Distributions:
        arrays = self._arrays

        def tensor(array: npt.NDArray[Any]) -> Tensor:
            return rows_to_device(array, positions, self._device)

        scale = arrays.scale if isinstance(arrays.scale, float) else tensor(arrays.scale)[:, None]
        normalisers = tensor(arrays.log_normalisers)
        values = tensor(arrays.values)
        ids = None if arrays.ids is None else to_device(arrays.ids[positions].astype(np.int64), self._device)
        best = values.argmax(dim=1, keepdim=True) if ids is None else torch.zeros_like(ids[:, :1])
        factor = scale if isinstance(scale, float) else scale[:, 0]
        wide = [tensor(arrays.target_values).to(torch.float64), values.gather(1, best)[:, 0].to(torch.float64)]
        targets, top = (each if isinstance(factor, float) and factor == 1.0 else each * factor for each in wide)
        return Distributions(
            ids=ids,
            values=values,
            scale=scale,
            log_normalisers=normalisers,
            log_tail=None if arrays.log_tail is None else tensor(arrays.log_tail),
            targets=targets - normalisers,
            top_ids=best[:, 0] if ids is None else ids[:, 0],
            top_log_probs=top - normalisers,
            clear=tensor(arrays.clear),
            vocab_size=arrays.vocab_size,
        )
