"""Percentiles, Δp and same top p: against the plainest possible arithmetic, and by properties over generated figures."""

from __future__ import annotations

import math
import random
from typing import Any, TypeAlias

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from pytest_pot import PotError, Prompt, ScoringConfig, TeacherForcedScorer
from pytest_pot.core.names import METRICS
from pytest_pot.engines.distributions import TopK
from pytest_pot.engines.registry import opened
from pytest_pot.scoring.position_statistics import (
    DELTA_P_PERCENTILES,
    PERCENTILES,
    delta_p,
    percentiles,
    same_top,
)

from .. import oracle
from ..models import Pair, changed, tiny
from .test_own_top_k import OwnTopK

Suite: TypeAlias = list[list[tuple[float, float, int, int]]]
"""By prompt and position: the token's log-probability in both models, and both models' likeliest id."""


def percentile(values: list[float], q: float) -> float:
    """As llama.cpp computes it, in float64: between the neighbours of the index (n - 1) q / 100 of the sorted values."""
    ordered = sorted(values)
    index = q / 100 * (len(ordered) - 1)
    low = min(int(index), len(ordered) - 1)
    share = index - low
    return (1 - share) * ordered[low] + share * ordered[min(low + 1, len(ordered) - 1)]


def tops(suite: Suite, side: int) -> list[TopK]:
    """What a report keeps of one model."""
    kept = []
    for prompt in suite:
        targets = np.array([position[side] for position in prompt])
        ids = np.array([position[2 + side] for position in prompt])
        nothing = np.zeros(len(prompt))
        kept.append(TopK(None, np.zeros((len(prompt), 0)), None, targets, ids, nothing, nothing > 0, nothing, 0))
    return kept


log_probability = st.one_of(st.floats(-30, 0), st.just(0.0), st.just(-750.0))
positions = st.tuples(log_probability, log_probability, st.integers(0, 2), st.integers(0, 2))
suites = st.lists(st.lists(positions, min_size=1, max_size=6), min_size=1, max_size=7)
values = st.lists(st.floats(0, 800), min_size=1, max_size=60)


@given(values)
def test_percentiles_are_those_of_the_plain_definition(numbers: list[float]) -> None:
    found = percentiles(np.array(numbers))
    assert list(found) == [0, 1, 5, 10, 50, 90, 95, 99, 99.9, 100]
    for q, value in found.items():
        assert value == pytest.approx(percentile(numbers, q), rel=1e-9, abs=1e-9)
    assert list(found.values()) == sorted(found.values())
    assert (found[0], found[100]) == (min(numbers), max(numbers))
    assert percentiles(np.array(numbers[::-1])) == found


@given(suites)
def test_the_change_of_probability_is_that_of_the_plain_definition(suite: Suite) -> None:
    found = delta_p(tops(suite, 0), tops(suite, 1))
    changes = [100 * (math.exp(q) - math.exp(p)) for prompt in suite for p, q, _, _ in prompt]
    assert found.mean == pytest.approx(math.fsum(changes) / len(changes), abs=1e-9)
    assert found.rms == pytest.approx(math.sqrt(math.fsum(x * x for x in changes) / len(changes)), abs=1e-9)
    for q, value in found.percentiles.items():
        assert value == pytest.approx(percentile(changes, q), abs=1e-9)
    assert tuple(found.percentiles) == DELTA_P_PERCENTILES
    assert all(-100 <= value <= 100 for value in found.percentiles.values())
    assert abs(found.mean) <= found.rms + 1e-9 <= 100 + 2e-9
    back = delta_p(tops(suite, 1), tops(suite, 0))
    assert (back.mean, back.rms) == pytest.approx((-found.mean, found.rms), abs=1e-12)


@given(suites)
def test_the_share_of_same_first_choices_is_that_of_the_plain_definition(suite: Suite) -> None:
    found = same_top(tops(suite, 0), tops(suite, 1))
    same = [[a == b for _, _, a, b in prompt] for prompt in suite]
    sizes, hits = [len(prompt) for prompt in same], [sum(prompt) for prompt in same]
    share = sum(hits) / sum(sizes)
    assert found.share == pytest.approx(share, rel=1e-12)
    assert 0 <= found.share <= 1
    n = len(suite)
    if n == 1:
        assert found.standard_error is None
        return
    mean_size = sum(sizes) / n
    variance = math.fsum((hit - share * size) ** 2 for hit, size in zip(hits, sizes, strict=True)) / (n - 1)
    assert found.standard_error == pytest.approx(math.sqrt(variance / n) / mean_size, rel=1e-9, abs=1e-12)


@given(suites, st.randoms())
def test_the_order_of_prompts_does_not_matter(suite: Suite, generator: random.Random) -> None:
    shuffled = generator.sample(suite, len(suite))
    one, other = (delta_p(tops(each, 0), tops(each, 1)) for each in (suite, shuffled))
    assert (one.mean, one.rms) == pytest.approx((other.mean, other.rms), abs=1e-12)
    assert one.percentiles == other.percentiles
    one_top, other_top = (same_top(tops(each, 0), tops(each, 1)) for each in (suite, shuffled))
    assert one_top.share == other_top.share
    assert one_top.standard_error == pytest.approx(other_top.standard_error, abs=1e-12)


@given(suites)
def test_equal_models_differ_nowhere(suite: Suite) -> None:
    found = delta_p(tops(suite, 0), tops(suite, 0))
    assert (found.mean, found.rms, set(found.percentiles.values())) == (0, 0, {0})
    assert same_top(tops(suite, 0), tops(suite, 0)).share == 1


@settings(max_examples=5, deadline=None)
@given(st.integers(2, 12), st.integers(1, 9))
def test_of_equally_long_prompts_the_error_is_that_of_a_mean(n: int, size: int) -> None:
    generator = np.random.default_rng(n * size)
    suite: Suite = [[(0.0, 0.0, 0, int(generator.integers(0, 2))) for _ in range(size)] for _ in range(n)]
    shares = [sum(a == b for _, _, a, b in prompt) / size for prompt in suite]
    error = same_top(tops(suite, 0), tops(suite, 1)).standard_error
    assert error == pytest.approx(np.std(shares, ddof=1) / math.sqrt(n), abs=1e-12)


def test_the_error_is_right_for_prompts_that_are_alike_within() -> None:
    """Half of the prompts keep every first choice, and half lose all. The error over tokens, which takes them for independent,
    is far too small: the spread of the share over many suites shows what is right."""
    generator = np.random.default_rng(0)
    shares, errors = [], []
    for _ in range(2000):
        sizes = generator.integers(5, 33, size=40)
        suite: Suite = [[(0.0, 0.0, 0, int(generator.random() < 0.5))] * int(size) for size in sizes]
        found = same_top(tops(suite, 0), tops(suite, 1))
        assert found.standard_error is not None
        shares.append(found.share)
        errors.append(found.standard_error)
    right = float(np.std(shares))
    assert np.mean(errors) == pytest.approx(right, rel=0.05)
    over_tokens = math.sqrt(0.25 / (40 * 18.5 - 1))
    assert over_tokens < 0.3 * right


# -- of reports --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pair() -> Pair:
    return tiny(), changed(tiny(), 0.3)


def changes_by_hand(pair: Pair, report: Any) -> tuple[list[float], list[bool]]:
    """From each model's full logits: the change of probability in points, and whether the first choice is the same."""
    changes, same = [], []
    for tokens in report.tokens:
        for target, log_p, log_q in zip(tokens.targets, *(oracle.full_log_probs(m, tokens) for m in pair), strict=True):
            changes.append(100 * (math.exp(log_q[target]) - math.exp(log_p[target])))
            same.append(log_p.index(max(log_p)) == log_q.index(max(log_q)))
    return changes, same


@pytest.mark.parametrize("top_k", [3, None])
def test_live_and_recorded_references_give_the_figures_of_the_whole_vocabulary(
    pair: Pair, prompts: list[Prompt], tokenizer: PreTrainedTokenizerFast, top_k: int | None
) -> None:
    scorer = TeacherForcedScorer(ScoringConfig(top_k=top_k))
    live = scorer.score_batch(*pair, prompts, tokenizer)
    changes, same = changes_by_hand(pair, live)
    recorded = scorer.score_baseline(scorer.record(pair[0], prompts, tokenizer), pair[1], tokenizer)
    for report in (live, recorded):
        assert report.delta_p is not None
        assert report.delta_p.mean == pytest.approx(np.mean(changes), abs=1e-4)
        assert report.delta_p.rms == pytest.approx(np.sqrt(np.mean(np.square(changes))), rel=1e-4)
        assert report.delta_p.percentiles == pytest.approx({q: percentile(changes, q) for q in DELTA_P_PERCENTILES}, abs=1e-4)
        assert report.same_top.share == pytest.approx(np.mean(same))
        for metric in METRICS:
            flat = [float(value) for prompt in report.divergences[metric] for value in prompt]
            assert report.percentiles(metric) == pytest.approx({q: percentile(flat, q) for q in PERCENTILES}, rel=1e-12)


def test_a_model_that_tells_only_its_own_ids_still_tells_the_probability_of_each_token(
    pair: Pair, prompts: list[Prompt], tokenizer: PreTrainedTokenizerFast
) -> None:
    """Most tokens of the texts are not among its three likeliest."""
    with opened(pair[1], "candidate", ScoringConfig(top_k=None)) as engine:
        report = TeacherForcedScorer(ScoringConfig(top_k=3)).score_batch(pair[0], OwnTopK(engine, 3), prompts, tokenizer)
    changes, same = changes_by_hand(pair, report)
    assert report.unseen is not None
    assert report.delta_p is not None
    assert report.delta_p.rms == pytest.approx(np.sqrt(np.mean(np.square(changes))), rel=1e-4)
    assert report.same_top.share == pytest.approx(np.mean(same))


def test_renormalised_probabilities_are_no_probabilities_of_the_token(
    pair: Pair, prompts: list[Prompt], tokenizer: PreTrainedTokenizerFast
) -> None:
    report = TeacherForcedScorer(ScoringConfig(top_k=5, tail="renormalise")).score_batch(*pair, prompts, tokenizer)
    assert report.delta_p is None
    assert report.to_dict()["delta_p"] is None
    assert "next token's probability (Δp): not known: probabilities are relative to the compared tokens" in str(report)
    assert "same likeliest token of those compared: " in str(report)
    whole = TeacherForcedScorer(ScoringConfig(top_k=None, tail="renormalise")).score_batch(*pair, prompts, tokenizer)
    assert whole.delta_p is not None
    assert whole.delta_p.mean == pytest.approx(np.mean(changes_by_hand(pair, whole)[0]), abs=1e-4)


def test_identical_models_have_zeros_and_ones(prompts: list[Prompt], tokenizer: PreTrainedTokenizerFast) -> None:
    report = TeacherForcedScorer().score_batch(tiny(), tiny(), prompts, tokenizer)
    assert set(report.percentiles("kl").values()) == {0}
    assert report.delta_p is not None
    assert (report.delta_p.mean, report.delta_p.rms, set(report.delta_p.percentiles.values())) == (0, 0, {0})
    assert report.same_top == (1, 0)


def test_one_prompt_has_no_standard_error(pair: Pair, tokenizer: PreTrainedTokenizerFast) -> None:
    report = TeacherForcedScorer().score_batch(*pair, [Prompt("ab", "cdefgh")], tokenizer)
    assert report.same_top.standard_error is None
    assert report.to_dict()["same_top"]["standard_error"] is None
    assert " ± " not in str(report)


def test_an_unknown_metric_is_named(pair: Pair, tokenizer: PreTrainedTokenizerFast) -> None:
    report = TeacherForcedScorer().score_batch(*pair, [Prompt("ab", "c")], tokenizer)
    with pytest.raises(PotError, match=r"metric='kld' is not one of 'tv', 'jsd', 'kl'"):
        report.percentiles("kld")
