"""What can be scored: plain modules, modules whose output has .logits, and engines without torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from pytest_pot import PotError, Prompt, ScoringConfig, TeacherForcedScorer
from pytest_pot.engines.base import Engine
from pytest_pot.engines.distributions import Ints, TopK
from pytest_pot.engines.pytorch.engine import TorchEngine
from pytest_pot.engines.tokens import Tokens

from ...models import changed, tiny


class Returning(torch.nn.Module):
    def __init__(self, model: PreTrainedModel, wrap: Callable[[torch.Tensor], object]) -> None:
        super().__init__()
        self.model, self.wrap = model, wrap

    def forward(self, token_ids: torch.Tensor) -> object:
        return self.wrap(self.model(token_ids).logits)


@pytest.mark.parametrize(
    "wrap", [lambda x: x, lambda x: SimpleNamespace(logits=x), lambda x: (x, "cache")], ids=["tensor", "object", "tuple"]
)
def test_plain_modules_score_like_the_model_they_wrap(
    prompts: list[Prompt], tokenizer: PreTrainedTokenizerFast, wrap: Callable[[torch.Tensor], object]
) -> None:
    reference, candidate = tiny(), changed(tiny())
    expected = TeacherForcedScorer().score_batch(reference, candidate, prompts, tokenizer)
    report = TeacherForcedScorer().score_batch(Returning(reference, wrap), Returning(candidate, wrap), prompts, tokenizer)
    np.testing.assert_allclose(report.scores, expected.scores, atol=1e-6)


def test_a_model_that_draws_random_numbers_does_not_change_the_random_state(
    prompts: list[Prompt], tokenizer: PreTrainedTokenizerFast
) -> None:
    def noisy(logits: torch.Tensor) -> torch.Tensor:
        return logits + torch.randn_like(logits)

    before = torch.get_rng_state()
    report = TeacherForcedScorer().score_batch(Returning(tiny(), noisy), Returning(tiny(), noisy), prompts, tokenizer)
    assert torch.equal(torch.get_rng_state(), before)
    assert report.mean > 0.1


def test_the_head_computes_only_the_columns_that_are_needed(prompts: list[Prompt], tokenizer: PreTrainedTokenizerFast) -> None:
    model = tiny("llama")
    shapes = []
    model.lm_head.register_forward_hook(lambda module, inputs, output: shapes.append(tuple(output.shape)))
    tokens = TeacherForcedScorer(ScoringConfig(batch_size=8)).score_batch(model, model, prompts, tokenizer).tokens
    width = max(len(t.ids) - 1 for t in tokens) - min(t.prompt_len - 1 for t in tokens)
    assert {shape[:2] for shape in shapes} == {(8, width)}
    shapes.clear()
    TeacherForcedScorer(ScoringConfig.preset("original")).score_batch(model, model, prompts, tokenizer)
    assert sorted({shape[:2] for shape in shapes}) == sorted({(1, len(t.ids)) for t in tokens})


class Fixed(torch.nn.Module):
    """The same logits after every token."""

    logits: torch.Tensor

    def __init__(self, logits: torch.Tensor) -> None:
        super().__init__()
        self.register_buffer("logits", logits)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.logits.expand(*ids.shape, -1)


def one_ulp_below(value: float, dtype: torch.dtype) -> float:
    return torch.nextafter(torch.tensor(value, dtype=dtype), torch.tensor(0.0, dtype=dtype)).item()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("preset", ["balanced", "accurate", "fastest"])
def test_another_first_choice_is_a_flip_unless_it_is_a_tie_within_rounding(
    prompts: list[Prompt], tokenizer: PreTrainedTokenizerFast, dtype: torch.dtype, preset: str
) -> None:
    """In every precision, a margin of 1.5 nats is more than a rounding error."""
    flips = {}
    for second in (18.5, one_ulp_below(20.0, dtype)):
        logits = torch.zeros(97, dtype=dtype)
        logits[5], logits[6] = 20.0, second
        swapped = logits.clone()
        swapped[5], swapped[6] = second, 20.0
        scorer = TeacherForcedScorer(ScoringConfig.preset(preset))
        flips[second] = scorer.score_batch(Fixed(logits), Fixed(swapped), prompts, tokenizer).metrics["top1_flip"]
    assert list(flips.values()) == [1.0, 0.0]


def test_a_module_without_parameters_can_be_scored(prompts: list[Prompt], tokenizer: PreTrainedTokenizerFast) -> None:
    class Unigram(torch.nn.Module):
        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            return torch.zeros(97).index_fill(0, torch.tensor([5, 6]), 3.0).expand(*ids.shape, 97)

    assert TeacherForcedScorer().score_batch(Unigram(), Unigram(), [*prompts, "drawn"], tokenizer).mean == 0


@pytest.mark.parametrize(
    ("wrap", "shown"),
    [
        (lambda x: x[0], r"\(\d+, 97\)"),
        (lambda x: x[:, :3], r"\(4, 3, 97\)"),
        (lambda x: "text", "str"),
        (lambda x: None, "NoneType"),
    ],
)
def test_errors_on_other_outputs_say_what_was_expected(
    prompts: list[Prompt], tokenizer: PreTrainedTokenizerFast, wrap: Callable[[torch.Tensor], object], shown: str
) -> None:
    with pytest.raises(PotError, match=rf"the candidate's forward returned {shown} for token ids .* expected logits"):
        TeacherForcedScorer(ScoringConfig(batch_size=4)).score_batch(tiny(), Returning(tiny(), wrap), prompts, tokenizer)


def test_an_argument_that_is_not_a_model_is_an_error(prompts: list[Prompt], tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(PotError, match=r"the candidate is str, not a model: give a torch\.nn\.Module"):
        TeacherForcedScorer().score_batch(tiny(), "gpt2", prompts, tokenizer)


class Uniform:
    """An engine without torch, for which all tokens are equally likely."""

    max_positions = 40
    label = "nowhere"

    def _at(self, batch: Sequence[Tokens], ids: Ints | None, m: int) -> TopK:
        n = sum(tokens.n_positions for tokens in batch)
        row = np.full(n, -np.log(97))
        return TopK(
            ids=ids,
            log_probs=np.repeat(row[:, None], m, axis=1),
            log_tail=None if m == 97 else np.full(n, np.log((97 - m) / 97)),
            targets=row,
            top_ids=np.zeros(n, dtype=np.int64),
            top_log_probs=row,
            clear=np.zeros(n, dtype=bool),
            log_normalisers=np.zeros(n),
            vocab_size=97,
        )

    def top_k(self, batch: Sequence[Tokens], k: int | None) -> TopK:
        n = sum(tokens.n_positions for tokens in batch)
        return self._at(batch, np.tile(np.arange(k), (n, 1)) if k else None, k or 97)

    def at(self, batch: Sequence[Tokens], ids: Ints | int) -> TopK:
        return self._at(batch, None, ids) if isinstance(ids, int) else self._at(batch, ids, ids.shape[1])

    def sample(self, contexts: Sequence[Sequence[int]], n_tokens: int, seed: int) -> list[list[int]]:
        return [[3] * n_tokens for _ in contexts]


@pytest.mark.parametrize("top_k", [10, None])
def test_any_engine_can_be_scored_against_any_other(
    prompts: list[Prompt], tokenizer: PreTrainedTokenizerFast, top_k: int | None
) -> None:
    assert isinstance(Uniform(), Engine)
    flat = tiny(scale=0.0)  # zero weights give the same uniform distribution
    for reference, candidate in ((Uniform(), flat), (flat, Uniform())):
        report = TeacherForcedScorer(ScoringConfig(top_k=top_k)).score_batch(
            reference, candidate, [*prompts[:4], "drawn"], tokenizer
        )
        assert report.metrics["kl"] == pytest.approx(0, abs=1e-12)
        assert "nowhere" in report.labels


def test_another_precision_is_given_to_a_copy_of_the_model(prompts: list[Prompt], tokenizer: PreTrainedTokenizerFast) -> None:
    model = tiny("llama")
    scorer = TeacherForcedScorer(ScoringConfig(dtype="float64"))
    report = scorer.score_batch(model, changed(model), prompts, tokenizer)
    assert report.labels == ("float64 on cpu", "float64 on cpu")
    assert model.dtype == torch.float32
    half = tiny("llama").bfloat16()
    report = TeacherForcedScorer().score_batch(model, half, prompts, tokenizer)
    assert report.labels[1] == "float32 on cpu"  # upcast: on a CPU, bf16 is slow or rounds differently
    assert half.dtype == torch.bfloat16
    exact = TeacherForcedScorer().score_batch(model, tiny("llama").bfloat16().float(), prompts, tokenizer)
    np.testing.assert_array_equal(report.scores, exact.scores)


def mostly_half_precision() -> PreTrainedModel:
    model: Any = tiny("mamba").bfloat16()
    for layer in model.backbone.layers:
        layer.mixer.A_log.data = layer.mixer.A_log.data.float()
    half: PreTrainedModel = model
    return half


@pytest.mark.skipif(torch.cuda.is_available(), reason="of models on a CPU")
def test_half_precision_is_upcast_even_if_one_parameter_is_float32() -> None:
    """Mamba keeps its decay rates in float32. A dtype in the configuration converts all parameters."""
    with TorchEngine.opened(mostly_half_precision(), "candidate", ScoringConfig()) as engine:
        assert {parameter.dtype for parameter in engine.model.parameters()} == {torch.float32}
    with TorchEngine.opened(mostly_half_precision(), "candidate", ScoringConfig(dtype="bfloat16")) as engine:
        assert {parameter.dtype for parameter in engine.model.parameters()} == {torch.bfloat16}


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_a_missing_device_is_an_error(prompts: list[Prompt], tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(PotError, match=r"the device 'cuda' cannot be used on this machine: .* Use 'auto' or 'cpu'"):
        TeacherForcedScorer(ScoringConfig(device="cuda")).score_batch(tiny(), tiny(), prompts, tokenizer)


def test_use_amp_runs_the_model_with_autocast(prompts: list[Prompt], tokenizer: PreTrainedTokenizerFast) -> None:
    model = tiny("llama")
    report = TeacherForcedScorer(ScoringConfig(use_amp=True)).score_batch(model, model, prompts, tokenizer)
    assert report.labels[0] == "float32 with autocast on cpu"
    dtypes = []
    model.lm_head.register_forward_hook(lambda module, inputs, output: dtypes.append(output.dtype))
    TeacherForcedScorer(ScoringConfig(use_amp=True)).score_batch(model, model, prompts, tokenizer)
    assert set(dtypes) == {torch.bfloat16}


def test_chunked_reductions_give_the_same_figures(
    prompts: list[Prompt], tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = tiny(), changed(tiny())
    whole = TeacherForcedScorer(ScoringConfig(top_k=10)).score_batch(*pair, prompts, tokenizer)
    monkeypatch.setattr("pytest_pot.engines.pytorch.reduction._LOGITS_PER_CPU_BLOCK", 97 * 5)
    chunked = TeacherForcedScorer(ScoringConfig(top_k=10)).score_batch(*pair, prompts, tokenizer)
    np.testing.assert_array_equal(np.concatenate(whole.positions), np.concatenate(chunked.positions))


def test_the_engine_satisfies_its_protocol() -> None:
    with TorchEngine.opened(tiny(), "reference", ScoringConfig()) as engine:
        assert isinstance(engine, Engine)
        assert torch.is_inference_mode_enabled()
    assert not torch.is_inference_mode_enabled()


class Tabled(torch.nn.Module):
    """Creates a table in its first forward pass and writes to it in every pass."""

    def __init__(self) -> None:
        super().__init__()
        self.model = tiny()
        self.table: torch.Tensor | None = None

    def forward(self, ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        self.table = torch.zeros(1) if self.table is None else self.table
        self.table.add_(1)
        logits: torch.Tensor = self.model(ids, attention_mask=attention_mask).logits * (1 + 0 * self.table)
        return logits


def test_tensors_that_a_module_creates_while_it_is_scored_can_be_used_later(
    prompts: list[Prompt], tokenizer: PreTrainedTokenizerFast
) -> None:
    model = Tabled()
    TeacherForcedScorer(ScoringConfig()).score_batch(tiny(), model, prompts, tokenizer)
    ids = torch.tensor([[5, 6, 7]])
    model(ids, torch.ones_like(ids)).sum().backward()
    assert all(parameter.grad is not None for parameter in model.model.get_output_embeddings().parameters())
