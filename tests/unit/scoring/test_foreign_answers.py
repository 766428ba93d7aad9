"""What an engine of one's own may return that is no plain number of Python, and ids that are none of its vocabulary."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from pytest_pot import Baseline, PotError, Prompt, ScoringConfig, TeacherForcedScorer
from pytest_pot.engines import registry
from pytest_pot.engines.base import GivenIds
from pytest_pot.engines.distributions import Ints, TopK
from pytest_pot.engines.tokens import Tokens

from ..models import tiny
from ..testing.engines import OwnTopK, Right

CONFIG = ScoringConfig(top_k=10, positions_per_prompt=6)
SUITE = [Prompt("The capital of France", " is Paris."), Prompt("A prompt alone")]


@pytest.fixture(scope="module")
def model() -> PreTrainedModel:
    return tiny("llama")


class NumpyScalars(Right):
    """Returns NumPy scalars wherever the protocol asks for integers."""

    max_positions = np.int64(20)
    label = np.str_("NumPy")

    def reduced(self, *arguments: Any) -> TopK:
        top = super().reduced(*arguments)
        return replace(top, vocab_size=np.int64(top.vocab_size))  # type: ignore[arg-type]

    def sample(self, contexts: Sequence[Sequence[int]], n_tokens: int, seed: int) -> Any:
        return [[np.int64(token) for token in sample] for sample in super().sample(contexts, n_tokens, seed)]


@pytest.mark.parametrize("k", [10, None])
def test_numpy_scalars_can_be_recorded(
    k: int | None, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    scorer = TeacherForcedScorer(replace(CONFIG, top_k=k))
    path = tmp_path / "scalars.pot.safetensors"
    scorer.record(NumpyScalars(model), SUITE, tokenizer).save(path)
    baseline = Baseline.load(path)
    assert baseline.vocab_size == 97
    assert scorer.score_baseline(baseline, model, tokenizer).mean < 1e-5
    assert scorer.score_batch(NumpyScalars(model), model, SUITE, tokenizer).mean < 1e-5


class Minus(OwnTopK):
    """Stands -1 for an id that it does not know, at position 1 of the first prompt."""

    fields = ("ids",)

    def top_k(self, batch: Sequence[Tokens], k: int | None) -> TopK:
        return self.with_minus(super().top_k(batch, k), batch)

    def with_minus(self, top: TopK, batch: Sequence[Tokens]) -> TopK:
        arrays: dict[str, Any] = {name: getattr(top, name).copy() for name in self.fields}
        for array in arrays.values():
            array[1, ...] = -1
        return replace(top, **arrays)


class MinusTop(Minus):
    fields = ("top_ids",)


@pytest.mark.parametrize("kind", [Minus, MinusTop])
def test_an_id_outside_the_vocabulary_is_named(
    kind: type[Minus], model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast
) -> None:
    scorer = TeacherForcedScorer(CONFIG)
    expected = (
        rf"the engine {kind.__name__} \(plain torch on cpu\) returned the id -1 in {kind.fields[0]}, but its vocabulary has 0 "
        r"to 96, at prompt \d \('.*'\), position 1"
    )
    with pytest.raises(PotError, match=expected):
        scorer.score_batch(kind(model), model, SUITE, tokenizer)
    with pytest.raises(PotError, match=expected):
        scorer.score_batch(model, kind(model), SUITE, tokenizer)
    with pytest.raises(PotError, match=expected):
        scorer.record(kind(model), SUITE, tokenizer)


class MinusAt(Right):
    def at(self, batch: Sequence[Tokens], ids: Ints | int) -> TopK:
        top = super().at(batch, ids)
        return replace(top, top_ids=np.full_like(top.top_ids, 97))


def test_an_answer_for_given_ids_is_looked_at_too(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(PotError, match="returned the id 97 in top_ids, but its vocabulary has 0 to 96, at prompt"):
        TeacherForcedScorer(CONFIG).score_batch(model, MinusAt(model), SUITE, tokenizer)


@pytest.mark.parametrize("every_position", [False, True])
def test_the_engine_for_torch_refuses_negative_ids(every_position: bool, model: PreTrainedModel) -> None:
    batch = [Tokens((5, 6, 7, 8), 2)]
    with registry.opened(model, "candidate", ScoringConfig(every_position=every_position)) as engine:
        assert isinstance(engine, GivenIds)
        for read in (engine.at, engine.decode):  # type: ignore[attr-defined]
            with pytest.raises(PotError, match="id -1 is in no vocabulary: ids count from 0"):
                read(batch, np.array([[1, 2], [-1, 3]]))
