"""An engine that returns a recorded reference's distributions instead of running a model."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from pytest_pot.baseline.baseline import Baseline
from pytest_pot.core.errors import PotError
from pytest_pot.core.text import shorten
from pytest_pot.engines.base import Engine
from pytest_pot.engines.distributions import Ints, TopK
from pytest_pot.engines.tokens import Tokens

__all__ = ["Replay", "check_fits"]

_LABEL = 300
"""The most characters of what a recording says of the reference's precision and device."""


class Replay:
    """An :class:`~pytest_pot.engines.base.Engine` that returns recorded distributions."""

    max_positions = None

    def __init__(self, baseline: Baseline, note: str = "recorded") -> None:
        """``note`` ends the label and says where the numbers come from. Batches must hold objects of ``baseline.tokens``,
        not equal copies."""
        self._baseline = baseline
        self._note = note
        # By identity: equal prompts may have been recorded in different batches, and so rounded differently.
        self._rows = {id(tokens): rows for tokens, rows in zip(baseline.tokens, pairwise(baseline.starts), strict=True)}
        self._arrays = baseline.recorded.stored(baseline.config.temperature, baseline.vocab_size)

    @property
    def label(self) -> str:
        return ", ".join(filter(None, (shorten(self._baseline.provenance.label, _LABEL), self._note)))

    def top_k(self, batch: Sequence[Tokens], k: int | None) -> TopK:  # noqa: ARG002 - the recording fixes k
        return TopK.concatenate([self._baseline.top_k(*self._rows[id(tokens)]) for tokens in batch])

    def at(self, batch: Sequence[Tokens], ids: Ints | int) -> TopK:
        """The first ``ids`` of the vocabulary, if all of it was recorded; for anything else, raise :class:`PotError`."""
        top = self.top_k(batch, None)
        if not isinstance(ids, int) or top.log_probs.shape[1] < top.vocab_size:
            raise PotError("a recording has values only for the ids that were recorded")
        return top.in_order().first(ids)

    def reading(self, batch: Sequence[Tokens], device: Any, *, wide_tail: bool = False) -> Any:  # noqa: ARG002
        """See :class:`~pytest_pot.engines.tensors.Reads`."""
        from pytest_pot.engines.host_reading import StoredReading  # this imports torch

        return StoredReading(self._arrays, np.concatenate([np.arange(*self._rows[id(tokens)]) for tokens in batch]), device)

    def sample(self, contexts: Sequence[Sequence[int]], n_tokens: int, seed: int) -> list[list[int]]:  # noqa: ARG002
        raise PotError("a recording cannot continue a prompt: it has the recorded tokens only")


def check_fits(baseline: Baseline, candidate: Engine) -> None:
    """Raise :class:`PotError` if a recorded sequence is longer than the candidate takes."""
    longest = max(len(tokens.ids) for tokens in baseline.tokens)
    if candidate.max_positions is not None and longest > candidate.max_positions:
        raise PotError(
            f"{baseline.source} has sequences of up to {longest} tokens, but the candidate takes {candidate.max_positions}: "
            f"record it with max_length={candidate.max_positions}"
        )
