"""What an engine returns: next-token distributions at a batch of positions, reduced to the cells that are compared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

__all__ = ["Flags", "Floats", "Ints", "TopK"]

Floats: TypeAlias = npt.NDArray[np.float64]
Ints: TypeAlias = npt.NDArray[np.int64]
Flags: TypeAlias = npt.NDArray[np.bool_]

_NOTHING = -750.0
"""The log-probability of a cell that a model has no id in. Finite, so that a divergence is: ``exp`` of it is exactly 0, which
makes ``tv`` and ``jsd`` exact, ``kl`` and ``kl_reverse`` too where it is the side that their weights come from. On the other
side the exact figure would be infinite, and is about 750 nats times the mass that the first model has there."""

_PER_POSITION = ("targets", "top_ids", "top_log_probs", "clear", "log_normalisers")


@dataclass(frozen=True)
class TopK:
    """Next-token distributions at n positions, seen at m ids each, in natural logarithms.

    ``log_probs`` are normalised over the model's whole vocabulary; or, where the configuration renormalises the tail, over
    the ids alone, and so is everything else but ``log_tail``. A reference's ids are its own likeliest, most likely first; a
    candidate's are the reference's.
    """

    ids: Ints | None
    """[n, m], or None: the ids are 0 .. m-1 at every position."""
    log_probs: Floats
    """[n, m]: log-probability of each id."""
    log_tail: Floats | None
    """[n]: log of the mass of all other ids together, summed from the logits and not as ``1 - sum``, which would lose
    small tails; None where there are no other ids, or where a candidate was not asked for them."""
    targets: Floats
    """[n]: log-probability of the continuation's own token."""
    top_ids: Ints
    """[n]: the likeliest id of the whole vocabulary, or of the ids alone."""
    top_log_probs: Floats
    """[n]: its log-probability."""
    clear: Flags
    """[n]: whether the likeliest id is ahead of the second by more than rounding error, which grows with the logits. A
    first choice that is not clear cannot flip. Of a candidate it is not used, and may be anything."""
    log_normalisers: Floats
    """[n]: what was subtracted from the logits to make ``log_probs``; 0 where an engine has no logits to show. A recording
    keeps the logits, which are short numbers, and this, so as to lose nothing."""
    vocab_size: int

    def __len__(self) -> int:
        return len(self.targets)

    def rows(self, start: int, stop: int) -> TopK:
        """The positions ``start`` to ``stop``; views, no copies."""
        part = slice(start, stop)
        return TopK(
            ids=None if self.ids is None else self.ids[part],
            log_probs=self.log_probs[part],
            log_tail=None if self.log_tail is None else self.log_tail[part],
            vocab_size=self.vocab_size,
            **{name: getattr(self, name)[part] for name in _PER_POSITION},
        )

    def without_cells(self) -> TopK:
        """Targets and first choices only, in arrays of their own: what is worth keeping once the cells are compared."""
        kept = {name: getattr(self, name).copy() for name in _PER_POSITION}
        return TopK(ids=None, log_probs=np.empty((len(self), 0)), log_tail=None, vocab_size=self.vocab_size, **kept)

    def in_order(self) -> TopK:
        """The whole vocabulary, which the cells are, in the order of the ids, so that ``ids`` is None."""
        assert self.log_tail is None
        if self.ids is None:
            return self
        order = np.argsort(self.ids, axis=1)
        return replace(self, ids=None, log_probs=np.take_along_axis(self.log_probs, order, axis=1))

    def most_likely_first(self) -> TopK:
        """The same cells, each position's in the order of their probability."""
        order = np.argsort(-self.log_probs, axis=1, kind="stable")
        ids = None if self.ids is None else np.take_along_axis(self.ids, order, axis=1)
        return replace(self, ids=ids, log_probs=np.take_along_axis(self.log_probs, order, axis=1))

    def first(self, m: int) -> TopK:
        """Of the whole vocabulary in order, the ids 0 .. m-1, and all others as the tail."""
        assert self.log_tail is None
        assert self.ids is None
        if m >= self.vocab_size:
            return self
        rest = self.log_probs[:, m:]
        peak = rest.max(axis=1, keepdims=True)
        log_tail = np.log(np.exp(rest - peak).sum(axis=1)) + peak[:, 0]
        return replace(self, log_probs=self.log_probs[:, :m], log_tail=log_tail)

    def with_empty_tail(self) -> TopK:
        """The whole vocabulary, and a tail that no id is in: beside a model that has ids there."""
        assert self.log_tail is None
        return replace(self, log_tail=np.full(len(self), _NOTHING))

    @property
    def tail_mass(self) -> Floats:
        """[n]: the probability of all ids outside the cells."""
        return np.zeros(len(self)) if self.log_tail is None else np.exp(self.log_tail)

    @staticmethod
    def concatenate(parts: Sequence[TopK]) -> TopK:
        """The positions of all ``parts`` one after the other; the parts see the same number of ids."""
        if len(parts) == 1:
            return parts[0]
        first = parts[0]
        return TopK(
            ids=None if first.ids is None else np.concatenate([_present(part.ids) for part in parts]),
            log_probs=np.concatenate([part.log_probs for part in parts]),
            log_tail=None if first.log_tail is None else np.concatenate([_present(part.log_tail) for part in parts]),
            vocab_size=first.vocab_size,
            **{name: np.concatenate([getattr(part, name) for part in parts]) for name in _PER_POSITION},
        )


def _present(array: npt.NDArray[np.generic] | None) -> npt.NDArray[np.generic]:
    assert array is not None
    return array
