"""The protocol of an engine: whatever turns token ids into next-token log-probabilities.

The scorer knows nothing else of a model, so a server, another runtime or a recording can stand in for one by having these
methods. Batches are lists of :class:`~pytest_pot.prompts.tokenization.Tokens`; how they are padded, split or sent is the
engine's own business. The rows of what comes back are the batch's positions, one prompt after the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from pytest_pot.core.errors import PotError
from pytest_pot.prompts.tokenization import Tokens

if TYPE_CHECKING:
    from pytest_pot.engines.distributions import Ints, TopK

__all__ = ["Engine", "LoadedModel", "OutOfMemory", "Room"]


@runtime_checkable
class Engine(Protocol):
    """What the scorer asks of a model."""

    @property
    def max_positions(self) -> int | None:
        """The longest sequence that the model takes, or None where it has no limit."""

    @property
    def label(self) -> str:
        """Where and in which precision the model runs, for people: ``"float32 on cpu"``."""

    def top_k(self, batch: Sequence[Tokens], k: int | None) -> TopK:
        """The k likeliest ids at every position (``None``: the whole vocabulary, ``ids`` None), and all else as the tail.

        Raises:
            OutOfMemory: the batch does not fit; the caller may try a smaller one.
        """

    def at(self, batch: Sequence[Tokens], ids: Ints | int) -> TopK:
        """The distributions at given ids: ``[n_positions, m]`` of them, or the first m of the vocabulary.

        Where m is more than the vocabulary holds, all of it comes back.

        Raises:
            OutOfMemory: the batch does not fit; the caller may try a smaller one.
            PotError: an id of ``ids`` is outside the model's vocabulary.
        """

    def sample(self, contexts: Sequence[Sequence[int]], n_tokens: int, seed: int) -> list[list[int]]:
        """``n_tokens`` continuing each context, sampled at temperature 1; the same for a context whatever its neighbours.

        Raises:
            OutOfMemory: one context alone does not fit.
        """


@dataclass(frozen=True)
class Room:
    """How much is worth putting into one forward, in tokens with their padding; an engine may have it as ``room``."""

    most: int
    """More do not fit, or do not make it faster."""
    per_forward: int
    """So many tokens take as long as it takes to begin another forward: padding that costs less is worth while."""


class OutOfMemory(PotError):
    """A batch did not fit into the device's memory."""


@dataclass(frozen=True)
class LoadedModel:
    """A model and, where it came with one, its tokenizer."""

    model: Any
    tokenizer: Any = None

    @classmethod
    def of(cls, value: Any) -> LoadedModel:
        """``value`` itself if it is one, a (model, tokenizer) pair taken apart, or anything else as a model."""
        if isinstance(value, cls):
            return value
        if isinstance(value, tuple) and len(value) == 2:
            return cls(*value)
        return cls(value)
