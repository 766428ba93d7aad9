from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken, Tokenizer, models
from transformers import ByT5Tokenizer, PreTrainedTokenizerFast

from pytest_pot.prompts import tokenizer_parts
from pytest_pot.prompts.tokenizer_parts import different_parts, listed_parts, tokenizer_digests

from ..conftest import make_tokenizer


def test_a_fast_tokenizer_has_a_digest_of_each_part() -> None:
    assert set(tokenizer_digests(make_tokenizer(bos=True))) == {
        "added_tokens",
        "chat_template",
        "decoder",
        "encoding",
        "model",
        "normalizer",
        "post_processor",
        "pre_tokenizer",
        "vocabulary",
        "whole",
    }


def test_a_python_tokenizer_is_compared_in_what_it_can_tell() -> None:
    first, same, other = ByT5Tokenizer(), ByT5Tokenizer(), ByT5Tokenizer(extra_ids=10)
    assert set(tokenizer_digests(first)) == {"added_tokens", "chat_template", "encoding", "vocabulary"}
    assert different_parts(tokenizer_digests(first), tokenizer_digests(same)) == []
    parts = different_parts(tokenizer_digests(first), tokenizer_digests(other))
    assert parts == ["vocabulary", "added_tokens"]
    assert listed_parts(parts, first, other) == (
        "added tokens (id 269 is '<extra_id_10>' in the reference's and nothing in the candidate's; 115 ids differ)"
    )


@pytest.mark.parametrize("part", ["added_tokens", "chat_template", "normalizer", "pre_tokenizer", "post_processor", "decoder"])
def test_a_tokenizer_that_is_changed_in_memory_has_other_digests(part: str) -> None:
    """Its digests are kept, but not beyond a change."""
    from tokenizers import decoders, normalizers, pre_tokenizers, processors

    tokenizer = make_tokenizer(bos=True)
    backend = tokenizer.backend_tokenizer
    before = tokenizer_digests(tokenizer)
    assert tokenizer_digests(tokenizer) == before
    if part == "added_tokens":
        tokenizer.add_tokens([AddedToken("<tool>")])
    elif part == "chat_template":
        tokenizer.chat_template = "{{ messages }}"
    elif part == "normalizer":
        backend.normalizer = normalizers.Replace("q", "k")
    elif part == "pre_tokenizer":
        backend.pre_tokenizer = pre_tokenizers.Sequence([backend.pre_tokenizer])
    elif part == "post_processor":
        backend.post_processor = processors.TemplateProcessing(single="$A", special_tokens=[])
    else:
        backend.decoder = decoders.WordPiece()
    after = tokenizer_digests(tokenizer)
    assert after[part] != before[part]
    assert part in different_parts(before, after)


def test_a_large_tokenizer_is_serialised_once(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = make_tokenizer()
    analyses: list[str] = []
    rules = tokenizer_parts._rules
    monkeypatch.setattr(tokenizer_parts, "_BY_CONTENT", {})

    def counted(text: str) -> Any:
        analyses.append(text)
        return rules(text)

    monkeypatch.setattr(tokenizer_parts, "_rules", counted)
    first = tokenizer_digests(tokenizer)
    assert tokenizer_digests(tokenizer) == first
    assert tokenizer_digests(make_tokenizer()) == first  # an equal one, from another folder
    assert len(analyses) == 1


def test_the_digests_of_a_forged_recording_are_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are taken from a recording of the same content, but not for later comparisons of live tokenizers."""
    monkeypatch.setattr(tokenizer_parts, "_BY_CONTENT", {})
    tokenizer = make_tokenizer()
    honest = tokenizer_digests(tokenizer)
    tokenizer_parts._BY_CONTENT.clear()
    assert tokenizer_digests(tokenizer, {**honest, "vocabulary": "0" * 64})["vocabulary"] == "0" * 64
    assert tokenizer_digests(tokenizer) == honest


def test_flags_of_an_added_token_are_a_difference() -> None:
    def tokenizer(**flags: Any) -> PreTrainedTokenizerFast:
        backend = Tokenizer(models.WordLevel({"a": 0, "<x>": 1}, unk_token="a"))
        backend.add_tokens([AddedToken("<x>", **flags)])
        return PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(json.loads(backend.to_str()))))

    one, other = tokenizer(), tokenizer(lstrip=True)
    parts = different_parts(tokenizer_digests(one), tokenizer_digests(other))
    assert parts == ["added_tokens"]
    assert listed_parts(parts, one, other) == "added tokens ('<x>' is cut out of a text by other rules)"


def test_a_sentencepiece_tokenizer_is_compared_by_its_model_file(tmp_path: Path) -> None:
    """Its scores and its normalizer are in no vocabulary."""
    library: Any = pytest.importorskip("sentencepiece")
    backend: Any = pytest.importorskip("transformers.tokenization_utils_sentencepiece").SentencePieceBackend

    (tmp_path / "corpus.txt").write_text("the quick brown fox jumps\nover the lazy dog\nhello world\n" * 200, encoding="utf-8")

    make: Any = type("Slow", (backend,), {"vocab_files_names": {"vocab_file": "spiece.model"}})

    def tokenizer(name: str, rule: str) -> Any:
        library.SentencePieceTrainer.train(
            input=str(tmp_path / "corpus.txt"),
            model_prefix=str(tmp_path / name),
            vocab_size=60,
            hard_vocab_limit=False,
            normalization_rule_name=rule,
        )
        return make(vocab_file=str(tmp_path / f"{name}.model"), unk_token="<unk>", bos_token="<s>", eos_token="</s>")

    digests = [tokenizer_digests(tokenizer(*pair)) for pair in (("a", "nmt_nfkc"), ("a", "nmt_nfkc"), ("b", "identity"))]
    assert different_parts(digests[0], digests[1]) == []
    assert different_parts(digests[0], digests[2]) == ["sentencepiece"]
