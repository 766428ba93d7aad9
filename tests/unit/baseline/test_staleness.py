"""A stale recording is rejected; the error lists exactly the differences, old and new."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from pytest_pot import Baseline, PotError, Prompt, ScoringConfig, TeacherForcedScorer
from pytest_pot.baseline.provenance import (
    tokenizer_changes,
    tokenizer_differences,
    tolerated_tokenizer_differences,
    unseen_tokenizer_parts,
)
from pytest_pot.prompts import tokenizer_parts
from pytest_pot.prompts.tokenizer_digests import tokenizer_digests

from ..models import tiny


@pytest.fixture(scope="module")
def baseline(prompts: list[Prompt], tokenizer: PreTrainedTokenizerFast) -> Baseline:
    return TeacherForcedScorer(ScoringConfig(top_k=10)).record(tiny(), prompts, tokenizer)


def differences(
    baseline: Baseline, tokenizer: PreTrainedTokenizerFast, prompts: list[Prompt] | None = None, **fields: Any
) -> list[str]:
    """The differences that the error lists."""
    scorer = TeacherForcedScorer(ScoringConfig(**{"top_k": 10, **fields}))
    with pytest.raises(PotError) as error:
        scorer.score_baseline(baseline, tiny(), tokenizer, prompts=prompts)
    head, *lines = str(error.value).splitlines()
    assert head == "the recording was recorded with something else:"
    return [line.strip() for line in lines]


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("top_k", 11, "preset (top_k): 10 recorded, 11 now"),
        ("top_k", None, "preset (top_k): 10 recorded, the whole vocabulary now"),
        ("tail", "renormalise", "preset (tail): 'bucket' recorded, 'renormalise' now"),
        ("positions_per_prompt", 31, "positions: 32 recorded, 31 now"),
        ("max_length", 255, "max_length: 256 recorded, 255 now"),
        ("temperature", 0.5, "preset (temperature): 1.0 recorded, 0.5 now"),
        ("dtype", "float32", "--pot-dtype: 'auto' recorded, 'float32' now"),
        ("use_amp", True, "preset (use_amp): False recorded, True now"),
    ],
)
def test_a_setting_that_changes_scores_makes_the_recording_stale(
    baseline: Baseline, tokenizer: PreTrainedTokenizerFast, prompts: list[Prompt], field: str, value: Any, message: str
) -> None:
    assert differences(baseline, tokenizer, prompts, **{field: value}) == [message]


@pytest.mark.parametrize(("field", "value"), [("metric", "kl"), ("batch_size", 1), ("device", "cpu")])
def test_a_setting_that_changes_no_score_does_not_make_the_recording_stale(
    baseline: Baseline, tokenizer: PreTrainedTokenizerFast, prompts: list[Prompt], field: str, value: Any
) -> None:
    scorer = TeacherForcedScorer(ScoringConfig(top_k=10, **{field: value}))
    assert scorer.score_baseline(baseline, tiny(), tokenizer, prompts=prompts).max < 1e-6


Parts = dict[str, Any]
"""The parts of a tokenizer, from its JSON."""


def edit_tokenizer(tokenizer: PreTrainedTokenizerFast, change: Callable[[Parts], None]) -> PreTrainedTokenizerFast:
    parts = json.loads(tokenizer.backend_tokenizer.to_str())
    change(parts)
    names = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(parts)), **names)


def swap_two_tokens(parts: Parts) -> None:
    vocab = parts["model"]["vocab"]
    vocab["{"], vocab["}"] = vocab["}"], vocab["{"]


def test_a_changed_vocabulary_entry_that_no_prompt_uses_is_a_difference(
    baseline: Baseline, tokenizer: PreTrainedTokenizerFast, prompts: list[Prompt]
) -> None:
    [line] = differences(baseline, edit_tokenizer(tokenizer, swap_two_tokens), prompts)
    assert line.startswith("tokenizer.vocabulary: sha256 ")
    assert " recorded, sha256 " in line


def test_another_normalizer_is_a_difference(
    baseline: Baseline, tokenizer: PreTrainedTokenizerFast, prompts: list[Prompt]
) -> None:
    def lower(parts: Parts) -> None:
        parts["normalizer"] = {"type": "Lowercase"}

    [line] = differences(baseline, edit_tokenizer(tokenizer, lower), prompts)
    assert line.startswith("tokenizer.normalizer: sha256 ")


def test_a_rule_that_no_digest_covers_is_a_difference_in_a_prompts_tokens(
    baseline: Baseline, tokenizer: PreTrainedTokenizerFast, prompts: list[Prompt]
) -> None:
    """All digests are the same, but a prompt has other tokens."""

    def capital(parts: Parts) -> None:
        parts["normalizer"] = {"type": "Replace", "pattern": {"String": "capital"}, "content": "hidden"}

    [line] = differences(baseline, edit_tokenizer(tokenizer, capital), prompts)
    assert line == ("prompt 0: 'The capital of France' has other tokens now: at token 4, 70 'c' recorded, 75 'h' now")


def test_a_changed_unigram_score_is_a_difference() -> None:
    def unigram(score: float) -> PreTrainedTokenizerFast:
        pieces = [["<unk>", 0.0], *([character, -float(i)] for i, character in enumerate("abcdefgh", 1)), ["ab", score]]
        model = {"type": "Unigram", "unk_id": 0, "vocab": pieces, "byte_fallback": False}
        return PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps({"version": "1.0", "model": model})))

    scorer = TeacherForcedScorer(ScoringConfig(top_k=10))
    baseline = scorer.record(tiny(), [Prompt("ccc", "gh")], unigram(-1.0))
    [line] = differences(baseline, unigram(-1.5), [Prompt("ccc", "gh")])
    assert line.startswith("tokenizer.scores: sha256 ")


def test_another_order_of_merges_is_a_difference(prompts: list[Prompt]) -> None:
    def bpe(merges: list[tuple[str, str]]) -> PreTrainedTokenizerFast:
        characters = {character: index for index, character in enumerate("abcdefgh")}
        vocab = {**characters, "ab": 8, "bc": 9}
        model = {"type": "BPE", "vocab": vocab, "merges": [list(pair) for pair in merges]}
        return PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps({"version": "1.0", "model": model})))

    scorer = TeacherForcedScorer(ScoringConfig(top_k=10))
    first = bpe([("a", "b"), ("b", "c")])
    baseline = scorer.record(tiny(), [Prompt("abcabc", "gh")], first)
    [line] = differences(baseline, bpe([("b", "c"), ("a", "b")]))
    assert line.startswith("tokenizer.merges: sha256 ")


def test_the_same_tokenizer_loaded_again_is_no_difference(
    baseline: Baseline, tokenizer: PreTrainedTokenizerFast, prompts: list[Prompt], tmp_path: Path
) -> None:
    tokenizer.save_pretrained(tmp_path)
    again = PreTrainedTokenizerFast.from_pretrained(tmp_path)
    again(["a", "abc"], padding=False, truncation=True, max_length=2)  # changes the backend's settings
    assert TeacherForcedScorer(ScoringConfig(top_k=10)).score_baseline(baseline, tiny(), again, prompts=prompts).max == 0


def test_a_tokenizer_with_the_same_whole_digest_is_not_analysed(
    tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    """But every difference is found, even if the recorded parts belong to another tokenizer."""
    recorded = tokenizer_digests(tokenizer)
    monkeypatch.setattr("pytest_pot.prompts.tokenizer_digests._BY_CONTENT", {})
    analyses: list[int] = []

    def rules(_: object) -> dict[str, str]:
        analyses.append(1)
        return {}

    monkeypatch.setattr(tokenizer_parts, "_rules", rules)
    assert tokenizer_digests(tokenizer, recorded) == recorded
    assert not analyses
    other = tokenizer_digests(edit_tokenizer(tokenizer, swap_two_tokens), recorded)
    assert analyses
    assert {name for name in recorded if other.get(name) != recorded[name]} == {"whole", "vocabulary", "model"}


OLD_PARTS = ("vocabulary", "added_tokens", "merges", "scores", "encoding", "whole")


def test_a_recording_without_the_newer_parts_is_still_valid(
    baseline: Baseline, tokenizer: PreTrainedTokenizerFast, prompts: list[Prompt]
) -> None:
    parts = {name: value for name, value in baseline.provenance.tokenizer.items() if name in OLD_PARTS}
    old = replace(baseline, provenance=replace(baseline.provenance, tokenizer=parts))
    scorer = TeacherForcedScorer(ScoringConfig(top_k=10))
    assert scorer.score_baseline(old, tiny(), tokenizer, prompts=prompts).max == 0
    assert tolerated_tokenizer_differences(old.provenance, tokenizer_digests(tokenizer)) == {}
    assert tokenizer_changes(old.provenance, baseline.provenance) == []


def test_parts_that_another_version_of_the_library_wrote_are_not_compared(
    baseline: Baseline, tokenizer: PreTrainedTokenizerFast
) -> None:
    now = {**tokenizer_digests(tokenizer), "normalizer": "0" * 64, "chat_template": "0" * 64}
    assert list(tolerated_tokenizer_differences(baseline.provenance, now)) == ["normalizer", "chat_template"]
    old = replace(baseline.provenance, libraries={**baseline.provenance.libraries, "tokenizers": "0.0"})
    assert list(tolerated_tokenizer_differences(old, now)) == ["chat_template"]
    new = replace(baseline.provenance, tokenizer=now)
    assert [line.split(":")[0] for line in tokenizer_changes(baseline.provenance, new)] == [
        "tokenizer.normalizer",
        "tokenizer.chat_template",
    ]
    assert [line.split(":")[0] for line in tokenizer_changes(old, new)] == ["tokenizer.chat_template"]


def test_another_serialisation_of_the_tokenizer_is_no_difference(tokenizer: PreTrainedTokenizerFast) -> None:
    """Another version of the library may serialise the same tokenizer differently."""
    recorded = {**tokenizer_digests(tokenizer), "whole": "0" * 64}
    assert tokenizer_differences(recorded, tokenizer_digests(tokenizer, recorded)) == []


def test_a_changed_prompt_is_a_difference(
    baseline: Baseline, tokenizer: PreTrainedTokenizerFast, prompts: list[Prompt]
) -> None:
    now = [*prompts[:2], Prompt("x = 2", prompts[2].continuation), *prompts[3:]]
    assert differences(baseline, tokenizer, now) == ["prompt 2: 'x = 1' recorded, 'x = 2' now"]


def test_a_changed_continuation_is_a_difference(
    baseline: Baseline, tokenizer: PreTrainedTokenizerFast, prompts: list[Prompt]
) -> None:
    now = [Prompt(prompts[0].text, " is Lyon."), *prompts[1:]]
    assert differences(baseline, tokenizer, now) == ["prompt 0: continuation ' is Paris.' recorded, ' is Lyon.' now"]


def test_a_removed_continuation_is_a_difference(
    baseline: Baseline, tokenizer: PreTrainedTokenizerFast, prompts: list[Prompt]
) -> None:
    now = [Prompt(prompts[0].text), *prompts[1:]]
    assert differences(baseline, tokenizer, now) == [
        "prompt 0: continuation ' is Paris.' recorded, sampled by the reference now"
    ]


def test_an_added_prompt_is_a_difference(baseline: Baseline, tokenizer: PreTrainedTokenizerFast, prompts: list[Prompt]) -> None:
    message = "prompts: 8 recorded, 9 now (added 'Another one')"
    assert differences(baseline, tokenizer, [*prompts, Prompt("Another one", " more")]) == [message]


def test_a_removed_prompt_is_a_difference(
    baseline: Baseline, tokenizer: PreTrainedTokenizerFast, prompts: list[Prompt]
) -> None:
    assert differences(baseline, tokenizer, prompts[1:]) == ["prompts: 8 recorded, 7 now (removed 'The capital of France')"]


def test_text_beyond_the_compared_positions_may_change(tokenizer: PreTrainedTokenizerFast) -> None:
    scorer = TeacherForcedScorer(ScoringConfig(top_k=10, positions_per_prompt=4))
    baseline = scorer.record(tiny(), [Prompt("Once", " upon a time")], tokenizer)
    now = [Prompt("Once", " upon the hill", kind="other")]
    assert scorer.score_baseline(baseline, tiny(), tokenizer, prompts=now).max == 0


def test_one_error_lists_all_differences(baseline: Baseline, tokenizer: PreTrainedTokenizerFast, prompts: list[Prompt]) -> None:
    lines = differences(baseline, edit_tokenizer(tokenizer, swap_two_tokens), [*prompts[:7], Prompt("Else", " other")], top_k=5)
    assert [line.split(":")[0] for line in lines] == ["preset (top_k)", "tokenizer.vocabulary", "prompt 7"]


def test_what_may_differ_where_no_prompt_shows_it(tokenizer: PreTrainedTokenizerFast) -> None:
    """Added tokens, where all tokens that were recorded have their ids; and the encoding of the fixed text."""

    def unseen(change: Callable[[Any], object], drop: str = "") -> tuple[str, ...]:
        recorded = {name: value for name, value in tokenizer_digests(tokenizer).items() if name != drop}
        now = edit_tokenizer(tokenizer, lambda _: None)
        change(now)
        digests = {name: value for name, value in tokenizer_digests(now).items() if name != drop}
        return unseen_tokenizer_parts(recorded, digests, now)

    added = ("encoding", "added_tokens", "vocabulary")
    assert unseen(lambda now: now.add_tokens(["<|x|>", "<|y|>"])) == added
    assert unseen(lambda now: now.add_tokens(["a"])) == added  # which was a token before
    assert unseen(lambda now: now.add_tokens(["<|x|>"]), drop="vocabulary") == ("encoding",)
    swapped = edit_tokenizer(tokenizer, swap_two_tokens)
    swapped.add_tokens(["<|x|>"])
    assert unseen_tokenizer_parts(tokenizer_digests(tokenizer), tokenizer_digests(swapped), swapped) == ("encoding",)
