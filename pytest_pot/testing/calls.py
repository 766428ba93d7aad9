"""Whether an engine says the same of a prompt however it is asked: alone, in a batch, in another order, a second time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace

import numpy as np

from pytest_pot.core.text import number
from pytest_pot.engines.distributions import Floats, TopK
from pytest_pot.engines.tokens import Tokens
from pytest_pot.testing.case import Case, prompts
from pytest_pot.testing.diagnosis import BETTER, EXACT, best_explanation
from pytest_pot.testing.distance import Prediction, distances
from pytest_pot.testing.structure import Call, named_row
from pytest_pot.testing.values import check_values, distances_from_model

__all__ = ["Answers", "answers_of", "check_answers", "check_widths"]

_AGAIN = 1 / 3
"""The part of the tolerance by which two answers to one question may differ."""


class Answers:
    """What an engine said of the prompts: alone, together, in reverse order, and together again.

    The rows are in the batch's order.
    """

    def __init__(self, alone: TopK, batch: TopK, backwards: TopK, again: TopK, k: int) -> None:
        self.alone, self.batch, self.backwards, self.again, self.k = alone, batch, backwards, again, k


def answers_of(case: Case) -> Answers | None:
    """The answers that all else is about; None if one has problems of form, which are noted."""
    k = min(20, case.vocab_size - 1) if case.vocab_size > 1 else 1
    alone = []
    for tokens in case.batch:
        answer = case.top_k([tokens], k)
        if answer is None:
            return None
        alone.append(answer[0])
    if len({(top.log_tail is None, top.ids is None) for top in alone}) > 1:
        case.problems.append(
            f"top_k(1 prompt, k={k}) returned a tail, or ids, for some prompts only: return them for every prompt"
        )
        return None
    width = min(top.log_probs.shape[1] for top in alone)  # an engine may know more of one prompt than of another
    batch = case.top_k(case.batch, k)
    given, own = (None, None) if batch is None else (case.last, batch[0])
    backwards = case.top_k(list(reversed(case.batch)), k)
    if given is not None and own is not None:
        _note_changed(case, given, own)
    again = case.top_k(case.batch, k)
    if batch is None or backwards is None or again is None:
        return None
    unreversed = np.argsort(_rows_of(case.batch, list(reversed(range(len(case.batch))))))
    joined = TopK.concatenate([_narrowed(top, width) for top in alone])
    return Answers(joined, batch[0], backwards[0].take(unreversed), again[0], k)


def _narrowed(top: TopK, width: int) -> TopK:
    """``top`` with its first ``width`` cells; the others are part of the tail."""
    if top.log_probs.shape[1] == width or top.ids is None or top.log_tail is None:
        return top
    rest = np.logaddexp.reduce(top.log_probs[:, width:], axis=1)
    return replace(top, ids=top.ids[:, :width], log_probs=top.log_probs[:, :width], log_tail=np.logaddexp(top.log_tail, rest))


def _note_changed(case: Case, given: TopK, kept: TopK) -> None:
    """Note it if a later call changed the arrays of an earlier answer."""
    names = [each.name for each in fields(TopK) if isinstance(getattr(given, each.name), np.ndarray)]
    changed = [name for name in names if not np.array_equal(getattr(given, name), getattr(kept, name))]
    if changed:
        case.problems.append(
            f"top_k writes into arrays that it returned before: {', '.join(changed)} of an answer changed when another "
            "batch was "
            "read. Return new arrays each time"
        )


def _rows_of(batch: Sequence[Tokens], order: Sequence[int]) -> np.ndarray:
    """The rows of the prompts of ``batch`` in this order."""
    ends = np.cumsum([tokens.n_positions for tokens in batch])
    return np.concatenate([np.arange(ends[index] - batch[index].n_positions, ends[index]) for index in order])


def check_answers(case: Case, answers: Answers, *, exact: bool) -> bool:
    """Note what is wrong with the values; whether they are right.

    Args:
        exact: whether the model computes in float32 or finer.
    """
    k = answers.k
    noise = _noise(answers)
    if noise > case.tolerance * _AGAIN:
        case.problems.append(
            f"not deterministic: two calls of top_k({prompts(case.batch)}, k={k}) with the same batch differ by "
            f"{number(noise)} in total variation. Look for dropout (a model in training mode), sampling, or state that an "
            "earlier call leaves behind"
        )
    called = Call(f"top_k(each prompt alone, k={k})", case.batch, 1, k, case.vocab_size)
    alone = check_values(case, answers.alone, called, noise)
    if not alone.right or noise > case.tolerance * _AGAIN:
        return False
    if exact and alone.distance <= EXACT:
        case.limit = min(case.limit, 10 * EXACT)
    together = Call(f"top_k({prompts(case.batch)}, k={k})", case.batch, 1, k, case.vocab_size)
    if _differs(case, answers.batch, answers.alone, together):
        return False
    if not check_values(case, answers.batch, together, noise).right:
        return False
    backwards = Call(f"top_k({prompts(case.batch)} in reverse order, k={k})", case.batch, 1, k, case.vocab_size)
    return check_values(case, answers.backwards, backwards, noise).right


def _noise(answers: Answers) -> float:
    """The mean total variation between two answers to the same question."""
    one, other = answers.batch, answers.again
    if one.log_probs.shape != other.log_probs.shape:
        return 1.0
    return float(distances(other, Prediction(one.log_probs, one.log_tail)).mean())


def _differs(case: Case, batch: TopK, alone: TopK, call: Call) -> bool:
    """Note it if prompts that are right alone are wrong in a batch: the engine sees padding, or mixes prompts up."""
    apart, apart_alone = distances_from_model(batch, case), distances_from_model(alone, case)
    means, means_alone = _by_prompt(case, apart), _by_prompt(case, apart_alone)
    wrong = [index for index, mean in enumerate(means) if mean > max(case.limit, BETTER * means_alone[index])]
    if not wrong:
        return False
    explanation = best_explanation(batch, case.oracle, case.tokenizer, float(apart.mean()), right_alone=True)
    lengths = [len(tokens.ids) for tokens in case.batch]
    longest = [index for index, length in enumerate(lengths) if length == max(lengths)]
    worst = max(wrong, key=lambda index: means[index])
    row = int(np.argmax(np.where([place[0] == worst for place in call.places], apart, -1.0)))
    figures = (
        f"Prompt {worst} ({lengths[worst]} tokens) is at a distance of {number(means[worst])} from the model in total "
        "variation, "
        f"most at {named_row(call, row)}; alone {number(means_alone[worst])}"
    )
    if explanation is not None:
        text = f"right alone, wrong in a batch: {explanation[0].problem}. {figures}"
    elif not set(wrong) & set(longest):
        kept = longest[0]
        text = (
            f"the engine sees padding: prompts are right alone, and in a batch with longer ones {len(wrong)} of "
            f"{len(lengths)} "
            f"are wrong, but not the longest, prompt {kept} ({lengths[kept]} tokens, {number(means[kept])}). {figures}. "
            "Pad on "
            "the right, or give the model the attention mask and position ids that padding on the left needs"
        )
    else:
        text = (
            f"prompts change each other: they are right alone, and in a batch {len(wrong)} of {len(lengths)} are wrong, the "
            f"longest among them. {figures}. Look for padding that the model sees, for rows of other prompts, and for state "
            "that prompts share, such as a key-value cache"
        )
    case.problems.append(f"{call.name}: {text}")
    return True


def _by_prompt(case: Case, apart: Floats) -> list[float]:
    places = np.array([index for index, _ in case.oracle.places])
    return [float(apart[places == index].mean()) for index in range(len(case.batch))]


def check_widths(case: Case) -> None:
    """Ask for other numbers of ids: one, more than there are, and all. Ends with the first that is wrong."""
    widths: list[int | None] = [1, case.vocab_size + 5, *([None] if case.gives_ids else [])]
    for k in widths:
        answer = case.top_k(case.batch, k)
        if answer is None:
            return
        top, call = answer
        if k is None and top.ids is not None:
            case.problems.append(
                f"{call.name} returned ids: k=None asks for the whole vocabulary in the order of the ids, with ids None"
            )
        elif top.log_probs.shape[1] == case.vocab_size and top.log_tail is not None and np.exp(top.log_tail).max() > EXACT:
            case.problems.append(
                f"{call.name} returned a tail of {number(float(np.exp(top.log_tail).max()))} beside the whole vocabulary: "
                "there is nothing else, so return None"
            )
        elif not check_values(case, top, call).right:
            return
