"""Other servers of OpenAI's protocol: few tell what a comparison needs, and the others are refused with what is missing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from pytest_pot import PotError, Prompt, ScoringConfig, TeacherForcedScorer
from pytest_pot.engines.distributions import UNKNOWN_VOCAB
from pytest_pot.engines.registry import load_model, opened
from pytest_pot.engines.server.openai import OpenAiEngine, echoed_rows
from pytest_pot.engines.tokens import Tokens

from ...models import changed, tiny
from .exchanges import Replay, exchange, names
from .playing_vllm import PlayingVllm
from .serving import App, Reply, serving

IDS = (504, 3575, 282, 4649, 314)


@contextmanager
def engine_of(app: App) -> Iterator[OpenAiEngine]:
    config = ScoringConfig(top_k=10, server_timeout=60.0)
    with serving(app) as url:
        loaded = load_model(f"openai+{url}", "candidate", config)
        with opened(loaded.model, "candidate", config) as engine:
            assert isinstance(engine, OpenAiEngine)
            yield engine


@pytest.fixture(scope="module")
def model() -> PreTrainedModel:
    return tiny("llama")


@pytest.mark.parametrize("name", ["vllm_completions_echo_logprobs", "vllm_completions_echo_logprobs_max1"])
def test_a_recorded_echo_is_read_rightly(name: str) -> None:
    """The expected numbers are in another field of the same answer, which the engine does not read."""
    choice = exchange(name)["response"]["choices"][0]
    rows = echoed_rows(choice, Tokens(IDS, 2), 3, "the server")
    assert len(rows) == 3
    for row, target, entry in zip(rows, IDS[2:], choice["prompt_logprobs"][2:], strict=True):
        assert set(row.ids) == {int(key) for key, each in entry.items() if each["rank"] <= 3}
        assert list(row.log_probs) == [entry[str(each)]["logprob"] for each in row.ids]
        assert row.target == entry[str(target)]["logprob"]


@pytest.mark.parametrize(
    "name",
    [
        *names("llama_v1_completions_*"),
        "vllm_completions_prompt_logprobs",
        "vllm_completions_return_tokens_as_token_ids",
        "vllm_allowed_token_ids",
    ],
)
def test_a_server_that_ignores_echo_is_refused(name: str) -> None:
    app = Replay({"GET /v1/models": "vllm_models", "POST /v1/completions": name})
    with (
        engine_of(app) as engine,
        pytest.raises(PotError, match=r"ignored 'echo' or 'logprobs': .* cannot be compared\. Serve the model with vLLM"),
    ):
        engine.top_k([Tokens((0, 1, 2), 1)], 5)


def test_a_server_that_refuses_echo_is_refused_with_what_it_said() -> None:
    class Hosted(Replay):
        def answer(self, method: str, path: str, body: Any) -> Reply:
            if method == "POST":
                return Reply(400, {"error": {"message": "Setting 'echo' and 'logprobs' at the same time is not supported"}})
            return super().answer(method, path, body)

    with engine_of(Hosted({"GET /v1/models": "vllm_models"})) as engine:
        assert engine.generation([0, 1], 8)[0] == "/v1/completions"  # it can be timed all the same
        with pytest.raises(PotError, match=r"refuses to echo a prompt .*Setting 'echo' and 'logprobs' at the same time"):
            engine.top_k([Tokens((0, 1, 2), 1)], 5)


def _without_ids(_: str, body: Any) -> Any:
    """What a server answers that does not know ``return_tokens_as_token_ids``."""
    for choice in body.get("choices", ()):
        logprobs = choice.get("logprobs") or {}
        logprobs["tokens"] = [f"<{each}>" for each in logprobs.get("tokens", ())]
        logprobs["top_logprobs"] = [
            each if each is None else {f"<{key}>": value for key, value in each.items()}
            for each in logprobs.get("top_logprobs", ())
        ]
    return body


def test_texts_are_no_ids(model: PreTrainedModel) -> None:
    with (
        engine_of(PlayingVllm(model, spoil=_without_ids)) as engine,
        pytest.raises(PotError, match=r"names tokens by their text .*--return-tokens-as-token-ids"),
    ):
        engine.top_k([Tokens((0, 1, 2), 1)], 5)


@pytest.mark.parametrize("most", [5, 20])
def test_the_most_ids_are_what_the_server_takes(model: PreTrainedModel, most: int) -> None:
    with engine_of(PlayingVllm(model, max_logprobs=most)) as engine:
        assert (engine.most_ids, engine.vocab_size, engine.max_positions) == (most, UNKNOWN_VOCAB, 127)
        assert engine.to_tell_more is not None
        assert str(most) in engine.to_tell_more


def test_a_server_that_tells_fewer_than_it_is_asked_for_is_taken_at_what_it_tells(model: PreTrainedModel) -> None:
    class Clamping(PlayingVllm):
        def answer(self, method: str, path: str, body: Any) -> Reply:
            return super().answer(method, path, body if body is None else {**body, "logprobs": min(body["logprobs"], 5)})

    tokens = Tokens((5, 6, 7, 8, 9), 2)
    with engine_of(Clamping(model)) as engine:
        assert engine.most_ids in (4, 5)  # the token that came may be one of them
        assert engine.top_k([tokens], 50).log_probs.shape == (3, engine.most_ids)


def test_a_server_that_must_generate_is_asked_to(model: PreTrainedModel) -> None:
    class Generating(PlayingVllm):
        def answer(self, method: str, path: str, body: Any) -> Reply:
            if body is not None and body["max_tokens"] == 0:
                return Reply(400, {"error": {"message": "max_tokens must be at least 1"}})
            return super().answer(method, path, body)

    tokens = Tokens((5, 6, 7, 8, 9), 2)
    with engine_of(Generating(model)) as engine, engine_of(PlayingVllm(model)) as plain:
        told, expected = engine.top_k([tokens], 5), plain.top_k([tokens], 5)
    np.testing.assert_allclose(told.log_probs, expected.log_probs, atol=1e-5)
    np.testing.assert_array_equal(told.ids, expected.ids)


def test_the_scores_bound_the_exact_ones_from_below(
    model: PreTrainedModel, prompts: list[Prompt], tokenizer: PreTrainedTokenizerFast
) -> None:
    other = changed(model, 0.3)
    exact = TeacherForcedScorer(ScoringConfig(top_k=None)).score_batch(model, other, prompts, tokenizer)
    scores = []
    for most in (5, 50, -1):
        with engine_of(PlayingVllm(other, max_logprobs=most)) as candidate:
            scores.append(TeacherForcedScorer(ScoringConfig(top_k=50)).score_batch(model, candidate, prompts, tokenizer).mean)
    assert 0 < scores[0] < scores[1] <= scores[2] <= exact.mean + 1e-5


LIES: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "a BOS in front": (lambda logprobs: logprobs["tokens"].insert(0, "token_id:1"), r"read other token ids .* at index 0"),
    "other ids": (lambda logprobs: logprobs["tokens"].__setitem__(1, "token_id:50"), r"read other token ids .* at index 1"),
    "one position missing": (lambda logprobs: logprobs["top_logprobs"].pop(), r"told \d 'top_logprobs' for \d tokens"),
    "a null": (lambda logprobs: logprobs["top_logprobs"].__setitem__(3, None), r"told no log-probabilities, .*position 1"),
    "NaN": (lambda logprobs: logprobs["top_logprobs"][3].update({"token_id:8": float("nan")}), r"nan|NaN"),
    "a null number": (lambda logprobs: logprobs["top_logprobs"][3].update({"token_id:8": None}), r"null|None"),
    "text in between": (lambda logprobs: logprobs["top_logprobs"][3].update({" the": -1.0}), r"names tokens by their text"),
    "the token that came is missing": (lambda logprobs: logprobs["top_logprobs"][3].pop("token_id:8"), r"the token that came"),
    "fewer than asked": (lambda logprobs: logprobs["top_logprobs"][3].popitem(), r"told \d of the 5 likeliest|5 likeliest"),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_server_that_lies_never_passes(model: PreTrainedModel, lie: str) -> None:
    change, message = LIES[lie]

    def spoil(_: str, body: Any) -> Any:
        for choice in body.get("choices", ()):
            if len(choice["logprobs"]["tokens"]) > 2:
                if lie == "fewer than asked":
                    choice["logprobs"]["top_logprobs"][3].popitem()
                change(choice["logprobs"])
        return body

    with engine_of(PlayingVllm(model, spoil=spoil)) as engine, pytest.raises(PotError, match=message):
        engine.top_k([Tokens((5, 6, 7, 8, 9), 2)], 5)


def test_sampled_ids_come_by_their_names(model: PreTrainedModel) -> None:
    with engine_of(PlayingVllm(model)) as engine:
        drawn = engine.sample([[5, 6, 7], [8, 9]], 4, seed=3)
        assert [len(each) for each in drawn] == [4, 4]
        assert engine.sample([[8, 9]], 4, seed=3) == drawn[1:]


def test_a_stream_is_counted_by_the_tokens_that_it_lists(model: PreTrainedModel) -> None:
    with engine_of(PlayingVllm(model)) as engine:
        path, body = engine.generation([5, 6, 7], 6)
        assert [engine.tokens_in(event) for event in engine.client.stream(path, body)] == [1] * 6
        with pytest.raises(PotError, match=r"broke off its stream"):
            engine.tokens_in({"error": {"message": "out of memory"}})
