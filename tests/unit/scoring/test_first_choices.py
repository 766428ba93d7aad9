"""Of equally likely tokens, the same one is called the first choice of both models."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from pytest_pot import Prompt, ScoreReport, ScoringConfig, TeacherForcedScorer
from pytest_pot.engines.distributions import Floats, Ints
from pytest_pot.engines.registry import opened
from pytest_pot.engines.tensors import Distributions, as_distributions
from pytest_pot.scoring.metrics import with_shared_choice

from .test_metrics import log_normalised, top
from .test_own_top_k import OwnTopK

PROMPTS: list[str | Prompt] = [Prompt("some text", " and how it goes on"), Prompt("another", " one of them"), "drawn"]
CONFIGS: list[dict[str, Any]] = [
    {"top_k": 1},
    {"top_k": 10},
    {"top_k": 10, "temperature": 0.7},
    {"top_k": None},
    {"top_k": 10, "tail": "renormalise"},
]


class Ties(torch.nn.Module):
    """The next token depends on the last one; logits are whole numbers, so that many positions have several first choices."""

    def __init__(self, vocab: int) -> None:
        super().__init__()
        logits = 1.5 * torch.randn(vocab, vocab, generator=torch.Generator().manual_seed(0))
        self.logits = torch.nn.Parameter(logits.round())

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.logits[ids]


@pytest.mark.parametrize("fields", CONFIGS, ids=str)
@pytest.mark.parametrize("vocab", [97, 5000])  # the largest logits are searched for in other ways
def test_a_model_has_the_same_first_choices_as_itself(
    fields: dict[str, Any], vocab: int, tokenizer: PreTrainedTokenizerFast
) -> None:
    scorer, model = TeacherForcedScorer(ScoringConfig(**fields)), Ties(vocab)
    tied = (model.logits == model.logits.amax(1, keepdim=True)).sum(1) > 1
    baseline = scorer.record(model, PROMPTS, tokenizer)
    for report in (scorer.score_batch(model, model, PROMPTS, tokenizer), scorer.score_baseline(baseline, model, tokenizer)):
        read = [before for tokens in report.tokens for before, _ in pairwise(tokens.ids[tokens.prompt_len - 1 :])]
        assert sum(bool(tied[token]) for token in read) > 5
        assert report.same_top.share == 1
        assert [ids.tolist() for ids in _choices(report, 0)] == [ids.tolist() for ids in _choices(report, 1)]


def test_so_has_a_model_that_tells_only_its_own_likeliest_ids(tokenizer: PreTrainedTokenizerFast) -> None:
    model = Ties(97)
    with opened(model, "candidate", ScoringConfig(top_k=None)) as engine:
        report = TeacherForcedScorer(ScoringConfig(top_k=20)).score_batch(model, OwnTopK(engine, 40), PROMPTS, tokenizer)
    assert report.same_top.share == 1


def _choices(report: ScoreReport, side: int) -> list[Ints]:
    return [each.top_ids for each in report.distributions[side]]


def _distributions(log_probs: Floats, last: bool) -> Distributions:
    """``last``: of several likeliest ids, name the last one."""
    ids = log_probs.shape[1] - 1 - log_probs[:, ::-1].argmax(axis=1) if last else log_probs.argmax(axis=1)
    return as_distributions(top(log_probs, top_ids=ids), torch.device("cpu"))


few = st.integers(2, 6).flatmap(lambda n: st.tuples(*[st.lists(st.integers(0, 2), min_size=n, max_size=n)] * 2))


@given(few, st.booleans(), st.booleans())
def test_the_first_choice_is_shared_where_a_token_is_likeliest_in_both(
    logits: tuple[list[int], list[int]], last_of_p: bool, last_of_q: bool
) -> None:
    p, q = (log_normalised(row) for row in logits)
    one, other = with_shared_choice(_distributions(p, last_of_p), _distributions(q, last_of_q))
    first, second = int(one.top_ids[0]), int(other.top_ids[0])
    likeliest = [{i for i, value in enumerate(row) if value == max(row)} for row in logits]
    assert first in likeliest[0]
    assert second in likeliest[1]
    assert (first == second) == bool(likeliest[0] & likeliest[1])


def test_a_likelier_token_outside_the_cells_stays_the_first_choice() -> None:
    p, q = log_normalised([[1.0, 1.0, 0.0]])[:, :2], log_normalised([[1.0, 1.0, 5.0]])
    candidate = top(q[:, :2], q[:, 2], top_ids=np.array([2]), top_log_probs=q[:, 2])
    one, other = with_shared_choice(_distributions(p, False), as_distributions(candidate, torch.device("cpu")))
    assert (int(one.top_ids[0]), int(other.top_ids[0])) == (0, 2)
