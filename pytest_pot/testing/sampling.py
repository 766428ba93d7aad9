"""Whether an engine samples its model's text at temperature 1."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pytest_pot.core.text import number, shorten
from pytest_pot.testing.case import Case
from pytest_pot.testing.cut_sampling import Cuts, Parts, flattest_contexts

__all__ = ["check_sampling"]

_N_TOKENS = 12
_MOST_CONTEXTS = 4
_FLATTEST = 24
"""Contexts that are continued by a single token, again and again, to see whether the vocabulary is cut."""
_IMPROBABLE = 1e-3
"""Samples of two seeds may be equal where the model is nearly certain: with a probability above this, that is no evidence."""
_SIGMAS = 5.0
_NATS = 15.0
"""How improbable a sample has to be to count as none: in standard deviations, and at least by so many nats."""


def check_sampling(case: Case) -> None:
    """Note what is wrong with ``sample``."""
    limit = case.engine.max_positions
    n_tokens = _N_TOKENS
    different = dict.fromkeys(tokens.ids[: tokens.prompt_len] for tokens in case.batch)
    contexts = [list(context) for context in different][-_MOST_CONTEXTS:]
    if limit is not None:
        n_tokens = min(n_tokens, max(1, limit - max(map(len, contexts))))
    first = _sampled(case, contexts, n_tokens, 0)
    again = None if first is None else _sampled(case, contexts, n_tokens, 0)
    other = None if again is None else _sampled(case, contexts, n_tokens, 1)
    if first is None or again is None or other is None:
        return
    if first != again:
        case.problems.append(
            f"sample is not deterministic: {_difference(first, again)} for the same contexts and the same seed. Make a "
            "generator of "
            "one's own from the seed and the context"
        )
        return
    alone = _sampled(case, contexts[-1:], n_tokens, 0)
    if alone is not None and alone != first[-1:]:
        case.problems.append(
            f"sample depends on a context's neighbours: {_difference(first[-1:], alone)} beside others and alone. Derive the "
            "random numbers from the seed and the context's ids, not from its place in the list"
        )
    before = len(case.problems)
    _check_distribution(case, contexts, first, other)
    if case.right and len(case.problems) == before:
        _check_cuts(case, contexts, (first, other))


def _sampled(case: Case, contexts: Sequence[Sequence[int]], n_tokens: int, seed: int) -> list[list[int]] | None:
    name = f"sample({len(contexts)} contexts, {n_tokens} tokens, seed {seed})"
    try:
        samples = case.engine.sample(contexts, n_tokens, seed)
    except Exception as error:  # an engine may raise anything
        case.note_raised(name, error)
        return None
    problem = _form(samples, len(contexts), n_tokens, case.vocab_size)
    if problem:
        case.problems.append(f"{name} {problem}")
        return None
    return [list(map(int, sample)) for sample in samples]


def _form(samples: object, n: int, n_tokens: int, vocab_size: int) -> str | None:
    if not isinstance(samples, list) or not all(isinstance(sample, list) for sample in samples):
        kind = type(samples).__name__ if not isinstance(samples, list) else f"a list of {type(samples[0]).__name__}"
        return f"returned {kind}: return a list of ids, a list of integers, for each context"
    if len(samples) != n:
        return f"returned {len(samples)} samples"
    lengths = {len(sample) for sample in samples}
    if lengths != {n_tokens}:
        wrong = min(lengths - {n_tokens})
        hint = "leave out the context" if wrong > n_tokens else "do not stop at an end-of-text token"
        return f"returned a sample of {wrong} tokens: return {n_tokens} for each context; {hint}"
    ids = [each for sample in samples for each in sample]
    if not all(isinstance(each, int | np.integer) for each in ids):
        return f"returned {type(next(each for each in ids if not isinstance(each, int))).__name__} as ids: return integers"
    outside = [each for each in ids if not 0 <= each < vocab_size]
    return f"returned the id {outside[0]}: the vocabulary has 0 to {vocab_size - 1}" if outside else None


def _difference(one: Sequence[Sequence[int]], other: Sequence[Sequence[int]]) -> str:
    index = next(index for index, (a, b) in enumerate(zip(one, other, strict=True)) if a != b)
    first, second = (shorten(str(list(side[index])), 50) for side in (one, other))
    return f"context {index} gets {first} and {second}"


def _check_distribution(
    case: Case, contexts: Sequence[list[int]], first: Sequence[list[int]], other: Sequence[list[int]]
) -> None:
    """Whether samples are as probable as samples of the model are, and differ from seed to seed."""
    surprise = expected = variance = 0.0
    log_probability_if_equal = 0.0
    greedy = True
    for context, sample in zip(contexts, first, strict=True):
        log_probs = case.oracle.of_sequence([*context, *sample], len(context))
        own = log_probs[np.arange(len(sample)), sample]
        probabilities = np.exp(log_probs)
        entropies = -(probabilities * log_probs).sum(axis=1)
        surprise -= float(own.sum())
        log_probability_if_equal += float(own.sum())
        expected += float(entropies.sum())
        variance += float(((probabilities * log_probs**2).sum(axis=1) - entropies**2).sum())
        greedy = greedy and bool((log_probs.max(axis=1) - own < 1e-3).all())
    excess, spread = surprise - expected, float(np.sqrt(max(variance, 1e-12)))
    if list(first) == list(other) and log_probability_if_equal < np.log(_IMPROBABLE):
        how = ": it takes the likeliest token each time, and has to sample at temperature 1" if greedy else ""
        case.problems.append(f"sample ignores the seed: seeds 0 and 1 give the same tokens for every context{how}")
    elif abs(excess) > max(_SIGMAS * spread, _NATS):
        figures = (
            f"its tokens have {number(surprise)} nats, and samples of the model {number(expected)}, give or take "
            f"{number(spread)}"
        )
        if excess > 0:
            text = "too unlikely: are they sampled from another distribution, or after a higher temperature than 1?"
        else:
            text = "too likely: is the temperature lower than 1, or the vocabulary cut (top-k, top-p)?"
        case.problems.append(f"sample does not follow the model at temperature 1: {figures}; {text}")


def _check_cuts(case: Case, contexts: Sequence[list[int]], samples: Sequence[Sequence[list[int]]]) -> None:
    """Whether all of the vocabulary is sampled from."""
    cuts = Cuts(case.limit)
    for sampled in samples:
        for context, sample in zip(contexts, sampled, strict=True):
            cuts.add(Parts(case.oracle.of_sequence([*context, *sample], len(context))), sample)
    if problem := cuts.problem():
        case.problems.append(problem)
        return
    if cuts.known == float("inf"):  # a token was outside, as with most right samplers
        return
    flattest, parts, n_rounds = flattest_contexts(case.oracle, _FLATTEST, case.limit, cuts.known)
    for seed in range(2, 2 + n_rounds):
        tokens = _sampled(case, flattest, 1, seed)
        if tokens is None:
            return
        cuts.add(parts, [sample[0] for sample in tokens])
    if problem := cuts.problem():
        case.problems.append(problem)
