"""What every recording fulfils, whoever wrote it: shapes that agree, ids in the vocabulary, probabilities that are some."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pytest_pot.baseline.baseline import Baseline
from pytest_pot.engines.distributions import Flags

__all__ = ["Malformed", "check_baseline"]

_ROUNDING = 1e-5
"""How far the probabilities at a position may sum to above 1: far above float32 rounding, far below any tolerance."""
_SHORTFALL = 1e-3
"""How far they may fall short of it: a server's log-probabilities come with few digits."""

_TARGET_ROUNDING = 1e-4
"""How far, in nats, a token's log-probability as the continuation's may be from its own among the likeliest ids."""

_CELLS_AT_ONCE = 1 << 20
"""Cells whose float64 form is in memory at a time."""


class Malformed(Exception):
    """What is wrong with a file; the reader says which file, and makes a :class:`~pytest_pot.PotError` of it."""


def check_baseline(baseline: Baseline) -> None:
    """Raise :class:`Malformed`, naming the prompt and the position, unless ``baseline`` could have been recorded."""
    _check_shapes(baseline)
    _check_tokens(baseline)
    targets = np.array([token for tokens in baseline.tokens for token in tokens.targets])
    width = max(1, _CELLS_AT_ONCE // baseline.recorded.values.shape[1])
    for start in range(0, baseline.n_positions, width):
        _check_positions(baseline, targets[start : start + width], start)


def _check_shapes(baseline: Baseline) -> None:
    recorded = baseline.recorded
    n = sum(tokens.n_positions for tokens in baseline.tokens)
    if len(baseline.prompts) != len(baseline.tokens):
        raise Malformed(f"it has the texts of {len(baseline.prompts)} prompts and the tokens of {len(baseline.tokens)}")
    whole = baseline.config.top_k is None
    k = baseline.vocab_size if whole else min(baseline.config.top_k or 0, baseline.vocab_size)
    expected: dict[str, tuple[int, ...] | None] = {
        "ids": None if whole else (n, k),
        "values": (n, k),
        "target_values": (n,),
        "log_normalisers": (n,),
        "log_tail": None if k == baseline.vocab_size else (n,),
        "clear": (n,),
    }
    for name, shape in expected.items():
        array: npt.NDArray[np.generic] | None = getattr(recorded, name)
        found = None if array is None else array.shape
        if found != shape:
            raise Malformed(
                f"the tensor {name!r} has the shape {_shape(found)}, and {n} positions with top_k={baseline.config.top_k} of "
                f"{baseline.vocab_size} ids need {_shape(shape)}"
            )


def _shape(shape: tuple[int, ...] | None) -> str:
    return "of an absent one" if shape is None else str(list(shape))


def _check_tokens(baseline: Baseline) -> None:
    for index, tokens in enumerate(baseline.tokens):
        if max(tokens.ids) >= baseline.vocab_size:
            raise Malformed(
                f"prompt {index} has the token {max(tokens.ids)}, outside the vocabulary of {baseline.vocab_size} ids"
            )


def _check_positions(baseline: Baseline, targets: npt.NDArray[np.int64], start: int) -> None:
    """The positions from ``start`` on, one for each of ``targets``, the continuation's tokens there."""
    top = baseline.top_k(start, start + len(targets))

    def refuse_where(wrong: Flags | np.bool_, what: str) -> None:
        if np.any(wrong):
            row = start + int(np.argmax(wrong))
            prompt = int(np.searchsorted(baseline.starts, row, side="right")) - 1
            raise Malformed(f"prompt {prompt}, position {row - baseline.starts[prompt]}: {what}")

    finite = np.isfinite(top.log_probs).all(axis=1) & np.isfinite(top.targets)
    if top.log_tail is not None:
        finite &= np.isfinite(top.log_tail)
    refuse_where(~finite, "a log-probability is NaN or infinite")
    tail = np.zeros(len(top)) if top.log_tail is None else np.exp(np.minimum(top.log_tail, 1.0))
    alone = baseline.config.tail == "renormalise"
    refuse_where(tail > 1.0 + _ROUNDING, "the probabilities sum to more than 1")
    total = np.exp(np.minimum(top.log_probs, 1.0)).sum(axis=1) + (0.0 if alone else tail)
    refuse_where(total > 1.0 + _ROUNDING, "the probabilities sum to more than 1")
    refuse_where(total < 1.0 - _SHORTFALL, "the probabilities sum to less than 1")
    if top.ids is None:
        known = top.log_probs[np.arange(len(top)), targets]
        refuse_where(np.abs(known - top.targets) > _TARGET_ROUNDING, "the continuation's token has two log-probabilities")
        return
    refuse_where((top.ids >= baseline.vocab_size).any(axis=1), f"an id is outside the vocabulary of {baseline.vocab_size} ids")
    refuse_where((np.diff(top.log_probs, axis=1) > 0).any(axis=1), "the ids are not sorted, the likeliest first")
    ordered = np.sort(top.ids, axis=1)
    refuse_where((ordered[:, 1:] == ordered[:, :-1]).any(axis=1), "an id stands there twice")
    here = top.ids == targets[:, None]
    known = np.where(here, top.log_probs, top.targets[:, None])
    differs = (np.abs(known - top.targets[:, None]) > _TARGET_ROUNDING).any(axis=1)
    refuse_where(differs, "the continuation's token has two log-probabilities")
    hidden = ~here.any(axis=1)
    refuse_where(
        hidden & (np.exp(np.minimum(top.targets, 1.0)) * ((1.0 - tail) if alone else 1.0) > tail + _ROUNDING),
        "the continuation's token outweighs the tail",
    )
