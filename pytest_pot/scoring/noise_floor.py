"""The noise floor: how far a model is from itself when it is run another way, in a batch with others and alone.

Sums are taken in another order then, and rounded otherwise. A limit below that cannot tell a changed model from an unchanged
one; only 0 can, where both models run in the very same way.
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
"""Tokens of the two texts. Short, to be cheap; different, so that one is padded beside the other; and that one so short that
products of matrices take another path for it alone: those of 16 rows and more are often rounded alike, whatever is beside them.
"""
_POSITIONS = 8


def noise_floor(config: ScoringConfig, engine: Engine, texts: Sequence[Sequence[int]]) -> float | None:
    """The gated metric between two runs of ``engine``: a text in a batch with another, and alone.

    Args:
        texts: token ids; the first two of at least two tokens are read, as far as is needed.

    Returns:
        the mean over the text's last positions; None where there are not two such texts, or no memory for them.
    """
    probes = _probes(texts, engine.max_positions)
    if len(probes) < len(_LENGTHS):
        return None
    try:
        together = engine.top_k(probes, config.top_k)
        beside = together.rows(len(together) - probes[-1].n_positions, len(together))
        alone = engine.at(probes[-1:], beside.log_probs.shape[1] if beside.ids is None else beside.ids)
    except OutOfMemory:
        return None
    found = position_divergences(beside, alone, config.tail)[config.metric]
    return float(found.mean()) if np.isfinite(found).all() else None


def _probes(texts: Sequence[Sequence[int]], limit: int | None) -> list[Tokens]:
    long_enough = [ids for ids in texts if len(ids) > 1]
    probes = []
    for ids, length in zip(long_enough, _LENGTHS, strict=False):
        kept = tuple(ids[: min(length, limit or length)])
        probes.append(Tokens(kept, max(1, len(kept) - _POSITIONS)))
    return probes
