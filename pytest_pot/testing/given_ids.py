"""Whether an engine says what the model says of ids that it is given."""

from __future__ import annotations

import numpy as np

from pytest_pot.core.errors import PotError
from pytest_pot.core.text import shorten
from pytest_pot.engines.distributions import Ints, TopK
from pytest_pot.testing.case import Case
from pytest_pot.testing.structure import Call
from pytest_pot.testing.values import check_values

__all__ = ["check_given_ids"]


def check_given_ids(case: Case, method: str = "at") -> None:
    """Note what is wrong with ``at``, or with another method that answers alike.

    The values of ``top_k`` have to be right: what is wrong with them is not repeated.
    """
    before = len(case.problems)
    questions = _questions(case)
    if method != "at":  # each question costs many forward passes
        questions = dict(list(questions.items())[:1])
    for name, ids in questions.items():
        answer = case.at(ids, name, method)
        if answer is None or not _are_asked(case, *answer, ids):
            return
        check_values(case, *answer)
        if len(case.problems) > before:
            return
    size = case.vocab_size
    for outside in (size, -1):
        _check_refused(case, method, outside)
    answer = case.at(size + 5, f"the first {size + 5} ids, more than there are", method)
    if answer is not None and answer[0].ids is None:
        check_values(case, *answer)


def _questions(case: Case) -> dict[str, Ints | int]:
    """Ids that are likely, unlikely, in no order, and the first of the vocabulary, by their names for people."""
    n, size = len(case.oracle.places), case.vocab_size
    m = min(20, size - 1) or 1
    likeliest = np.argsort(-case.oracle.log_probs(), axis=1, kind="stable")
    generator = np.random.default_rng(0)
    mixed = np.stack([generator.permutation(size)[:m] for _ in range(n)])
    return {
        f"the {m} likeliest ids": np.ascontiguousarray(likeliest[:, :m]),
        f"{m} ids in no order": mixed,
        "1 id": likeliest[:, -1:].copy(),
        f"the first {m} ids": m,
        f"all {size} ids": size,
    }


def _are_asked(case: Case, top: TopK, call: Call, ids: Ints | int) -> bool:
    """Whether the answer is about the ids that were asked for; None stands for the first ones."""
    expected = np.broadcast_to(np.arange(top.log_probs.shape[1]), top.log_probs.shape) if isinstance(ids, int) else ids
    given = np.broadcast_to(np.arange(top.log_probs.shape[1]), top.log_probs.shape) if top.ids is None else top.ids
    wrong = (given != expected).any(axis=1)
    if not wrong.any():
        return True
    row = int(np.argmax(wrong))
    case.problems.append(
        f"{call.name} returned the ids {shorten(str(given[row].tolist()), 60)} for "
        f"{shorten(str(expected[row].tolist()), 60)}: "
        "the cells of a candidate are the ids that were asked for, in the order in which they were asked"
    )
    return False


def _check_refused(case: Case, method: str, outside: int) -> None:
    ids = np.zeros((len(case.oracle.places), 2), dtype=np.int64)
    ids[:, 0] = outside
    ids[:, 1] = 1 % case.vocab_size
    name = f"{method} of the id {outside}, which is outside the vocabulary of {case.vocab_size},"
    try:
        getattr(case.engine, method)(case.batch, ids)
    except PotError:
        return
    except Exception as error:  # an engine may raise anything
        if outside < 0:  # no vocabulary gives such an id; what matters is that an array does not wrap around
            return
        case.note_raised(name, error)
        case.problems[-1] += ". Raise a PotError that names the id: two vocabularies differ, and its message is what people see"
        return
    case.problems.append(f"{name} returned numbers: raise a PotError, or a wrong vocabulary passes unseen")
