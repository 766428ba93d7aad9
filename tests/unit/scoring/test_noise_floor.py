"""The noise floor: above 0 if rounding depends on the batch, 0 if it does not, and far below real changes."""

from __future__ import annotations

import pytest
from transformers import PreTrainedTokenizerFast

from pytest_pot import PRESETS, Prompt, ScoringConfig, TeacherForcedScorer

from ..engines.pytorch.test_engine import Uniform
from ..models import changed, tiny


@pytest.mark.parametrize("preset", PRESETS)
def test_the_noise_floor_is_far_below_a_change(preset: str, prompts: list[Prompt], tokenizer: PreTrainedTokenizerFast) -> None:
    scorer = TeacherForcedScorer(ScoringConfig.preset(preset))
    floor = scorer.noise_floor(tiny("llama"), prompts, tokenizer)
    if scorer.config.batch_size == 1:
        assert floor is None  # every prompt runs alone
    else:
        assert floor is not None
        assert floor < 1e-5
    assert scorer.score_batch(tiny("llama"), changed(tiny("llama")), prompts, tokenizer).mean > 1e-3


def test_a_model_that_depends_on_its_batch_has_a_high_noise_floor(
    prompts: list[Prompt], tokenizer: PreTrainedTokenizerFast
) -> None:
    """The noise floor shows this, in the metric of the configuration."""
    model = tiny()
    model.lm_head.register_forward_hook(lambda module, inputs, output: output * (1.0 + 0.1 * len(output)))
    floors = {
        metric: TeacherForcedScorer(ScoringConfig(metric=metric)).noise_floor(model, prompts, tokenizer)
        for metric in ("tv", "kl")
    }
    assert floors["tv"] is not None
    assert floors["tv"] > 1e-2
    assert floors["kl"] != floors["tv"]


def test_an_engine_without_rounding_has_a_noise_floor_of_zero(
    prompts: list[Prompt], tokenizer: PreTrainedTokenizerFast
) -> None:
    assert TeacherForcedScorer(ScoringConfig(top_k=5)).noise_floor(Uniform(), prompts, tokenizer) == 0.0


def test_the_noise_floor_samples_no_continuations(tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch) -> None:
    from pytest_pot.engines.pytorch.engine import TorchEngine

    monkeypatch.delattr(TorchEngine, "sample")
    floor = TeacherForcedScorer().noise_floor(tiny(), ["Some text", "Another text"], tokenizer)
    assert floor is not None
    assert floor < 1e-5


@pytest.mark.parametrize("texts", [["One only"], [Prompt("A", "b"), "C"]])
def test_too_little_text_has_no_noise_floor(texts: list[str | Prompt], tokenizer: PreTrainedTokenizerFast) -> None:
    assert TeacherForcedScorer().noise_floor(tiny(), texts, tokenizer) is None


def test_the_noise_floor_fits_a_model_with_few_positions(tokenizer: PreTrainedTokenizerFast) -> None:
    floor = TeacherForcedScorer().noise_floor(tiny(n_positions=16), ["x" * 60, "y" * 60], tokenizer)
    assert floor is not None
    assert floor < 1e-5
