"""NaN and infinity are errors that name the model, the prompt and the position, and never give a score."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from pytest_pot import PotError, Prompt, ScoringConfig, TeacherForcedScorer

from ..models import tiny


class Poisoned(torch.nn.Module):
    """Sets the logit of one id to ``value``, at one index of the sequences of one length."""

    def __init__(self, model: torch.nn.Module, value: float, index: int, length: int) -> None:
        super().__init__()
        self.model, self.value, self.index, self.length = model, value, index, length

    def forward(self, ids: torch.Tensor, attention_mask: torch.Tensor | None = None) -> torch.Tensor:
        logits: torch.Tensor = self.model(ids, attention_mask=attention_mask).logits.clone()
        assert attention_mask is not None
        rows = attention_mask.sum(1) == self.length
        if rows.any():
            logits[rows, self.index, 5] = self.value
        return logits


NO_SCORE = (
    "and at 1 of the 13 positions of its batch. Such a model has no score; look for an overflow (float16?) or for weights that "
    "are not finite"
)
PROMPTS = [Prompt("ab", "cd"), Prompt("abcdef", "ghijkl"), Prompt("abc", "defgh")]


@pytest.mark.parametrize("config", [{}, {"top_k": None}, {"top_k": 5}, {"every_position": True, "top_k": None}], ids=str)
@pytest.mark.parametrize("role", ["reference", "candidate"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_the_error_names_the_model_the_prompt_and_the_position(
    tokenizer: PreTrainedTokenizerFast, config: dict[str, Any], role: str, value: float
) -> None:
    models: dict[str, torch.nn.Module] = {"reference": tiny(), "candidate": tiny()}
    models[role] = Poisoned(tiny(), value, index=7, length=12)
    with pytest.raises(PotError) as error:
        TeacherForcedScorer(ScoringConfig(**config)).score_batch(models["reference"], models["candidate"], PROMPTS, tokenizer)
    # Sequence index 7 of the prompt of 6 tokens predicts its position 2.
    assert str(error.value) == (f"the {role}'s log-probabilities are NaN at prompt 1 ('abcdef'), position 2, {NO_SCORE}")


@pytest.mark.parametrize("role", ["reference", "candidate"])
@pytest.mark.parametrize("larger", [None, "reference", "candidate"])
def test_a_compared_token_of_probability_zero_is_an_error(
    tokenizer: PreTrainedTokenizerFast, role: str, larger: str | None
) -> None:
    """Even if the vocabularies differ in size, so that one of them gets an empty tail."""
    sizes: dict[str, dict[str, Any]] = {
        name: {"vocab_size": 104} if name == larger else {} for name in ("reference", "candidate")
    }
    models: dict[str, torch.nn.Module] = {name: tiny(**size) for name, size in sizes.items()}
    models[role] = Poisoned(models[role], float("-inf"), index=7, length=12)
    with pytest.raises(PotError) as error:
        TeacherForcedScorer(ScoringConfig(top_k=None)).score_batch(models["reference"], models["candidate"], PROMPTS, tokenizer)
    assert str(error.value) == (f"the {role}'s log-probabilities are infinite at prompt 1 ('abcdef'), position 2, {NO_SCORE}")


def test_nan_at_positions_that_are_not_scored_is_ignored(tokenizer: PreTrainedTokenizerFast) -> None:
    unread = Poisoned(tiny(), float("nan"), index=2, length=12)  # inside the prompt: it predicts no position
    assert TeacherForcedScorer().score_batch(tiny(), unread, PROMPTS, tokenizer).mean == pytest.approx(0, abs=1e-6)
