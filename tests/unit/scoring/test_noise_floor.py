"""The noise floor: above 0 where rounding depends on the batch, 0 where it does not, and far below what a change does."""

from __future__ import annotations

import pytest

from pytest_pot import PRESETS, Prompt, ScoringConfig, TeacherForcedScorer

from ..engines.pytorch.test_engine import Uniform
from ..models import changed, tiny


@pytest.mark.parametrize("preset", PRESETS)
def test_far_below_a_change(preset, prompts, tokenizer):
    scorer = TeacherForcedScorer(ScoringConfig.preset(preset))
    floor = scorer.noise_floor(tiny("llama"), prompts, tokenizer)
    assert floor < 1e-5
    assert scorer.score_batch(tiny("llama"), changed(tiny("llama")), prompts, tokenizer).mean > 1e-3


def test_a_model_that_sees_the_batch(prompts, tokenizer):
    """One whose answer depends on its neighbours: the floor shows it, in the metric that is gated."""
    model = tiny()
    model.lm_head.register_forward_hook(lambda module, inputs, output: output * (1.0 + 0.1 * len(output)))
    floors = {
        metric: TeacherForcedScorer(ScoringConfig(metric=metric)).noise_floor(model, prompts, tokenizer)
        for metric in ("tv", "kl")
    }
    assert floors["tv"] > 1e-2
    assert floors["kl"] != floors["tv"]


def test_an_engine_without_rounding(prompts, tokenizer):
    assert TeacherForcedScorer(ScoringConfig(top_k=5)).noise_floor(Uniform(), prompts, tokenizer) == 0.0


def test_bare_strings_are_not_continued_for_it(tokenizer, monkeypatch):
    from pytest_pot.engines.pytorch.engine import TorchEngine

    monkeypatch.delattr(TorchEngine, "sample")
    assert TeacherForcedScorer().noise_floor(tiny(), ["Some text", "Another text"], tokenizer) < 1e-5


@pytest.mark.parametrize("texts", [["One only"], [Prompt("A", "b"), "C"]])
def test_too_little_text_to_measure_it(texts, tokenizer):
    assert TeacherForcedScorer().noise_floor(tiny(), texts, tokenizer) is None


def test_a_model_of_few_positions(tokenizer):
    assert TeacherForcedScorer().noise_floor(tiny(n_positions=16), ["x" * 60, "y" * 60], tokenizer) < 1e-5
