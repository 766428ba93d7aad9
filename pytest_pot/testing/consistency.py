"""Whether the numbers of one answer agree with each other; no model is needed to see that."""

from __future__ import annotations

import numpy as np

from pytest_pot.core.text import number
from pytest_pot.engines.distributions import Flags, Floats, TopK
from pytest_pot.testing.structure import Call, named_row

__all__ = ["contradiction_problems", "has_all_mass", "order_problems", "totals"]

_NORMALISED = 0.005
"""By how much the probabilities of a position may miss 1: what bfloat16 makes of a sum, and no mistake."""
_EQUAL = 1e-3
"""How far two log-probabilities may be apart that an answer gives for the same id."""


def totals(top: TopK) -> Floats:
    """[n]: the sum of all probabilities of a position, infinite where it overflows."""
    with np.errstate(over="ignore"):
        total: Floats = np.exp(top.log_probs).sum(axis=1) + (0.0 if top.log_tail is None else np.exp(top.log_tail))
    return total


def has_all_mass(top: TopK) -> bool:
    """Whether the probabilities of every position sum to 1."""
    return bool((np.abs(totals(top) - 1) <= _NORMALISED).all())


def contradiction_problems(top: TopK, call: Call, *, likeliest: bool) -> list[str]:
    """What its cells contradict of what ``top`` says of the continuation's token and of the likeliest id.

    ``likeliest``: whether the cells have to be the likeliest ids.
    """
    if not has_all_mass(top):  # then the cells are wrong, and no measure for the others
        return []
    ids = np.broadcast_to(np.arange(top.log_probs.shape[1]), top.log_probs.shape) if top.ids is None else top.ids
    return _targets(top, ids, call) + _likeliest(top, ids, call, likeliest)


def order_problems(top: TopK, call: Call) -> list[str]:
    """Whether the most likely ids come first."""
    if top.log_probs.shape[1] < 2:
        return []
    steps = np.diff(top.log_probs, axis=1)
    rising = (steps > 1e-6).any(axis=1)
    if not rising.any():
        return []
    row = int(np.argmax(rising))
    if (steps <= 1e-6)[rising].any() and top.ids is not None and (np.diff(top.ids.astype(np.int64), axis=1) > 0).all():
        how = "they are sorted by id"
    elif not (steps < -1e-6).any():
        how = "the least likely come first"
    else:
        how = "they are in no order"
    return [
        f"{call.name} is sorted wrongly: at {int(rising.sum())} of {call.n} positions, the first at "
        f"{named_row(call, row)}, a "
        f"less likely id comes before a likelier one; {how}. Sort ids and log_probs together by decreasing probability"
    ]


def _targets(top: TopK, ids: object, call: Call) -> list[str]:
    targets = np.array([target for tokens in call.batch for target in tokens.targets])
    cells: Flags = np.asarray(ids) == targets[:, None]
    known = cells.any(axis=1)
    in_cells = np.take_along_axis(top.log_probs, cells.argmax(axis=1)[:, None], axis=1)[:, 0]
    wrong: Flags = known & (np.abs(in_cells - top.targets) > _EQUAL)
    if not wrong.any():
        return []
    row = int(np.argmax(wrong))
    return [
        f"{call.name} contradicts itself about the continuation's token: at {named_row(call, row)} targets says "
        f"{number(top.targets[row])} for id {targets[row]}, and log_probs says {number(in_cells[row])}; so at "
        f"{int(wrong.sum())} of {int(known.sum())} positions. targets[i] is the log-probability of the token that comes at "
        f"position i, not {_mistaken_target(top, wrong)}"
    ]


def _mistaken_target(top: TopK, wrong: Flags) -> str:
    if (top.targets > 0).any():
        return "a loss (its sign is that of a negative log-likelihood)"
    if np.abs(top.targets - top.top_log_probs)[wrong].max() <= _EQUAL:
        return "that of the likeliest id, as here"
    return "that of another token or position"


def _likeliest(top: TopK, ids: object, call: Call, among_cells: bool) -> list[str]:
    n = np.arange(len(top))
    best = top.log_probs.argmax(axis=1)
    best_ids, best_log_probs = np.asarray(ids)[n, best], top.log_probs[n, best]
    outside = -np.inf if top.log_tail is None or among_cells else top.log_tail
    # With given ids, the likeliest id may be outside them.
    certain = best_log_probs >= outside
    wrong_value = certain & (np.abs(top.top_log_probs - best_log_probs) > _EQUAL)
    of_top = np.where(np.asarray(ids) == top.top_ids[:, None], top.log_probs, -np.inf).max(axis=1)
    wrong_id = certain & (of_top < best_log_probs - _EQUAL)
    problems = []
    if wrong_id.any():
        row = int(np.argmax(wrong_id))
        problems.append(
            f"{call.name} contradicts itself about the likeliest id: at {named_row(call, row)} top_ids says "
            f"{top.top_ids[row]}, but "
            f"id {best_ids[row]} has the log-probability {number(best_log_probs[row])}, the highest; so at "
            f"{int(wrong_id.sum())} of {call.n} positions. top_ids is the argmax over the whole vocabulary"
        )
    elif wrong_value.any():
        row = int(np.argmax(wrong_value))
        problems.append(
            f"{call.name} contradicts itself about the likeliest id: at {named_row(call, row)} top_log_probs says "
            f"{number(top.top_log_probs[row])}, and log_probs {number(best_log_probs[row])}; so at "
            f"{int(wrong_value.sum())} of "
            f"{call.n} positions"
        )
    return problems
