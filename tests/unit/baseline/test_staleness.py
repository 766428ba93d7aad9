"""A recording of something else is refused, with just what differs, old and new."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from pytest_pot import Baseline, PotError, Prompt, ScoringConfig, TeacherForcedScorer
from pytest_pot.baseline import provenance
from pytest_pot.baseline.provenance import tokenizer_differences, tokenizer_digests

from ..models import tiny


@pytest.fixture(scope="module")
def baseline(prompts: list[Prompt], tokenizer: PreTrainedTokenizerFast) -> Baseline:
    return TeacherForcedScorer(ScoringConfig(top_k=10)).record(tiny(), prompts, tokenizer)


def refused(
    baseline: Baseline, tokenizer: PreTrainedTokenizerFast, prompts: list[Prompt] | None = None, **fields: Any
) -> list[str]:
    scorer = TeacherForcedScorer(ScoringConfig(**{"top_k": 10, **fields}))
    with pytest.raises(PotError) as error:
        scorer.score_baseline(baseline, tiny(), tokenizer, prompts=prompts)
    head, *lines = str(error.value).splitlines()
    assert head == "the baseline was recorded with something else:"
    return [line.strip() for line in lines]


@pytest.mark.parametrize(
    ("field", "value", "told"),
    [
        ("top_k", 11, "config.top_k: 10 recorded, 11 now"),
        ("top_k", None, "config.top_k: 10 recorded, None now"),
        ("tail", "renormalise", "config.tail: 'bucket' recorded, 'renormalise' now"),
        ("positions_per_prompt", 31, "config.positions_per_prompt: 32 recorded, 31 now"),
        ("max_length", 255, "config.max_length: 256 recorded, 255 now"),
        ("temperature", 0.5, "config.temperature: 1.0 recorded, 0.5 now"),
        ("dtype", "float32", "config.dtype: 'auto' recorded, 'float32' now"),
        ("use_amp", True, "config.use_amp: False recorded, True now"),
    ],
)
def test_a_field_that_changes_the_numbers(
    baseline: Baseline, tokenizer: PreTrainedTokenizerFast, prompts: list[Prompt], field: str, value: Any, told: str
) -> None:
    assert refused(baseline, tokenizer, prompts, **{field: value}) == [told]


@pytest.mark.parametrize(("field", "value"), [("metric", "kl"), ("batch_size", 1), ("device", "cpu")])
def test_a_field_that_does_not(
    baseline: Baseline, tokenizer: PreTrainedTokenizerFast, prompts: list[Prompt], field: str, value: Any
) -> None:
    scorer = TeacherForcedScorer(ScoringConfig(top_k=10, **{field: value}))
    assert scorer.score_baseline(baseline, tiny(), tokenizer, prompts=prompts).max < 1e-6


Parts = dict[str, Any]
"""What a tokenizer is made of, as its JSON says."""


def edited(tokenizer: PreTrainedTokenizerFast, change: Callable[[Parts], None]) -> PreTrainedTokenizerFast:
    parts = json.loads(tokenizer.backend_tokenizer.to_str())
    change(parts)
    names = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(parts)), **names)


def swap_two_tokens(parts: Parts) -> None:
    vocab = parts["model"]["vocab"]
    vocab["{"], vocab["}"] = vocab["}"], vocab["{"]


def test_one_entry_of_the_vocabulary_that_no_prompt_uses(
    baseline: Baseline, tokenizer: PreTrainedTokenizerFast, prompts: list[Prompt]
) -> None:
    [line] = refused(baseline, edited(tokenizer, swap_two_tokens), prompts)
    assert line.startswith("tokenizer.vocabulary: sha256 ")
    assert " recorded, sha256 " in line


def test_another_way_to_cut_a_text(baseline: Baseline, tokenizer: PreTrainedTokenizerFast, prompts: list[Prompt]) -> None:
    def lower(parts: Parts) -> None:
        parts["normalizer"] = {"type": "Lowercase"}

    [line] = refused(baseline, edited(tokenizer, lower), prompts)
    assert line.startswith("tokenizer.encoding: sha256 ")


def test_a_rule_that_only_a_prompt_shows(baseline: Baseline, tokenizer: PreTrainedTokenizerFast, prompts: list[Prompt]) -> None:
    """Nothing in any digest differs: the tokens of a text do."""

    def capital(parts: Parts) -> None:
        parts["normalizer"] = {"type": "Replace", "pattern": {"String": "capital"}, "content": "hidden"}

    [line] = refused(baseline, edited(tokenizer, capital), prompts)
    assert line == "prompt 0: 'The capital of France' has other tokens now"


def test_one_score_of_a_unigram_model() -> None:
    def unigram(score: float) -> PreTrainedTokenizerFast:
        pieces = [["<unk>", 0.0], *([character, -float(i)] for i, character in enumerate("abcdefgh", 1)), ["ab", score]]
        model = {"type": "Unigram", "unk_id": 0, "vocab": pieces, "byte_fallback": False}
        return PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps({"version": "1.0", "model": model})))

    scorer = TeacherForcedScorer(ScoringConfig(top_k=10))
    baseline = scorer.record(tiny(), [Prompt("ccc", "gh")], unigram(-1.0))
    [line] = refused(baseline, unigram(-1.5), [Prompt("ccc", "gh")])
    assert line.startswith("tokenizer.scores: sha256 ")


def test_another_order_of_merges(prompts: list[Prompt]) -> None:
    def bpe(merges: list[tuple[str, str]]) -> PreTrainedTokenizerFast:
        characters = {character: index for index, character in enumerate("abcdefgh")}
        vocab = {**characters, "ab": 8, "bc": 9}
        model = {"type": "BPE", "vocab": vocab, "merges": [list(pair) for pair in merges]}
        return PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps({"version": "1.0", "model": model})))

    scorer = TeacherForcedScorer(ScoringConfig(top_k=10))
    first = bpe([("a", "b"), ("b", "c")])
    baseline = scorer.record(tiny(), [Prompt("abcabc", "gh")], first)
    [line] = refused(baseline, bpe([("b", "c"), ("a", "b")]))
    assert line.startswith("tokenizer.merges: sha256 ")


def test_the_same_tokenizer_loaded_again_is_the_same(
    baseline: Baseline, tokenizer: PreTrainedTokenizerFast, prompts: list[Prompt], tmp_path: Path
) -> None:
    tokenizer.save_pretrained(tmp_path)
    again = PreTrainedTokenizerFast.from_pretrained(tmp_path)
    again(["a", "abc"], padding=False, truncation=True, max_length=2)  # leaves its mark on the backend
    assert TeacherForcedScorer(ScoringConfig(top_k=10)).score_baseline(baseline, tiny(), again, prompts=prompts).max == 0


def test_what_is_the_same_as_a_whole_is_not_taken_apart(
    tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor is it taken for the same where anything differs, also if the parts that were recorded are another's."""
    monkeypatch.setattr(provenance, "_LATEST", {})
    recorded = tokenizer_digests(tokenizer)
    provenance._LATEST.clear()
    taken_apart: list[int] = []

    def rules(_: object) -> dict[str, str]:
        taken_apart.append(1)
        return {}

    monkeypatch.setattr(provenance, "_rules", rules)
    assert tokenizer_digests(tokenizer, recorded) == recorded
    assert not taken_apart
    other = tokenizer_digests(edited(tokenizer, swap_two_tokens), recorded)
    assert taken_apart
    assert {name for name in recorded if other.get(name) != recorded[name]} == {"whole", "vocabulary"}


def test_another_form_of_the_whole_is_no_difference(tokenizer: PreTrainedTokenizerFast) -> None:
    """The library writes a tokenizer otherwise in another version of it."""
    recorded = {**tokenizer_digests(tokenizer), "whole": "0" * 64}
    assert tokenizer_differences(recorded, tokenizer_digests(tokenizer, recorded)) == []


def test_one_prompt_of_another_text(baseline: Baseline, tokenizer: PreTrainedTokenizerFast, prompts: list[Prompt]) -> None:
    now = [*prompts[:2], Prompt("x = 2", prompts[2].continuation), *prompts[3:]]
    assert refused(baseline, tokenizer, now) == ["prompt 2: 'x = 1' recorded, 'x = 2' now"]


def test_one_prompt_with_another_continuation(
    baseline: Baseline, tokenizer: PreTrainedTokenizerFast, prompts: list[Prompt]
) -> None:
    now = [Prompt(prompts[0].text, " is Lyon."), *prompts[1:]]
    assert refused(baseline, tokenizer, now) == ["prompt 0: continuation ' is Paris.' recorded, ' is Lyon.' now"]


def test_a_continuation_that_the_reference_is_to_draw_now(
    baseline: Baseline, tokenizer: PreTrainedTokenizerFast, prompts: list[Prompt]
) -> None:
    now = [Prompt(prompts[0].text), *prompts[1:]]
    assert refused(baseline, tokenizer, now) == ["prompt 0: continuation ' is Paris.' recorded, sampled by the reference now"]


def test_a_prompt_more(baseline: Baseline, tokenizer: PreTrainedTokenizerFast, prompts: list[Prompt]) -> None:
    told = "prompts: 8 recorded, 9 now (added 'Another one')"
    assert refused(baseline, tokenizer, [*prompts, Prompt("Another one", " more")]) == [told]


def test_a_prompt_less(baseline: Baseline, tokenizer: PreTrainedTokenizerFast, prompts: list[Prompt]) -> None:
    assert refused(baseline, tokenizer, prompts[1:]) == ["prompts: 8 recorded, 7 now (removed 'The capital of France')"]


def test_what_stands_beyond_the_compared_positions_may_change(tokenizer: PreTrainedTokenizerFast) -> None:
    scorer = TeacherForcedScorer(ScoringConfig(top_k=10, positions_per_prompt=4))
    baseline = scorer.record(tiny(), [Prompt("Once", " upon a time")], tokenizer)
    now = [Prompt("Once", " upon the hill", kind="other")]
    assert scorer.score_baseline(baseline, tiny(), tokenizer, prompts=now).max == 0


def test_all_that_differs_is_told_at_once(
    baseline: Baseline, tokenizer: PreTrainedTokenizerFast, prompts: list[Prompt]
) -> None:
    lines = refused(baseline, edited(tokenizer, swap_two_tokens), [*prompts[:7], Prompt("Else", " other")], top_k=5)
    assert [line.split(":")[0] for line in lines] == ["config.top_k", "tokenizer.vocabulary", "prompt 7"]
