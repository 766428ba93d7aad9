"""From encoded prompts to the tokens that both models read: sample missing continuations, and cut to the length that fits."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from pytest_pot.core.config import ScoringConfig
from pytest_pot.engines.base import Engine, OutOfMemory
from pytest_pot.engines.tokens import Tokens
from pytest_pot.prompts.tokenization import Encoded, fit
from pytest_pot.scoring.batching import does_not_fit

__all__ = ["fit_all", "fitter"]

_SEED = 0
"""Seeds the continuations that a reference samples; fixed, so that a bare prompt gives the same tokens every time."""


def fit_all(config: ScoringConfig, encoded: Sequence[Encoded], reference: Engine, limit: int | None) -> list[Tokens]:
    """The tokens of every prompt; see :func:`fitter`."""
    tokens_of = fitter(config, encoded, reference, limit)
    return [tokens_of(index) for index in range(len(encoded))]


def fitter(config: ScoringConfig, encoded: Sequence[Encoded], reference: Engine, limit: int | None) -> Callable[[int], Tokens]:
    """A function from a prompt's index to its tokens.

    Args:
        encoded: the ids of every prompt.
        reference: continues prompts that have no continuation.
        limit: the longest sequence that the candidate takes, or None. ``config.max_length`` and the reference's own limit
            apply too.

    The function raises :class:`PotError` if a continuation leaves no room for its prompt, or sampling one runs out of memory.
    """
    limits = [config.max_length, reference.max_positions, limit]
    # Engines may give NumPy scalars; a recording keeps plain integers.
    max_length = int(min(limit for limit in limits if limit is not None))
    n_positions = config.positions_per_prompt

    def tokens_of(index: int) -> Tokens:
        context, continuation = encoded[index]
        if continuation is None:
            start = fit(index, context, [0] * n_positions, max_length).ids[:-n_positions]
            try:
                [sampled] = reference.sample([start], n_positions, _SEED)
            except OutOfMemory as error:
                raise does_not_fit(config, index, len(start) + n_positions, n_positions, error) from error
            continuation = [int(token) for token in sampled]
        return fit(index, context, continuation[:n_positions], max_length)

    return tokens_of
