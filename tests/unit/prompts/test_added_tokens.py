from __future__ import annotations

from typing import Any

import pytest
from tokenizers import AddedToken
from transformers import PreTrainedTokenizerFast

from pytest_pot import ADDED_TOKENS, PotError, Prompt, ScoringConfig, TeacherForcedScorer, added_token_prompts
from pytest_pot.core.names import PRESET_NAMES
from pytest_pot.prompts.added_tokens import added_without_row, unread_added_tokens
from pytest_pot.prompts.tokenization import EncodedPrompts, tokenise

from ..conftest import make_tokenizer
from ..models import tiny


def with_tokens(*tokens: str | AddedToken) -> PreTrainedTokenizerFast:
    tokenizer = make_tokenizer(bos=True)
    tokenizer.add_tokens(list(tokens))
    return tokenizer


TOOLS = [f"<|tool_{n}|>" for n in range(9)]


def test_each_added_token_is_in_a_context_and_in_the_compared_part_of_a_continuation() -> None:
    """With every preset, and also where tokens take the space around them or have to stand alone."""
    flags = [{"lstrip": True}, {"rstrip": True}, {"single_word": True}, {"normalized": True}, {"special": True}]
    tokenizer = with_tokens(*TOOLS, *(AddedToken(f"[{n}]", **flag) for n, flag in enumerate(flags)))
    prompts = added_token_prompts(tokenizer)
    added = set(tokenizer.added_tokens_decoder)
    assert len(added) == len(TOOLS) + len(flags) + 3  # <unk>, <s> and </s> too
    encoded = tokenise(tokenizer, prompts)
    fewest = min(ScoringConfig.preset(name).positions_per_prompt for name in PRESET_NAMES)
    assert {token for context, _ in encoded for token in context} >= added
    assert {token for _, continuation in encoded for token in (continuation or [])[:fewest]} >= added
    assert {prompt.kind for prompt in prompts} == {"added token"}


def test_a_token_that_no_text_gives_is_left_out() -> None:
    tokenizer = with_tokens(*TOOLS[:1])
    tokenizer.split_special_tokens = True
    assert len(added_token_prompts(tokenizer)) == 1
    plain = PreTrainedTokenizerFast(tokenizer_object=make_tokenizer().backend_tokenizer)
    assert [prompt for prompt in added_token_prompts(plain) if "<|tool" in prompt.text] == []


def test_an_object_that_lists_no_added_tokens_has_no_such_prompts() -> None:
    class Bare:
        def __call__(self, text: str, **_: object) -> dict[str, list[int]]:
            return {"input_ids": [ord(character) for character in text]}

    assert added_token_prompts(Bare()) == []
    assert unread_added_tokens(Bare(), [[1]]) == []
    with pytest.raises(PotError, match="there are no prompts to score: the tokenizer has no added tokens that a text can hold"):
        TeacherForcedScorer().score_batch(tiny(), tiny(), [ADDED_TOKENS], Bare())


def test_the_placeholder_is_replaced_by_prompts_for_the_tokenizer() -> None:
    tokenizer = with_tokens(*TOOLS[:2])
    prompts = EncodedPrompts(["a", ADDED_TOKENS, Prompt("b", "c")], tokenizer).prompts
    assert prompts == [Prompt("a"), *added_token_prompts(tokenizer), Prompt("b", "c")]


def test_tokens_in_no_prompt_are_counted_but_for_those_that_a_model_may_never_have_learnt() -> None:
    tokenizer = with_tokens(*TOOLS[:2], "[PAD]", "[SEP]")
    tokenizer.pad_token, tokenizer.sep_token = "[PAD]", "[SEP]"
    vocabulary = tokenizer.get_vocab()
    first, second, bos = (vocabulary[token] for token in (*TOOLS[:2], "<s>"))
    others = ["<unk>", "</s>"]
    assert unread_added_tokens(tokenizer, [[5, 6], [bos]]) == [*others, *TOOLS[:2]]
    assert unread_added_tokens(tokenizer, [[5, second], [bos]]) == [*others, *TOOLS[:1]]
    assert unread_added_tokens(tokenizer, [[first, bos], [second]]) == others
    tokenizer.pad_token = tokenizer.eos_token  # it is still a token that models end texts with
    assert unread_added_tokens(tokenizer, [[first, bos], [second]]) == [*others, "[PAD]"]


def test_tokens_of_white_space_and_of_each_others_texts_are_held_too() -> None:
    """As GPT-NeoX has them for 2 to 24 spaces."""
    spaces = [AddedToken(" " * n, normalized=True) for n in range(24, 1, -1)]
    tokenizer = with_tokens(*spaces, AddedToken("\n\n", normalized=True), "<a>", "<a><b>", "<b>", *TOOLS[:2])
    encoded = tokenise(tokenizer, added_token_prompts(tokenizer))
    contexts = {token for context, _ in encoded for token in context}
    continuations = {token for _, continuation in encoded for token in (continuation or [])[:16]}
    assert unread_added_tokens(tokenizer, [sorted(contexts & continuations)]) == []


def test_tokens_without_a_row_are_left_out() -> None:
    tokenizer = with_tokens(*TOOLS[:3])
    rows = tokenizer.get_vocab()[TOOLS[1]]
    texts = "".join(prompt.text for prompt in added_token_prompts(tokenizer, rows))
    assert TOOLS[0] in texts
    assert TOOLS[1] not in texts
    assert TOOLS[2] not in texts
    assert unread_added_tokens(tokenizer, [], rows)[-1] == TOOLS[0]
    assert added_without_row(tokenizer, rows) == TOOLS[1:3]
    assert added_without_row(tokenizer, None) == []


def test_a_scorer_makes_no_prompts_for_tokens_without_a_row() -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    tokenizer = with_tokens(*TOOLS[:2])
    rows = tokenizer.get_vocab()[TOOLS[1]]
    model: Any = GPT2LMHeadModel(GPT2Config(n_layer=1, n_embd=8, n_head=2, vocab_size=rows)).eval()
    scorer = TeacherForcedScorer()
    live = scorer.score_batch(model, model, [ADDED_TOKENS], tokenizer)
    assert live.mean == 0
    assert live.prompts == tuple(added_token_prompts(tokenizer, rows))
    baseline = scorer.record(model, [ADDED_TOKENS], tokenizer)
    assert scorer.score_baseline(baseline, model, tokenizer, prompts=[ADDED_TOKENS]).mean == 0
