"""Texts are encoded as a tokenizer encodes each alone, in few calls, and once while the tokenizer stays as it is."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import transformers
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import ByT5Tokenizer, PreTrainedTokenizerFast

from pytest_pot import PotError, Prompt, ScoringConfig, TeacherForcedScorer
from pytest_pot.prompts import encodings
from pytest_pot.prompts.encodings import encoded_texts
from pytest_pot.prompts.tokenization import EncodedPrompts
from pytest_pot.prompts.tokenizer_digests import tokenizer_digests, tokenizer_identity
from pytest_pot.prompts.tokenizer_state import tokenizer_state

from ..conftest import make_tokenizer
from ..models import tiny

TEXTS = [
    ("The mill", True),
    ("Another</s> line", True),
    (" stood", False),
    ("", False),
    ("x" * 3000, True),
    ("The mill", False),
]


def one_by_one(tokenizer: Any, texts: list[tuple[str, bool]] = TEXTS) -> list[list[int]]:
    return [list(tokenizer(text, add_special_tokens=special, verbose=False)["input_ids"]) for text, special in texts]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The texts with which fast tokenizers were called; those of one call are joined."""
    made: list[str] = []
    call: Any = PreTrainedTokenizerFast.__call__

    @functools.wraps(call)
    def counted(self: Any, text: Any, *arguments: Any, **keywords: Any) -> Any:
        made.append(text if isinstance(text, str) else "|".join(text))
        return call(self, text, *arguments, **keywords)

    monkeypatch.setattr(PreTrainedTokenizerFast, "__call__", counted)
    return made


def test_the_ids_are_those_of_each_text_alone(bpe: PreTrainedTokenizerFast) -> None:
    for tokenizer in (make_tokenizer(), make_tokenizer(bos=True, pad=True), bpe, ByT5Tokenizer()):
        expected = one_by_one(tokenizer)
        assert encoded_texts(tokenizer, TEXTS) == expected
        assert encoded_texts(tokenizer, TEXTS) == expected


def test_texts_are_encoded_in_two_calls_and_once(calls: list[str]) -> None:
    tokenizer = make_tokenizer(bos=True)
    assert encoded_texts(tokenizer, []) == []
    probing = len(calls)
    calls.clear()
    encoded_texts(tokenizer, TEXTS)
    assert len(calls) == probing + 2
    calls.clear()
    encoded_texts(tokenizer, TEXTS[::-1])
    assert len(calls) == probing
    calls.clear()
    encoded_texts(tokenizer, [("new", True), *TEXTS])
    assert calls[probing:] == ["new"]


def test_a_long_text_gives_no_warning(caplog: pytest.LogCaptureFixture) -> None:
    tokenizer = make_tokenizer()
    tokenizer.model_max_length = 10
    encoded_texts(tokenizer, TEXTS)
    assert not caplog.records
    assert not tokenizer.deprecation_warnings


def test_a_second_run_of_a_recording_calls_the_tokenizer_a_fixed_number_of_times(
    prompts: list[Prompt], calls: list[str]
) -> None:
    tokenizer, model, scorer = make_tokenizer(), tiny(), TeacherForcedScorer(ScoringConfig(top_k=5))
    counts = []
    for suite in (prompts[:2], prompts):
        baseline = scorer.record(model, suite, tokenizer)
        scorer.score_baseline(baseline, model, tokenizer)
        calls.clear()
        assert scorer.score_baseline(baseline, model, tokenizer).max == 0.0
        counts.append(len(calls))
        assert not [text for text in calls if any(prompt.text in text for prompt in suite if len(prompt.text) > 1)]
    assert counts[0] == counts[1] <= 4


def new_special_token(tokenizer: Any) -> None:
    tokenizer.add_special_tokens({"cls_token": "mill"})


def other_bos(tokenizer: Any) -> None:
    tokenizer.bos_token = "T"
    tokenizer.add_bos_token = True


def set_backend(name: str, value: Any) -> Callable[[Any], None]:
    return lambda tokenizer: setattr(tokenizer.backend_tokenizer, name, value)


def set_model(name: str, value: Any) -> Callable[[Any], None]:
    return lambda tokenizer: setattr(tokenizer.backend_tokenizer.model, name, value)


TEMPLATE = processors.TemplateProcessing(single="</s> $A", special_tokens=[("</s>", 2)])
CHANGES: dict[str, Callable[[Any], Any]] = {
    "add_tokens": lambda tokenizer: tokenizer.add_tokens(["mill"]),
    "an added token with flags": lambda tokenizer: tokenizer.add_tokens([AddedToken("mill", lstrip=True)]),
    "add_special_tokens": new_special_token,
    "normalizer": set_backend("normalizer", normalizers.Lowercase()),
    "no normalizer": set_backend("normalizer", None),
    "pre_tokenizer": set_backend("pre_tokenizer", pre_tokenizers.Whitespace()),
    "post_processor": set_backend("post_processor", TEMPLATE),
    "no post_processor": set_backend("post_processor", None),
    "decoder": set_backend("decoder", decoders.WordPiece()),
    "add_bos_token": lambda tokenizer: setattr(tokenizer, "add_bos_token", True),
    "add_eos_token": lambda tokenizer: setattr(tokenizer, "add_eos_token", True),
    "another BOS": other_bos,
    "split_special_tokens": lambda tokenizer: setattr(tokenizer, "split_special_tokens", True),
    "chat_template": lambda tokenizer: setattr(tokenizer, "chat_template", "{{ messages }}"),
    "a setting of the model": set_model("unk_token", "</s>"),
    "another model": set_backend("model", models.WordLevel({"T": 0, "x": 1, "<unk>": 2}, unk_token="<unk>")),
    "truncation": lambda tokenizer: tokenizer.backend_tokenizer.enable_truncation(3),
    "padding": lambda tokenizer: tokenizer.backend_tokenizer.enable_padding(length=9),
    "another backend": lambda tokenizer: setattr(tokenizer, "_tokenizer", make_tokenizer(vocab_size=20).backend_tokenizer),
}
CHANGES_IDS = {*CHANGES} - {"no normalizer", "decoder", "chat_template", "truncation", "padding"}


@pytest.mark.parametrize("name", CHANGES)
def test_a_tokenizer_that_is_changed_in_memory_encodes_anew(name: str) -> None:
    tokenizer: Any = make_tokenizer(bos=name != "add_bos_token")
    texts = [*TEXTS, ("ä", True)]
    before = encoded_texts(tokenizer, texts)
    CHANGES[name](tokenizer)
    settings = tokenizer.backend_tokenizer.truncation, tokenizer.backend_tokenizer.padding
    after = encoded_texts(tokenizer, texts)
    assert (tokenizer.backend_tokenizer.truncation, tokenizer.backend_tokenizer.padding) == settings
    assert after == one_by_one(tokenizer, texts)
    if not transformers.__version__.startswith("4."):  # transformers 4 does not heed every attribute
        assert (after != before) == (name in CHANGES_IDS)


@pytest.mark.parametrize(
    ("change", "text"),
    [(set_model("ignore_merges", True), "ab"), (lambda tokenizer: setattr(tokenizer, "split_special_tokens", True), "<a|b>")],
)
def test_a_change_that_only_some_texts_show_is_seen(change: Callable[[Any], None], text: str) -> None:
    """Neither the fixed text that is part of a tokenizer's digests shows it, nor any of the components."""
    backend = Tokenizer(models.BPE(vocab={"a": 0, "b": 1, "ab": 2, "<a|b>": 3}, merges=[]))
    tokenizer: Any = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<a|b>")
    before = encoded_texts(tokenizer, [(text, True)])
    change(tokenizer)
    after = encoded_texts(tokenizer, [(text, True)])
    assert after == one_by_one(tokenizer, [(text, True)])
    if not transformers.__version__.startswith("4."):
        assert after != before


def of_words(*words: str) -> PreTrainedTokenizerFast:
    """A tokenizer of whole words. The fixed text has none of them, so that it has the same ids by all of these."""
    backend = Tokenizer(word_level(*words))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>")


def word_level(*words: str) -> Any:
    return models.WordLevel({token: index for index, token in enumerate(("<unk>", *words))}, unk_token="<unk>")


def pairs(*merges: tuple[str, str]) -> Any:
    return models.BPE(vocab={"α": 0, "β": 1, "γ": 2, "αβ": 3, "βγ": 4}, merges=list(merges))


def unigram(score: float) -> Any:
    return models.Unigram([("a", -1.0), ("b", -1.0), ("ab", score)], 0, False)


MODELS: dict[str, tuple[Callable[[], Any], Callable[[], Any], str]] = {
    "word level": (lambda: word_level("mill", "stood"), lambda: word_level("stood", "mill"), "mill"),
    "merges": (lambda: pairs(("α", "β"), ("β", "γ")), lambda: pairs(("β", "γ"), ("α", "β")), "αβγ"),
    "scores": (lambda: unigram(-1.0), lambda: unigram(-9.0), "ab"),
}


@pytest.mark.parametrize("name", MODELS)
def test_a_model_that_is_replaced_by_a_similar_one_is_seen(name: str) -> None:
    """Kind, size, settings and the ids of the fixed text stay the same; in two cases the tokens too."""
    model, other, word = MODELS[name]
    tokenizer: Any = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(model()))
    texts = [(word, True), ("unrelated", False)]
    before, digests, identity = encoded_texts(tokenizer, texts), tokenizer_digests(tokenizer), tokenizer_identity(tokenizer)
    for replaced in (other, model, other):
        tokenizer.backend_tokenizer.model = replaced()
        assert encoded_texts(tokenizer, texts) == one_by_one(tokenizer, texts)
        assert (encoded_texts(tokenizer, texts) == before) == (replaced is model)
        assert (tokenizer_digests(tokenizer) == digests) == (replaced is model)
        assert (tokenizer_identity(tokenizer) == identity) == (replaced is model)


def test_a_state_stays_the_same_while_the_model_does() -> None:
    tokenizer: Any = of_words("mill", "stood")
    states = {tokenizer_state(tokenizer) for _ in range(3)}
    assert len(states) == 1
    tokenizer.backend_tokenizer.model = tokenizer.backend_tokenizer.model
    assert {tokenizer_state(tokenizer)} == states
    tokenizer.backend_tokenizer.model = word_level("mill", "stood")
    assert tokenizer_state(tokenizer) not in states


def test_a_model_that_is_trained_in_its_place_is_seen_by_its_tokens(calls: list[str]) -> None:
    tokenizer: Any = of_words("mill", "stood")
    texts = [("the mill stood", True), ("stood", False)]
    state, before = tokenizer_state(tokenizer), encoded_texts(tokenizer, texts)
    trainer: Any = trainers.WordLevelTrainer(special_tokens=["<unk>"], show_progress=False)
    tokenizer.backend_tokenizer.train_from_iterator(["stood stood mill"], trainer)
    assert tokenizer_state(tokenizer) == state
    after = encoded_texts(tokenizer, texts)
    assert after == one_by_one(tokenizer, texts) != before
    calls.clear()
    assert encoded_texts(tokenizer, texts) == after
    assert not [call for call in calls if "stood" in call]


def test_a_tokenizer_whose_model_is_replaced_disagrees() -> None:
    one, other = of_words("mill", "stood"), of_words("mill", "stood")
    prompts = [Prompt("mill stood", "mill")]
    EncodedPrompts(prompts, one).check_same(other)
    replaced: Any = other
    replaced.backend_tokenizer.model = word_level("stood", "mill")
    with pytest.raises(PotError, match="disagree on the text of prompt 0"):
        EncodedPrompts(prompts, one).check_same(replaced)


def test_doubled_tokens_are_looked_for_in_one_call(calls: list[str]) -> None:
    tokenizer = make_tokenizer(bos=True)
    texts = [f"<s>{letter}" for letter in "abcd"]
    encoded = EncodedPrompts(texts, tokenizer)
    assert len(encoded.ids) == 4
    calls.clear()
    assert len(encoded.doubled_bos) == 4
    assert [call for call in calls if "<s>a" in call] == ["|".join(texts)]


def test_nothing_is_kept_where_models_cannot_be_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "implementation", SimpleNamespace(name="other"))
    tokenizer: Any = of_words("mill", "stood")
    texts = [("mill", True)]
    assert tokenizer_state(tokenizer) is None
    assert encoded_texts(tokenizer, texts) == [[1]]
    tokenizer.backend_tokenizer.model = word_level("stood", "mill")
    assert encoded_texts(tokenizer, texts) == [[2]]


@pytest.mark.parametrize("settings", [{"alpha": 0.5}, {"nbest_size": 4}])
def test_a_setting_of_a_unigram_model_is_seen(settings: dict[str, float]) -> None:
    [(name, value)] = settings.items()
    tokenizer: Any = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(unigram(-1.0)))
    if not hasattr(tokenizer.backend_tokenizer.model, name):
        pytest.skip("this version of the tokenizers library has no such setting")
    state = tokenizer_state(tokenizer)
    setattr(tokenizer.backend_tokenizer.model, name, value)
    assert tokenizer_state(tokenizer) != state


class OwnCall(PreTrainedTokenizerFast):
    """A user's class, whose ids may depend on anything."""

    offset = 0

    def __call__(self, text: Any, *arguments: Any, **keywords: Any) -> Any:
        encoding = super().__call__(text, *arguments, **keywords)
        return {"input_ids": [index + self.offset for index in encoding["input_ids"]]}


class OwnEncoding(PreTrainedTokenizerFast):
    """The same below the library's own ``__call__``."""

    offset = 0

    def _encode_plus(self, *arguments: Any, **keywords: Any) -> Any:
        encoding: Any = super()._encode_plus(*arguments, **keywords)
        return {"input_ids": [index + self.offset for index in encoding["input_ids"]]}


@pytest.mark.parametrize("kind", [OwnCall, OwnEncoding])
def test_a_class_of_ones_own_is_asked_each_time_and_for_single_texts(kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = kind(tokenizer_object=make_tokenizer().backend_tokenizer)
    before = encoded_texts(tokenizer, TEXTS)
    assert tokenizer_state(tokenizer) is None
    monkeypatch.setattr(kind, "offset", 1)
    assert encoded_texts(tokenizer, TEXTS) == [[index + 1 for index in ids] for ids in before]


def test_a_method_that_was_replaced_is_called_each_time() -> None:
    tokenizer: Any = make_tokenizer()
    encode_plus, made = tokenizer._encode_plus, []

    def replaced(*arguments: Any, **keywords: Any) -> Any:
        made.append(1)
        return encode_plus(*arguments, **keywords)

    tokenizer._encode_plus = replaced
    encoded_texts(tokenizer, TEXTS)
    n_first = len(made)
    encoded_texts(tokenizer, TEXTS)
    assert len(made) == 2 * n_first > 0


def test_a_part_in_python_is_asked_each_time() -> None:
    class Splits:
        pattern = "¬"

        def pre_tokenize(self, text: Any) -> None:
            text.split(lambda _, piece: piece.split(self.pattern, "isolated"))

    splits = Splits()
    backend = Tokenizer(models.WordLevel({"<unk>": 0, "a": 1, "¬": 2, "a¬a": 3}, unk_token="<unk>"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend)
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.PreTokenizer.custom(splits)
    assert encoded_texts(tokenizer, [("a¬a", True)]) == [[1, 2, 1]]
    splits.pattern = "¤"
    assert encoded_texts(tokenizer, [("a¬a", True)]) == [[3]]


def test_ids_are_the_callers_own() -> None:
    tokenizer = make_tokenizer()
    first = encoded_texts(tokenizer, TEXTS)
    first[0].append(-1)
    assert encoded_texts(tokenizer, TEXTS) == one_by_one(tokenizer)


def test_no_more_is_kept_than_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encodings, "_MOST_TOKENS", 100)
    tokenizer = make_tokenizer()
    for text in ("a" * 60, "b" * 60, "c" * 101, "d" * 30):
        assert encoded_texts(tokenizer, [(text, True)]) == one_by_one(tokenizer, [(text, True)])
        kept = encodings._KEPT[tokenizer]
        assert kept.n_tokens == sum(map(len, kept.ids.values())) <= 100
        assert kept.tokens.keys() == set().union(*kept.ids.values())
    assert encoded_texts(tokenizer, [("d" * 30, True)] * 2 + [("e" * 90, True)] * 2) == one_by_one(
        tokenizer, [("d" * 30, True)] * 2 + [("e" * 90, True)] * 2
    )
