"""Greedy generation with a model's own key-value cache, for gates on latency."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

import torch
from torch import Tensor

from pytest_pot.core.errors import PotError
from pytest_pot.engines.tokens import Tokens

__all__ = ["GreedyGeneration"]

_CACHES = ("cache", "past_key_values", "cache_params")
"""Names of the cache in the arguments and the output of a transformers forward: new, old, and for recurrent models."""


class _Model(Protocol):
    """What generation needs from the engine."""

    @property
    def accepts(self) -> frozenset[str]: ...

    def call(self, ids: Tensor, **optional: Any) -> Any: ...

    def padded(self, rows: Sequence[Sequence[int]], *, left: bool = False) -> tuple[Tensor, Tensor]: ...

    def memory_errors(self) -> AbstractContextManager[None]: ...


class GreedyGeneration:
    """Greedy generation for a batch, a :class:`~pytest_pot.engines.base.Generation`.

    Prompts are padded on the left, so that all of them continue at the same index.
    """

    def __init__(self, engine: _Model, role: str, batch: Sequence[Tokens]) -> None:
        """``batch``: prompts with one position for each token to generate; all have the same number of positions.

        Raises:
            PotError: the model's forward takes no key-value cache.
        """
        name = next((name for name in _CACHES if name in engine.accepts), None)
        if name is None:
            raise _no_cache(role)
        self._engine, self._role, self._cache_name = engine, role, name
        self._ids, mask = engine.padded([tokens.ids[: tokens.prompt_len] for tokens in batch], left=True)
        self._steps = batch[0].n_positions - 1
        self._mask = torch.cat([mask, mask.new_ones(len(batch), self._steps)], dim=1)
        self._positions = (self._mask.cumsum(1) - 1).clamp_min(0)

    @property
    def last_tokens(self) -> Tensor:
        """The most recent token of each prompt, [batch, 1]."""
        return self._token

    def forget(self) -> None:
        self._cache = None

    def first_token(self) -> None:
        length = self._ids.shape[1]
        with self._engine.memory_errors():
            self._keep(self._engine.call(self._ids, **self._context(0, length), logits_to_keep=1))

    def other_tokens(self) -> None:
        length = self._ids.shape[1]
        with self._engine.memory_errors():
            for end in range(length, length + self._steps):
                cache = {self._cache_name: self._cache}
                self._keep(self._engine.call(self._token, **self._context(end, end + 1), **cache))

    def _context(self, start: int, end: int) -> dict[str, Any]:
        positions = self._positions[:, start:end]
        return {"attention_mask": self._mask[:, :end], "position_ids": positions, "use_cache": True}

    def _keep(self, output: Any) -> None:
        self._cache = getattr(output, self._cache_name, None)
        if self._cache is None:
            raise _no_cache(self._role)
        self._token: Tensor = output.logits[:, -1:].argmax(-1)


def _no_cache(role: str) -> PotError:
    return PotError(
        f"the {role} does not take and return a key-value cache ({' or '.join(_CACHES)}), which what='decode' needs; time it "
        "with what='score' or what='prefill'"
    )
