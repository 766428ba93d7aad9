"""What an engine returns: the next-token distributions at a batch of positions, reduced to the cells that we compare."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from pytest_pot.core.brief import Brief

__all__ = ["EMPTY_CELL", "UNKNOWN_VOCAB", "Flags", "Floats", "Ints", "StoredArrays", "TopK", "certainly_clear", "leads"]

Floats: TypeAlias = npt.NDArray[np.float64]
Ints: TypeAlias = npt.NDArray[np.int64]
Flags: TypeAlias = npt.NDArray[np.bool_]

UNKNOWN_VOCAB = 2**31 - 1
"""The size of a vocabulary that a server does not tell."""

EMPTY_CELL = -750.0
"""Log-probability of a cell in which a model has no token. It is finite, so that divergences are finite, and its ``exp`` is
exactly 0. That makes ``tv`` and ``jsd`` exact, and ``kl`` and ``kl_reverse`` too if the cell is empty in the model that weights
the sum. If it is empty in the other model, the exact divergence is infinite; we report about 750 nats times the weighting
model's probability of that cell."""

_FLAT_LEAD = 2.0**-6
"""By what part of its own logit a first choice leads at most where only rounding decides it: the error of bfloat16 logits, see
:mod:`pytest_pot.engines.pytorch.rounding`. No precision that models run in is coarser."""
_LARGE_LOGIT = 64.0
"""The same where only log-probabilities are known, and so the logit is unknown: few models have larger ones."""

_PER_POSITION_FIELDS = ("targets", "top_ids", "top_log_probs", "clear", "log_normalisers")


@dataclass(frozen=True, repr=False)
class TopK(Brief):
    """Next-token distributions at n positions, with m ids per position, as natural logarithms.

    ``log_probs`` are normalised over the model's whole vocabulary. With ``tail="renormalise"`` they are normalised over the m
    ids alone, and so are all other fields except ``log_tail``. A reference's ids are its own m likeliest, most likely first. A
    candidate's ids are those of the reference.
    """

    ids: Ints | None
    """[n, m]; None if the ids are 0 .. m-1 at every position."""
    log_probs: Floats
    """[n, m]: log-probability of each id."""
    log_tail: Floats | None
    """[n]: log of the total probability of all other ids. It is summed from the logits, because ``1 - sum`` would lose small
    tails. None if there are no other ids, or if the candidate was not asked for them."""
    targets: Floats
    """[n]: log-probability of the continuation's token."""
    top_ids: Ints
    """[n]: the likeliest id of the whole vocabulary, or of the m ids if the distribution is renormalised."""
    top_log_probs: Floats
    """[n]: log-probability of ``top_ids``."""
    clear: Flags
    """[n]: whether the likeliest id leads the second by more than rounding error, which grows with the logits. ``top1_flip``
    ignores positions that are not clear. A candidate's values are not used and may be anything."""
    log_normalisers: Floats
    """[n]: what was subtracted from the logits to get ``log_probs``; 0 if an engine does not expose logits. A baseline stores
    this and the logits, because logits often fit into float32 without loss and log-probabilities do not."""
    vocab_size: int

    def __len__(self) -> int:
        return len(self.targets)

    def rows(self, start: int, stop: int) -> TopK:
        """The positions from ``start`` up to ``stop``, as views of the same arrays."""
        return self._part(slice(start, stop))

    def take(self, positions: Ints) -> TopK:
        """Copies of these positions, in this order."""
        return self._part(positions)

    def _part(self, part: slice | Ints) -> TopK:
        return TopK(
            ids=None if self.ids is None else self.ids[part],
            log_probs=self.log_probs[part],
            log_tail=None if self.log_tail is None else self.log_tail[part],
            vocab_size=self.vocab_size,
            **{name: getattr(self, name)[part] for name in _PER_POSITION_FIELDS},
        )

    def in_order(self) -> TopK:
        """The same cells sorted by id, so that ``ids`` is None. The cells must be the whole vocabulary."""
        assert self.log_tail is None
        if self.ids is None:
            return self
        order = np.argsort(self.ids, axis=1)
        return replace(self, ids=None, log_probs=np.take_along_axis(self.log_probs, order, axis=1))

    def first(self, m: int) -> TopK:
        """The ids 0 .. m-1, and all others merged into the tail. The cells must be the whole vocabulary, sorted by id."""
        assert self.log_tail is None
        assert self.ids is None
        if m >= self.vocab_size:
            return self
        rest = self.log_probs[:, m:]
        peak = rest.max(axis=1, keepdims=True)
        log_tail = np.log(np.exp(rest - peak).sum(axis=1)) + peak[:, 0]
        return replace(self, log_probs=self.log_probs[:, :m], log_tail=log_tail)

    @property
    def tail_mass(self) -> Floats:
        """[n]: the total probability of all ids outside the cells."""
        return np.zeros(len(self)) if self.log_tail is None else np.exp(self.log_tail)

    @staticmethod
    def concatenate(parts: Sequence[TopK]) -> TopK:
        """Join ``parts`` along the positions. All parts must have the same number of ids."""
        if len(parts) == 1:
            return parts[0]
        first = parts[0]
        return TopK(
            ids=None if first.ids is None else np.concatenate([_not_none(part.ids) for part in parts]),
            log_probs=np.concatenate([part.log_probs for part in parts]),
            log_tail=None if first.log_tail is None else np.concatenate([_not_none(part.log_tail) for part in parts]),
            vocab_size=first.vocab_size,
            **{name: np.concatenate([getattr(part, name) for part in parts]) for name in _PER_POSITION_FIELDS},
        )


@dataclass(frozen=True, eq=False, repr=False)
class StoredArrays(Brief):
    """The distributions at N positions as a recording keeps them: a :class:`TopK` whose log-probabilities are
    ``values * scale - log_normalisers``."""

    ids: npt.NDArray[Any] | None
    """[N, k], most likely first; None for the whole vocabulary in id order."""
    values: npt.NDArray[Any]
    """[N, k]"""
    target_values: npt.NDArray[Any]
    """[N]"""
    log_normalisers: Floats
    log_tail: Floats | None
    clear: npt.NDArray[np.bool_]
    scale: float | Floats
    """One number, or [N]."""
    vocab_size: int


def _not_none(array: npt.NDArray[np.generic] | None) -> npt.NDArray[np.generic]:
    assert array is not None
    return array


def certainly_clear(top: TopK) -> Flags:
    """[n]: whether the likeliest id leads the second by more than rounding error in any precision.

    ``top`` is a reference's: most likely first, or the whole vocabulary.
    """
    first = top.top_log_probs
    if top.ids is not None and top.log_probs.shape[1] > 1:
        second = top.log_probs[:, 1]
    elif top.ids is not None:  # the second likeliest id is somewhere in the tail
        with np.errstate(divide="ignore"):  # where all of the probability is in the tail
            listed = np.log1p(-np.minimum(top.tail_mass, 1.0))
        second = np.full(len(top), -np.inf) if top.log_tail is None else top.log_tail - listed + first
    else:
        others = top.log_probs.copy()
        others[np.arange(len(top)), top.top_ids] = -np.inf
        second = others.max(axis=1)
    return leads(first, second, top.log_normalisers)


def leads(first: Floats, second: Floats, log_normalisers: Floats) -> Flags:
    """[n]: whether the log-probability ``first`` exceeds ``second`` by more than rounding error in any precision."""
    size = np.where(log_normalisers == 0.0, _LARGE_LOGIT, np.abs(first + log_normalisers))
    return np.asarray(first - second > 1.001 * _FLAT_LEAD * size)
