"""Percentiles, Δp and same top p of SmolLM2 against its 8-bit copy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from types import ModuleType

import numpy as np
import pytest
import torch

from pytest_pot import ScoreReport, ScoringConfig, TeacherForcedScorer, Verdict, identity_limits
from pytest_pot.core.names import METRICS
from pytest_pot.engines.distributions import Floats
from pytest_pot.gates.verdict.details import details
from pytest_pot.gates.verdict.result import ScoreOutcome
from pytest_pot.gates.verdict.settings import ScoreSettings
from pytest_pot.prompts.builtin import builtin_prompts

from ..processor_time import in_yardsticks
from .conftest import ModelAndTokenizer

pytestmark = pytest.mark.real

CONFIG = ScoringConfig(positions_per_prompt=16)


@pytest.fixture(scope="module")
def report(reference: ModelAndTokenizer, zoo: ModuleType) -> ScoreReport:
    model, tokenizer = reference
    return TeacherForcedScorer(CONFIG).score_batch(model, zoo.int8()[0], builtin_prompts()[:12], tokenizer)


def test_the_figures_equal_numpys_on_both_models_own_logits(
    report: ScoreReport, reference: ModelAndTokenizer, zoo: ModuleType
) -> None:
    change, same, kl = [], [], []
    models = (reference[0], zoo.int8()[0])
    for tokens in report.tokens:
        rows = []
        for model in models:
            with torch.no_grad():
                logits = model(torch.tensor([tokens.ids])).logits[0, tokens.prompt_len - 1 : -1]
            rows.append(logits.double().log_softmax(-1).numpy())
        p, q = rows
        targets = np.array(tokens.targets)
        at = np.arange(len(targets))
        change.append(100 * (np.exp(q[at, targets]) - np.exp(p[at, targets])))
        same.append(p.argmax(1) == q.argmax(1))
        kl.append((np.exp(p) * (p - q)).sum(1))
    flat = np.concatenate(change)
    assert report.delta_p is not None
    assert report.delta_p.mean == pytest.approx(flat.mean(), abs=1e-3)
    assert report.delta_p.rms == pytest.approx(np.sqrt((flat**2).mean()), rel=1e-3)
    for q, value in report.delta_p.percentiles.items():
        assert value == pytest.approx(np.percentile(flat, q), rel=1e-3, abs=1e-3)
    assert report.same_top.share == pytest.approx(np.concatenate(same).mean(), abs=0.5 / len(flat))
    shares = np.array([each.mean() for each in same])  # all prompts have 16 positions
    assert report.same_top.standard_error == pytest.approx(shares.std(ddof=1) / np.sqrt(len(shares)), rel=1e-6)
    exact = np.percentile(np.concatenate(kl), list(report.percentiles("kl")))
    told = np.array(list(report.percentiles("kl").values()))
    assert (told <= exact + 1e-6).all()  # the tail is one cell
    assert told == pytest.approx(exact, rel=0.3, abs=1e-4)


def test_percentiles_equal_numpys_on_the_positions(report: ScoreReport) -> None:
    for metric in METRICS:
        flat = np.concatenate(report.divergences[metric])
        assert len(flat) == 12 * 16
        for q, value in report.percentiles(metric).items():
            assert value == np.percentile(flat, q)


def test_the_figures_are_those_of_int8(report: ScoreReport) -> None:
    """As published for 8 bits: most first choices stay, and probabilities move by a few points."""
    assert report.delta_p is not None
    assert 0.85 < report.same_top.share < 1
    assert 0.5 < report.delta_p.rms < 8
    assert report.verdict(identity_limits("tv", tolerance="int8")) is Verdict.SAME
    assert report.verdict(identity_limits("tv", tolerance="half")) is Verdict.DIFFERENT


@pytest.mark.slow
def test_bfloat16_logits_have_the_same_first_choices_as_themselves(reference: ModelAndTokenizer, zoo: ModuleType) -> None:
    """Some of them have several largest logits."""
    model, tokenizer = zoo.reference()[0].to(torch.bfloat16), reference[1]
    scorer = TeacherForcedScorer(ScoringConfig(positions_per_prompt=16))
    prompts = builtin_prompts()[:12]
    report = scorer.score_batch(model, model, prompts, tokenizer)
    assert report.max == 0
    assert report.same_top.share == 1
    tied = 0
    for tokens in report.tokens:
        with torch.no_grad():
            logits = model(torch.tensor([tokens.ids])).logits[0, tokens.prompt_len - 1 : -1]
        tied += int(((logits == logits.amax(-1, keepdim=True)).sum(-1) > 1).sum())
    assert tied > 0


def test_a_report_of_the_whole_suite_is_made_in_a_fraction_of_a_second(report: ScoreReport) -> None:
    """The figures of 12 prompts over and over: 257 prompts, 32 positions."""
    times = [index % 12 for index in range(257)]

    def twice(arrays: Sequence[Floats]) -> list[Floats]:
        return [np.concatenate([arrays[i]] * 2) for i in times]

    large = replace(
        report,
        prompts=[report.prompts[i] for i in times],
        indices=range(257),
        tokens=[replace(report.tokens[i], ids=report.tokens[i].ids + report.tokens[i].targets) for i in times],
        divergences={name: twice(values) for name, values in report.divergences.items()},
        distributions=(
            [report.distributions[0][i].take(np.tile(np.arange(16), 2)) for i in times],
            [report.distributions[1][i].take(np.tile(np.arange(16), 2)) for i in times],
        ),
        tail_masses=twice(report.tail_masses),
        batches=(),
    )
    assert large.n_positions == 257 * 32
    settings = ScoreSettings(gate="pot_identity", preset="auto", config=CONFIG, limits=identity_limits("tv"))
    outcome = ScoreOutcome(settings, ("a", "b"), large, Verdict.DIFFERENT)
    for make in (large.to_dict, lambda: details(outcome), lambda: str(large), lambda: repr(large)):
        assert in_yardsticks(make) < 20, "about 0.2 s"
