"""The engine for llama-server, against local servers that speak its protocol with a tiny model, and lie in one way."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from transformers import PreTrainedModel

from pytest_pot.core.config import ScoringConfig
from pytest_pot.core.errors import PotError
from pytest_pot.engines import registry
from pytest_pot.engines.base import Level, PositionError, description_of, level_of
from pytest_pot.engines.server.llama_server import LlamaServerEngine
from pytest_pot.engines.tokens import Tokens

from ... import oracle
from ...models import tiny
from .local_server import LlamaApp, LocalServer, Reply, Sent, no_threads_are_left, real, running

PLAIN = 5
"""The token that the servers have for the text "a"."""
BATCH = [Tokens((7, 8, 9, 10, 11, 12), 3), Tokens((20, 21, 22, 23), 1)]
CONFIG = ScoringConfig(top_k=8)

Lie = Callable[[Sent, Any], Any]


@pytest.fixture(scope="module")
def model() -> PreTrainedModel:
    return tiny("gpt2")


@contextmanager
def engine_of(app: Callable[[Sent], Reply], config: ScoringConfig = CONFIG) -> Iterator[tuple[LlamaServerEngine, LocalServer]]:
    with running(app) as server:
        loaded = registry.load_model(server.url, "candidate", config)
        with registry.opened(loaded.model, "candidate", config) as engine:
            assert isinstance(engine, LlamaServerEngine)
            yield engine, server


def asked(server: LocalServer) -> list[Any]:
    """The bodies of all questions about positions, without those at the opening."""
    return [sent.body for sent in server.requests if sent.path == "/completion"][2:]


def exact(model: PreTrainedModel) -> np.ndarray[Any, Any]:
    return np.array([row for tokens in BATCH for row in oracle.full_log_probs(model, tokens)])


def test_its_likeliest_ids_are_those_of_the_model(model: PreTrainedModel) -> None:
    with engine_of(LlamaApp(model)) as (engine, server):
        top = engine.top_k(BATCH, 8)
        assert level_of(engine) is Level.LAST_POSITION
        description = description_of(engine)
        assert description is not None
        assert (description.format, description.device) == ("GGUF Q4_1", server.url)
        assert engine.max_positions == 512
    values = exact(model)
    assert top.ids is not None
    np.testing.assert_allclose(top.log_probs, np.take_along_axis(values, top.ids, axis=1), atol=1e-5)
    np.testing.assert_array_equal(top.ids[:, 0], values.argmax(axis=1))
    targets = [token for tokens in BATCH for token in tokens.targets]
    np.testing.assert_allclose(top.targets, values[np.arange(len(targets)), targets], atol=1e-5)


def test_each_position_is_one_question_after_the_one_before_on_one_slot(model: PreTrainedModel) -> None:
    with engine_of(LlamaApp(model)) as (engine, server):
        engine.top_k(BATCH, 8)
        bodies = asked(server)
    for tokens in BATCH:
        own = [body for body in bodies if body["prompt"][0] == tokens.ids[0]]
        assert [len(body["prompt"]) for body in own] == list(range(tokens.prompt_len, len(tokens.ids)))
        assert len({body["id_slot"] for body in own}) == 1
        assert [body["cache_prompt"] for body in own] == [False, *[True] * (len(own) - 1)]
        assert [body["logit_bias"] for body in own] == [[[token, 1000.0]] for token in tokens.targets]
    assert {body["n_probs"] for body in bodies} == {16}  # as many as the same model is asked for as a candidate
    assert all(body["n_predict"] == 1 and not body["post_sampling_probs"] for body in bodies)


def test_no_two_prompts_are_on_one_slot_at_a_time(model: PreTrainedModel) -> None:
    busy: dict[int, int] = {}
    most: list[int] = []
    lock = threading.Lock()
    app = LlamaApp(model)

    def watched(sent: Sent) -> Reply:
        if sent.path != "/completion":
            return app(sent)
        slot = sent.body["id_slot"]
        with lock:
            busy[slot] = busy.get(slot, 0) + 1
            most.append(max(busy.values()))
        reply = app(sent)
        with lock:
            busy[slot] -= 1
        return reply

    with engine_of(watched) as (engine, server):
        server.together = 2
        engine.top_k(BATCH * 6, 8)
        assert {body["id_slot"] for body in asked(server)} == {0, 1, 2, 3}
        assert server.most_at_once > 1
    assert max(most) == 1


def test_after_an_error_no_prompt_is_begun(model: PreTrainedModel) -> None:
    """Also none that would have waited for one of the server's four slots."""
    app = LlamaApp(model)
    n_threads: list[int] = []

    def slow(sent: Sent) -> Reply:
        n_threads.append(sum(thread.name.startswith("pot-server") for thread in threading.enumerate()))
        if sent.path != "/completion" or sent.body is None or len(sent.body["prompt"]) == 1:
            return app(sent)  # what is asked at the opening
        if sent.body["prompt"][0] == 60:
            return Reply({"error": "no"}, 400, {"server": "llama.cpp"})
        server.hang()
        return app(sent)

    bad = Tokens((60, *range(1, 20)), 4)  # the longest comes first
    with engine_of(slow) as (engine, server):
        server.together = 4
        with pytest.raises(PotError, match="answered 400"):
            engine.top_k([*BATCH * 6, bad], 8)
        assert no_threads_are_left()
        assert len(asked(server)) == 4
        assert max(n_threads) == 4


def silent(*tokens: int) -> Lie:
    """Answers without log-probabilities where one of ``tokens`` is sampled, as for a part of a character."""

    def lie(sent: Sent, body: Any) -> Any:
        if sent.path == "/completion" and sent.body["logit_bias"][0][0] in tokens:
            body.pop("completion_probabilities")
        return body

    return lie


def test_a_token_without_log_probabilities_is_looked_up(model: PreTrainedModel) -> None:
    values = exact(model)
    ranks = [int((row > row[token]).sum()) for row, token in zip(values, [10, 11, 12, 21, 22, 23], strict=True)]
    assert max(ranks) >= 16, "all targets are among those that are asked for"
    with engine_of(LlamaApp(model, silent(10, 11, 12, 21, 22, 23))) as (engine, server):
        first, n_first = engine.top_k(BATCH, 8), len(asked(server))
        again = engine.top_k(BATCH, 8)
        n_again = len(asked(server)) - n_first
    np.testing.assert_allclose(
        first.targets, [row[token] for row, token in zip(values, [10, 11, 12, 21, 22, 23], strict=True)], atol=1e-5
    )
    np.testing.assert_array_equal(first.log_probs, again.log_probs)
    np.testing.assert_array_equal(first.targets, again.targets)
    further = sum(rank >= 16 for rank in ranks)
    assert (n_first, n_again) == (12 + further, 6 + further)  # what it does not tell of is remembered


def test_a_server_without_any_log_probabilities_is_refused(model: PreTrainedModel) -> None:
    with pytest.raises(PotError, match="answers without log-probabilities"), engine_of(LlamaApp(model, silent(*range(100)))):
        pass


def test_a_token_that_no_answer_tells_of_is_refused(model: PreTrainedModel) -> None:
    def lie(sent: Sent, body: Any) -> Any:
        body = silent(11)(sent, body)
        if sent.path == "/completion" and sent.body["n_probs"] > 8:
            for entry in body.get("completion_probabilities", ()):
                shape = entry["top_logprobs"][0]
                others = (each for each in entry["top_logprobs"] if each["id"] != 11)
                entry["top_logprobs"] = [*others, *({**shape, "id": 1000, "logprob": -50.0},) * 1]
        return body

    with engine_of(LlamaApp(model, lie)) as (engine, _), pytest.raises(PositionError, match=r"token 11, at .*position 1"):
        engine.top_k(BATCH[:1], 8)


def test_log_probabilities_that_the_bias_changes_are_refused(model: PreTrainedModel) -> None:
    def lie(sent: Sent, body: Any) -> Any:
        if sent.path == "/completion":
            [entry] = body["completion_probabilities"]
            shape = entry["top_logprobs"][0]
            entry["logprob"] = 0.0
            entry["top_logprobs"] = [{**shape, "id": entry["id"], "logprob": 0.0}, {**shape, "id": 50, "logprob": -1000.0}]
        return body

    with pytest.raises(PotError, match="log-probabilities that a bias on the logits changes"), engine_of(LlamaApp(model, lie)):
        pass


def at_a_position(change: Callable[[Any], Any]) -> Lie:
    """Changes the answer about the second position of a prompt of three tokens."""

    def lie(sent: Sent, body: Any) -> Any:
        if sent.path == "/completion" and len(sent.body["prompt"]) == 4:
            change(body)
        return body

    return lie


def entry_of(body: Any) -> Any:
    return body["completion_probabilities"][0]


LIES: dict[str, tuple[Callable[[Any], Any], str]] = {
    "a BOS is added": (lambda body: body.update(tokens_evaluated=5), "read 5 tokens where 4 ids were sent"),
    "the prompt is cut": (lambda body: body.update(tokens_evaluated=3), "read 3 tokens where 4 ids were sent"),
    "another token came": (lambda body: body.update(tokens=[3]), r"was to sample the token 11 and sampled \[3\]"),
    "of another token": (lambda body: entry_of(body).update(id=3), "was asked for the log-probability of the token 11"),
    "null": (lambda body: entry_of(body).update(logprob=None), r"no log-probability of the continuation's token \(null\)"),
    "NaN in the list": (
        lambda body: entry_of(body)["top_logprobs"][3].update(logprob=math.nan),
        "told nan as the log-probability of one of its likeliest ids",
    ),
    "null in the list": (lambda body: entry_of(body)["top_logprobs"][3].update(logprob=None), r"\(null\)"),
    "-9999": (lambda body: entry_of(body)["top_logprobs"][3].update(logprob=-9999.0), "told -9999"),
    "positive": (lambda body: entry_of(body)["top_logprobs"][0].update(logprob=0.5), "told 0.5"),
    "an id twice": (
        lambda body: entry_of(body)["top_logprobs"][3].update(id=entry_of(body)["top_logprobs"][0]["id"]),
        "twice",
    ),
    "an id outside": (lambda body: entry_of(body)["top_logprobs"][3].update(id=5000), "the id 5000, which is outside"),
    "a text for an id": (lambda body: entry_of(body)["top_logprobs"][3].update(id="a"), "is no whole number"),
    "too few": (lambda body: entry_of(body)["top_logprobs"].pop(), r"asked for 16 likeliest ids \(n_probs\) and told 15"),
    "not normalised": (
        lambda body: [each.update(logprob=-0.1) for each in entry_of(body)["top_logprobs"]],
        "not normalised over the whole vocabulary",
    ),
    "no entries": (lambda body: body.update(completion_probabilities=[{}]), "unknown completion_probabilities"),
}


@pytest.mark.parametrize("name", LIES)
def test_lies_about_one_position_are_refused_with_its_place(model: PreTrainedModel, name: str) -> None:
    change, message = LIES[name]
    with engine_of(LlamaApp(model, at_a_position(change))) as (engine, _):
        with pytest.raises(PositionError, match=message) as error:
            engine.top_k([BATCH[1], BATCH[0]], 8)
        assert (error.value.prompt, error.value.position) == (1, 1)
        assert "the candidate, llama.cpp b0-unknown at http://127.0.0.1" in str(error.value)


@pytest.mark.parametrize("name", ["llama_error_too_long", "llama_error_out_of_vocab", "llama_error_grammar_partial_utf8"])
def test_errors_are_shown_as_the_server_words_them(model: PreTrainedModel, name: str) -> None:
    error = real(name)

    def lie(sent: Sent, body: Any) -> Any:
        if sent.path == "/completion" and len(sent.body["prompt"]) == 4:
            return Reply(error, error["error"]["code"])
        return body

    with engine_of(LlamaApp(model, lie)) as (engine, _), pytest.raises(PotError) as raised:
        engine.top_k(BATCH[:1], 8)
    assert f"answered {error['error']['code']}" in str(raised.value)
    assert error["error"]["message"][:40].replace('"', '\\"') in str(raised.value)


def test_another_model_in_the_middle_is_noticed(model: PreTrainedModel) -> None:
    size = [1000]

    def lie(sent: Sent, body: Any) -> Any:
        if sent.path == "/v1/models":
            body["data"][0]["meta"]["size"] = size[0]
        return body

    def compare() -> None:
        with engine_of(LlamaApp(model, lie)) as (engine, _):
            engine.top_k(BATCH[:1], 8)
            size[0] = 2000

    with pytest.raises(PotError, match="runs another model than when the comparison began: size was 1000 and is 2000"):
        compare()


def test_a_server_that_is_no_llama_server_is_refused(model: PreTrainedModel) -> None:
    def lie(sent: Sent, body: Any) -> Any:
        return {} if sent.path == "/props" else body

    with (
        pytest.raises(PotError, match="does not tell its slots, its context and its vocabulary"),
        engine_of(LlamaApp(model, lie)),
    ):
        pass


def test_one_of_several_models_is_named_in_requests(model: PreTrainedModel) -> None:
    with running(LlamaApp(model)) as server:
        loaded = registry.load_model(f"llamacpp+{server.url}#tiny", "candidate", CONFIG)
        with registry.opened(loaded.model, "candidate", CONFIG) as engine:
            engine.top_k(BATCH[:1], 8)
        assert {body["model"] for body in asked(server)} == {"tiny"}


def test_other_temperatures_are_refused(model: PreTrainedModel) -> None:
    with (
        pytest.raises(PotError, match=r"temperature=0\.5 cannot be compared"),
        engine_of(LlamaApp(model), ScoringConfig(temperature=0.5)),
    ):
        pass
