"""Scoring until a verdict: the same scores as for the whole suite, in random order, and only as many as needed."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from pytest_pot import Baseline, PotError, Prompt, ScoreReport, ScoringConfig, TeacherForcedScorer, Verdict
from pytest_pot.gates.verdict.sequential import Decision, SequentialTest

from ..models import Pair, changed, tiny

MANY = [Prompt(f"The number {i} comes before", f" the number {i + 1}.") for i in range(96)]
CONFIG = ScoringConfig(top_k=20, batch_size=4, positions_per_prompt=12)


@pytest.fixture(scope="module")
def pair() -> Pair:
    return tiny(), changed(tiny())


@pytest.fixture(scope="module")
def whole(pair: Pair, tokenizer: PreTrainedTokenizerFast) -> ScoreReport:
    return TeacherForcedScorer(CONFIG).score_batch(*pair, MANY, tokenizer)


def decide(
    reference: PreTrainedModel | Baseline,
    candidate: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    limit: float,
    prompts: Sequence[str | Prompt] = MANY,
    *,
    seed: int | None = 0,
) -> tuple[ScoreReport, Decision]:
    scorer = TeacherForcedScorer(CONFIG)
    test = SequentialTest(limit, pool=len(prompts))
    report = scorer.score_until(reference, candidate, prompts, tokenizer, test, seed=seed)
    return report, test.decision()


def test_a_clear_difference_takes_few_prompts(pair: Pair, whole: ScoreReport, tokenizer: PreTrainedTokenizerFast) -> None:
    report, decision = decide(*pair, tokenizer, whole.mean / 4)
    assert decision.verdict is Verdict.DIFFERENT
    assert report.n_prompts == decision.n_used <= 8
    assert report.n_prompts % 4 == 0  # whole batches
    np.testing.assert_allclose(report.scores, whole.scores[list(report.indices)], atol=1e-6)
    assert [prompt.text for prompt in report.prompts] == [MANY[index].text for index in report.indices]
    assert list(report.indices) == sorted(report.indices)
    assert {worst.prompt_index for worst in report.worst(20)} <= set(report.indices)


def test_same_takes_as_many_prompts_as_the_outlier_test_needs(
    pair: Pair, whole: ScoreReport, tokenizer: PreTrainedTokenizerFast
) -> None:
    report, decision = decide(*pair, tokenizer, 2 * whole.mean)
    assert decision.verdict is Verdict.SAME
    assert 30 < report.n_prompts < 96
    assert decision.decided_after is not None
    assert decision.decided_after <= report.n_prompts < decision.decided_after + 4


def test_a_limit_close_to_the_score_needs_most_of_the_pool(
    pair: Pair, whole: ScoreReport, tokenizer: PreTrainedTokenizerFast
) -> None:
    for limit, verdict in ((whole.mean * 0.999, Verdict.DIFFERENT), (whole.mean * 1.001, Verdict.SAME)):
        report, decision = decide(*pair, tokenizer, limit)
        assert decision.verdict is verdict
        assert decision.exhausted or verdict is Verdict.DIFFERENT
        assert report.n_prompts > 48


def test_the_order_depends_on_the_seed(pair: Pair, whole: ScoreReport, tokenizer: PreTrainedTokenizerFast) -> None:
    first, again, other = (decide(*pair, tokenizer, whole.mean / 4, seed=seed)[0].indices for seed in (1, 1, 2))
    assert first == again != other
    assert decide(*pair, tokenizer, whole.mean / 4, seed=None)[0].indices == tuple(range(len(first)))


def test_the_steps_are_in_random_order(pair: Pair, whole: ScoreReport, tokenizer: PreTrainedTokenizerFast) -> None:
    report, decision = decide(*pair, tokenizer, whole.mean / 4, seed=1)
    scores = dict(zip(report.indices, report.scores.tolist(), strict=True))
    assert sorted(step.score for step in decision.steps) == sorted(scores.values())
    assert [step.score for step in decision.steps] != list(scores.values())


def test_a_recording_stops_like_the_live_reference(pair: Pair, whole: ScoreReport, tokenizer: PreTrainedTokenizerFast) -> None:
    baseline = TeacherForcedScorer(CONFIG).record(pair[0], MANY, tokenizer)
    live, recorded = (decide(reference, pair[1], tokenizer, whole.mean / 4) for reference in (pair[0], baseline))
    assert recorded[0].indices == live[0].indices
    np.testing.assert_allclose(recorded[0].scores, live[0].scores, atol=1e-6)
    with pytest.raises(PotError, match="prompts: 96 recorded, 95 now"):
        decide(baseline, pair[1], tokenizer, 0.1, MANY[:-1])


def test_an_identical_model_is_the_same_with_a_limit_of_zero(pair: Pair, tokenizer: PreTrainedTokenizerFast) -> None:
    report, decision = decide(pair[0], tiny(), tokenizer, 0.0)
    assert decision.verdict is Verdict.SAME
    assert report.max == 0.0
    assert decide(*pair, tokenizer, 0.0)[1].verdict is Verdict.DIFFERENT


def test_only_the_scored_prompts_are_continued(
    pair: Pair, tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sampling a continuation is expensive, so only the scored prompts get one."""
    from pytest_pot.engines.pytorch.engine import TorchEngine

    calls: list[int] = []
    sample = TorchEngine.sample

    def count_sample(self: TorchEngine, *arguments: Any) -> list[list[int]]:
        calls.append(1)
        return sample(self, *arguments)

    monkeypatch.setattr(TorchEngine, "sample", count_sample)
    report, decision = decide(*pair, tokenizer, 1e-6, [prompt.text for prompt in MANY])
    assert decision.verdict is Verdict.DIFFERENT
    assert len(calls) == report.n_prompts < 96


MIXED = [Prompt("z" * (5 + 37 * i % 80), " and so on and on") for i in range(96)]


def score_with_auto(
    pair: Pair, tokenizer: PreTrainedTokenizerFast, limit: float
) -> tuple[ScoreReport, Decision, list[torch.Size]]:
    """The report, the decision, and the shape of each forward pass."""
    forwards = []
    handle = pair[1].register_forward_pre_hook(lambda _, arguments: forwards.append(arguments[0].shape))
    scorer = TeacherForcedScorer(replace(CONFIG, batch_size="auto"))
    test = SequentialTest(limit, pool=len(MIXED))
    report = scorer.score_until(*pair, MIXED, tokenizer, test, seed=3)
    handle.remove()
    return report, test.decision(), forwards


def test_auto_sorts_the_prompts_between_two_looks_by_length(pair: Pair, tokenizer: PreTrainedTokenizerFast) -> None:
    mean = TeacherForcedScorer(CONFIG).score_batch(*pair, MIXED, tokenizer).mean
    report, decision, forwards = score_with_auto(pair, tokenizer, 2 * mean)
    assert decision.verdict is Verdict.SAME
    assert decision.decided_after is not None
    assert sum(n for n, _ in forwards) == report.n_prompts < decision.decided_after + 16
    padding = 1 - sum(len(t.ids) for t in report.tokens) / sum(n * length for n, length in forwards)
    assert padding < 0.1  # in random order it would be 0.12
    order = list(range(96))
    random.Random(3).shuffle(order)
    scores = dict(zip(report.indices, report.scores.tolist(), strict=True))
    assert [step.score for step in decision.steps] == [scores[index] for index in order[: report.n_prompts]]


def test_auto_stops_early_on_a_clear_difference(pair: Pair, tokenizer: PreTrainedTokenizerFast) -> None:
    report, decision, _ = score_with_auto(pair, tokenizer, 1e-6)
    assert decision.verdict is Verdict.DIFFERENT
    assert report.n_prompts == 4


def test_out_of_memory_halves_the_batch(pair: Pair, whole: ScoreReport, tokenizer: PreTrainedTokenizerFast) -> None:
    model = tiny()

    def raise_out_of_memory(module: torch.nn.Module, arguments: tuple[torch.Tensor, ...]) -> None:
        if len(arguments[0]) > 2:
            raise torch.OutOfMemoryError("out of memory")

    handle = model.register_forward_pre_hook(raise_out_of_memory)
    report, decision = decide(model, pair[1], tokenizer, whole.mean / 4)
    handle.remove()
    assert report.batch_size == 2
    assert decision.verdict is Verdict.DIFFERENT
    assert decision.n_used == report.n_prompts
