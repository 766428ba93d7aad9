"""What a torch model read of a batch: :class:`~pytest_pot.engines.tensors.Reading`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from pytest_pot.core.errors import PotError
from pytest_pot.engines.distributions import Ints, TopK
from pytest_pot.engines.pytorch.output_layer import Rows
from pytest_pot.engines.pytorch.reduction import Softmax, reduce_over_choice, reduce_rows, whole_vocabulary
from pytest_pot.engines.pytorch.transfer import to_device
from pytest_pot.engines.tensors import Distributions, Reading, block_height, blocks_of

__all__ = ["StepsReading", "TorchReading", "cells_at", "on_host", "refuse_ids"]


@dataclass(frozen=True)
class TorchReading:
    """The logits that a forward pass computed, or can compute, at the positions of a batch."""

    rows: Rows
    targets: Tensor
    """[n]: the continuation's token at each position."""
    softmax: Softmax
    role: str
    renormalises: bool
    """Whether probabilities are relative to the cells alone."""

    partial: ClassVar[bool] = False

    @property
    def vocab_size(self) -> int:
        return self.rows.vocab_size

    def __len__(self) -> int:
        return len(self.rows)

    def top_k(self, k: int) -> Distributions:
        top = reduce_rows(self.rows, self.targets, k, self.softmax)
        if not self.renormalises or top.ids is None or top.log_tail is None:
            return top
        # Recompute by the operations that at() applies to candidates: the same weights must give the same bits.
        choice = self._over_choice(top.ids).most_likely_first()
        return replace(choice, log_tail=top.log_tail, tail_underflows=top.tail_underflows)

    def at(self, ids: Tensor, size: int) -> Distributions:
        if size > self.vocab_size:  # only then does the host have to look at them, and wait for the device
            refuse_ids(int(ids.max()), self.role, self.vocab_size)
        ids = ids.to(self.rows.device)
        return self._over_choice(ids) if self.renormalises else reduce_rows(self.rows, self.targets, ids, self.softmax)

    def n_shared(self, size: int) -> int:
        return min(size, self.vocab_size)

    def blocks(self, first: int, height: int) -> Iterator[Distributions]:
        return whole_vocabulary(self.rows, self.targets, min(first, self.vocab_size), height, self.softmax)

    def _over_choice(self, ids: Tensor) -> Distributions:
        """The softmax over ``ids`` [n, m] only; computes no logits but theirs and those of the continuation's tokens."""
        logits = self.rows.at(torch.cat([ids, self.targets[:, None]], dim=-1))
        return reduce_over_choice(logits[:, :-1], logits[:, -1], ids, self.softmax, self.vocab_size)


class StepsReading:
    """What a model reads token by token, once it is known which ids are compared."""

    def __init__(self, read: Callable[[Tensor | int], Distributions], n_positions: int) -> None:
        """``read``: the distributions at ids [n, m], or at the first m of the vocabulary, as far as it has so many."""
        self._read = read
        self._n_positions = n_positions
        self._whole: Distributions | None = None

    def __len__(self) -> int:
        return self._n_positions

    def at(self, ids: Tensor, size: int) -> Distributions:  # noqa: ARG002 - the decoder checks them
        return self._read(ids)

    def n_shared(self, size: int) -> int:
        self._whole = self._read(size)
        return self._whole.values.shape[1]

    def blocks(self, first: int, height: int) -> Iterator[Distributions]:
        whole = self._read(first) if self._whole is None or self._whole.values.shape[1] != first else self._whole
        self._whole = None
        return blocks_of(whole, height)


def cells_at(reading: Reading, ids: Tensor | Ints | int, device: torch.device) -> Distributions:
    """The distributions at ``ids`` [n, m], or at the first m of the vocabulary, as far as it has so many.

    Raises:
        PotError: an id of an array is outside the vocabulary. Of a tensor only those that are too high are looked for.
    """
    if isinstance(ids, int):
        first = reading.n_shared(ids)
        return Distributions.concatenate(list(reading.blocks(first, block_height(len(reading), first, device))))
    if isinstance(ids, Tensor):
        return reading.at(ids, int(ids.max()) + 1)
    if (lowest := int(ids.min(initial=0))) < 0:  # an array on the host: the device need not be waited for
        raise PotError(f"id {lowest} is in no vocabulary: ids count from 0")
    return reading.at(to_device(ids, device), int(ids.max(initial=0)) + 1)


def on_host(read: Callable[[bool], Distributions]) -> TopK:
    """The result of ``read(wide_tail)`` as arrays; with wide tails if narrow ones underflow."""
    distributions = read(False)
    if distributions.tail_underflows is not None and bool(distributions.tail_underflows.any()):
        distributions = read(True)
    return distributions.to_host()


def refuse_ids(highest: int, role: str, vocab_size: int) -> None:
    """Raise :class:`PotError` if ``highest`` of the other model's likeliest ids is outside this one's vocabulary."""
    if highest >= vocab_size:
        raise PotError(
            f"the {role}'s vocabulary has {vocab_size} tokens, but the other model's likeliest tokens "
            f"include id {highest}. Vocabularies may differ in padding only: every id that is used must exist in both"
        )
