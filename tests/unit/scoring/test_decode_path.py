"""With ``path="decode"`` the candidate reads token by token and the reference in one pass, live or recorded."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import GPT2LMHeadModel, PreTrainedModel, PreTrainedTokenizerFast

from pytest_pot import Baseline, PotError, Prompt, ScoreReport, ScoringConfig, TeacherForcedScorer
from pytest_pot.engines.base import Decoding
from pytest_pot.engines.pytorch.engine import TorchEngine
from pytest_pot.scoring.diagnosis.likely_cause import likely_cause

from ..models import changed, tiny, with_rolled_cache

DECODE = ScoringConfig(path="decode")
LABEL = "float32 on cpu, read token by token through its cache"


def decode_report(
    candidate: Any, prompts: list[Prompt], tokenizer: PreTrainedTokenizerFast, config: ScoringConfig = DECODE
) -> ScoreReport:
    return TeacherForcedScorer(config).score_batch(tiny("llama"), candidate, prompts, tokenizer)


def test_only_the_candidate_is_read_token_by_token(prompts: list[Prompt], tokenizer: PreTrainedTokenizerFast) -> None:
    # A broken cache of the reference is never read.
    reference, same, broken = with_rolled_cache(tiny("llama")), tiny("llama"), with_rolled_cache(tiny("llama"))
    scorer = TeacherForcedScorer(DECODE)
    right = scorer.score_batch(reference, same, prompts, tokenizer)
    assert 0 < right.max < 1e-6
    assert right.labels == ("float32 on cpu", LABEL)
    assert scorer.score_batch(reference, broken, prompts, tokenizer).mean > 1e-3
    assert TeacherForcedScorer().score_batch(reference, broken, prompts, tokenizer).max == 0


def test_a_recording_is_the_same_for_both_paths(
    prompts: list[Prompt], tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    scorers = TeacherForcedScorer(), TeacherForcedScorer(DECODE)
    prefill, decode = (scorer.record(tiny("llama"), prompts, tokenizer) for scorer in scorers)
    assert prefill.to_bytes() == decode.to_bytes()
    baseline = Baseline.load(prefill.save(tmp_path / "llama.pot.safetensors"))
    live = decode_report(changed(tiny("llama")), prompts, tokenizer)
    report = TeacherForcedScorer(DECODE).score_baseline(baseline, changed(tiny("llama")), tokenizer, prompts=prompts)
    assert report.scores.tolist() == live.scores.tolist()
    assert report.labels == ("float32 on cpu, recorded", LABEL)


def test_the_report_says_how_the_candidate_read(prompts: list[Prompt], tokenizer: PreTrainedTokenizerFast) -> None:
    document = json.loads(json.dumps(decode_report(tiny("llama"), prompts, tokenizer).to_dict()))
    assert document["config"]["path"] == "decode"
    assert document["candidate"] == LABEL


def test_a_wrong_cache_is_the_likely_cause(prompts: list[Prompt], tokenizer: PreTrainedTokenizerFast) -> None:
    report = decode_report(with_rolled_cache(tiny("llama")), prompts, tokenizer)
    later = [value for values in report.divergences["tv"] for value in values[1:]]
    number = f"{sum(later) / len(later):.3g}"
    cause = likely_cause(report)
    assert cause is not None
    assert re.fullmatch(
        r"the cache: the first token after each prompt, which needs none, has a mean tv of \d\.\d+e-0[78], and all later "
        rf"tokens, read through the candidate's cache, {number}. With path='prefill' the same weights may pass",
        cause,
    )
    other = likely_cause(decode_report(changed(tiny("llama"), 0.5), prompts, tokenizer))
    assert other is None or "cache" not in other


def test_continuations_of_one_token_show_nothing(prompts: list[Prompt], tokenizer: PreTrainedTokenizerFast) -> None:
    message = (
        "path='decode' shows nothing here: a model reads its cache from the second token of a continuation on, and each "
        "continuation has one token only. Give longer continuations, and compare at least 2 positions"
    )
    with pytest.raises(PotError, match=f"^{re.escape(message)}$"):
        decode_report(tiny("llama"), prompts, tokenizer, ScoringConfig(path="decode", positions_per_prompt=1))
    with pytest.raises(PotError, match=f"^{re.escape(message)}$"):
        decode_report(tiny("llama"), [Prompt("ab", "c"), Prompt("abc", "d")], tokenizer)
    assert decode_report(tiny("llama"), [Prompt("ab", "c"), Prompt("abc", "de")], tokenizer).max < 1e-6


class NoDecoding:
    """An engine that can do no more than it must."""

    def __init__(self, engine: TorchEngine) -> None:
        self.max_positions, self.label = engine.max_positions, engine.label
        self.top_k, self.at, self.sample = engine.top_k, engine.at, engine.sample


def test_an_engine_that_cannot_decode_is_refused(prompts: list[Prompt], tokenizer: PreTrainedTokenizerFast) -> None:
    message = (
        "path='decode' reads the candidate token by token, as it generates, which is not possible with what runs it (float32 "
        "on cpu). Use path='prefill', which reads each continuation in one pass. An engine of one's own can offer it: see "
        "pytest_pot.engines.base.Decoding"
    )
    with TorchEngine.opened(tiny("llama"), "candidate", DECODE) as engine:
        assert isinstance(engine, Decoding)
        with pytest.raises(PotError, match=f"^{re.escape(message)}$"):
            decode_report(NoDecoding(engine), prompts, tokenizer)


class Faulty(GPT2LMHeadModel):
    """Is wrong at the third token that it reads from its cache; in one forward pass it is right."""

    value = float("nan")
    most = 99

    def forward(self, input_ids: Any = None, attention_mask: Any = None, **named: Any) -> Any:
        output = super().forward(input_ids, attention_mask=attention_mask, **named)
        if named.get("use_cache") and input_ids.shape[1] == 1:
            if len(input_ids) > self.most:
                raise torch.OutOfMemoryError("CUDA out of memory.")
            cache = output.get("cache", output.get("past_key_values"))
            lengths = torch.full((len(input_ids),), cache.get_seq_length()) if attention_mask is None else attention_mask.sum(1)
            output.logits[lengths == 9, -1, 5] = self.value
        return output


def faulty(**attributes: Any) -> PreTrainedModel:
    model: Any = Faulty(tiny().config)  # type: ignore[arg-type]
    model.load_state_dict(tiny().state_dict())
    for name, value in attributes.items():
        setattr(model, name, value)
    return model.eval()  # type: ignore[no-any-return]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_number_that_is_not_finite_is_told_with_its_place(tokenizer: PreTrainedTokenizerFast, value: float) -> None:
    prompts = [Prompt("ab", "cd"), Prompt("abcdef", "ghijkl"), Prompt("abc", "defgh")]
    with pytest.raises(PotError) as error:
        TeacherForcedScorer(DECODE).score_batch(tiny(), faulty(value=value), prompts, tokenizer)
    assert str(error.value) == (
        "the candidate's log-probabilities are NaN at prompt 1 ('abcdef'), position 3, and at 1 of the 13 positions of its "
        "batch. Such a model has no score; look for an overflow (float16?) or for weights that are not finite"
    )


def test_a_batch_is_halved_where_a_cache_does_not_fit(prompts: list[Prompt], tokenizer: PreTrainedTokenizerFast) -> None:
    config = ScoringConfig(path="decode", batch_size=8)
    report = TeacherForcedScorer(config).score_batch(tiny(), faulty(most=2, value=0.0), prompts[:1] * 8, tokenizer)
    assert report.batch_size == 2
