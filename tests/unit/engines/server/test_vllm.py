"""vLLM: recorded answers of a real server, and a local one over a tiny real model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from pytest_pot import Baseline, PotError, Prompt, ScoringConfig, TeacherForcedScorer
from pytest_pot.engines.base import Level, PositionError, level_of
from pytest_pot.engines.distributions import UNKNOWN_VOCAB
from pytest_pot.engines.registry import load_model, opened
from pytest_pot.engines.server.vllm import VllmEngine, prompt_rows
from pytest_pot.engines.tokens import Tokens
from pytest_pot.gates.verdict.evidence import refuse_unseen
from pytest_pot.gates.verdict.limits import identity_limits
from pytest_pot.gates.verdict.settings import ScoreSettings

from ...models import VOCAB, changed, tiny
from .exchanges import Replay, exchange, names
from .playing_vllm import PlayingVllm
from .serving import App, serving

IDS = (504, 3575, 282, 4649, 314)
"""The prompt of most recorded exchanges."""
EVIDENCE: dict[str, tuple[int, Callable[[Any], Any]]] = {
    "vllm_completions_prompt_logprobs": (5, lambda response: response["choices"][0]),
    "vllm_completions_prompt_logprobs_100": (100, lambda response: response["choices"][0]),
    "vllm_temperature_prompt_logprobs": (2, lambda response: response["choices"][0]),
    "vllm_completions_echo_logprobs": (3, lambda response: response["choices"][0]),
    "vllm_completions_echo_logprobs_max1": (3, lambda response: response["choices"][0]),
    "vllm_completions_two_prompts_return_token_ids": (2, lambda response: response["choices"][0]),
    "vllm_generate_prompt_logprobs": (3, lambda response: response),
}
"""By exchange, how many likeliest ids were asked for, and where they are."""


@contextmanager
def engine_of(app: App, **fields: Any) -> Iterator[VllmEngine]:
    config = ScoringConfig(**{"top_k": 10, "server_timeout": 60.0, **fields})
    with serving(app) as url:
        loaded = load_model(f"vllm+{url}", "candidate", config)
        with opened(loaded.model, "candidate", config) as engine:
            assert isinstance(engine, VllmEngine)
            yield engine


def replay(**answers: str) -> Replay:
    known = {
        "GET /v1/models": "vllm_models",
        "GET /version": "vllm_version",
        "POST /v1/completions": "vllm_error_minus_one",
        "POST /inference/v1/generate": "vllm_generate_disabled",
    }
    return Replay(known | answers)


@pytest.mark.parametrize("name", names("vllm_*"))
def test_a_recorded_answer_is_read_rightly_or_refused(name: str) -> None:
    """The expected numbers follow from the ranks that the server gives, which the engine does not read."""
    recorded = exchange(name)
    if name in EVIDENCE:
        k, place = EVIDENCE[name]
        choice = place(recorded["response"])
        for prompt_len in (1, 3):
            rows = prompt_rows(choice, Tokens(IDS, prompt_len), k, "the server")
            assert len(rows) == 5 - prompt_len
            for row, target, entry in zip(rows, IDS[prompt_len:], choice["prompt_logprobs"][prompt_len:], strict=True):
                likeliest = {int(key) for key, each in entry.items() if each["rank"] <= k}
                assert set(row.ids) == likeliest
                assert list(row.log_probs) == [entry[str(each)]["logprob"] for each in row.ids]
                assert row.target == entry[str(target)]["logprob"]
        return
    response = recorded["response"]
    for choice in response.get("choices", [response]) if isinstance(response, dict) else [response]:
        with pytest.raises(PotError, match=r"ignored 'prompt_logprobs'|told 1 'prompt_logprobs' for a prompt of 5"):
            prompt_rows(choice if isinstance(choice, dict) else {}, Tokens(IDS, 1), 2, "the server")


def test_the_second_of_two_recorded_prompts_is_read() -> None:
    choice = exchange("vllm_completions_two_prompts_return_token_ids")["response"]["choices"][1]
    rows = prompt_rows(choice, Tokens(IDS[:3], 1), 2, "the server")
    assert [row.target for row in rows] == [-11.538246154785156, -0.3375706374645233]


@pytest.mark.parametrize("name", [each for each in names("vllm_*") if each not in EVIDENCE])
def test_an_answer_that_holds_no_evidence_is_refused_whatever_it_is(name: str) -> None:
    app = replay()
    with engine_of(app) as engine:
        app.then("POST /v1/completions", name)
        with pytest.raises(PotError, match=r"http://127\.0\.0\.1"):
            engine.top_k([Tokens(IDS, 2)], 2)


def test_a_recorded_server_tells_what_it_is() -> None:
    with engine_of(replay()) as engine:
        assert (engine.vocab_size, engine.most_ids, engine.max_positions) == (49152, 100, 1023)
        assert engine.identity() == {
            "id": "smollm2",
            "root": "models/smollm2",
            "parent": None,
            "max_model_len": 1024,
            "version": "0.32.0",
        }
        assert engine.label.startswith("vLLM 0.32.0 at http://127.0.0.1:")
        assert engine.to_tell_more is not None
        assert "--max-logprobs" in engine.to_tell_more
        assert level_of(engine) is Level.OWN_TOP_K


SHAPES = {
    "vllm_completions_prompt_logprobs": "POST /v1/completions",
    "vllm_completions_echo_logprobs": "POST /v1/completions",
    "vllm_completions_echo_logprobs_max1": "POST /v1/completions",
    "vllm_completions_return_tokens_as_token_ids": "POST /v1/completions",
    "vllm_generate_prompt_logprobs": "POST /inference/v1/generate",
    "vllm_version": "GET /version",
    "vllm_error_minus_one": "POST /v1/completions",
    "vllm_error_too_many_logprobs": "POST /v1/completions",
    "vllm_error_wrong_model": "POST /v1/completions",
    "vllm_max_tokens_0": "POST /v1/completions",
    "vllm_one_token_prompt": "POST /v1/completions",
    "vllm_generate_disabled": "POST /inference/v1/generate",
    "vllm_generate_prompt_logprob_token_ids": "POST /inference/v1/generate",
}


@pytest.mark.parametrize("name", SHAPES)
def test_the_local_server_answers_in_the_shapes_of_the_real_one(name: str) -> None:
    """Else the tests that follow would be about a server that does not exist."""
    recorded = exchange(name)
    app = PlayingVllm(tiny("llama"), max_logprobs=20, scale_out="disabled" not in name, v2=False)
    method, path = SHAPES[name].split()
    body = recorded["request"]["body"]
    if body is not None:  # its ids are those of another vocabulary
        field = "prompt" if "prompt" in body else "token_ids"
        body = {**body, field: list(range(5, 5 + len(body[field])))}
        body["model"] = "nope" if body.get("model") == "nope" else "tiny"
    reply = app.answer(method, path, body)
    assert reply.status == recorded["status"]
    assert shape(reply.body) == shape(recorded["response"])


def shape(value: Any) -> Any:
    """Names and types; of a list the shapes in it, and of what has ids as names the shape of one entry."""
    if isinstance(value, dict):
        if all(key.isdigit() or key.startswith(("token_id:", "<")) for key in value):
            return {"id": shape(next(iter(value.values())))}
        ignored = {"weight_versions", "sampling_mask", "routed_experts", "stop_reason"} if "token_ids" in value else set()
        return {key: shape(each) for key, each in value.items() if key not in ignored}
    if isinstance(value, list):
        return sorted({str(shape(each)) for each in value})
    return type(value).__name__


@pytest.fixture(scope="module")
def model() -> PreTrainedModel:
    return tiny("llama")


@pytest.fixture
def batch(prompts: list[Prompt], tokenizer: PreTrainedTokenizerFast) -> list[Tokens]:
    texts = [(tokenizer.encode(each.text), tokenizer.encode(each.continuation or "")) for each in prompts]
    return [Tokens((*text, *continuation), len(text)) for text, continuation in texts]


@pytest.mark.parametrize("k", [1, 5, 20, None])
def test_the_figures_are_those_of_the_model(model: PreTrainedModel, batch: list[Tokens], k: int | None) -> None:
    app = PlayingVllm(model, max_logprobs=-1)
    with engine_of(app) as engine, opened(model, "reference", ScoringConfig(top_k=k)) as plain:
        told, expected = engine.top_k(batch, k), plain.top_k(batch, k)
    np.testing.assert_allclose(told.targets, expected.targets, atol=1e-4)
    np.testing.assert_allclose(told.log_probs, expected.log_probs, atol=1e-4)
    np.testing.assert_allclose(told.tail_mass, expected.tail_mass, atol=1e-4)
    assert told.vocab_size == VOCAB
    if k is None:
        assert told.ids is None
    else:
        assert told.ids is not None
        assert expected.ids is not None
        assert (told.ids == expected.ids).mean() > 0.95  # some are as likely as their neighbour
    asked = [body for path, body in app.asked if path == "/v1/completions" and len(body["prompt"]) > 2]
    assert sorted(tuple(body["prompt"]) for body in asked) == sorted(each.ids for each in batch)


def test_the_scores_bound_the_exact_ones_from_below_and_reach_them_with_the_whole_vocabulary(
    model: PreTrainedModel, prompts: list[Prompt], tokenizer: PreTrainedTokenizerFast
) -> None:
    other = changed(model, 0.3)
    exact = TeacherForcedScorer(ScoringConfig(top_k=None)).score_batch(model, other, prompts, tokenizer)
    for most in (3, 10, 40, -1):
        scorer = TeacherForcedScorer(ScoringConfig(top_k=None if most == -1 else most))
        with engine_of(PlayingVllm(other, max_logprobs=most)) as candidate:
            live = scorer.score_batch(model, candidate, prompts, tokenizer)
            recorded = scorer.score_baseline(scorer.record(model, prompts, tokenizer), candidate, tokenizer)
        with engine_of(PlayingVllm(other, max_logprobs=most)) as reference:
            backward = scorer.score_batch(reference, model, prompts, tokenizer)
        for name in ("tv", "jsd", "kl", "kl_reverse"):
            for values, most_of_it in zip(live.divergences[name], exact.divergences[name], strict=True):
                assert (values <= most_of_it + 1e-5).all(), name
            assert recorded.metrics[name] == pytest.approx(live.metrics[name], abs=1e-6)
        assert backward.metrics["tv"] <= exact.metrics["tv"] + 1e-5
        if most == -1:
            for name in ("tv", "jsd", "kl", "kl_reverse", "delta_ce"):
                assert live.metrics[name] == pytest.approx(exact.metrics[name], abs=1e-4)
            assert backward.metrics["tv"] == pytest.approx(exact.metrics["tv"], abs=1e-5)
        else:
            assert live.unseen is not None
    assert exact.mean > 0.05


def test_the_same_model_is_at_distance_zero_from_its_recording(
    model: PreTrainedModel, prompts: list[Prompt], tokenizer: PreTrainedTokenizerFast, tmp_path: Any
) -> None:
    scorer = TeacherForcedScorer(ScoringConfig(top_k=10))
    with engine_of(PlayingVllm(model)) as engine:
        path = scorer.record(engine, prompts, tokenizer).save(tmp_path / "served.pot.safetensors")
        report = scorer.score_baseline(Baseline.load(path), engine, tokenizer)
    assert report.mean == 0.0


def test_a_server_that_tells_too_few_ids_is_refused_with_the_flag(
    prompts: list[Prompt], tokenizer: PreTrainedTokenizerFast
) -> None:
    model = tiny("llama", scale=8.0)
    scorer = TeacherForcedScorer(ScoringConfig(top_k=60))
    with engine_of(PlayingVllm(model, max_logprobs=2)) as candidate:
        report = scorer.score_batch(model, candidate, prompts, tokenizer)
    settings = ScoreSettings(
        gate="pot_identity", preset="auto", config=scorer.config, limits=identity_limits("tv", max_score=0.01)
    )
    with pytest.raises(PotError, match=r"restart it with --max-logprobs N"):
        refuse_unseen(report, settings)
    with engine_of(PlayingVllm(model, max_logprobs=80)) as candidate:
        refuse_unseen(scorer.score_batch(model, candidate, prompts, tokenizer), settings)


def test_the_whole_vocabulary_is_refused_where_it_is_not_told(
    model: PreTrainedModel, prompts: list[Prompt], tokenizer: PreTrainedTokenizerFast
) -> None:
    with (
        engine_of(PlayingVllm(model)) as candidate,
        pytest.raises(PotError, match=r"tells only its 20 likeliest ids .*--max-logprobs N"),
    ):
        TeacherForcedScorer(ScoringConfig(top_k=None)).score_batch(model, candidate, prompts, tokenizer)


def _of_entries(change: Callable[[list[Any]], Any]) -> Callable[[str, Any], Any]:
    """What spoils the log-probabilities of prompts of more than two tokens: those of probes are left alone."""

    def spoil(_: str, body: Any) -> Any:
        for choice in body.get("choices", ()) if isinstance(body, dict) else ():
            if len(choice.get("prompt_logprobs") or ()) > 2:
                change(choice["prompt_logprobs"])
        return body

    return spoil


def _of_choice(change: Callable[[dict[str, Any]], Any]) -> Callable[[str, Any], Any]:
    def spoil(_: str, body: Any) -> Any:
        for choice in body.get("choices", ()) if isinstance(body, dict) else ():
            if len(choice.get("prompt_logprobs") or ()) > 2:
                change(choice)
        return body

    return spoil


def _first_number(entries: list[Any], number: Any) -> None:
    next(iter(entries[-1].values()))["logprob"] = number


LIES: dict[str, tuple[Callable[[str, Any], Any], str]] = {
    "one position missing": (_of_entries(lambda entries: entries.pop()), r"told \d+ 'prompt_logprobs' for a prompt of \d+"),
    "a number before the first": (
        _of_entries(lambda entries: entries.__setitem__(0, entries[1])),
        r"the first of them null",
    ),
    "a null": (_of_entries(lambda entries: entries.__setitem__(-1, None)), r"told no log-probabilities by id, but None, at"),
    "a null number": (_of_entries(lambda entries: _first_number(entries, None)), r"\(null\), at prompt \d, position \d+|null"),
    "a clamped number": (_of_entries(lambda entries: _first_number(entries, -9999.0)), r"-9999"),
    "NaN": (_of_entries(lambda entries: _first_number(entries, float("nan"))), r"nan|NaN"),
    "the token that came is missing": (
        _of_entries(lambda entries: entries[-1].pop(next(iter(entries[-1])))),
        r"told no log-probability of the token that came, id \d+",
    ),
    "fewer than asked": (
        _of_entries(lambda entries: [entries[-1].pop(key) for key in list(entries[-1])[3:]]),
        r"told 3 ids where it was asked for the 10 likeliest",
    ),
    "a likely id missing beside an unlikely token": (
        _of_entries(lambda entries: [entry.popitem() for entry in entries[1:] if len(entry) == 11]),
        r"told 10 ids where it was asked for the 10 likeliest and the token that came",
    ),
    "texts as names": (
        _of_entries(lambda entries: entries.__setitem__(-1, {f"<{key}>": each for key, each in entries[-1].items()})),
        r"told no log-probabilities by id",
    ),
    "a BOS in front": (
        _of_choice(lambda choice: choice["prompt_token_ids"].insert(0, 1)),
        r"read other token ids than it was sent: at index 0 \[1, .*\(\d+ ids in place of \d+\)",
    ),
    "no ids back": (_of_choice(lambda choice: choice.update(prompt_token_ids=None)), r"did not return the ids of the prompt"),
    "ignored": (_of_choice(lambda choice: choice.update(prompt_logprobs=None)), r"ignored 'prompt_logprobs'"),
    "two choices": (
        lambda _, body: body | {"choices": body["choices"] * 2} if isinstance(body, dict) and "choices" in body else body,
        r"without the one entry of 'choices'|tells no log-probabilities of a prompt",
    ),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_server_that_lies_never_passes(model: PreTrainedModel, batch: list[Tokens], lie: str) -> None:
    spoil, message = LIES[lie]
    with engine_of(PlayingVllm(model, spoil=spoil)) as engine, pytest.raises(PotError, match=message) as raised:
        engine.top_k(batch, 10)
    assert "the candidate, vLLM 0.32.0 at http://127.0.0.1:" in str(raised.value)
    if isinstance(raised.value, PositionError):
        assert raised.value.prompt is not None


def test_a_refusal_in_other_words_still_gives_the_most_ids(model: PreTrainedModel, batch: list[Tokens]) -> None:
    class Rephrased(PlayingVllm):
        def answer(self, method: str, path: str, body: Any) -> Any:
            reply = super().answer(method, path, body)
            if reply.status == 400:
                reply.body["error"]["message"] = "too much"
            return reply

    with engine_of(Rephrased(model, max_logprobs=20)) as engine:
        assert (engine.vocab_size, engine.most_ids) == (UNKNOWN_VOCAB, 20)
        assert len(engine.top_k(batch, 50).log_probs[0]) == 20


def test_a_server_without_log_probabilities_of_prompts_is_refused(model: PreTrainedModel) -> None:
    def spoil(_: str, body: Any) -> Any:
        for choice in body.get("choices", ()):
            choice["prompt_logprobs"] = None
        return body

    with (
        pytest.raises(PotError, match=r"tells no log-probabilities of a prompt"),
        engine_of(PlayingVllm(model, max_logprobs=-1, spoil=spoil)),
    ):
        pass


def test_a_model_that_is_not_served_is_refused_with_those_that_are(model: PreTrainedModel) -> None:
    config = ScoringConfig()
    with serving(PlayingVllm(model)) as url, pytest.raises(PotError, match=r"'other'.*'tiny'"):
        load_model(f"vllm+{url}#other", "candidate", config)


def test_sampling_is_repeatable_from_the_models_own_distribution(model: PreTrainedModel) -> None:
    app = PlayingVllm(model)
    contexts = [[5, 6, 7], [8, 9], [5, 6, 7, 8]]
    with engine_of(app) as engine:
        drawn = engine.sample(contexts, 12, seed=3)
        assert engine.sample(contexts[1:], 12, seed=3) == drawn[1:]
        assert engine.sample(contexts, 12, seed=4) != drawn
    assert [len(each) for each in drawn] == [12, 12, 12]
    asked = [body for path, body in app.asked if path == "/v1/completions"][-1]
    seeds = {tuple(body["prompt"]): body["seed"] for _, body in app.asked if body is not None and "seed" in body}
    assert len(set(seeds.values())) == 3, "contexts do not share their random numbers"
    assert (asked["temperature"], asked["top_p"], asked["top_k"], asked["min_p"]) == (1.0, 1.0, -1, 0.0)
    assert (asked["repetition_penalty"], asked["ignore_eos"], "min_tokens" in asked) == (1.0, True, False)


def test_a_continuation_that_ends_early_is_refused(model: PreTrainedModel) -> None:
    def spoil(_: str, body: Any) -> Any:
        for choice in body.get("choices", ()):
            choice["token_ids"] = (choice["token_ids"] or ())[:3]
        return body

    with (
        engine_of(PlayingVllm(model, spoil=spoil)) as engine,
        pytest.raises(PotError, match=r"continued a prompt by 3 tokens where 8 were asked for"),
    ):
        engine.sample([[5, 6]], 8, seed=0)


def test_a_stream_is_counted_by_ids(model: PreTrainedModel) -> None:
    with engine_of(PlayingVllm(model)) as engine:
        path, body = engine.generation([5, 6, 7], 9)
        counts = [engine.tokens_in(event) for event in engine.client.stream(path, body)]
        assert counts == [1] * 9
        assert body["temperature"] == 0.0
        assert body["ignore_eos"] is True
        with pytest.raises(PotError, match=r"broke off its stream: .*out of memory"):
            engine.tokens_in({"error": {"message": "out of memory"}})


def test_the_longest_prompt_leaves_room_for_a_token(model: PreTrainedModel) -> None:
    with engine_of(PlayingVllm(model, max_model_len=40)) as engine:
        assert engine.max_positions == 39
        assert len(engine.top_k([Tokens(tuple(range(5, 44)), 38)], 3)) == 1
        with pytest.raises(PotError, match="maximum context length"):
            engine.top_k([Tokens(tuple(range(5, 45)), 38)], 3)


def test_another_model_behind_the_same_name_is_told_at_the_end(model: PreTrainedModel) -> None:
    app = PlayingVllm(model)
    with pytest.raises(PotError, match=r"changed|another"), engine_of(app):
        app.version = "0.33.0"
