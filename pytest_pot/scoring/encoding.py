"""From encoded prompts to the tokens that both models read: continued where needed, and cut to the length that fits."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from pytest_pot.core.config import ScoringConfig
from pytest_pot.engines.base import Engine, OutOfMemory
from pytest_pot.engines.tokens import Tokens
from pytest_pot.prompts.tokenization import Encoded, fit
from pytest_pot.scoring.batching import does_not_fit

__all__ = ["fit_all", "fitter"]

_SEED = 0
"""Of the continuations that a reference draws; fixed, so that a bare prompt means the same tokens every time."""


def fit_all(config: ScoringConfig, encoded: Sequence[Encoded], reference: Engine, limit: int | None) -> list[Tokens]:
    """The tokens of every prompt; see :func:`fitter`."""
    fitted = fitter(config, encoded, reference, limit)
    return [fitted(index) for index in range(len(encoded))]


def fitter(config: ScoringConfig, encoded: Sequence[Encoded], reference: Engine, limit: int | None) -> Callable[[int], Tokens]:
    """A function that gives the tokens of a prompt by its index.

    Args:
        encoded: the ids of every prompt.
        reference: continues prompts that have no continuation.
        limit: the longest sequence that the candidate takes, or None. ``config.max_length`` and the reference's own limit hold
            as well.
    """
    limits = [config.max_length, reference.max_positions, limit]
    max_length = min(limit for limit in limits if limit is not None)
    most = config.positions_per_prompt

    def fitted(index: int) -> Tokens:
        context, continuation = encoded[index]
        if continuation is None:
            kept = fit(index, context, [0] * most, max_length).ids[:-most]
            try:
                [continuation] = reference.sample([kept], most, _SEED)
            except OutOfMemory as error:
                raise does_not_fit(config, index, len(kept) + most, most, error) from error
        return fit(index, context, continuation[:most], max_length)

    return fitted
