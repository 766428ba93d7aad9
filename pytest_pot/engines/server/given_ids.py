"""The distributions at ids that we chose, from what a server said about them, with every number checked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pytest_pot.core.errors import PotError
from pytest_pot.engines.base import PositionError
from pytest_pot.engines.distributions import Floats, Ints, TopK
from pytest_pot.engines.server.engine import ServerEngine
from pytest_pot.engines.tokens import Tokens

__all__ = ["GivenRows", "read_at"]

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


def read_at(engine: ServerEngine, batch: Sequence[Tokens], ids: Ints, rows_at: Callable[[Tokens, Ints], GivenRows]) -> TopK:
    """The distributions at ``ids`` [positions of all prompts, m], with the rest of each as its tail.

    ``rows_at``: asks the server of ``engine`` about one prompt, at its rows of ``ids``.

    Raises:
        PotError: an id is outside the vocabulary; or what ``rows_at`` raises.
        PositionError: a number is missing, NaN, or no log-probability; or the probabilities are not those of one distribution.
    """
    outside = (ids < 0) | (ids >= engine.vocab_size)
    if outside.any():
        raise PotError(f"id {ids[outside][0]} is outside the vocabulary of {engine.vocab_size} tokens of {engine.label}")
    ends = np.cumsum([tokens.n_positions for tokens in batch])

    def one(index: int) -> TopK:
        tokens = batch[index]
        own = ids[ends[index] - tokens.n_positions : ends[index]]
        try:
            return _of_prompt(rows_at(tokens, own), own, engine.vocab_size, f"the {engine.role}, {engine.label},")
        except PositionError as error:
            raise PositionError(error.what, error.position, index) from None

    return TopK.concatenate(engine.client.side_by_side(one, range(len(batch))))


def _refuse(wrong: npt.ArrayLike, what: str) -> None:
    """Raise :class:`PositionError` for the first position that is ``wrong``."""
    if np.any(wrong):
        raise PositionError(what, int(np.argmax(wrong)))


def _of_prompt(rows: GivenRows, ids: Ints, vocab_size: int, who: str) -> TopK:
    log_probs = _numbers(rows.log_probs, who, "an id that it was asked for")
    targets = _numbers([[each] for each in rows.targets], who, "the continuation's token")[:, 0]
    best = _numbers([[each] for each in rows.top_log_probs], who, "its likeliest id")[:, 0]
    bad_ids = [type(each) is not int or not 0 <= each < vocab_size for each in rows.top_ids]
    _refuse(bad_ids, f"{who} told a likeliest id that is outside the vocabulary")
    sums = np.exp(log_probs).sum(axis=1)
    _refuse(sums > 1 + _ROUNDING, f"{who} told probabilities that sum to more than 1: they are not of one distribution")
    _refuse(
        (log_probs.max(axis=1) > best + _SAME) | (targets > best + _SAME),
        f"{who} told a higher log-probability than that of its likeliest id: the numbers are from different answers",
    )
    whole = ids.shape[1] == vocab_size
    if whole:
        _refuse(sums < 1 - _ROUNDING, f"{who} told probabilities of the whole vocabulary that do not sum to 1")
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


def _numbers(rows: Any, who: str, whose: str) -> Floats:
    """[n, m]; what is no number becomes NaN, and NaN is refused."""
    if isinstance(rows, np.ndarray):
        numbers = rows.astype(np.float64)
    else:
        numbers = np.array([[_number(each) for each in row] for row in rows], dtype=np.float64)
    wrong = ~((numbers > _CLAMPED) & (numbers <= _ROUNDING))  # NaN is neither
    if wrong.any():
        row, column = np.argwhere(wrong)[0]
        _refuse(wrong.any(axis=1), f"{who} told {rows[row][column]} as the log-probability of {whose}, which is none")
    return numbers


def _number(value: Any) -> float:
    # A whole number may have hundreds of digits, more than a float takes.
    return float(value) if type(value) in (float, int) and abs(value) < 1e300 else np.nan
