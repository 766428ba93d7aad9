"""The noise floor: the distance of a model from itself, between a run in a batch with others and a run alone.

Another batch shape sums in another order, so rounding differs. A limit below the noise floor cannot tell a changed model from
an unchanged one. The exception is a limit of 0, if both models run in exactly the same way.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pytest_pot.core.config import ScoringConfig
from pytest_pot.engines.base import Engine, OutOfMemory
from pytest_pot.engines.tokens import Tokens
from pytest_pot.scoring.metrics import position_divergences

__all__ = ["noise_floor"]

_LENGTHS = (24, 8)
"""Tokens of the two texts. They are short to be cheap, and differ so that the second is padded in the batch. The second is so
short that its matrix products take another code path when it runs alone: products of 16 rows and more often round alike,
whatever else is in the batch."""
_POSITIONS = 8


def noise_floor(config: ScoringConfig, engine: Engine, texts: Sequence[Sequence[int]]) -> float | None:
    """The gated metric between two runs of ``engine`` on the same text: in a batch with another text, and alone.

    Args:
        config: the metric, ``top_k`` and tail.
        engine: the model to run.
        texts: token ids; we use the start of the first two texts that have at least two tokens.

    Returns:
        the mean over the text's last positions, in the metric's unit. None if there are not two such texts, if memory runs
        out, or if the metric is not finite.
    """
    probes = _probes(texts, engine.max_positions)
    if len(probes) < len(_LENGTHS):
        return None
    try:
        together = engine.top_k(probes, config.top_k)
        batched = together.rows(len(together) - probes[-1].n_positions, len(together))
        alone = engine.at(probes[-1:], batched.log_probs.shape[1] if batched.ids is None else batched.ids)
    except OutOfMemory:
        return None
    divergences = position_divergences(batched, alone, config.tail)[config.metric]
    return float(divergences.mean()) if np.isfinite(divergences).all() else None


def _probes(texts: Sequence[Sequence[int]], limit: int | None) -> list[Tokens]:
    long_enough = [ids for ids in texts if len(ids) > 1]
    probes = []
    for ids, length in zip(long_enough, _LENGTHS, strict=False):
        probe = tuple(ids[: min(length, limit or length)])
        probes.append(Tokens(probe, max(1, len(probe) - _POSITIONS)))
    return probes
