"""Calibration: a ladder of known changes, limits between them, and the error rates of these limits."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from transformers import PreTrainedTokenizerFast

from pytest_pot import PotError, Prompt, ScoringConfig, TeacherForcedScorer
from pytest_pot.calibration.ladder import STANDARD, Calibration, Proposal, Rung, calibrate
from pytest_pot.calibration.perturbations import PERTURBATIONS, perturb

from ..models import tiny


def rung(name: str, *scores: float) -> Rung:
    return Rung(name, np.array(scores), {"top1_flip": 0.0})


def calibration(*rungs: Rung) -> Calibration:
    return Calibration("tv", 4, "float32 on cpu", 1e-7, sorted(rungs, key=lambda rung: rung.mean), {})


@pytest.fixture(scope="module")
def ladder(prompts: list[Prompt], tokenizer: PreTrainedTokenizerFast) -> Calibration:
    return calibrate(TeacherForcedScorer(ScoringConfig(top_k=20)), tiny("llama"), prompts, tokenizer)


def test_every_standard_change_is_scored_like_a_single_candidate(
    ladder: Calibration, prompts: list[Prompt], tokenizer: PreTrainedTokenizerFast
) -> None:
    assert {rung.name for rung in ladder.rungs} | set(ladder.left_out) == set(STANDARD) <= set(PERTURBATIONS)
    scorer = TeacherForcedScorer(ScoringConfig(top_k=20))
    [int8] = [rung for rung in ladder.rungs if rung.name == "int8 per row"]
    expected = scorer.score_batch(tiny("llama"), perturb(tiny("llama"), "int8 per row"), prompts, tokenizer)
    np.testing.assert_array_equal(int8.scores, expected.scores)
    assert int8.metrics == expected.metrics


def test_the_ladder_is_sorted_and_above_the_noise_floor(ladder: Calibration) -> None:
    means = [rung.mean for rung in ladder.rungs]
    assert means == sorted(means)
    assert ladder.noise_floor is not None
    assert ladder.noise_floor < means[0]
    names = [rung.name for rung in ladder.rungs]
    assert names.index("fp16") < names.index("int8 per row") < names.index("int4 in groups")


def test_calibration_does_not_change_the_reference(prompts: list[Prompt], tokenizer: PreTrainedTokenizerFast) -> None:
    model = tiny("llama")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    calibrate(TeacherForcedScorer(ScoringConfig(top_k=5)), model, prompts[:2], tokenizer, names=["pruned 20 %", "bf16"])
    assert all((tensor == before[name]).all() for name, tensor in model.state_dict().items())


def test_a_change_that_does_not_apply_to_the_model_is_left_out(
    prompts: list[Prompt], tokenizer: PreTrainedTokenizerFast
) -> None:
    ladder = calibrate(TeacherForcedScorer(), tiny(), prompts[:2], tokenizer, names=["bf16", "wrong RoPE base"])
    assert [rung.name for rung in ladder.rungs] == ["bf16"]
    assert "rope" in ladder.left_out["wrong RoPE base"].lower()


def test_limits_are_geometric_means_between_rungs() -> None:
    ladder = calibration(
        rung("bf16", 0.004, 0.004),
        rung("fp16", 0.001, 0.001),
        rung("pruned 1 %", 0.016, 0.016),
        rung("int8 per row", 0.04, 0.04),
        rung("int4 in groups", 0.36, 0.36),
    )
    half, int8 = ladder.proposals()
    assert (half.kind, half.highest.name, half.next.name) == ("half", "bf16", "pruned 1 %")
    assert half.limit == pytest.approx(0.008)
    assert half.separation == pytest.approx(4.0)
    assert int8.limit == pytest.approx(0.12)
    assert [(kind, highest.name) for kind, highest in ladder.without_limit()] == [("int4", "int4 in groups")]


def test_a_change_too_close_to_the_tolerated_one_passes_and_is_listed() -> None:
    [half] = calibration(
        rung("bf16", 0.004, 0.004), rung("pruned 1 %", 0.0044, 0.0044), rung("pruned 5 %", 0.04, 0.04)
    ).proposals()
    assert half.next.name == "pruned 5 %"
    assert [other.name for other in half.passing()] == ["pruned 1 %"]
    assert half.near() == []
    assert 0.0044 < half.limit < 0.04


def test_a_change_just_above_the_limit_is_near_but_does_not_pass() -> None:
    [int8] = calibration(
        rung("int8 per row", 0.020, 0.020), rung("pruned 5 %", 0.0276, 0.0276), rung("noise 2^-6", 0.0305, 0.0305)
    ).proposals()
    assert (int8.limit, int8.next.name) == (0.0247, "noise 2^-6")
    assert [rung.name for rung in int8.near()] == ["pruned 5 %"]
    assert int8.passing() == []


def test_no_limit_is_proposed_below_the_noise_floor() -> None:
    ladder = calibration(rung("bf16", 0.004, 0.004), rung("int8 per row", 0.04, 0.04), rung("int4 in groups", 0.2, 0.2))
    assert [proposal.kind for proposal in replace(ladder, noise_floor=0.02).proposals()] == ["int8"]


def test_false_alarms_and_misses_are_shares_of_resampled_suites() -> None:
    generator = np.random.default_rng(1)
    low, high = generator.normal(1.0, 0.5, 32).clip(0.01), generator.normal(1.4, 0.5, 32).clip(0.01)
    near = Proposal("half", Rung("bf16", low, {}), Rung("pruned 1 %", high, {}))
    # The mean of 32 resampled scores is about normal; its deviation is that of the scores over sqrt(32).
    z = (near.limit - low.mean()) / (low.std() / np.sqrt(32))
    assert near.false_alarms() == pytest.approx(0.5 * math.erfc(z / math.sqrt(2)), abs=0.02)
    assert 0 < near.misses() < 0.5
    far = Proposal("half", Rung("bf16", low, {}), Rung("int4", 100 * high, {}))
    assert far.false_alarms() == far.misses() == 0.0


def test_one_prompt_far_above_the_limit_is_a_false_alarm_too() -> None:
    odd = np.full(16, 1.0)
    odd[0] = 31.0
    proposal = Proposal("half", Rung("bf16", odd, {}), Rung("int8", np.full(16, 3.1), {}))
    assert odd.mean() < proposal.limit < 31.0 / 10
    assert proposal.false_alarms() == pytest.approx(1 - (15 / 16) ** 16, abs=0.03)


def test_a_reference_that_is_the_same_after_rounding_proposes_nothing() -> None:
    assert calibration(rung("bf16", 0.0, 0.0)).proposals() == []


def test_calibrating_without_prompts_is_an_error(tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(PotError, match="no prompts"):
        calibrate(TeacherForcedScorer(), tiny(), [], tokenizer)
