"""The distributions at ids that we chose, from what a server said about them, with every number checked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pytest_pot.core.errors import PotError
from pytest_pot.engines.base import PositionError
from pytest_pot.engines.distributions import Floats, Ints, TopK
from pytest_pot.engines.tokens import Tokens

__all__ = ["GivenRows", "by_prompt", "check_in_vocabulary", "top_k_at"]

_CLAMPED = -9999.0
"""What vLLM writes for minus infinity; no honest log-probability is as low."""
_ROUNDING = 1e-4
"""How far honest probabilities may sum to more than 1 in float32."""
_TAIL_FLOOR = 2.0**-24
"""The least probability of a tail: what ``1 - sum`` leaves below half of float32's resolution is rounding."""
_SAME = 1e-3
"""How far apart two log-probabilities of the same id may be in one answer."""


@dataclass(frozen=True)
class GivenRows:
    """What a server said at the n positions of one prompt, as it came: anything may be in the place of a number."""

    log_probs: Any
    """[n, m]: of the ids that were asked for, in their order."""
    targets: Sequence[Any]
    """[n]: of the continuation's token."""
    top_ids: Sequence[Any]
    """[n]: the likeliest id."""
    top_log_probs: Sequence[Any]
    """[n]"""


def top_k_at(prompts: Sequence[GivenRows], ids: Ints, vocab_size: int, who: str) -> TopK:
    """The distributions at ``ids`` [positions of all prompts, m], with the rest of each as its tail.

    Raises:
        PositionError: a number is missing, NaN, or no log-probability; or the probabilities are not those of one distribution.
    """
    parts, start = [], 0
    for index, rows in enumerate(prompts):
        n = len(rows.targets)
        parts.append(_of_prompt(rows, ids[start : start + n], vocab_size, _Place(who, index)))
        start += n
    return TopK.concatenate(parts)


def by_prompt(batch: Sequence[Tokens], ids: Ints) -> list[tuple[Tokens, Ints]]:
    """Each prompt of ``batch`` with its rows of ``ids`` [positions of all prompts, m]."""
    ends = np.cumsum([tokens.n_positions for tokens in batch])
    return [(tokens, ids[end - tokens.n_positions : end]) for tokens, end in zip(batch, ends, strict=True)]


def check_in_vocabulary(ids: Ints, vocab_size: int) -> None:
    """Refuse ids that the server's model does not have.

    Raises:
        PotError: with the first of them.
    """
    outside = (ids < 0) | (ids >= vocab_size)
    if outside.any():
        raise PotError(f"id {ids[outside][0]} is outside the served model's vocabulary of {vocab_size} tokens")


@dataclass(frozen=True)
class _Place:
    who: str
    prompt: int

    def refuse(self, wrong: npt.NDArray[np.bool_], what: str) -> None:
        """Raise :class:`PositionError` for the first position that is ``wrong``."""
        if wrong.any():
            raise PositionError(f"{self.who} {what}", int(np.argmax(wrong)), self.prompt)


def _of_prompt(rows: GivenRows, ids: Ints, vocab_size: int, place: _Place) -> TopK:
    log_probs = _numbers(rows.log_probs, place, "an id that it was asked for")
    targets = _numbers([[each] for each in rows.targets], place, "the continuation's token")[:, 0]
    best = _numbers([[each] for each in rows.top_log_probs], place, "its likeliest id")[:, 0]
    bad_ids = [type(each) is not int or not 0 <= each < vocab_size for each in rows.top_ids]
    place.refuse(np.array(bad_ids), "told a likeliest id that is outside the vocabulary")
    sums = np.exp(log_probs).sum(axis=1)
    place.refuse(sums > 1 + _ROUNDING, "told probabilities that sum to more than 1: they are not of one distribution")
    place.refuse(
        (log_probs.max(axis=1) > best + _SAME) | (targets > best + _SAME),
        "told a higher log-probability than that of its likeliest id: the numbers are from different answers",
    )
    whole = ids.shape[1] == vocab_size
    place.refuse(whole & (sums < 1 - _ROUNDING), "told probabilities of the whole vocabulary that do not sum to 1")
    return TopK(
        ids=ids,
        log_probs=log_probs,
        log_tail=None if whole else np.log(np.maximum(1.0 - sums, _TAIL_FLOOR)),
        targets=targets,
        top_ids=np.array(rows.top_ids, dtype=np.int64),
        top_log_probs=best,
        clear=np.zeros(len(targets), dtype=np.bool_),
        log_normalisers=np.zeros(len(targets)),
        vocab_size=vocab_size,
    )


def _numbers(rows: Any, place: _Place, whose: str) -> Floats:
    """[n, m]; what is no number becomes NaN, and NaN is refused."""
    if isinstance(rows, np.ndarray):
        numbers = rows.astype(np.float64)
    else:
        honest = (float, int)
        numbers = np.array([[each if type(each) in honest else np.nan for each in row] for row in rows], dtype=np.float64)
    wrong = ~((numbers > _CLAMPED) & (numbers <= _ROUNDING))  # NaN is neither
    if wrong.any():
        row, column = np.argwhere(wrong)[0]
        place.refuse(wrong.any(axis=1), f"told {rows[row][column]} as the log-probability of {whose}, which is none")
    return numbers
