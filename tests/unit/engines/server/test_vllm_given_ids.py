"""vLLM where it tells given ids, as a local server over a tiny real model does it by vLLM's source."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from pytest_pot import PotError, Prompt, ScoringConfig, TeacherForcedScorer
from pytest_pot.core.names import METRICS
from pytest_pot.engines.base import GivenIds, Level, level_of
from pytest_pot.engines.registry import opened
from pytest_pot.engines.server.vllm_given_ids import VllmGivenIdsEngine
from pytest_pot.engines.tokens import Tokens

from ...models import VOCAB, changed, tiny
from .playing_vllm import PlayingVllm
from .test_vllm import engine_of


@pytest.fixture(scope="module")
def model() -> PreTrainedModel:
    return tiny("llama")


@pytest.mark.parametrize(
    ("settings", "top_k", "level"),
    [
        ({"scale_out": True}, 10, Level.GIVEN_IDS),
        ({"scale_out": True, "max_logprobs": -1}, None, Level.GIVEN_IDS),
        ({"scale_out": True}, None, Level.OWN_TOP_K),
        ({"scale_out": True}, 21, Level.OWN_TOP_K),
        ({"scale_out": True, "v2": False}, 10, Level.OWN_TOP_K),
        ({"scale_out": False}, 10, Level.OWN_TOP_K),
    ],
)
def test_the_level_is_what_the_server_shows(
    model: PreTrainedModel, settings: dict[str, Any], top_k: int | None, level: Level
) -> None:
    with engine_of(PlayingVllm(model, **settings), top_k=top_k) as engine:
        assert level_of(engine) is level
        assert isinstance(engine, GivenIds) is (level is Level.GIVEN_IDS)


def _scores(change: Callable[[np.ndarray[Any, Any]], Any], longer: bool = True) -> Callable[[str, Any], Any]:
    """What changes the array of given ids; ``longer``: only that of prompts with more than one position."""

    def spoil(_: str, body: Any) -> Any:
        text = body.get("prompt_token_id_logprobs") if isinstance(body, dict) else None
        if text is None or (longer and len(body["prompt_token_ids"]) == 2):
            return body
        array = change(np.load(io.BytesIO(base64.b64decode(text))))
        with io.BytesIO() as buffer:
            np.save(buffer, array)
            return body | {"prompt_token_id_logprobs": base64.b64encode(buffer.getvalue()).decode()}

    return spoil


@pytest.mark.parametrize(
    "spoil",
    [
        _scores(lambda array: array - 0.1, longer=False),
        _scores(lambda array: array.astype(np.float64), longer=False),
        _scores(lambda array: array[0], longer=False),
        lambda _, body: body | {"prompt_token_id_logprobs": "no base64"} if "choices" in body else body,
        lambda _, body: body | {"prompt_token_id_logprobs": None} if "choices" in body else body,
    ],
)
def test_an_endpoint_that_does_not_agree_with_itself_is_not_used(
    model: PreTrainedModel, spoil: Callable[[str, Any], Any]
) -> None:
    with engine_of(PlayingVllm(model, scale_out=True, spoil=spoil)) as engine:
        assert level_of(engine) is Level.OWN_TOP_K


def test_the_scores_are_those_of_the_model_itself(
    model: PreTrainedModel, prompts: list[Prompt], tokenizer: PreTrainedTokenizerFast
) -> None:
    other = changed(model, 0.3)
    for top_k, most in ((10, 20), (50, -1), (None, -1)):
        scorer = TeacherForcedScorer(ScoringConfig(top_k=top_k))
        expected = scorer.score_batch(model, other, prompts, tokenizer)
        app = PlayingVllm(other, scale_out=True, max_logprobs=most)
        with engine_of(app, top_k=top_k) as candidate:
            live = scorer.score_batch(model, candidate, prompts, tokenizer)
            recorded = scorer.score_baseline(scorer.record(model, prompts, tokenizer), candidate, tokenizer)
        for name in METRICS:
            assert live.metrics[name] == pytest.approx(expected.metrics[name], abs=2e-4), name
            assert recorded.metrics[name] == pytest.approx(live.metrics[name], abs=1e-5), name
        assert live.unseen is None
    assert expected.mean > 0.05


def test_more_ids_than_a_request_takes_are_asked_for_in_pieces(model: PreTrainedModel) -> None:
    tokens = Tokens(tuple(range(5, 15)), 6)
    ids = np.random.default_rng(0).permuted(np.tile(np.arange(VOCAB), (4, 1)), axis=1)[:, :50]
    app = PlayingVllm(model, scale_out=True)
    with engine_of(app) as engine, opened(model, "reference", ScoringConfig()) as plain:
        assert isinstance(engine, VllmGivenIdsEngine)
        app.asked.clear()
        told, expected = engine.at([tokens], ids), plain.at([tokens], ids)  # type: ignore[attr-defined]
        assert [len(body["sampling_params"]["prompt_logprob_token_ids"][0]) for _, body in app.asked] == [20, 20, 10]
        with pytest.raises(PotError, match=r"id 97 is outside the vocabulary of 97 tokens"):
            engine.at([tokens], ids * 0 + VOCAB)
    for name in ("log_probs", "log_tail", "targets", "top_log_probs"):
        np.testing.assert_allclose(getattr(told, name), getattr(expected, name), atol=1e-4)
    assert (told.top_ids == expected.top_ids).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda array: array[:-1], r"told an array \[\d+, 10\] where an array \[\d+, 10\] was asked for"),
        (lambda array: np.full_like(array, np.nan), r"told nan as the log-probability of an id that it was asked for"),
        (lambda array: np.where(array == array.min(), -np.inf, array), r"told -inf as the log-probability"),
        (lambda array: array + 3.0, r"a log-probability is at most 0|from different answers|probabilities that sum to \d"),
    ],
)
def test_numbers_that_no_model_has_said_are_refused(
    model: PreTrainedModel, prompts: list[Prompt], tokenizer: PreTrainedTokenizerFast, change: Any, message: str
) -> None:
    with (
        engine_of(PlayingVllm(model, scale_out=True, spoil=_scores(change))) as candidate,
        pytest.raises(PotError, match=message),
    ):
        TeacherForcedScorer(ScoringConfig(top_k=10)).score_batch(model, candidate, prompts, tokenizer)
