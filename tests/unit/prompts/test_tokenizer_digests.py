from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken, Tokenizer, models
from transformers import ByT5Tokenizer, PreTrainedTokenizerFast

from pytest_pot.prompts import tokenizer_parts
from pytest_pot.prompts.tokenizer_differences import listed_parts
from pytest_pot.prompts.tokenizer_digests import tokenizer_digests, tokenizer_identity
from pytest_pot.prompts.tokenizer_parts import different_parts

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
        "special_tokens",
        "vocabulary",
        "whole",
    }


def test_a_python_tokenizer_is_compared_in_what_it_can_tell() -> None:
    first, same, other = ByT5Tokenizer(), ByT5Tokenizer(), ByT5Tokenizer(extra_ids=10)
    assert set(tokenizer_digests(first)) == {"added_tokens", "chat_template", "encoding", "special_tokens", "vocabulary"}
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
    monkeypatch.setattr("pytest_pot.prompts.tokenizer_digests._BY_CONTENT", {})

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
    monkeypatch.setattr("pytest_pot.prompts.tokenizer_digests._BY_CONTENT", {})
    tokenizer = make_tokenizer()
    honest = tokenizer_digests(tokenizer)
    monkeypatch.setattr("pytest_pot.prompts.tokenizer_digests._BY_CONTENT", {})
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


class OwnClass(PreTrainedTokenizerFast):
    """A user's class, as remote code defines them."""


def own_class(change: Any = None) -> OwnClass:
    parts = json.loads(bpe().to_str())
    if change is not None:
        change(parts)
    return own_of(OwnClass, Tokenizer.from_str(json.dumps(parts)))


def own_of(kind: Any, backend: Tokenizer) -> OwnClass:
    tokenizer: OwnClass = kind(tokenizer_object=backend)
    return tokenizer


def bpe() -> Tokenizer:
    vocab = {character: index for index, character in enumerate("abcdefgh")} | {"ab": 8, "bc": 9}
    return Tokenizer(models.BPE(vocab=vocab, merges=[("a", "b"), ("b", "c")]))


def other_merges(parts: dict[str, Any]) -> None:
    parts["model"]["merges"].reverse()


def other_settings(parts: dict[str, Any]) -> None:
    parts["model"]["ignore_merges"] = True


@pytest.mark.parametrize(("change", "part"), [(other_merges, "merges"), (other_settings, "model")])
def test_a_class_of_ones_own_is_compared_in_its_rules_too(change: Any, part: str) -> None:
    one, other = own_class(), own_class(change)
    assert different_parts(tokenizer_digests(one), tokenizer_digests(other)) == [part]
    assert tokenizer_identity(one) != tokenizer_identity(other)
    assert tokenizer_identity(one) == tokenizer_identity(own_class())


def test_a_class_of_ones_own_has_the_digests_of_its_library_class_and_no_whole() -> None:
    library = tokenizer_digests(PreTrainedTokenizerFast(tokenizer_object=bpe()))
    assert library.pop("whole")
    assert tokenizer_digests(own_class()) == library


def test_the_vocabulary_of_a_class_of_ones_own_is_read_once_while_it_stays() -> None:
    class Counting(OwnClass):
        reads = 0

        def get_vocab(self) -> dict[str, int]:
            Counting.reads += 1
            vocabulary: dict[str, int] = super().get_vocab()
            return vocabulary

    tokenizer = own_of(Counting, bpe())
    first = tokenizer_digests(tokenizer)
    Counting.reads = 0
    tokenizer_identity(tokenizer)
    assert tokenizer_digests(tokenizer) == first
    assert Counting.reads == 0
    tokenizer.add_tokens(["<x>"])
    assert tokenizer_digests(tokenizer)["vocabulary"] != first["vocabulary"]


def test_a_class_with_another_backend_and_no_attributes_has_digests() -> None:
    class Backend:
        normalizer = pre_tokenizer = post_processor = decoder = None

    class Slotted:
        __slots__ = ()
        backend_tokenizer = Backend()

        def get_vocab(self) -> dict[str, int]:
            return {"a": 0}

    assert {"vocabulary", "normalizer"} <= set(tokenizer_digests(Slotted()))


def test_a_tokenizer_with_parts_in_python_is_compared_in_the_others() -> None:
    from tokenizers import pre_tokenizers

    class Splits:
        def pre_tokenize(self, text: Any) -> None:
            text.split(lambda _, piece: [piece])

    tokenizer = own_class()
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.PreTokenizer.custom(Splits())
    assert {"vocabulary", "added_tokens", "encoding"} <= set(tokenizer_digests(tokenizer))
    assert "merges" not in tokenizer_digests(tokenizer)
