"""An engine that is being checked: it is asked here, and whatever it does wrong is noted, not raised."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np

from pytest_pot.core.text import count, shorten
from pytest_pot.engines.base import Engine, Level, level_of
from pytest_pot.engines.distributions import Ints, TopK
from pytest_pot.engines.tokens import Tokens
from pytest_pot.testing.oracle import Oracle
from pytest_pot.testing.structure import Call, structure_problems

__all__ = ["Case", "copied"]


@dataclass
class Case:
    """An engine, what its model says, and the problems so far."""

    engine: Engine
    oracle: Oracle
    tokenizer: Any
    tolerance: float
    limit: float
    """The mean total variation that rounding explains, as far as the answers so far show how coarsely the engine computes."""
    problems: list[str] = field(default_factory=list)
    cause: Exception | None = None
    """What the engine raised first."""
    right: bool = False
    """Whether the likeliest ids of all prompts were right, alone and together."""
    last: TopK | None = None
    """The last answer itself, with the engine's own arrays."""

    @property
    def batch(self) -> tuple[Tokens, ...]:
        return self.oracle.batch

    @property
    def vocab_size(self) -> int:
        return self.oracle.vocab_size

    @property
    def gives_ids(self) -> bool:
        """Whether the engine tells the log-probability of any id."""
        return level_of(self.engine) is Level.GIVEN_IDS

    def top_k(self, batch: Sequence[Tokens], k: int | None) -> tuple[TopK, Call] | None:
        """The answer, a copy; None if it has problems of form, which are noted."""
        most = self.vocab_size if k is None else min(k, self.vocab_size)
        fewest = most if self.gives_ids else 1
        call = Call(f"top_k({prompts(batch)}, k={k})", batch, fewest, most, self.vocab_size, not self.gives_ids)
        return self._answer(call, lambda: self.engine.top_k(batch, k))

    def at(self, ids: Ints | int, name: str, method: str = "at") -> tuple[TopK, Call] | None:
        """The answer of ``at``, or of another method like it, for all prompts; ``name``: of the ids, for people."""
        width = min(ids, self.vocab_size) if isinstance(ids, int) else ids.shape[1]
        call = Call(f"{method}({prompts(self.batch)}, {name})", self.batch, width, width, self.vocab_size)
        read: Callable[..., TopK] = getattr(self.engine, method)
        return self._answer(call, lambda: read(self.batch, ids))

    def note_raised(self, name: str, error: Exception) -> None:
        """Note that a call raised ``error``."""
        self.cause = self.cause or error
        self.problems.append(f"{name} raised {type(error).__name__}: {shorten(str(error), 200)}")

    def _answer(self, call: Call, ask: Callable[[], TopK]) -> tuple[TopK, Call] | None:
        try:
            top = ask()
            problems = structure_problems(top, call)
        except Exception as error:  # an engine may raise anything
            self.note_raised(call.name, error)
            return None
        self.problems += problems
        if problems:
            return None
        self.last = top
        return copied(top), call


def prompts(batch: Sequence[Tokens]) -> str:
    """``"8 prompts"``; a single one with its size, which tells it from others."""
    return count(len(batch), "prompt") if len(batch) != 1 else f"1 prompt of {count(batch[0].prompt_len, 'token')}"


def copied(top: TopK) -> TopK:
    """``top`` with arrays of its own: an engine may write into its arrays again."""
    arrays = {each.name: getattr(top, each.name) for each in fields(TopK)}
    copies: dict[str, Any] = {name: value.copy() for name, value in arrays.items() if isinstance(value, np.ndarray)}
    return replace(top, **copies)
