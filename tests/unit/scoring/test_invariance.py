"""Scores do not depend on the batch, the prompt order or padding, and scoring changes no state."""

from __future__ import annotations

import copy
import logging
import random
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from transformers import PreTrainedTokenizerFast

from pytest_pot import PRESETS, PotError, Prompt, ScoringConfig, TeacherForcedScorer
from pytest_pot.engines.distributions import Floats

from ..conftest import make_tokenizer
from ..models import CONFIGS, Pair, changed, tiny


@pytest.fixture(scope="module", params=sorted(CONFIGS))
def pair(request: pytest.FixtureRequest) -> Pair:
    model = tiny(request.param)
    return model, changed(model)


def scores(pair: Pair, prompts: list[Prompt], tokenizer: PreTrainedTokenizerFast, **fields: Any) -> Floats:
    return TeacherForcedScorer(ScoringConfig(**fields)).score_batch(*pair, prompts, tokenizer).scores


def test_the_batch_size_does_not_change_the_scores(
    pair: Pair, prompts: list[Prompt], tokenizer: PreTrainedTokenizerFast
) -> None:
    one = scores(pair, prompts, tokenizer, batch_size=1)
    for size in (3, 8, "auto"):
        np.testing.assert_allclose(scores(pair, prompts, tokenizer, batch_size=size), one, atol=1e-5)


def test_the_prompt_order_does_not_change_the_scores(
    pair: Pair, prompts: list[Prompt], tokenizer: PreTrainedTokenizerFast
) -> None:
    order = [5, 0, 7, 2, 6, 1, 4, 3]
    shuffled = scores(pair, [prompts[i] for i in order], tokenizer, batch_size=3)
    np.testing.assert_allclose(shuffled, scores(pair, prompts, tokenizer, batch_size=3)[order], atol=1e-5)


@pytest.mark.parametrize("side", ["left", "right"])
def test_the_tokenizers_padding_does_not_change_the_scores(
    prompts: list[Prompt], tokenizer: PreTrainedTokenizerFast, side: str
) -> None:
    pair = tiny(), changed(tiny())
    padding = make_tokenizer(pad=True)
    padding.padding_side = padding.truncation_side = side
    padded_scores = scores(pair, prompts, padding, batch_size=8)
    np.testing.assert_allclose(padded_scores, scores(pair, prompts, tokenizer, batch_size=1), atol=1e-5)
    assert padding.padding_side == side


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("name", ["gpt2", "gemma3", "mamba", "mixtral"])
def test_a_model_scores_zero_against_itself_and_its_copy(
    name: str, preset: str, prompts: list[Prompt], tokenizer: PreTrainedTokenizerFast
) -> None:
    model = tiny(name)
    mixed: list[str | Prompt] = [*prompts, "a prompt that the reference continues"]
    config = ScoringConfig.preset(preset, positions_per_prompt=12)
    for other in (model, copy.deepcopy(model)):
        report = TeacherForcedScorer(config).score_batch(model, other, mixed, tokenizer)
        assert report.metrics == dict.fromkeys(report.metrics, 0.0)
        assert report.max == 0.0


def test_a_bos_from_the_tokenizer_is_read_once_and_moves_no_position(prompts: list[Prompt]) -> None:
    pair = tiny(), changed(tiny())
    with_bos = make_tokenizer(bos=True)
    report = TeacherForcedScorer(ScoringConfig(batch_size=3)).score_batch(*pair, prompts, with_bos)
    for tokens, prompt in zip(report.tokens, prompts, strict=True):
        assert tokens.ids[0] == 1
        assert 1 not in tokens.ids[1:]
        assert with_bos.decode(list(tokens.targets)) == (prompt.continuation or "")[:32]
    by_hand = [Prompt("<s>" + prompt.text, prompt.continuation) for prompt in prompts]
    np.testing.assert_allclose(report.scores, scores(pair, by_hand, make_tokenizer(), batch_size=3), atol=1e-12)


def test_scoring_changes_no_state(prompts: list[Prompt], tokenizer: PreTrainedTokenizerFast) -> None:
    reference, candidate = tiny(), changed(tiny())
    reference.train()
    candidate.get_submodule("transformer.h.1").train()
    candidate.generation_config.repetition_penalty = 1.7
    for tensor in reference.parameters():
        tensor.requires_grad_(False)
    padded = make_tokenizer(pad=True)
    padded(["a", "abc"], padding=True, truncation=True, max_length=2)
    torch.manual_seed(7)
    np.random.seed(7)
    random.seed(7)

    def state() -> dict[str, object]:
        return {
            "modes": [module.training for model in (reference, candidate) for module in model.modules()],
            "weights": [tensor.sum().item() for model in (reference, candidate) for tensor in model.state_dict().values()],
            "dtype": (reference.dtype, candidate.dtype),
            "gradients": [p.requires_grad for model in (reference, candidate) for p in model.parameters()],
            "generation": candidate.generation_config.to_json_string(),
            "config": candidate.config.to_json_string(),
            "tokenizer": padded.backend_tokenizer.to_str(),
            "init": repr(padded.init_kwargs) + padded.padding_side + repr(padded.pad_token),
            "warnings": dict(padded.deprecation_warnings),
            "torch": torch.get_rng_state().tolist(),
            "numpy": np.random.get_state(legacy=False)["state"]["key"].tolist(),
            "random": random.getstate(),
            "grad": (torch.is_grad_enabled(), torch.is_inference_mode_enabled()),
            "threads": torch.get_num_threads(),
            "default": torch.get_default_dtype(),
            "deterministic": torch.are_deterministic_algorithms_enabled(),
            "verbosity": transformers.logging.get_verbosity(),
            "bars": transformers.utils.logging.is_progress_bar_enabled(),
            "root": logging.getLogger().level,
        }

    before = state()
    for fields in ({}, {"dtype": "bfloat16"}, {"top_k": None, "every_position": True}):
        config = ScoringConfig(positions_per_prompt=6, **fields)
        TeacherForcedScorer(config).score_batch(reference, candidate, [*prompts, "drawn"], padded)
    after = state()
    for what in before:
        assert after[what] == before[what], what


def test_a_failing_call_restores_the_model(prompts: list[Prompt], tokenizer: PreTrainedTokenizerFast) -> None:
    model, broken = tiny(), tiny()
    broken.lm_head = torch.nn.Linear(32, 97)
    broken.lm_head.weight.data.fill_(float("nan"))
    broken.train()
    with pytest.raises(PotError, match="NaN"):
        TeacherForcedScorer().score_batch(model, broken, prompts, tokenizer)
    assert all(module.training for module in broken.modules())
    assert torch.is_grad_enabled()
