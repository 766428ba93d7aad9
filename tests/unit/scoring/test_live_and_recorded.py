"""A live reference and its recording give the same bits, in every preset, precision and size of vocabulary."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from pytest_pot import PRESETS, Prompt, ScoreReport, ScoringConfig, TeacherForcedScorer
from pytest_pot.core.names import METRICS
from pytest_pot.engines.distributions import Floats, TopK
from pytest_pot.engines.pytorch import reduction
from pytest_pot.engines.tokens import Tokens

from ..models import changed, tiny
from ..oracle import log_softmax_rows

LARGE = 5000
"""A vocabulary whose tails are summed in float32."""

SHARPER = 400.0
"""Raises the logits so far that some tail is below 1e-25."""


def both(
    reference: Any, candidate: Any, prompts: list[Prompt], tokenizer: PreTrainedTokenizerFast, config: ScoringConfig
) -> tuple[ScoreReport, ScoreReport]:
    scorer = TeacherForcedScorer(config)
    live = scorer.score_batch(reference, candidate, prompts, tokenizer)
    recorded = scorer.score_baseline(scorer.record(reference, prompts, tokenizer), candidate, tokenizer)
    return live, recorded


def assert_same_bits(live: ScoreReport, recorded: ScoreReport) -> None:
    for name in METRICS:
        for ours, theirs in zip(live.divergences[name], recorded.divergences[name], strict=True):
            assert ours.tobytes() == theirs.tobytes(), name
    for ours, theirs in zip(live.tail_masses, recorded.tail_masses, strict=True):
        assert ours.tobytes() == theirs.tobytes()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("preset", PRESETS)
def test_a_large_vocabulary_scores_the_same_live_and_recorded(
    preset: str, dtype: str, prompts: list[Prompt], tokenizer: PreTrainedTokenizerFast
) -> None:
    model = tiny("llama", vocab_size=LARGE)
    config = ScoringConfig.preset(preset, temperature=0.7, dtype=dtype)
    live, recorded = both(model, changed(model), prompts, tokenizer, config)
    assert_same_bits(live, recorded)
    assert live.max > 0
    for report in both(model, model, prompts, tokenizer, config):
        assert report.metrics == dict.fromkeys(METRICS, 0.0)


@pytest.mark.parametrize("peaked", ["by temperature", "by weights"])
@pytest.mark.parametrize("preset", PRESETS)
def test_a_tail_too_small_for_float32_is_summed_again(
    preset: str, peaked: str, prompts: list[Prompt], tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, temperature = tiny("llama", vocab_size=LARGE), 1 / SHARPER
    if peaked == "by weights":
        temperature = 1.0
        with torch.no_grad():
            model.get_output_embeddings().weight.mul_(SHARPER)
    wide: list[bool] = []
    softmax = reduction.Softmax.__init__

    def noted(self: reduction.Softmax, temperature: float, eps: float, wide_tail: bool = False) -> None:
        wide.append(wide_tail)
        softmax(self, temperature, eps, wide_tail)

    monkeypatch.setattr(reduction.Softmax, "__init__", noted)
    config = ScoringConfig.preset(preset, temperature=temperature)
    scorer = TeacherForcedScorer(config)
    has_tail = config.top_k is not None
    live = scorer.score_batch(model, changed(model, 0.01), prompts, tokenizer)
    assert any(wide) == has_tail
    wide.clear()
    recording = scorer.record(model, prompts, tokenizer)
    assert any(wide) == has_tail
    wide.clear()
    assert_same_bits(live, scorer.score_baseline(recording, changed(model, 0.01), tokenizer))
    assert any(wide) == (has_tail and config.tail == "bucket")
    for report in both(model, model, prompts, tokenizer, config):
        assert report.metrics == dict.fromkeys(METRICS, 0.0)
    if has_tail:
        masses = np.concatenate(live.tail_masses)
        assert 0 < masses.min() < 1e-25
        np.testing.assert_allclose(masses, exact_tails(model, live, config), rtol=1e-3)  # its logits are in float32


def exact_tails(model: PreTrainedModel, report: ScoreReport, config: ScoringConfig) -> Floats:
    """The mass outside the top-k, summed in float64."""
    masses = []
    for tokens in report.tokens:
        with torch.inference_mode():
            logits = model(torch.tensor([tokens.ids])).logits[0, tokens.prompt_len - 1 : -1]
        probabilities = np.exp(log_softmax_rows(logits.numpy(), config.temperature))
        masses += np.sort(probabilities, axis=1)[:, : -(config.top_k or 0)].sum(axis=1).tolist()
    return np.array(masses)


class Arrays:
    """An engine of one's own: plain NumPy, from a table [vocab, vocab] of logits by the last token."""

    max_positions = None
    label = "numpy"

    def __init__(self, logits: npt.NDArray[np.float64]) -> None:
        self._table = log_softmax_rows(logits)

    def top_k(self, batch: list[Tokens], k: int | None) -> TopK:
        rows = self._rows(batch)
        whole = k is None or k >= rows.shape[1]
        return self._top(batch, rows, None if whole else np.argsort(-rows, axis=1, kind="stable")[:, :k])

    def at(self, batch: list[Tokens], ids: npt.NDArray[np.int64] | int) -> TopK:
        return self._top(batch, self._rows(batch), None if isinstance(ids, int) else ids)

    def sample(self, contexts: list[list[int]], n_tokens: int, seed: int) -> list[list[int]]:
        return [[5] * n_tokens for _ in contexts]

    def _rows(self, batch: list[Tokens]) -> Floats:
        return self._table[[index for tokens in batch for index in tokens.ids[tokens.prompt_len - 1 : -1]]]

    def _top(self, batch: list[Tokens], rows: Floats, ids: npt.NDArray[np.int64] | None) -> TopK:
        targets = np.array([index for tokens in batch for index in tokens.targets])
        n, first, tail = np.arange(len(rows)), rows.argmax(axis=1), None
        if ids is not None:
            rest = np.exp(rows)
            np.put_along_axis(rest, ids, 0.0, axis=1)
            tail = np.log(rest.sum(axis=1))
        return TopK(
            ids=ids,
            log_probs=rows if ids is None else np.take_along_axis(rows, ids, axis=1),
            log_tail=tail,
            targets=rows[n, targets],
            top_ids=first,
            top_log_probs=rows[n, first],
            clear=np.ones(len(rows), dtype=bool),
            log_normalisers=np.zeros(len(rows)),
            vocab_size=rows.shape[1],
        )


@pytest.mark.parametrize("role", ["reference", "candidate"])
@pytest.mark.parametrize("preset", PRESETS)
def test_an_engine_that_returns_arrays_scores_the_same_live_and_recorded(
    preset: str, role: str, prompts: list[Prompt], tokenizer: PreTrainedTokenizerFast
) -> None:
    logits = 3 * np.random.default_rng(0).normal(size=(97, 97))
    arrays, other = Arrays(logits), Arrays(logits + np.random.default_rng(1).normal(size=(97, 97)))
    pair = (arrays, tiny("llama")) if role == "reference" else (tiny("llama"), arrays)
    config = ScoringConfig.preset(preset, **({} if ScoringConfig.preset(preset).top_k is None else {"top_k": 20}))
    for models in (pair, (arrays, other)):
        live, recorded = both(models[0], models[1], prompts, tokenizer, config)
        assert_same_bits(live, recorded)
        assert live.max > 0
    for report in both(arrays, Arrays(logits), prompts, tokenizer, config):
        assert report.metrics == dict.fromkeys(METRICS, 0.0)
