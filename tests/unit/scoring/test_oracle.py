"""Every figure equals that of the simplest float64 implementation, for common architectures."""

from __future__ import annotations

import numpy as np
import pytest
from transformers import PreTrainedTokenizerFast

from pytest_pot import Prompt, ScoreReport, ScoringConfig, TeacherForcedScorer
from pytest_pot.engines.distributions import Floats

from .. import oracle
from ..models import CONFIGS, VOCAB, Pair, changed, tiny

ARCHITECTURES = sorted(CONFIGS)


@pytest.fixture(scope="module", params=ARCHITECTURES)
def pair(request: pytest.FixtureRequest) -> Pair:
    model = tiny(request.param)
    return model, changed(model)


def expected(pair: Pair, report: ScoreReport, metric: str, k: int | None = None, temperature: float = 1.0) -> list[Floats]:
    """The oracle's metric at every position, for the tokens of the report."""
    per_prompt = []
    for tokens in report.tokens:
        log_p, log_q = (oracle.full_log_probs(model, tokens, temperature) for model in pair)
        values = []
        for j, target in enumerate(tokens.targets):
            if metric == "delta_ce":
                values.append(oracle.delta_ce(log_p[j], log_q[j], target))
            elif metric == "top1_flip":
                values.append(oracle.top1_flip(log_p[j], log_q[j]))
            else:
                values.append(oracle.metrics(*oracle.cells(log_p[j], log_q[j], k))[metric])
        per_prompt.append(np.array(values))
    return per_prompt


def test_the_whole_vocabulary_is_exact(pair: Pair, prompts: list[Prompt], tokenizer: PreTrainedTokenizerFast) -> None:
    config = ScoringConfig(top_k=None, batch_size=1)  # other batch shapes round differently: see test_invariance
    report = TeacherForcedScorer(config).score_batch(*pair, prompts, tokenizer)
    assert 0.01 < report.metrics["tv"] < 0.9  # the models differ, but not completely
    for metric, divergences in report.divergences.items():
        for ours, theirs in zip(divergences, expected(pair, report, metric), strict=True):
            if metric in ("tv", "jsd", "top1_flip"):
                np.testing.assert_allclose(ours, theirs, atol=1e-6, rtol=0)
            else:
                np.testing.assert_allclose(ours, theirs, atol=1e-6, rtol=1e-5)
        suite = np.mean([values.mean() for values in expected(pair, report, metric)])
        assert report.metrics[metric] == pytest.approx(suite, abs=1e-6 if metric in ("tv", "jsd") else 0, rel=1e-5)


def test_a_bucketed_tail_is_a_lower_bound_that_reaches_the_exact_figure(
    pair: Pair, prompts: list[Prompt], tokenizer: PreTrainedTokenizerFast
) -> None:
    exact = TeacherForcedScorer(ScoringConfig(top_k=None)).score_batch(*pair, prompts, tokenizer)
    below = dict.fromkeys(("tv", "jsd", "kl", "kl_reverse"), 0.0)
    for k in (1, 2, 5, 20, 60, VOCAB - 1, VOCAB):
        report = TeacherForcedScorer(ScoringConfig(top_k=k)).score_batch(*pair, prompts, tokenizer)
        for metric in below:
            bucketed, bound = np.concatenate(report.divergences[metric]), np.concatenate(exact.divergences[metric])
            assert (bucketed <= bound + 1e-12).all(), (metric, k)
            if k >= VOCAB - 1:
                np.testing.assert_allclose(bucketed, bound, rtol=1e-9, atol=1e-12)
            assert report.metrics[metric] >= below[metric] - 1e-12  # finer cells never lower a divergence
            below[metric] = report.metrics[metric]


@pytest.mark.parametrize("k", [1, 10])
def test_top_k_figures_equal_the_oracles(pair: Pair, prompts: list[Prompt], tokenizer: PreTrainedTokenizerFast, k: int) -> None:
    report = TeacherForcedScorer(ScoringConfig(top_k=k)).score_batch(*pair, prompts[:3], tokenizer)
    for metric in ("tv", "jsd", "kl", "kl_reverse"):
        ours, theirs = np.concatenate(report.divergences[metric]), np.concatenate(expected(pair, report, metric, k))
        np.testing.assert_allclose(ours, theirs, atol=2e-6, rtol=1e-5)


def test_the_unoptimised_and_the_fast_path_agree(pair: Pair, prompts: list[Prompt], tokenizer: PreTrainedTokenizerFast) -> None:
    plain = TeacherForcedScorer(ScoringConfig.preset("original")).score_batch(*pair, prompts, tokenizer)
    fast = TeacherForcedScorer(ScoringConfig(top_k=None, batch_size=8)).score_batch(*pair, prompts, tokenizer)
    for metric, theirs in plain.divergences.items():
        np.testing.assert_allclose(np.concatenate(fast.divergences[metric]), np.concatenate(theirs), atol=1e-5, rtol=1e-5)


def test_temperature_divides_both_models_logits(prompts: list[Prompt], tokenizer: PreTrainedTokenizerFast) -> None:
    pair = tiny("llama"), changed(tiny("llama"))
    report = TeacherForcedScorer(ScoringConfig(top_k=None, temperature=2.5)).score_batch(*pair, prompts[:3], tokenizer)
    for metric in ("tv", "kl", "delta_ce"):
        ours = np.concatenate(report.divergences[metric])
        theirs = np.concatenate(expected(pair, report, metric, temperature=2.5))
        np.testing.assert_allclose(ours, theirs, atol=1e-6, rtol=1e-5)


def test_a_renormalised_tail_is_the_softmax_over_the_top_k(prompts: list[Prompt], tokenizer: PreTrainedTokenizerFast) -> None:
    pair = tiny("llama"), changed(tiny("llama"))
    config = ScoringConfig(top_k=7, tail="renormalise")
    report = TeacherForcedScorer(config).score_batch(*pair, prompts[:4], tokenizer)
    for metric in ("tv", "jsd", "kl", "kl_reverse"):
        for ours, tokens in zip(report.divergences[metric], report.tokens, strict=True):
            log_p, log_q = (oracle.full_log_probs(model, tokens) for model in pair)
            theirs = [oracle.metrics(*oracle.renormalised_cells(p, q, 7))[metric] for p, q in zip(log_p, log_q, strict=True)]
            np.testing.assert_allclose(ours, theirs, atol=1e-6, rtol=1e-5)


def test_the_tail_mass_is_the_references_probability_outside_the_top_k(
    prompts: list[Prompt], tokenizer: PreTrainedTokenizerFast
) -> None:
    model = tiny("llama")
    report = TeacherForcedScorer(ScoringConfig(top_k=10)).score_batch(model, model, prompts, tokenizer)
    means = []
    for tokens in report.tokens:
        tails = [1 - sum(sorted((np.exp(x) for x in row), reverse=True)[:10]) for row in oracle.full_log_probs(model, tokens)]
        means.append(np.mean(tails))
    assert report.tail_mass == pytest.approx(np.mean(means), abs=1e-6)
    assert TeacherForcedScorer(ScoringConfig(top_k=None)).score_batch(model, model, prompts, tokenizer).tail_mass == 0
