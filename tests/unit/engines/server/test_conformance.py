"""Every kind of engine for servers does what the protocol of an engine asks for."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from pytest_pot import ScoringConfig
from pytest_pot.engines.base import Level, level_of
from pytest_pot.engines.registry import load_model, opened
from pytest_pot.testing import EngineProblems, check_engine

from ...models import changed, tiny
from . import playing
from .playing_sglang import PlayingSglang
from .playing_vllm import PlayingVllm
from .serving import App, serving

KINDS: dict[str, tuple[str, Callable[[PreTrainedModel], App], Level]] = {
    "vllm": ("vllm", PlayingVllm, Level.OWN_TOP_K),
    "vllm, whole vocabulary": ("vllm", lambda model: PlayingVllm(model, max_logprobs=-1), Level.OWN_TOP_K),
    "vllm, given ids": ("vllm", lambda model: PlayingVllm(model, max_logprobs=-1, scale_out=True), Level.GIVEN_IDS),
    "sglang": ("sglang", PlayingSglang, Level.GIVEN_IDS),
}


@pytest.mark.parametrize("kind", KINDS)
def test_an_engine_conforms_and_is_caught_with_another_model(kind: str, tokenizer: PreTrainedTokenizerFast) -> None:
    name, app, level = KINDS[kind]
    model = tiny("llama")
    config = ScoringConfig(top_k=10, server_timeout=60.0)
    with serving(app(model)) as url:
        loaded = load_model(f"{name}+{url}", "candidate", config)
        with opened(loaded.model, "candidate", config) as engine:
            assert level_of(engine) is level
            check_engine(engine, model, tokenizer)
            with pytest.raises(EngineProblems):
                check_engine(engine, changed(model, 0.5), tokenizer)


def test_another_server_of_openais_protocol_conforms_without_the_size_of_its_vocabulary(
    tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(playing, "EOS", -1)  # the protocol has no field that makes a server go on after an end of text
    model = tiny("llama")
    config = ScoringConfig(top_k=10, server_timeout=60.0)
    with serving(PlayingVllm(model)) as url:
        loaded = load_model(f"openai+{url}", "candidate", config)
        with opened(loaded.model, "candidate", config) as engine:
            check_engine(engine, model, tokenizer)
            with pytest.raises(EngineProblems):
                check_engine(engine, changed(model, 0.5), tokenizer)
