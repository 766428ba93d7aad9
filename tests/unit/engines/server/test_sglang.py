"""SGLang, as a local server over a tiny real model answers by SGLang's source."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from pytest_pot import PotError, Prompt, ScoringConfig, TeacherForcedScorer
from pytest_pot.core.names import METRICS
from pytest_pot.engines.base import GivenIds, Level, PositionError, level_of
from pytest_pot.engines.distributions import UNKNOWN_VOCAB
from pytest_pot.engines.registry import load_model, opened
from pytest_pot.engines.server import sglang
from pytest_pot.engines.server.sglang import SglangEngine
from pytest_pot.engines.tokens import Tokens

from ...models import VOCAB, changed, tiny
from .playing_sglang import PlayingSglang
from .serving import serving

TOKENS = Tokens((5, 6, 7, 8, 9, 10, VOCAB - 1, 12), 4)
"""It has the last id of the vocabulary, which SGLang writes as 0."""


@contextmanager
def engine_of(app: PlayingSglang, **fields: Any) -> Iterator[SglangEngine]:
    config = ScoringConfig(**{"top_k": 10, "server_timeout": 60.0, **fields})
    with serving(app) as url:
        loaded = load_model(f"sglang+{url}", "candidate", config)
        with opened(loaded.model, "candidate", config) as engine:
            assert isinstance(engine, SglangEngine)
            yield engine


@pytest.fixture(scope="module")
def model() -> PreTrainedModel:
    return tiny("llama")


@pytest.mark.parametrize("old", [False, True])
def test_a_server_tells_what_it_is(model: PreTrainedModel, old: bool) -> None:
    app = PlayingSglang(model, old=old)
    with engine_of(app) as engine:
        assert (engine.vocab_size, engine.max_positions) == (VOCAB, 122)
        assert engine.label.startswith("SGLang 0.5.23 at http://127.0.0.1:")
        assert level_of(engine) is Level.GIVEN_IDS
        assert isinstance(engine, GivenIds)
        assert engine.to_tell_more is None
        assert engine.identity() == {
            "model_path": "models/tiny",
            "served_model_name": "models/tiny",
            "weight_version": "default",
            "load_format": "auto",
            "version": "0.5.23",
        }


def test_it_is_recognised(model: PreTrainedModel) -> None:
    with serving(PlayingSglang(model)) as url:
        assert load_model(url, "candidate", ScoringConfig()).model.kind == "sglang"


@pytest.mark.parametrize("top_k", [1, 10, None])
def test_the_scores_are_those_of_the_model_itself(
    model: PreTrainedModel, prompts: list[Prompt], tokenizer: PreTrainedTokenizerFast, top_k: int | None
) -> None:
    other = changed(model, 0.3)
    scorer = TeacherForcedScorer(ScoringConfig(top_k=top_k))
    expected = scorer.score_batch(model, other, prompts, tokenizer)
    backward = scorer.score_batch(other, model, prompts, tokenizer)
    with engine_of(PlayingSglang(other), top_k=top_k) as served:
        live = scorer.score_batch(model, served, prompts, tokenizer)
        recorded = scorer.score_baseline(scorer.record(model, prompts, tokenizer), served, tokenizer)
        as_reference = scorer.score_batch(served, model, prompts, tokenizer)
        own = scorer.score_baseline(scorer.record(served, prompts, tokenizer), served, tokenizer)
    for name in METRICS:
        assert live.metrics[name] == pytest.approx(expected.metrics[name], abs=2e-4), name
        assert recorded.metrics[name] == pytest.approx(live.metrics[name], abs=1e-5), name
    for name in ("tv", "jsd", "kl"):
        assert as_reference.metrics[name] == pytest.approx(backward.metrics[name], abs=2e-4), name
    assert expected.mean > 0.005
    assert own.mean < 1e-6
    assert live.unseen is None


def test_the_preset_that_renormalises_works(
    model: PreTrainedModel, prompts: list[Prompt], tokenizer: PreTrainedTokenizerFast
) -> None:
    other = changed(model, 0.3)
    scorer = TeacherForcedScorer(ScoringConfig.preset("fastest"))
    expected = scorer.score_batch(model, other, prompts, tokenizer)
    with engine_of(PlayingSglang(other)) as served:
        assert scorer.score_batch(model, served, prompts, tokenizer).mean == pytest.approx(expected.mean, abs=1e-4)


def test_ids_are_asked_for_once_each_and_in_pieces(model: PreTrainedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sglang, "_MOST_IDS_PER_REQUEST", 16)
    ids = np.array([[3, 96, 5, 40], [40, 3, 7, 8], [9, 10, 11, 12], [50, 60, 70, 80]])
    app = PlayingSglang(model)
    with engine_of(app) as engine, opened(model, "reference", ScoringConfig()) as plain:
        app.asked.clear()
        told, expected = engine.at([TOKENS], ids), plain.at([TOKENS], ids)  # type: ignore[attr-defined]
        assert [body["token_ids_logprob"] for _, body in app.asked] == [sorted(set(ids.flatten().tolist()))]
        whole = engine.at([TOKENS], 1000)
        part = engine.at([TOKENS], 30)
        with pytest.raises(PotError, match=r"id 97 is outside the vocabulary of 97 tokens"):
            engine.at([TOKENS], ids + 1)
    for name in ("log_probs", "log_tail", "targets", "top_log_probs"):
        np.testing.assert_allclose(getattr(told, name), getattr(expected, name), atol=1e-4)
    assert (told.top_ids == expected.top_ids).all()
    assert whole.ids is None
    assert whole.log_tail is None
    assert whole.log_probs.shape == (4, VOCAB)
    assert part.ids is None
    np.testing.assert_allclose(part.log_probs, whole.log_probs[:, :30], atol=1e-5)
    np.testing.assert_allclose(part.tail_mass, np.exp(whole.log_probs[:, 30:]).sum(axis=1), atol=1e-4)


def test_a_request_generates_nothing_and_starts_before_the_continuation(model: PreTrainedModel) -> None:
    app = PlayingSglang(model)
    with engine_of(app) as engine:
        engine.top_k([TOKENS], 3)
        body = app.asked[-1][1]
    assert body["sampling_params"] == {"max_new_tokens": 0, "temperature": 1.0}
    assert body["logprob_start_len"] == 3
    assert "token_ids_logprob" not in body


def _of_info(change: Callable[[dict[str, Any]], Any]) -> Callable[[str, Any], Any]:
    def spoil(path: str, body: Any) -> Any:
        if path == "/generate" and "input_token_logprobs" in body["meta_info"]:
            change(body["meta_info"])
        return body

    return spoil


LIES: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "a BOS in front": (lambda info: info.update(prompt_tokens=9), r"read 9 tokens where 8 were sent"),
    "other ids": (lambda info: info["input_token_logprobs"][2].__setitem__(1, 44), r"read id 44 where 9 was sent|read id 44"),
    "one position missing": (lambda info: info["input_top_logprobs"].pop(), r"told 4 'input_top_logprobs' where 5 were asked"),
    "a number before the first": (
        lambda info: info["input_token_logprobs"][0].__setitem__(0, -1.0),
        r"told \[-1\.0, 8, None\] as the first of 'input_token_logprobs', where a null is right",
    ),
    "no top": (lambda info: info.pop("input_top_logprobs"), r"did not tell 'input_top_logprobs'"),
    "a null": (lambda info: info["input_top_logprobs"].__setitem__(2, None), r"told None in 'input_top_logprobs'.*position 1"),
    "a null number": (lambda info: info["input_token_logprobs"][3].__setitem__(0, None), r"\(null\).*position 2|told None"),
    "NaN": (lambda info: info["input_top_logprobs"][1][0].__setitem__(0, float("nan")), r"nan"),
    "fewer than asked": (lambda info: info["input_top_logprobs"][1].pop(), r"told 2 of the 3 likeliest ids"),
    "an id twice": (
        lambda info: info["input_top_logprobs"][1][1].__setitem__(1, info["input_top_logprobs"][1][0][1]),
        r"told the id \d+ twice",
    ),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_server_that_lies_never_passes(model: PreTrainedModel, lie: str) -> None:
    change, message = LIES[lie]
    app = PlayingSglang(model, spoil=_of_info(change))
    with engine_of(app) as engine, pytest.raises(PotError, match=message) as raised:
        engine.top_k([TOKENS], 3)
    assert "the candidate, SGLang 0.5.23 at http://127.0.0.1:" in str(raised.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda entries: entries[1].reverse(), r"told other ids than it was asked for, at prompt 0 of its batch, position 0"),
        (lambda entries: entries[1][0].__setitem__(0, None), r"told no log-probability of an id .*\(null\).*position 0"),
        (lambda entries: entries[2][0].__setitem__(0, float("nan")), r"told nan as the log-probability of an id .*position 1"),
        (lambda entries: entries[2][0].__setitem__(0, 1), r"told 1 as the log-probability of an id .*position 1"),
        (lambda entries: entries[2][0].__setitem__(0, -(10**400)), r"as the log-probability of an id .*position 1"),
        (
            lambda entries: entries[1][0].__setitem__(0, -1e-9),
            r"from different answers|probabilities that sum to 1\.0.*position 0",
        ),
        (lambda entries: entries.pop(), r"told 4 'input_token_ids_logprobs' where 5 were asked for"),
    ],
)
def test_given_ids_are_checked(model: PreTrainedModel, change: Callable[[list[Any]], Any], message: str) -> None:
    def spoil(info: dict[str, Any]) -> None:
        if "input_token_ids_logprobs" in info:
            change(info["input_token_ids_logprobs"])

    with (
        engine_of(PlayingSglang(model, spoil=_of_info(spoil))) as engine,
        pytest.raises(PositionError if "position" in message else PotError, match=message),
    ):
        engine.at([TOKENS], np.array([[20, 21]] * 4))


def test_without_the_size_of_the_vocabulary_only_the_whole_is_refused(model: PreTrainedModel) -> None:
    class Silent(PlayingSglang):
        def answer(self, method: str, path: str, body: Any) -> Any:
            reply = super().answer(method, path, body)
            if reply.status == 400:
                reply.body["error"]["message"] = "no"
            return reply

    with engine_of(Silent(model)) as engine:
        assert engine.vocab_size == UNKNOWN_VOCAB
        assert engine.top_k([Tokens((5, 6, 7), 1)], 3).log_probs.shape == (2, 3)
        with pytest.raises(PotError, match=r"does not tell the size of its vocabulary"):
            engine.top_k([TOKENS], None)


def test_new_weights_under_the_same_name_are_told_at_the_end(model: PreTrainedModel) -> None:
    app = PlayingSglang(model)
    with pytest.raises(PotError, match=r"changed|another"), engine_of(app):
        app.weight_version = "step 2"


def test_sampling_says_all_settings_and_gives_ids(model: PreTrainedModel) -> None:
    app = PlayingSglang(model)
    with engine_of(app) as engine:
        drawn = engine.sample([[5, 6, 7], [8, 9]], 12, seed=3)
        assert [len(each) for each in drawn] == [12, 12]
        assert engine.sample([[8, 9]], 12, seed=3) == drawn[1:]
    how = [body for path, body in app.asked if path == "/generate"][-1]["sampling_params"]
    assert (how["temperature"], how["top_p"], how["top_k"], how["min_p"], how["repetition_penalty"]) == (1.0, 1.0, -1, 0.0, 1.0)


@pytest.mark.parametrize("incremental", [False, True])
def test_a_stream_is_counted_however_it_tells_its_tokens(model: PreTrainedModel, incremental: bool) -> None:
    with engine_of(PlayingSglang(model, incremental=incremental)) as engine:
        path, body = engine.generation([5, 6, 7], 9)
        for _ in range(2):
            assert [engine.tokens_in(event) for event in engine.client.stream(path, body)] == [1] * 9
        with pytest.raises(PotError, match=r"broke off its stream: .*out of memory"):
            engine.tokens_in({"error": {"message": "out of memory"}})


def test_a_prompt_that_is_too_long_is_refused(model: PreTrainedModel) -> None:
    with engine_of(PlayingSglang(model, context_len=20)) as engine:
        assert engine.max_positions == 14
        assert len(engine.top_k([Tokens(tuple(range(5, 19)), 12)], 2)) == 2
        with pytest.raises(PotError, match=r"exceeds the maximum allowed length"):
            engine.top_k([Tokens(tuple(range(5, 20)), 12)], 2)
