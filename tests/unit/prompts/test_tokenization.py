from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from transformers import PreTrainedTokenizerFast

from pytest_pot import PotError, Prompt, ScoringConfig, TeacherForcedScorer
from pytest_pot.engines.tokens import Tokens
from pytest_pot.prompts.tokenization import EncodedPrompts, fit, tokenise

from ..conftest import make_tokenizer
from ..models import changed, tiny


def test_position_j_is_predicted_from_index_prompt_len_minus_1_plus_j() -> None:
    tokens = Tokens((5, 6, 7, 8, 9), prompt_len=3)
    assert tokens.targets == (8, 9)
    assert tokens.n_positions == 2


def test_the_prompt_has_special_tokens_and_the_continuation_has_none() -> None:
    [(context, continuation)] = tokenise(make_tokenizer(bos=True), [Prompt("ab", "cd")])
    assert context[0] == 1
    assert len(context) == 3
    assert continuation is not None
    assert len(continuation) == 2
    assert 1 not in continuation


def test_a_long_prompt_is_cut_on_the_left_and_its_continuation_is_not_cut() -> None:
    assert fit(0, [1, 2, 3, 4], [8, 9], 5) == Tokens((2, 3, 4, 8, 9), 3, truncated=True)
    assert fit(0, [1, 2, 3], [8, 9], 5) == Tokens((1, 2, 3, 8, 9), 3, truncated=False)
    with pytest.raises(PotError) as error:
        fit(7, [1, 2], [8] * 5, 5)
    assert str(error.value) == (
        "prompt 7: its continuation of 5 tokens leaves no room for the prompt in 5 tokens, which are max_length or what the "
        "models take; raise max_length, or compare fewer positions"
    )


def test_cut_prompts_are_counted_and_scored_on_their_remaining_tokens(tokenizer: PreTrainedTokenizerFast) -> None:
    pair = tiny(), changed(tiny())
    text, continuation = "0123456789" * 3, "abcdef"
    config = ScoringConfig(max_length=16, positions_per_prompt=6)
    report = TeacherForcedScorer(config).score_batch(*pair, [Prompt(text, continuation), Prompt("x", "y")], tokenizer)
    assert report.n_truncated == 1
    assert [len(tokens.ids) for tokens in report.tokens] == [16, 2]
    by_hand = TeacherForcedScorer(config).score_batch(*pair, [Prompt(text[-10:], continuation)], tokenizer)
    np.testing.assert_allclose(report.scores[0], by_hand.scores[0], atol=1e-6)


def test_prompts_are_cut_to_the_models_own_limit(tokenizer: PreTrainedTokenizerFast) -> None:
    report = TeacherForcedScorer(ScoringConfig.preset("original")).score_batch(
        tiny("gpt2"), tiny("gpt2"), [Prompt("a" * 200, "b" * 20)], tokenizer
    )
    assert len(report.tokens[0].ids) == 128  # n_positions of the tiny GPT-2
    assert report.n_truncated == 1


def test_positions_per_prompt_limits_the_compared_part_of_a_continuation(tokenizer: PreTrainedTokenizerFast) -> None:
    config = ScoringConfig(positions_per_prompt=4)
    report = TeacherForcedScorer(config).score_batch(tiny(), tiny(), [Prompt("a", "bcdefgh"), Prompt("a", "bc")], tokenizer)
    assert [len(values) for values in report.positions] == [4, 2]
    assert [tokenizer.decode(list(tokens.targets)) for tokens in report.tokens] == ["bcde", "bc"]


def test_a_prompt_with_nothing_to_score_is_an_error(tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(PotError, match=r"prompt 1 \('a'\) has the continuation '', which has no tokens"):
        TeacherForcedScorer().score_batch(tiny(), tiny(), [Prompt("a", "b"), Prompt("a", "")], tokenizer)
    with pytest.raises(PotError, match=r"prompt 0 \('a\\nb'\) has the continuation ''"):  # escaped once
        TeacherForcedScorer().score_batch(tiny(), tiny(), [Prompt("a\nb", "")], tokenizer)
    with pytest.raises(PotError, match=r"prompt 0 \(''\) has no tokens with this tokenizer"):
        TeacherForcedScorer().score_batch(tiny(), tiny(), [Prompt("", "b")], tokenizer)
    with pytest.raises(PotError, match="there are no prompts to score"):
        TeacherForcedScorer().score_batch(tiny(), tiny(), [], tokenizer)


def test_a_bos_is_enough_context_for_an_empty_prompt() -> None:
    report = TeacherForcedScorer().score_batch(tiny(), tiny(), [Prompt("", "abc")], make_tokenizer(bos=True))
    assert report.n_positions == 3


def test_the_error_on_different_tokenizers_shows_both_encodings() -> None:
    plain, with_bos = make_tokenizer(), make_tokenizer(bos=True)
    with pytest.raises(PotError) as error:
        EncodedPrompts([Prompt("ab", "c")], plain).check_same(with_bos)
    message = str(error.value)
    a, b = plain("ab")["input_ids"]
    assert "disagree on the text of prompt 0 ('ab')" in message
    assert f"reference: [{a}, {b}]" in message
    assert f"candidate: [1, {a}, {b}]" in message
    EncodedPrompts([Prompt("ab", "c")], plain).check_same(make_tokenizer())


def test_the_error_names_the_first_prompt_that_differs_even_in_its_continuation() -> None:
    small = make_tokenizer(vocab_size=50)  # has no lower-case letters
    with pytest.raises(PotError, match="disagree on the continuation of prompt 2"):
        TeacherForcedScorer().score_batch(
            tiny(), tiny(), [Prompt("A", "B"), Prompt("C", "D"), Prompt("E", "f")], make_tokenizer(), candidate_tokenizer=small
        )


def test_numpy_token_ids_are_written_as_plain_json(tokenizer: PreTrainedTokenizerFast) -> None:
    class Numpy:
        decode = tokenizer.decode

        def __call__(self, text: str, **options: Any) -> dict[str, np.ndarray]:
            return {"input_ids": np.array(tokenizer(text, **options)["input_ids"], dtype=np.int64)}

    report = TeacherForcedScorer().score_batch(tiny(), changed(tiny()), [Prompt("ab", "cd"), "drawn"], Numpy())
    json.dumps(report.to_dict(), allow_nan=False)
