"""Errors about one position: which prompt of the suite it is in."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np

from pytest_pot.core.errors import PotError
from pytest_pot.core.text import quoted, shorten
from pytest_pot.engines.base import PositionError
from pytest_pot.engines.distributions import Floats, TopK
from pytest_pot.engines.tokens import Tokens
from pytest_pot.prompts.prompt import Prompt

__all__ = ["check_finite", "named_prompts", "not_finite"]


@contextmanager
def named_prompts(prompts: Sequence[Prompt] | Mapping[int, Prompt], batch: Sequence[int]) -> Iterator[None]:
    """Name the prompt in errors of an engine, which knows only its index in ``batch``, the prompt indices of a batch."""
    try:
        yield
    except PositionError as error:
        index = batch[error.prompt or 0]
        text = shorten(prompts[index].text, 40)
        raise PotError(f"{error.what}, at prompt {index} ({text!r}), position {error.position}") from None


def check_finite(
    top: TopK,
    role: str,
    prompts: Sequence[Prompt],
    tokens: Sequence[Tokens] | Mapping[int, Tokens],
    batch: Sequence[int],
) -> None:
    """Raise :class:`PotError`, with prompt and position, if any log-probability of a batch is NaN or infinite."""
    magnitude = np.abs(top.targets) + np.abs(top.log_probs).max(axis=1)
    not_finite(magnitude if top.log_tail is None else magnitude + np.abs(top.log_tail), role, prompts, tokens, batch)


def not_finite(
    magnitude: Floats,
    role: str,
    prompts: Sequence[Prompt],
    tokens: Sequence[Tokens] | Mapping[int, Tokens],
    batch: Sequence[int],
) -> None:
    """Raise :class:`PotError`, with prompt and position, if any number of a batch is NaN or infinite.

    ``magnitude``: [n], NaN or infinite where any number of the position is.
    """
    finite = np.isfinite(magnitude)
    if finite.all():
        return
    row = int(np.argmin(finite))
    index, position = [(i, j) for i in batch for j in range(tokens[i].n_positions)][row]
    raise PotError(
        f"the {role}'s log-probabilities are {'NaN' if np.isnan(magnitude[row]) else 'infinite'} at prompt {index} "
        f"({quoted(prompts[index].text, 40)}), position {position}, and at {int((~finite).sum())} of the "
        f"{len(finite)} positions of its batch. Such a model has no score; look for an overflow (float16?) or for "
        "weights that are not finite"
    )
