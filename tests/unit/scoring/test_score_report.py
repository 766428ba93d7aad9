"""The report: its averages, its worst positions and its JSON form."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import permutations

import numpy as np
import pytest
import torch
from transformers import ByT5Tokenizer, PreTrainedTokenizerFast

from pytest_pot import Prompt, ScoreReport, ScoringConfig, TeacherForcedScorer

from ..models import Pair, changed, tiny


@pytest.fixture(scope="module")
def pair() -> Pair:
    return tiny(), changed(tiny())


@pytest.fixture(scope="module")
def report(pair: Pair, prompts: list[Prompt], tokenizer: PreTrainedTokenizerFast) -> ScoreReport:
    return TeacherForcedScorer(ScoringConfig(metric="kl")).score_batch(*pair, prompts, tokenizer)


def test_each_prompt_counts_once_however_many_positions_it_has(report: ScoreReport, prompts: list[Prompt]) -> None:
    by_hand = [values.sum() / len(values) for values in report.positions]
    assert report.scores.dtype == np.float64
    np.testing.assert_allclose(report.scores, by_hand, rtol=1e-12)
    assert report.mean == pytest.approx(sum(by_hand) / len(prompts), rel=1e-12)
    assert report.max == max(by_hand)
    assert report.mean != pytest.approx(np.concatenate(report.positions).mean(), rel=1e-3)
    assert report.metrics["kl"] == report.mean
    assert report.metrics["tv"] == pytest.approx(np.mean([v.mean() for v in report.divergences["tv"]]))


def test_the_prompt_order_does_not_change_the_mean(report: ScoreReport) -> None:
    orders = permutations([np.array([0.1]), np.array([0.2]), np.array([0.3])])
    # np.mean would give three values.
    assert {replace(report, divergences={"kl": list(order)}).mean for order in orders} == {0.2}


def test_kinds_are_averaged_over_their_own_prompts(
    pair: Pair, prompts: list[Prompt], tokenizer: PreTrainedTokenizerFast
) -> None:
    names = ["code", None, "fact", "code", None, "code", "", "fact"]
    kinds = [Prompt(prompt.text, prompt.continuation, kind) for prompt, kind in zip(prompts, names, strict=True)]
    report = TeacherForcedScorer(ScoringConfig(metric="kl")).score_batch(*pair, kinds, tokenizer)
    first, _, third, fourth, _, sixth, seventh, eighth = report.scores
    assert list(report.kinds) == ["code", "fact", ""]
    assert report.kinds == pytest.approx({"code": (first + fourth + sixth) / 3, "fact": (third + eighth) / 2, "": seventh})
    assert json.loads(json.dumps(report.to_dict()))["kinds"] == report.kinds


def test_without_kinds_there_are_no_scores_by_kind(report: ScoreReport) -> None:
    assert report.kinds == {}


def test_positions_are_in_the_order_of_the_prompts(
    report: ScoreReport, prompts: list[Prompt], tokenizer: PreTrainedTokenizerFast
) -> None:
    assert [len(values) for values in report.positions] == [
        min(32, len(tokenizer(prompt.continuation)["input_ids"])) for prompt in prompts
    ]
    assert report.n_positions == sum(len(values) for values in report.positions)


def test_the_worst_positions_show_their_tokens_and_probabilities(
    report: ScoreReport, pair: Pair, prompts: list[Prompt], tokenizer: PreTrainedTokenizerFast
) -> None:
    worst = report.worst(5)
    flat = sorted(np.concatenate(report.positions), reverse=True)
    assert [position.score for position in worst] == flat[:5]
    for position in worst:
        prompt = prompts[position.prompt_index]
        ids = tokenizer(prompt.text + (prompt.continuation or ""))["input_ids"]
        at = len(tokenizer(prompt.text)["input_ids"]) + position.position
        assert position.token == tokenizer.decode([ids[at]])
        assert position.context == tokenizer.decode(ids[max(0, at - 12) : at])
        with torch.no_grad():
            p, q = (model(torch.tensor([ids[:at]])).logits[0, -1].softmax(-1) for model in pair)
        assert position.reference_probability == pytest.approx(p[ids[at]].item(), rel=1e-4)
        assert position.candidate_probability == pytest.approx(q[ids[at]].item(), rel=1e-4)
        assert position.reference_choice == tokenizer.decode([int(p.argmax())])
        assert position.candidate_choice == tokenizer.decode([int(q.argmax())])
        assert position.candidate_choice_probability == pytest.approx(q.max().item(), rel=1e-4)


def test_worst_returns_all_positions_if_there_are_fewer(report: ScoreReport) -> None:
    assert len(report.worst(10_000)) == report.n_positions


def test_the_dictionary_is_plain_json(report: ScoreReport) -> None:
    document = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert document["scores"] == report.scores.tolist()
    assert document["mean"] == report.mean
    assert document["config"]["metric"] == "kl"
    assert [len(values) for values in document["positions"]] == [len(values) for values in report.positions]
    assert document["ms_per_prompt"] == pytest.approx(1000 * report.elapsed_s / 8)
    assert document["prompts"][3]["text"].startswith("One line ends here.</s>")


def test_identical_prompts_have_identical_scores(pair: Pair, tokenizer: PreTrainedTokenizerFast) -> None:
    report = TeacherForcedScorer().score_batch(*pair, [Prompt("ab", "cde")] * 5, tokenizer)
    assert np.ptp(report.scores) < 1e-6  # one batch of four and one of one: they round differently


def test_progress_is_reported_after_every_batch(pair: Pair, prompts: list[Prompt], tokenizer: PreTrainedTokenizerFast) -> None:
    calls = []
    scorer = TeacherForcedScorer(ScoringConfig(batch_size=3), progress=lambda done, total: calls.append((done, total)))
    scorer.score_batch(*pair, prompts, tokenizer)
    assert calls == [(3, 8), (6, 8), (8, 8)]


class Fixed(torch.nn.Module):
    """The same logits after every token: 0, except at some ids."""

    def __init__(self, size: int, **more: float) -> None:
        super().__init__()
        self.logits = torch.zeros(size)
        for token, logit in more.items():
            self.logits[int(token.removeprefix("id"))] = logit

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.logits.expand(*ids.shape, -1)


def test_ids_that_the_tokenizer_cannot_decode_are_shown_by_number() -> None:
    """ByT5's ids are bytes; here the models' vocabulary is padded, and padding is likely."""
    tokenizer = ByT5Tokenizer()
    with pytest.raises(ValueError, match="bytes must be in range"):
        tokenizer.decode([399])
    pair = Fixed(400, id399=9.0), Fixed(400, id100=9.0)
    report = TeacherForcedScorer().score_batch(*pair, [Prompt("ab", "cd"), "drawn"], tokenizer)
    assert report.tokens[1].targets[0] == 399
    sampled_position, *_ = (position for position in report.worst(99) if position.prompt_index == 1 and position.position == 30)
    assert (sampled_position.token, sampled_position.reference_choice, sampled_position.candidate_choice) == (
        "<id 399>",
        "<id 399>",
        "a",
    )
    assert "<id 399><id 399>" in sampled_position.context
    json.dumps(report.to_dict(), allow_nan=False)
    [text_position, *_] = (position for position in report.worst(99) if position.prompt_index == 0)
    assert (text_position.context, text_position.token) in {("ab</s>", "c"), ("ab</s>c", "d")}


@pytest.mark.parametrize("metric", ["kl", "delta_ce"])
def test_a_renormalised_position_shows_probabilities_relative_to_the_compared_ids(
    tokenizer: PreTrainedTokenizerFast, metric: str
) -> None:
    """The token in the text is outside them, and so is the candidate's first choice over the whole vocabulary."""
    pair = Fixed(97, id5=9.0, id6=7.0), Fixed(97, id5=7.0, id6=5.0, id80=9.0)
    config = ScoringConfig(top_k=2, tail="renormalise", metric=metric)
    position, *_ = TeacherForcedScorer(config).score_batch(*pair, [Prompt("ab", "c")], tokenizer).worst(1)
    p, q = (model.logits.double().softmax(-1) for model in pair)
    p, q = (model / model[5:7].sum() for model in (p, q))
    assert position.reference_probability == pytest.approx(p[position.token_id].item())
    assert position.candidate_probability == pytest.approx(q[position.token_id].item())
    assert position.reference_choice_probability == pytest.approx(p[5].item())
    assert position.candidate_choice == tokenizer.decode([5])
    assert position.candidate_choice_probability == pytest.approx(q[5].item())


def test_a_renormalised_probability_is_never_shown_above_1(tokenizer: PreTrainedTokenizerFast) -> None:
    pair = Fixed(97, id5=9.0, id6=7.0), Fixed(97, **{f"id{tokenizer.convert_tokens_to_ids('c')}": 9.0})
    config = ScoringConfig(top_k=2, tail="renormalise")
    [position] = TeacherForcedScorer(config).score_batch(*pair, [Prompt("ab", "c")], tokenizer).worst(1)
    assert position.reference_probability < position.candidate_probability == 1.0
