"""Engines whose answers have a wrong form, or that raise: the kit says in which call."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from pytest_pot import PotError
from pytest_pot.engines.distributions import TopK
from pytest_pot.engines.tokens import Tokens
from pytest_pot.testing import EngineProblems, check_engine

from .engines import OwnTopK, Right, WithoutAt, problems


class Fewer(OwnTopK):
    """Knows 5 ids of a prompt, and one more of prompts that are alone and short."""

    def top_k(self, batch: Sequence[Tokens], k: int | None) -> TopK:
        most = 6 if len(batch) == 1 and len(batch[0].ids) < 40 else 5
        return super().top_k(batch, min(k or most, most))


def test_an_engine_may_know_fewer_ids_than_asked(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> None:
    assert problems(Fewer(model), model, tokenizer) == ()


class Changed(Right):
    """A right engine whose answers a function changes."""

    def __init__(self, model: nn.Module, change: Callable[[TopK], Any]) -> None:
        super().__init__(model)
        self.change = change

    def top_k(self, batch: Sequence[Tokens], k: int | None) -> TopK:
        answer: TopK = self.change(super().top_k(batch, k))
        return answer


def with_nan(top: TopK) -> TopK:
    log_probs = top.log_probs.copy()
    log_probs[1, 0] = np.nan
    return replace(top, log_probs=log_probs)


def with_infinity(top: TopK) -> TopK:
    return replace(top, log_tail=None if top.log_tail is None else np.full(len(top), -np.inf))


FORMS: dict[str, tuple[Callable[[Any], Any], str]] = {
    "None": (
        lambda top: None,
        "top_k(1 prompt of 56 tokens, k=20) returned None: return a pytest_pot.engines.distributions.TopK",
    ),
    "tuple": (lambda top: (top.ids, top.log_probs), "returned a tuple: return a pytest_pot.engines.distributions.TopK"),
    "list": (
        lambda top: replace(top, log_probs=top.log_probs.tolist()),
        "returned a list as log_probs: it has to be a NumPy array",
    ),
    "tensor": (
        lambda top: replace(top, targets=torch.tensor(top.targets)),
        "returned a torch.Tensor as targets: it has to be a",
    ),
    "float32": (
        lambda top: replace(top, log_probs=top.log_probs.astype(np.float32)),
        "returned log_probs in float32: it has to be float64",
    ),
    "float ids": (
        lambda top: replace(top, top_ids=top.top_ids.astype(float)),
        "returned top_ids in float64: ids have to be integers",
    ),
    "clear as numbers": (lambda top: replace(top, clear=np.ones(len(top))), "returned clear in float64: it has to be bool"),
    "vocabulary": (lambda top: replace(top, vocab_size=100), "returned vocab_size 100, but the model has logits for 97 ids"),
    "one dimension": (
        lambda top: replace(top, log_probs=top.log_probs[0]),
        "returned log_probs of shape (20,): it has to be [positions, ids], here (8, 20)",
    ),
    "a row too few": (
        lambda top: top.rows(1, len(top)),
        "returned 7 rows for 8 positions (one too few for each prompt: the first "
        "token of a continuation is predicted by the last of its prompt)",
    ),
    "fewer ids": (
        lambda top: replace(top, ids=top.ids[:, :3], log_probs=top.log_probs[:, :3]),
        "returned 3 ids at each position instead of 20",
    ),
    "targets of another shape": (
        lambda top: replace(top, targets=top.targets[:, None]),
        "returned targets of shape (8, 1): it has to be (8,)",
    ),
    "NaN": (
        with_nan,
        "returned nan in log_probs at prompt 0, position 1, and at 1 of 8 positions something that is not finite. NaN "
        "comes from an overflow",
    ),
    "infinite": (
        with_infinity,
        "returned -inf in log_tail at prompt 0, position 0, and at 8 of 8 positions something that is not "
        "finite. Where a cell has no probability at all, use EMPTY_CELL",
    ),
    "targets as loss": (
        lambda top: replace(top, targets=-top.targets),
        "a loss (its sign is that of a negative log-likelihood)",
    ),
    "targets of the likeliest": (lambda top: replace(top, targets=top.top_log_probs), "not that of the likeliest id, as here"),
    "top_ids": (
        lambda top: replace(top, top_ids=(top.top_ids + 1) % 97),
        "contradicts itself about the likeliest id: at prompt 0, position 0 top_ids says",
    ),
    "top_log_probs": (lambda top: replace(top, top_log_probs=top.targets), "top_log_probs says"),
}


@pytest.mark.parametrize("name", FORMS)
def test_a_wrong_form_is_named(name: str, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> None:
    change, expected = FORMS[name]
    found = problems(Changed(model, change), model, tokenizer)
    assert expected in found[0], found
    assert len(found) == 1


def test_targets_of_other_tokens_are_named_where_no_cell_shows_them(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast
) -> None:
    class Before(WithoutAt):
        def __init__(self) -> None:
            super().__init__(OwnTopK(model))
            self.whole = OwnTopK(model)
            self.top_k = self.with_targets_before

        def with_targets_before(self, batch: Sequence[Tokens], k: int | None) -> TopK:
            top, rows = self.whole.top_k(batch, k), self.whole.normalised(self.whole.rows(batch))
            before = [tokens.ids[tokens.prompt_len + j - 1] for tokens in batch for j in range(tokens.n_positions)]
            targets = rows[np.arange(len(rows)), before]
            now = np.array([target for tokens in batch for target in tokens.targets])
            shown = False if top.ids is None else (top.ids == now[:, None]).any(axis=1)
            return replace(top, targets=np.where(shown, top.targets, targets))

    found = problems(Before(), model, tokenizer)
    assert "targets" in found[0], found


class Raising(Right):
    def top_k(self, batch: Sequence[Tokens], k: int | None) -> TopK:
        if len(batch) > 1:
            raise KeyError("lengths")
        return super().top_k(batch, k)


def test_an_engine_that_raises_is_reported_with_the_call(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(EngineProblems) as raised:
        check_engine(Raising(model), model, tokenizer)
    assert raised.value.problems == ("top_k(8 prompts, k=20) raised KeyError: 'lengths'",)
    assert isinstance(raised.value.__cause__, KeyError)
    assert isinstance(raised.value, PotError)
    assert isinstance(raised.value, AssertionError)
    assert str(raised.value) == (
        "Raising (plain torch on cpu) has 1 problem:\n  1. top_k(8 prompts, k=20) raised KeyError: 'lengths'"
    )
    assert pickle.loads(pickle.dumps(raised.value)).problems == raised.value.problems
