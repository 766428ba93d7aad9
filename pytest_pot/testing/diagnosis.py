"""What is probably wrong with an engine whose distributions are not those of its model.

Each known mistake predicts other distributions. The one whose prediction is far nearer to what the engine says than the model
itself is named.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np

from pytest_pot.core.text import count, number, some_of
from pytest_pot.engines.distributions import Flags, Floats, TopK
from pytest_pot.testing.distance import Prediction, at_ids, distances, gathered, ids_of, tail_of
from pytest_pot.testing.oracle import Oracle, log_softmax

__all__ = ["BETTER", "EXACT", "Hypothesis", "best_explanation", "where"]

BETTER = 4.0
"""By what factor a mistake has to explain an answer better than rounding does: no mistake comes that near by chance."""
EXACT = 1e-4
"""A mean distance that needs no explanation: float32 gives 1e-6 to 1e-5."""
_FEWEST_CELLS = 5
"""With fewer ids at each position, a mistake may explain them by chance."""
_PLAINEST = 1.5
"""Of two mistakes that explain an answer about as well, the first in the list is named."""


@dataclass(frozen=True, eq=False)
class Hypothesis:
    """A mistake, and what an engine that makes it answers."""

    prediction: Prediction
    problem: str
    """What is wrong, and what to do."""


def best_explanation(
    top: TopK, oracle: Oracle, tokenizer: Any, distance: float, *, right_alone: bool = False
) -> tuple[Hypothesis, float] | None:
    """The mistake that explains ``top`` best, and the mean distance that it leaves; None if none does.

    Args:
        distance: the mean distance from the model itself, in total variation.
        right_alone: whether each prompt alone was right. Then only mistakes that a batch can cause are tried.
    """
    best: tuple[Hypothesis, float] | None = None
    if top.log_probs.shape[1] < _FEWEST_CELLS:
        return None
    hypotheses = chain(_shifts(top, oracle), _orders(top, oracle)) if right_alone else _hypotheses(top, oracle, tokenizer)
    for hypothesis in hypotheses:
        if hypothesis.prediction.rows is not None and not hypothesis.prediction.rows.any():
            continue
        left = float(distances(top, hypothesis.prediction).mean())
        if left * BETTER <= distance and (best is None or left * _PLAINEST < best[1]):
            best = hypothesis, left
    return best


def _hypotheses(top: TopK, oracle: Oracle, tokenizer: Any) -> Iterator[Hypothesis]:
    yield from _forms(top, oracle)
    yield from _shifts(top, oracle)
    yield from _first_tokens(top, oracle, tokenizer)
    yield from _temperatures(top, oracle)
    yield from _orders(top, oracle)


def _forms(top: TopK, oracle: Oracle) -> Iterator[Hypothesis]:
    """The right distributions in a wrong form."""
    ids, log_probs = ids_of(top), oracle.log_probs()
    cells, tail = gathered(log_probs, ids), tail_of(log_probs, ids)
    if top.log_tail is not None:
        yield Hypothesis(Prediction(cells, None), _tail_problem(top.log_tail, tail))
    yield Hypothesis(
        Prediction(gathered(oracle.logits(), ids), None),
        "log_probs are the model's raw logits, not normalised: subtract logsumexp over the whole vocabulary from each row",
    )
    yield Hypothesis(
        Prediction(np.exp(cells), None),
        "log_probs are probabilities: return their natural logarithms",
    )
    if ids.shape[1] < oracle.vocab_size:
        yield Hypothesis(
            Prediction(cells - np.logaddexp.reduce(cells, axis=1, keepdims=True), None),
            f"log_probs are normalised over the {ids.shape[1]} ids alone: normalise over the whole vocabulary, and return "
            "the "
            "probability of all other ids as the tail",
        )
    for base in (2, 10):
        yield Hypothesis(
            Prediction(cells / np.log(base), None),
            f"log_probs are logarithms to the base {base}: return natural logarithms",
        )
    yield Hypothesis(
        Prediction(-np.sort(-cells, axis=1), None),
        "ids and log_probs are sorted differently: the right log-probabilities stand at the wrong ids. Sort both by the same "
        "order",
    )
    offsets = np.median(top.log_probs - cells, axis=1)
    if np.abs(offsets).max() < 50:
        yield Hypothesis(
            Prediction(cells + offsets[:, None], None),
            f"log_probs are not normalised: each row is off by a constant (from {number(offsets.min())} to "
            f"{number(offsets.max())}). Subtract logsumexp over the whole vocabulary, in float64",
        )


def _tail_problem(given: Floats, tail: Floats) -> str:
    """What is wrong with a tail beside right log-probabilities."""
    text = "log_probs are right and log_tail is wrong"
    if np.abs(given - np.exp(tail)).max() < 1e-2:
        return f"{text}: it is a probability. Return its natural logarithm"
    if np.abs(given).max() < 1e-6:
        return f"{text}: it is 0 everywhere, which is the logarithm of 1. Return the log of the probability of all other ids"
    if given.max() < -100 < tail.max():
        return (
            f"{text}: it is {number(given.max())} at most, so the tail is missing. Return the log of the probability of "
            "all ids "
            f"that are not among the cells, here {number(float(np.median(tail)))} in the median"
        )
    return (
        f"{text}: its median is {number(float(np.median(given)))} instead of {number(float(np.median(tail)))}. It is the "
        "log of "
        "the probability of all ids that are not among the cells"
    )


def _shifts(top: TopK, oracle: Oracle) -> Iterator[Hypothesis]:
    ids = ids_of(top)
    for shift, which, index in ((-1, "one too early", "prompt_len - 2 + j"), (1, "one too late", "prompt_len + j")):
        yield Hypothesis(
            at_ids(oracle.log_probs(shift), ids, oracle.exists(shift)),
            f"positions are off by one: they are taken from the sequence index {index}, {which}. The logits that predict "
            "token j of the continuation are at index prompt_len - 1 + j",
        )


def _first_tokens(top: TopK, oracle: Oracle, tokenizer: Any) -> Iterator[Hypothesis]:
    """A token added in front of each prompt, or taken away."""
    ids = ids_of(top)
    for name, token in _special_tokens(tokenizer, oracle.vocab_size):
        added = f"the engine adds the token {token} ({name}) in front of every prompt: the ids that it gets are complete"
        yield Hypothesis(
            at_ids(oracle.with_first_token(token), ids), f"{added}. Turn special tokens off (add_special_tokens=False)"
        )
        yield Hypothesis(
            at_ids(oracle.with_first_token(token, -1), ids),
            f"{added}, and its positions are off by one, because they do not count this token. Turn special tokens off "
            "(add_special_tokens=False)",
        )
    without = oracle.without_first_token()
    changed: Flags = np.array([oracle.batch[index].prompt_len > 1 for index, _ in oracle.places])
    yield Hypothesis(
        at_ids(without, ids, changed), "the engine drops the first token of every prompt: the model has to read all ids"
    )


def _special_tokens(tokenizer: Any, vocab_size: int) -> list[tuple[str, int]]:
    names = {"bos_token_id": "BOS", "cls_token_id": "CLS", "eos_token_id": "EOS", "pad_token_id": "PAD"}
    tokens: dict[int, str] = {}
    for attribute, name in names.items():
        token = getattr(tokenizer, attribute, None)
        if isinstance(token, int) and 0 <= token < vocab_size:
            tokens.setdefault(token, name)
    for token in (1, 0):  # where the tokenizer does not say
        if not tokens and token < vocab_size:
            tokens[token] = "perhaps BOS"
    return [(name, token) for token, name in tokens.items()]


def _temperatures(top: TopK, oracle: Oracle) -> Iterator[Hypothesis]:
    """A temperature, from how the ratios of probabilities compare to the model's."""
    if top.log_probs.shape[1] < 2:
        return
    ids = ids_of(top)
    cells = gathered(oracle.logits(), ids)
    given, own = top.log_probs[:, :1] - top.log_probs[:, 1:], cells[:, :1] - cells[:, 1:]
    if not (own**2).sum() > 0:
        return
    scale = float((given * own).sum() / (own**2).sum())
    if scale <= 0:
        return
    yield Hypothesis(
        at_ids(log_softmax(oracle.logits() * scale), ids),
        f"the logits are divided by a temperature of {number(1 / scale)}: log-probabilities have to be those of the "
        "untouched "
        "logits, at temperature 1",
    )


def _orders(top: TopK, oracle: Oracle) -> Iterator[Hypothesis]:
    """The rows of one position at another."""
    ids, log_probs = ids_of(top), oracle.log_probs()
    n = len(ids)
    probabilities = np.exp(log_probs)
    known = np.exp(np.minimum(top.log_probs, 0.0))
    apart = np.stack(
        [np.abs(known - gathered(np.broadcast_to(row, log_probs.shape), ids)).sum(axis=1) for row in probabilities]
    )
    apart[np.arange(n), np.arange(n)] -= 1e-9  # of equal rows, its own
    nearest = apart.argmin(axis=0)
    equal = np.abs(log_probs[nearest] - log_probs).max(axis=1) < 1e-9  # prompts may be equal
    moved = np.flatnonzero((nearest != np.arange(n)) & ~equal)
    if not len(moved):
        return
    row = int(moved[0])
    (index, j), (other, other_j) = oracle.places[row], oracle.places[int(nearest[row])]
    yield Hypothesis(
        at_ids(log_probs[nearest], ids),
        f"positions are mixed up: the row of prompt {index}, position {j}, has the distribution of prompt {other}, position "
        f"{other_j}, and {count(len(moved), 'row')} of {n} stand at a wrong place. Rows go prompt by prompt in the order "
        "of the "
        "batch, and position by position within each" + _sorted_how(nearest, oracle),
    )


def _sorted_how(nearest: Any, oracle: Oracle) -> str:
    """How an engine orders its rows, if that is a plain way."""
    prompts = range(len(oracle.batch))
    rows_of = [[row for row, place in enumerate(oracle.places) if place[0] == index] for index in prompts]
    by_length = sorted(prompts, key=lambda index: len(oracle.batch[index].ids))
    orders = {
        "; here they are reversed": list(reversed(range(len(oracle.places)))),
        "; here prompts are in reverse order": [row for index in reversed(prompts) for row in rows_of[index]],
        "; here prompts are sorted by length, and not put back": [row for index in by_length for row in rows_of[index]],
        "; here the longest prompts come first": [row for index in reversed(by_length) for row in rows_of[index]],
        "; here the first positions of all prompts come first, then all second ones": sorted(
            range(len(oracle.places)), key=lambda row: (oracle.places[row][1], oracle.places[row][0])
        ),
    }
    own = oracle.log_probs()
    for text, order in orders.items():
        if np.abs(own[nearest] - own[order]).max() < 1e-9:
            return text
    return ""


def where(wrong: Flags, oracle: Oracle) -> str:
    """What wrong positions have in common, for people."""
    places = [oracle.places[int(row)] for row in np.flatnonzero(wrong)]
    right = [oracle.places[int(row)] for row in np.flatnonzero(~wrong)]
    if not right:
        return f"all {len(places)} positions"
    common: dict[str, Callable[[int, int], bool]] = {
        "the first position of prompts": lambda _, j: j == 0,
        "the last position of prompts": lambda index, j: j == oracle.batch[index].n_positions - 1,
        "all but the first position of prompts": lambda _, j: j > 0,
        "prompts of a single token": lambda index, _: oracle.batch[index].prompt_len == 1,
    }
    for text, holds in common.items():
        if all(holds(*place) for place in places) and not any(holds(*place) for place in right):
            return text
    return _listed(places) + f", {len(places)} of {len(places) + len(right)} positions"


def _listed(places: Sequence[tuple[int, int]]) -> str:
    by_prompt: dict[int, list[int]] = {}
    for index, j in places:
        by_prompt.setdefault(index, []).append(j)
    return some_of(
        [f"prompt {index} (position{'s' if len(js) > 1 else ''} {', '.join(map(str, js))})" for index, js in by_prompt.items()],
        4,
    )
