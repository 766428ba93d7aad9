"""``clear`` and ``log_normalisers`` of an answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from pytest_pot.engines.distributions import Flags, Floats, Ints, TopK
from pytest_pot.engines.tokens import Tokens

from ..models import tiny
from .engines import Right, problems


class Leading(Right):
    """A right engine that tells its normalisers, and computes which first choices are clear."""

    said: Callable[[Flags], Flags] = staticmethod(lambda clear: clear)
    normalisers: Callable[[Floats], Floats] = staticmethod(lambda own: own)

    def reduced(self, batch: Sequence[Tokens], logits: Floats, ids: Ints | None, m: int) -> TopK:
        top = super().reduced(batch, logits, ids, m)
        two = np.partition(logits, -2, axis=1)[:, -2:]
        clear: Flags = two[:, 1] - two[:, 0] > 1e-4
        return replace(top, clear=self.said(clear), log_normalisers=self.normalisers(np.logaddexp.reduce(logits, axis=1)))


def engine(
    model: nn.Module,
    said: Callable[[Flags], Flags] = lambda clear: clear,
    normalisers: Callable[[Floats], Floats] = lambda own: own,
) -> Leading:
    made = Leading(model)
    made.said, made.normalisers = said, normalisers
    return made


@pytest.fixture(scope="module")
def sharp() -> PreTrainedModel:
    return tiny("gpt2", scale=8.0)


@pytest.fixture(scope="module")
def tied() -> PreTrainedModel:
    """Every id has the logit of the one before or after."""
    model = tiny("llama", scale=8.0)
    with torch.no_grad():
        weights = model.get_output_embeddings().weight
        weights[1::2] = weights[: weights.shape[0] - 1 : 2]
        weights[-1] = weights[-2]
    return model


def test_what_is_said_honestly_passes(
    sharp: PreTrainedModel, tied: PreTrainedModel, tokenizer: PreTrainedTokenizerFast
) -> None:
    for model in (sharp, tied):
        assert problems(engine(model), model, tokenizer) == ()
        assert problems(engine(model, normalisers=np.zeros_like), model, tokenizer) == ()


@pytest.mark.parametrize("said", [np.logical_not, np.zeros_like], ids=["inverted", "never"])
@pytest.mark.parametrize("normalisers", [lambda own: own, np.zeros_like], ids=["normalisers", "no normalisers"])
def test_a_first_choice_that_is_far_ahead_has_to_be_clear(
    said: Callable[[Flags], Flags],
    normalisers: Callable[[Floats], Floats],
    sharp: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    [found] = problems(engine(sharp, said, normalisers), sharp, tokenizer)
    assert "clear is wrong: at prompt " in found
    assert "it is False, but the likeliest id" in found


def test_a_tie_is_not_clear(tied: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> None:
    [found] = problems(engine(tied, np.ones_like), tied, tokenizer)
    assert "it is True, but the likeliest id" in found
    assert "has the same probability as the second" in found


@pytest.mark.parametrize(
    "wrong",
    [lambda own: np.full_like(own, 12345.0), lambda own: -own - 20, lambda own: own + 5],
    ids=["constant", "sign", "shift"],
)
def test_normalisers_are_zero_or_those_of_the_model(
    wrong: Callable[[Floats], Floats], sharp: PreTrainedModel, tokenizer: PreTrainedTokenizerFast
) -> None:
    found = problems(engine(sharp, normalisers=wrong), sharp, tokenizer)
    assert "log_normalisers is wrong: at prompt " in found[0]
    assert "return zeros if that is not known" in found[0]
