"""Out of memory halves the batch; a test model raises these errors for large batches."""

from __future__ import annotations

from functools import partial
from typing import NoReturn

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from pytest_pot import PotError, Prompt, ScoringConfig, TeacherForcedScorer
from pytest_pot.engines.tensors import Distributions
from pytest_pot.scoring import comparison
from pytest_pot.scoring.metrics import divergences

from ..models import changed, tiny

CPU_MESSAGE = "[enforce fail at alloc_cpu.cpp:121] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate"


class Limited(torch.nn.Module):
    """Raises ``error`` for more than ``most`` sequences in a batch."""

    def __init__(self, model: PreTrainedModel, most: int, error: Exception) -> None:
        super().__init__()
        self.model, self.most, self.error = model, most, error
        self.sizes: list[int] = []

    def forward(self, ids: torch.Tensor, attention_mask: torch.Tensor | None = None) -> object:
        self.sizes.append(len(ids))
        if len(ids) > self.most:
            raise self.error
        output: object = self.model(ids, attention_mask=attention_mask)
        return output


ERRORS = [RuntimeError(CPU_MESSAGE), torch.OutOfMemoryError("CUDA out of memory."), MemoryError()]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_out_of_memory_halves_the_batch_until_it_fits(
    prompts: list[Prompt], tokenizer: PreTrainedTokenizerFast, error: Exception
) -> None:
    model, other = tiny(), changed(tiny())
    limited = Limited(other, 2, error)
    report = TeacherForcedScorer(ScoringConfig(batch_size=8)).score_batch(model, limited, prompts, tokenizer)
    assert limited.sizes == [8, 4, 2, 2, 2, 2]
    assert report.batch_size == 2
    expected = TeacherForcedScorer(ScoringConfig(batch_size=2)).score_batch(model, other, prompts, tokenizer)
    np.testing.assert_allclose(report.scores, expected.scores, atol=1e-6)


def test_a_model_scores_zero_against_itself_if_only_one_side_runs_out_of_memory(
    prompts: list[Prompt], tokenizer: PreTrainedTokenizerFast
) -> None:
    # Both are wrapped: a plain model's logits are computed in another way, and round differently.
    unlimited, limited = (Limited(tiny(), most, MemoryError()) for most in (len(prompts), 3))
    report = TeacherForcedScorer(ScoringConfig(batch_size="auto")).score_batch(unlimited, limited, prompts, tokenizer)
    assert report.metrics["kl"] == 0
    assert report.batch_size <= 3


def test_one_prompt_that_does_not_fit_is_an_error_with_the_sizes(
    prompts: list[Prompt], tokenizer: PreTrainedTokenizerFast
) -> None:
    limited = Limited(tiny(), 0, RuntimeError(CPU_MESSAGE))
    with pytest.raises(PotError) as caught_error:
        TeacherForcedScorer(ScoringConfig(batch_size=2)).score_batch(limited, tiny(), prompts, tokenizer)
    longest = max(len(tokenizer(p.text + (p.continuation or ""))["input_ids"]) for p in prompts)
    assert str(caught_error.value) == (
        f"out of memory with a single prompt: prompt 4 has {longest} tokens and 1 positions (max_length=256, top_k=100). "
        f"the reference ran out of memory on cpu: {CPU_MESSAGE}. Lower max_length or positions_per_prompt, set a top_k, or use "
        "a smaller dtype or another device"
    )


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("generates", [False, True])
def test_a_prompt_that_does_not_fit_during_sampling_is_an_error_with_the_sizes(
    prompts: list[Prompt], tokenizer: PreTrainedTokenizerFast, error: Exception, generates: bool
) -> None:
    limited: torch.nn.Module = Limited(tiny(), 0, error)
    if generates:

        def raise_error(module: torch.nn.Module, inputs: object) -> NoReturn:
            raise error

        model = tiny()
        model.get_submodule("lm_head").register_forward_pre_hook(raise_error)
        limited = model
    scorer = TeacherForcedScorer(ScoringConfig(positions_per_prompt=6))
    with pytest.raises(PotError) as caught_error:
        scorer.score_batch(limited, tiny(), [prompts[0], "01234567"], tokenizer)
    assert str(caught_error.value) == (
        "out of memory with a single prompt: prompt 1 has 14 tokens and 6 positions (max_length=256, top_k=100). the reference "
        f"ran out of memory on cpu: {str(error) or 'MemoryError'}. Lower max_length or positions_per_prompt, set a top_k, or "
        "use a smaller dtype or another device"
    )


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_out_of_memory_during_the_comparison_halves_the_batch(
    prompts: list[Prompt], tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """With the whole vocabulary, the comparison takes as much memory as the models do."""
    compare = divergences

    def compare_small_batches(reference: Distributions, candidate: Distributions, tail: str) -> torch.Tensor:
        if len(reference) > 12:
            raise error
        return compare(reference, candidate, tail)

    scorer = TeacherForcedScorer(ScoringConfig(top_k=None, batch_size=4, positions_per_prompt=6))
    whole = scorer.score_batch(tiny(), tiny(), prompts, tokenizer)
    monkeypatch.setattr(comparison, "divergences", compare_small_batches)
    report = scorer.score_batch(tiny(), tiny(), prompts, tokenizer)
    assert (report.batch_size, report.n_prompts) == (2, whole.n_prompts)
    monkeypatch.setattr(comparison, "divergences", partial(_raise, error))
    with pytest.raises(PotError, match=r" positions \(.*\)\. the comparison ran out of memory on cpu: "):
        scorer.score_batch(tiny(), tiny(), prompts, tokenizer)


def _raise(error: Exception, *_: object) -> NoReturn:
    raise error


def test_other_errors_of_a_model_are_not_caught(prompts: list[Prompt], tokenizer: PreTrainedTokenizerFast) -> None:
    broken = Limited(tiny(), 0, RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        TeacherForcedScorer().score_batch(tiny(), broken, prompts, tokenizer)
