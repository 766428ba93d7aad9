"""The project's own engine for a trained model, in two precisions, passes the check for engines of one's own."""

from __future__ import annotations

import pytest

from pytest_pot import Prompt, ScoringConfig
from pytest_pot.engines import registry
from pytest_pot.testing import EngineProblems, check_engine

from .conftest import ModelAndTokenizer

pytestmark = pytest.mark.real

PROMPTS = [
    Prompt("The capital of France is", " Paris."),
    Prompt("東京は日本の", "首都です。"),
    Prompt("Once", " upon a time"),
]


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_engine_for_torch_passes(reference: ModelAndTokenizer, dtype: str) -> None:
    model, tokenizer = reference
    with registry.opened(model, "candidate", ScoringConfig(dtype=dtype)) as engine:
        check_engine(engine, model, tokenizer, prompts=PROMPTS)


@pytest.mark.slow
def test_a_small_temperature_is_named_although_rounding_could_be_as_large(reference: ModelAndTokenizer) -> None:
    model, tokenizer = reference
    with (
        registry.opened(model, "candidate", ScoringConfig(temperature=1.05)) as engine,
        pytest.raises(EngineProblems) as raised,
    ):
        check_engine(engine, model, tokenizer, prompts=PROMPTS)
    assert "the logits are divided by a temperature of 1.05" in raised.value.problems[0]
