"""Missing continuations are sampled from the reference's whole distribution at temperature 1, reproducibly."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from pytest_pot import PotError, Prompt, ScoringConfig, TeacherForcedScorer
from pytest_pot.engines.pytorch.sampling import sample_continuation

from ...models import CONFIGS, VOCAB, changed, tiny

CPU = torch.device("cpu")


class Plain(torch.nn.Module):
    """A model without generate, a cache or a config."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.model(ids).logits
        return logits


def sample(
    model: torch.nn.Module, prompts: Sequence[str | Prompt], tokenizer: PreTrainedTokenizerFast, n: int = 8
) -> list[tuple[int, ...]]:
    report = TeacherForcedScorer(ScoringConfig(positions_per_prompt=n)).score_batch(model, model, prompts, tokenizer)
    return [tokens.targets for tokens in report.tokens]


@pytest.mark.parametrize("name", sorted(CONFIGS))
def test_the_key_value_cache_changes_no_sampled_token(name: str, tokenizer: PreTrainedTokenizerFast) -> None:
    model = tiny(name, scale=2.0)
    prompts = ["The capital of", "x = "]
    assert sample(model, prompts, tokenizer) == sample(Plain(model), prompts, tokenizer)


def test_the_order_of_prompts_changes_no_sampled_token(tokenizer: PreTrainedTokenizerFast) -> None:
    model = tiny()
    first, second = sample(model, ["one", "two"], tokenizer)
    assert len(first) == len(second) == 8
    assert sample(model, ["two", Prompt("x", "y"), "one"], tokenizer)[::2] == [second, first]
    assert first != second


def test_each_prompt_has_its_own_random_stream(tokenizer: PreTrainedTokenizerFast) -> None:
    """With one random stream, an uncertain model would continue every prompt with the same tokens."""

    class Uniform(torch.nn.Module):
        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            return torch.zeros(*ids.shape, VOCAB)

    first, second, third = sample(Uniform(), ["one", "two", "three"], tokenizer)
    assert len({first, second, third}) == 3


def test_tokens_are_sampled_from_the_models_whole_distribution(tokenizer: PreTrainedTokenizerFast) -> None:
    model = tiny(scale=1.5)
    context = list(tokenizer("some text")["input_ids"])
    with torch.no_grad():
        last: torch.Tensor = model(torch.tensor([context])).logits[:, -1]
    probabilities = last[0].double().softmax(-1).numpy()

    def logits(ids: torch.Tensor) -> torch.Tensor:
        assert ids.tolist() == [context]
        return last

    n = 4000
    counts = Counter(sample_continuation(Plain(model), logits, context, 1, seed, CPU)[0] for seed in range(n))
    observed = np.array([counts[token] for token in range(VOCAB)]) / n
    # The total variation between n samples and their own distribution is about sqrt(VOCAB / (2 pi n)).
    assert 0.5 * np.abs(observed - probabilities).sum() < 1.5 * np.sqrt(VOCAB / (2 * np.pi * n))


def test_the_models_own_generation_settings_and_eos_are_not_used(tokenizer: PreTrainedTokenizerFast) -> None:
    model = tiny(scale=2.0)
    plain = sample(model, ["abc"], tokenizer, n=24)
    model.generation_config.repetition_penalty = 50.0
    model.generation_config.eos_token_id = plain[0][2]
    model.generation_config.top_k = 1
    assert sample(model, ["abc"], tokenizer, n=24) == plain
    assert model.generation_config.top_k == 1


def test_the_sampled_tokens_are_scored(tokenizer: PreTrainedTokenizerFast) -> None:
    model, other = tiny(), changed(tiny())
    config = ScoringConfig(positions_per_prompt=6)
    report = TeacherForcedScorer(config).score_batch(model, other, ["The end of"], tokenizer)
    ids = report.tokens[0].ids
    assert report.to_dict()["prompts"][0]["continuation"] == list(ids[-6:])
    with torch.no_grad():
        log_p, log_q = (m(torch.tensor([ids])).logits[0].double().log_softmax(-1) for m in (model, other))
    at = torch.arange(len(ids) - 7, len(ids) - 1)
    expected = (log_p[at, list(ids[-6:])] - log_q[at, list(ids[-6:])]).abs().numpy()
    np.testing.assert_allclose(report.divergences["delta_ce"][0], expected, rtol=1e-4, atol=1e-6)


def test_a_long_prompt_is_cut_before_sampling(tokenizer: PreTrainedTokenizerFast) -> None:
    config = ScoringConfig(positions_per_prompt=6, max_length=10)
    report = TeacherForcedScorer(config).score_batch(tiny(), tiny(), ["0123456789"], tokenizer)
    assert (len(report.tokens[0].ids), report.tokens[0].prompt_len, report.n_truncated) == (10, 4, 1)
    with pytest.raises(PotError, match="leaves no room"):
        TeacherForcedScorer(ScoringConfig(positions_per_prompt=10, max_length=10)).score_batch(
            tiny(), tiny(), ["0123456789"], tokenizer
        )
