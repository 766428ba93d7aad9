"""Whether an answer says what the model says, and if not, why."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pytest_pot.core.text import number
from pytest_pot.engines.distributions import Flags, Floats, TopK
from pytest_pot.testing.case import Case
from pytest_pot.testing.consistency import contradiction_problems, has_all_mass, order_problems, totals
from pytest_pot.testing.diagnosis import BETTER, EXACT, best_explanation, where
from pytest_pot.testing.distance import at_ids, distances, gathered, ids_of
from pytest_pot.testing.leads import clear_problems, normaliser_problems
from pytest_pot.testing.structure import Call, named_row

__all__ = ["Checked", "check_values", "distances_from_model"]

_LOG_PER_TV = 20.0
"""Unlikely tokens move by more, in nats, than distributions do in total variation: by 10 times as much in bfloat16."""
_FAR = 100.0
"""A position that is so many times farther from the model than the median is wrong, however coarse rounding is."""


@dataclass(frozen=True, eq=False)
class Checked:
    """What a check of values showed."""

    distance: float
    """The mean total variation from the model."""
    right: bool


def distances_from_model(top: TopK, case: Case) -> Floats:
    """[n]: the total variation of each position, over the cells of ``top`` and its tail."""
    return distances(top, at_ids(case.oracle.log_probs(), ids_of(top)))


def check_values(case: Case, top: TopK, call: Call, noise: float = 0.0) -> Checked:
    """Compare ``top`` with the model, and note what is wrong.

    ``noise``: how far the engine is from itself when it is asked twice; nothing so near is looked into.
    """
    before = len(case.problems)
    asked_likeliest = "top_k" in call.name and top.ids is not None
    missing_tail = top.log_tail is None and top.log_probs.shape[1] < case.vocab_size
    if missing_tail:
        case.problems.append(
            f"{call.name} returned no tail: log_tail is None, but {case.vocab_size - top.log_probs.shape[1]} of "
            f"{case.vocab_size} ids are not among the cells. Return the log of their total probability, summed from the "
            "logits"
        )
    case.problems += order_problems(top, call) if asked_likeliest else []
    apart = distances_from_model(top, case)
    problem = _problem(case, top, call, apart) if apart.mean() > BETTER * noise else None
    if problem is not None:
        case.problems.append(problem)
    elif noise <= case.limit:
        missing_mass = 10 * EXACT if apart.mean() <= EXACT else max(case.limit, 10 * EXACT)
        case.problems += (
            (_not_likeliest(case, top, call, missing_mass) if asked_likeliest else [])
            or contradiction_problems(top, call, likeliest=asked_likeliest)
            or _targets(case, top, call)
            or (clear_problems(top, case.oracle, call) if "top_k" in call.name else [])
            or normaliser_problems(top, case.oracle, call, _LOG_PER_TV * case.tolerance)
        )
    return Checked(float(apart.mean()), len(case.problems) == before)


def _problem(case: Case, top: TopK, call: Call, apart: Floats) -> str | None:
    """What is wrong with the cells and the tail; ``apart`` [n]: their distances from the model."""
    distance = float(apart.mean())
    right_mass = top.log_tail is None or has_all_mass(top)
    # Until the likeliest ids of all prompts were right, a small difference may be a mistake. Later it is rounding.
    if not right_mass or distance > (case.limit if case.right else EXACT):
        explained = _explained(case, top, call, distance)
        if explained is not None:
            return explained
    if not right_mass:
        return _not_normalised(top, call)
    return _far(case, apart, call) or _far_in_logs(case, top, call)


def _explained(case: Case, top: TopK, call: Call, distance: float) -> str | None:
    explanation = best_explanation(top, case.oracle, case.tokenizer, distance)
    if explanation is None:
        return None
    hypothesis, left = explanation
    apart = distances_from_model(top, case)
    row = int(apart.argmax())
    return (
        f"{call.name}: {hypothesis.problem}. (Mean distance from the model {_figure(distance)} in total variation, the "
        "largest at "
        f"{named_row(call, row)}; from a model with this mistake {_figure(left)})"
    )


def _figure(value: float) -> str:
    return number(value) if value < 1e6 else "beyond all bounds"


def _not_normalised(top: TopK, call: Call) -> str:
    total = totals(top)
    row = int(np.abs(total - 1).argmax())
    return (
        f"{call.name} is not normalised: the probabilities of the cells and the tail sum to {_figure(float(total[row]))} at "
        f"{named_row(call, row)}, and to {_figure(float(np.median(total)))} in the median. Subtract logsumexp over the whole "
        "vocabulary, and sum the tail from the same logits"
    )


def _far(case: Case, apart: Floats, call: Call) -> str | None:
    """What is wrong where no known mistake explains it."""
    limit, distance, middle = case.limit, float(apart.mean()), float(np.median(apart))
    wrong: Flags = apart > max(limit, _FAR * middle)
    if distance <= limit and not wrong.any():
        return None
    if not wrong.any():
        wrong = apart > limit
    row = int(apart.argmax())
    return (
        f"{call.name} differs from the model at {where(wrong, case.oracle)}: the total variation is {number(apart[row])} at "
        f"{named_row(call, row)}, {number(distance)} in the mean and {number(middle)} in the median, and rounding explains "
        f"{number(limit)}. No known mistake explains it: are these the same weights? An engine that computes more coarsely "
        "(8 or 4 bit) needs a higher tolerance"
    )


def _far_in_logs(case: Case, top: TopK, call: Call) -> str | None:
    """As :func:`_far` for ids that are so unlikely that they do not count in total variation."""
    cells = gathered(case.oracle.log_probs(), ids_of(top))
    apart = np.abs(top.log_probs - cells)
    if apart.mean() <= _LOG_PER_TV * case.limit:
        return None
    row, column = np.unravel_index(int(apart.argmax()), apart.shape)
    return (
        f"{call.name} is wrong for unlikely ids: at {named_row(call, int(row))} it says {number(top.log_probs[row, column])} "
        f"for id {ids_of(top)[row, column]}, and the model {number(cells[row, column])}; the mean difference is "
        f"{number(float(apart.mean()))} nats"
    )


def _not_likeliest(case: Case, top: TopK, call: Call, limit: float) -> list[str]:
    """Whether likelier ids than those of ``top`` are missing."""
    log_probs, ids = case.oracle.log_probs(), ids_of(top)
    m = ids.shape[1]
    own = np.exp(gathered(log_probs, ids)).sum(axis=1)
    best = np.exp(-np.sort(-log_probs, axis=1)[:, :m]).sum(axis=1)
    wrong: Flags = best - own > limit
    if not wrong.any():
        return []
    row = int((best - own).argmax())
    likeliest = int(log_probs[row].argmax())
    missing = "" if likeliest in ids[row] else f"; the likeliest, {likeliest}, is missing"
    return [
        f"{call.name} does not return the likeliest ids: at {named_row(call, row)} they have {number(own[row])} of the "
        f"probability, and the {m} likeliest {number(best[row])}{missing}. So at {int(wrong.sum())} of {call.n} positions"
    ]


def _targets(case: Case, top: TopK, call: Call) -> list[str]:
    """The continuation's tokens and the likeliest ids, which may be outside the cells."""
    log_probs, targets = case.oracle.log_probs(), case.oracle.targets
    n = np.arange(len(targets))
    own = log_probs[n, targets]
    apart = np.abs(top.targets - own)
    in_probability = np.abs(np.exp(np.minimum(top.targets, 1.0)) - np.exp(own))
    problems = []
    if apart.mean() > _LOG_PER_TV * case.tolerance or in_probability.mean() > case.tolerance:
        row = int(apart.argmax())
        problems.append(
            f"{call.name}: targets is wrong: at {named_row(call, row)} it says {number(top.targets[row])} for id "
            f"{targets[row]}, and the model {number(own[row])}{_other_target(case, top)}. targets[i] is the "
            "log-probability of the token that "
            "comes at position i of the continuation"
        )
    short_of = np.exp(log_probs.max(axis=1)) - np.exp(log_probs[n, top.top_ids.astype(np.int64)])
    if short_of.mean() > case.tolerance:
        row = int(short_of.argmax())
        problems.append(
            f"{call.name}: top_ids is wrong: at {named_row(call, row)} it says {top.top_ids[row]}, and the likeliest id is "
            f"{int(log_probs[row].argmax())}. It is the argmax over the whole vocabulary, not over the cells"
        )
    elif np.abs(np.exp(np.minimum(top.top_log_probs, 1.0)) - np.exp(log_probs.max(axis=1))).mean() > case.tolerance:
        row = int(np.abs(top.top_log_probs - log_probs.max(axis=1)).argmax())
        problems.append(
            f"{call.name}: top_log_probs is wrong: at {named_row(call, row)} it says {number(top.top_log_probs[row])}, and "
            "the "
            f"likeliest id has {number(log_probs[row].max())}"
        )
    return problems


def _other_target(case: Case, top: TopK) -> str:
    """What ``top.targets`` is instead, if that is plain."""
    log_probs, n = case.oracle.log_probs(), np.arange(len(top))
    before = np.array([case.batch[index].ids[case.batch[index].prompt_len + j - 1] for index, j in case.oracle.places])
    after = np.append(case.oracle.targets[1:], case.oracle.targets[0])
    own = log_probs[n, case.oracle.targets]
    guesses = {
        "its sign is that of a loss": -own,
        "it is that of the token before": log_probs[n, before],
        "it is that of the token after": log_probs[n, after],
        "it is that of the likeliest id": log_probs.max(axis=1),
        "it is a probability": np.exp(own),
    }
    for text, guess in guesses.items():
        if np.median(np.abs(top.targets - guess)) * BETTER < np.median(np.abs(top.targets - own)):
            return f" ({text})"
    return ""
