"""Compare with a model that tells only its own likeliest ids: on the ids that both models know, and one cell for all others.

Both know the ids that both list, and the continuation's token. Merging all others into one cell can only lower a divergence, so
every figure is still a lower bound of the exact one. How much probability the one cell holds is shown as ``unseen``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import chain

import numpy as np
import torch

from pytest_pot.core.config import ScoringConfig
from pytest_pot.core.errors import PotError
from pytest_pot.engines.base import Engine, Level, level_of
from pytest_pot.engines.distributions import Ints, TopK
from pytest_pot.engines.tensors import Distributions, as_distributions
from pytest_pot.engines.tokens import Tokens
from pytest_pot.scoring.alignment import on_common_ids

__all__ = ["asked_for", "check_level", "on_common_cells", "refuse_partial", "targets_of", "tells_given_ids"]

_MORE = 2
"""How many times the reference's k a candidate is asked for: the same weights, rounded differently, rank the last of 100 ids
differently. Of SmolLM2's 100 likeliest ids, llama.cpp has 2.7 not among its own 100, and none not among its 200."""

_ROUNDING = 2.0**-23
"""By how much two tails differ by rounding alone: they are what is left of 1 beside probabilities in float32. Such tails count
as equal, so that a model is at distance 0 from its own recording, whichever ids are summed into which."""


def tells_given_ids(engine: Engine) -> bool:
    """Whether ``engine`` knows the log-probability of any id."""
    return level_of(engine) is Level.GIVEN_IDS


def check_level(config: ScoringConfig, candidate: Engine) -> None:
    """Raise :class:`PotError` if ``config`` asks for figures that ``candidate`` cannot tell."""
    if config.tail == "renormalise" and not tells_given_ids(candidate):
        raise PotError(
            f"tail='renormalise' (the preset fastest) needs the candidate's probability of each of the reference's likeliest "
            f"tokens, but {candidate.label} tells only its own likeliest ones. Use a preset with tail='bucket', such as auto"
        )


def asked_for(k: int | None, size: int) -> int | None:
    """How many ids a candidate is asked for, if the reference lists ``k`` of ``size``; None: all."""
    return None if k is None or k >= size else min(_MORE * k, size)


def refuse_partial(top: TopK | Distributions, role: str, engine: Engine) -> None:
    """Raise :class:`PotError` if ``top`` is not the whole vocabulary, which was asked for."""
    if top.log_tail is not None:
        width = top.log_probs.shape[1] if isinstance(top, TopK) else top.values.shape[1]
        more = getattr(engine, "to_tell_more", None)
        raise PotError(
            f"top_k=None (the presets accurate and original) compares the whole vocabulary, but the {role}, {engine.label}, "
            f"tells only its {width} likeliest ids per position. Use a preset with a top_k, such as auto"
            + (f", or {more}" if more else "")
        )


def targets_of(batch: Sequence[Tokens]) -> Ints:
    """[n]: the continuation's token at each position of ``batch``."""
    return np.fromiter(chain.from_iterable(tokens.targets for tokens in batch), dtype=np.int64)


def on_common_cells(
    reference: Distributions, candidate: Distributions, targets: Ints, device: torch.device
) -> tuple[Distributions, Distributions]:
    """Both distributions over the ids that both know, and one cell for all other ids, on ``device``.

    Args:
        targets: [n], ids of the continuation's tokens, whose log-probability both know even where they do not list it.

    Raises:
        PotError: the candidate's likeliest id is none of the reference's vocabulary.
    """
    p, q = reference.to_host(), candidate.to_host()
    if (q.top_ids >= p.vocab_size).any():
        raise PotError(
            f"the candidate's likeliest token has the id {int(q.top_ids.max())}, but the reference's vocabulary has only "
            f"{p.vocab_size} tokens: they are models of two vocabularies"
        )
    # Where a whole vocabulary is listed by its order, each of its ids is one that a distribution has.
    free = max(p.vocab_size, q.vocab_size, *(1 + int(ids.max()) for ids in (p.ids, q.ids, targets) if ids is not None))
    p, q = (_with_targets(top, targets, free) for top in (p, q))
    p, q = on_common_ids(p, q)
    assert p.log_tail is not None
    assert q.log_tail is not None
    equal = np.abs(np.exp(p.log_tail) - np.exp(q.log_tail)) < _ROUNDING
    q = replace(q, log_tail=np.where(equal, p.log_tail, q.log_tail))
    return (
        replace(as_distributions(p, device), tail_underflows=_moved(reference, device)),
        replace(as_distributions(q, device), tail_underflows=_moved(candidate, device)),
    )


def _moved(distributions: Distributions, device: torch.device) -> torch.Tensor | None:
    flags = distributions.tail_underflows
    return None if flags is None else flags.to(device)


def _with_targets(top: TopK, targets: Ints, free: int) -> TopK:
    """``top`` with the continuation's token as one more id, taken out of the tail, where it is not listed and not nearly all of
    the tail.

    ``free``: an id that no distribution has; it stands in the new column where nothing is added, with no probability.
    """
    if top.ids is None or top.log_tail is None:  # the whole vocabulary is listed
        return top
    rest = np.exp(top.log_tail) - np.exp(top.targets)
    # What is left of the tail must not be the rounding of a difference.
    taken = ~(top.ids == targets[:, None]).any(axis=1) & (rest > _ROUNDING)
    return replace(
        top,
        ids=np.column_stack([top.ids, np.where(taken, targets, free)]),
        log_probs=np.column_stack([top.log_probs, np.where(taken, top.targets, _NO_PROBABILITY)]),
        log_tail=np.where(taken, np.log(np.maximum(rest, _ROUNDING)), top.log_tail),
    )


_NO_PROBABILITY = -700.0
"""A log-probability whose ``exp`` adds nothing to any sum, and which is the same in both models."""
