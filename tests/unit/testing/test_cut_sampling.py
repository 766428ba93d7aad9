"""Samplers that leave a part of the vocabulary out are found, and right ones are not."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from torch import nn
from transformers import PreTrainedTokenizerFast

from pytest_pot.engines.distributions import Floats
from pytest_pot.testing.cut_sampling import Cuts, Parts
from pytest_pot.testing.oracle import log_softmax

from ..models import tiny
from .engines import Right, problems


def nucleus(probabilities: Floats, share: float) -> Floats:
    """[vocab]: ``probabilities`` without those beyond the likeliest that make up ``share``, as servers cut them."""
    order = np.argsort(-probabilities, kind="stable")
    before = np.cumsum(probabilities[order]) - probabilities[order]
    left = np.zeros_like(probabilities)
    left[order[before < share]] = probabilities[order[before < share]]
    return np.asarray(left / left.sum())


def likeliest(probabilities: Floats, k: int) -> Floats:
    """[vocab]: the ``k`` highest of ``probabilities`` alone."""
    left = np.where(probabilities >= np.sort(probabilities)[-k], probabilities, 0.0)
    return np.asarray(left / left.sum())


class Cut(Right):
    """Samples from a part of the vocabulary."""

    def __init__(self, model: nn.Module, share: float = 1.0, k: int | None = None) -> None:
        super().__init__(model)
        self.share, self.k = share, k

    def continued(self, ids: list[int], n_tokens: int, generator: np.random.Generator) -> list[int]:
        start = len(ids)
        for _ in range(n_tokens):
            probabilities = np.exp(self.normalised(self.forward([ids])[0][-1:])[0])
            left = nucleus(probabilities, self.share)
            left = left if self.k is None else likeliest(left, self.k)
            ids.append(int(generator.choice(len(left), p=left)))
        return ids[start:]


@pytest.mark.parametrize("scale", [1.0, 8.0], ids=["flat", "peaked"])
@pytest.mark.parametrize(
    ("share", "k", "expected"),
    [
        (0.5, None, "are among the likeliest that make up 0.5 of the probability"),
        (0.9, None, "are among the likeliest that make up 0.9 of the probability"),
        (1.0, 5, "tokens are among the 5 likeliest"),
    ],
)
def test_a_cut_vocabulary_is_named(
    scale: float, share: float, k: int | None, expected: str, tokenizer: PreTrainedTokenizerFast
) -> None:
    model = tiny("gpt2", scale=scale)
    [found] = problems(Cut(model, share, k), model, tokenizer)
    assert "sample does not follow the model at temperature 1" in found
    if "too likely" not in found:  # a narrow cut is as plain from the tokens' own probabilities
        assert expected in found


def test_a_right_sampler_is_not_suspected() -> None:
    """Of 400 right samplers none comes near what is needed."""
    generator = np.random.default_rng(0)
    for _ in range(400):
        log_probs = log_softmax(generator.normal(scale=generator.choice([0.5, 2.0, 6.0]), size=(150, 50)))
        cuts = Cuts(0.0)
        cuts.add(Parts(log_probs), drawn(generator, log_probs))
        assert cuts.problem() is None


def test_evidence_is_the_probability_that_a_right_sampler_stays_inside() -> None:
    log_probs = np.log(np.tile([0.5, 0.3, 0.15, 0.05], (120, 1)))
    cuts = Cuts(0.0)
    cuts.add(Parts(log_probs), [0, 1] * 60)
    problem = cuts.problem()
    assert problem is not None
    assert "all 120 tokens are among the 2 likeliest" in problem
    assert f"a probability of {0.8**120:.3g}" in problem
    cuts.add(Parts(log_probs[:1]), [3])  # one token outside rules the cut out
    assert cuts.problem() is None


def test_rounding_explains_some_evidence() -> None:
    log_probs = np.log(np.tile([0.5, 0.3, 0.15, 0.05], (120, 1)))
    coarse = Cuts(0.2)
    coarse.add(Parts(log_probs), [0, 1] * 60)
    assert coarse.problem() is None


def drawn(generator: np.random.Generator, log_probs: Floats) -> Sequence[int]:
    return [int(generator.choice(len(row), p=np.exp(row))) for row in log_probs]
