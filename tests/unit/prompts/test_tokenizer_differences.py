"""What two tokenizers differ in, in words: the first setting that differs, with both values."""

from __future__ import annotations

from typing import Any

import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from pytest_pot.prompts.tokenizer_differences import listed_parts
from pytest_pot.prompts.tokenizer_digests import tokenizer_digests
from pytest_pot.prompts.tokenizer_parts import different_parts


def tokenizer(pre_tokenizer: Any = None, normalizer: Any = None, **settings: Any) -> PreTrainedTokenizerFast:
    backend = Tokenizer(models.BPE({"a": 0, "b": 1}, [], **settings))
    if pre_tokenizer is not None:
        backend.pre_tokenizer = pre_tokenizer
    if normalizer is not None:
        backend.normalizer = normalizer
    return PreTrainedTokenizerFast(tokenizer_object=backend)


def replacing(*contents: str) -> Any:
    return normalizers.Sequence([normalizers.Replace("b", content) for content in contents])


@pytest.mark.parametrize(
    ("one", "other", "words"),
    [
        (
            tokenizer(pre_tokenizers.Metaspace(prepend_scheme="always")),
            tokenizer(pre_tokenizers.Metaspace(prepend_scheme="first")),
            "pre-tokenizer (prepend_scheme: 'always' in the reference's, 'first' in the candidate's)",
        ),
        (
            tokenizer(pre_tokenizers.Whitespace()),
            tokenizer(pre_tokenizers.Metaspace()),
            "pre-tokenizer (type: 'Whitespace' in the reference's, 'Metaspace' in the candidate's)",
        ),
        (
            tokenizer(normalizer=replacing("x", "y")),
            tokenizer(normalizer=replacing("x", "z")),
            "normalizer (normalizers[1].content: 'y' in the reference's, 'z' in the candidate's)",
        ),
        (
            tokenizer(normalizer=replacing("x")),
            tokenizer(normalizer=replacing("x", "z")),
            "normalizer (normalizers[1]: nothing in the reference's, Replace in the candidate's)",
        ),
        (
            tokenizer(normalizer=replacing("x")),
            tokenizer(),
            "normalizer (Sequence in the reference's, nothing in the candidate's)",
        ),
        (
            tokenizer(dropout=0.1),
            tokenizer(),
            "settings of the tokenizer's model (dropout: 0.1 in the reference's, nothing in the candidate's)",
        ),
        (
            tokenizer(unk_token="a"),
            tokenizer(unk_token="b"),
            "settings of the tokenizer's model (unk_token: 'a' in the reference's, 'b' in the candidate's)",
        ),
    ],
)
def test_the_first_setting_that_differs_is_shown(one: Any, other: Any, words: str) -> None:
    parts = different_parts(tokenizer_digests(one), tokenizer_digests(other))
    assert listed_parts(parts, one, other) == words


def test_a_long_value_is_shortened() -> None:
    one, other = (tokenizer(normalizer=replacing(letter * 200)) for letter in "xy")
    words = listed_parts(["normalizer"], one, other)
    assert words.startswith("normalizer (normalizers[0].content: 'xxx")
    assert len(words) < 240
