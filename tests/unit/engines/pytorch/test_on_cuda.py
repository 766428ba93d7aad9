"""What only a GPU shows: precision, memory that runs out, and how often the host waits for the device."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from pytest_pot import PRESETS, Prompt, ScoreReport, ScoringConfig, TeacherForcedScorer
from pytest_pot.engines.pytorch.memory import peak_of

from ...models import changed, tiny

pytestmark = pytest.mark.cuda

MAX_WAITS_PER_BATCH = 1
"""How often the host may wait for the device while it scores a batch, besides what the model's own forward waits."""
MAX_LOGITS_IN_MEMORY, MAX_BYTES_BESIDE = 4, 100 << 20
"""Peak memory of a comparison over the whole vocabulary: so many times the logits of one model, and so much beside them."""

DEVICE = torch.device("cuda")
CONFIGS = {**PRESETS, "auto": ScoringConfig.preset("balanced", batch_size="auto")}
DTYPES = (torch.bfloat16, torch.float16, torch.float32)


def on_device(model: PreTrainedModel, dtype: torch.dtype = torch.float32) -> Any:
    moved: Any = model
    return moved.to(device=DEVICE, dtype=dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("preset", sorted(CONFIGS))
def test_identical_models_are_at_exactly_0(
    preset: str, dtype: torch.dtype, prompts: list[Prompt], tokenizer: PreTrainedTokenizerFast
) -> None:
    model = on_device(tiny("llama"), dtype)
    twin = copy.deepcopy(model)
    scorer = TeacherForcedScorer(CONFIGS[preset])
    live = scorer.score_batch(model, twin, prompts, tokenizer)
    recorded = scorer.score_baseline(scorer.record(model, prompts, tokenizer), twin, tokenizer)
    for report in (live, recorded):
        assert report.labels[1] == f"{str(dtype).removeprefix('torch.')} on {model.device}"
        assert set(report.metrics.values()) == {0.0}
        assert report.max == 0.0


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("preset", sorted(CONFIGS))
def test_live_and_recorded_scores_are_the_same_bits(
    preset: str, dtype: torch.dtype, prompts: list[Prompt], tokenizer: PreTrainedTokenizerFast
) -> None:
    reference, candidate = on_device(tiny("llama"), dtype), on_device(changed(tiny("llama")), dtype)
    scorer = TeacherForcedScorer(CONFIGS[preset])
    live = scorer.score_batch(reference, candidate, prompts, tokenizer)
    recorded = scorer.score_baseline(scorer.record(reference, prompts, tokenizer), candidate, tokenizer)
    assert live.mean > 0.01
    for name, values in live.divergences.items():
        for one, other in zip(values, recorded.divergences[name], strict=True):
            np.testing.assert_array_equal(one, other, err_msg=name)


@pytest.mark.parametrize("preset", sorted(CONFIGS))
def test_scores_are_those_of_a_cpu(preset: str, prompts: list[Prompt], tokenizer: PreTrainedTokenizerFast) -> None:
    reference, candidate = tiny("llama"), changed(tiny("llama"))
    scorer = TeacherForcedScorer(CONFIGS[preset])
    expected = scorer.score_batch(reference, candidate, prompts, tokenizer)
    report = scorer.score_batch(on_device(reference), on_device(candidate), prompts, tokenizer)
    assert report.labels[0].startswith("float32 on cuda")
    assert expected.mean > 0.01
    np.testing.assert_allclose(report.scores, expected.scores, atol=1e-4)
    for name, value in expected.metrics.items():
        assert report.metrics[name] == pytest.approx(value, rel=1e-3, abs=1e-4), name


def test_a_model_in_main_memory_is_copied_to_the_device(prompts: list[Prompt], tokenizer: PreTrainedTokenizerFast) -> None:
    model = tiny("llama")
    report = TeacherForcedScorer(ScoringConfig(device="cuda")).score_batch(model, model, prompts, tokenizer)
    assert report.labels[0].startswith("float32 on cuda")
    assert {parameter.device.type for parameter in model.parameters()} == {"cpu"}
    assert report.mean == 0.0


def test_global_state_is_as_before(prompts: list[Prompt], tokenizer: PreTrainedTokenizerFast) -> None:
    model = on_device(tiny("llama")).train()
    torch.cuda.manual_seed(5)
    before = global_state()
    texts: list[str | Prompt] = [prompts[0], prompts[4].text]  # the second one is continued, with random numbers
    scorer = TeacherForcedScorer(ScoringConfig(positions_per_prompt=8))
    report = scorer.score_batch(model, model, texts, tokenizer)
    scorer.score_baseline(scorer.record(model, texts, tokenizer), model, tokenizer)
    assert report.n_positions > 8
    assert global_state() == before
    assert all(module.training for module in model.modules())


def global_state() -> dict[str, object]:
    return {
        "random numbers": torch.get_rng_state().tolist(),
        "random numbers of the device": torch.cuda.get_rng_state(DEVICE).tolist(),
        "gradients": torch.is_grad_enabled(),
        "inference mode": torch.is_inference_mode_enabled(),
        "default dtype": torch.get_default_dtype(),
        "precision": torch.get_float32_matmul_precision(),
        "tf32": (torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "device": torch.cuda.current_device(),
        "stream": torch.cuda.current_stream(DEVICE),
    }


@contextmanager
def memory_limited(n_bytes: int) -> Iterator[None]:
    """Let torch reserve only ``n_bytes`` more memory on the device."""
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(DEVICE).total_memory
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved(DEVICE) + n_bytes) / total)  # of the current device
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


@pytest.fixture
def wide() -> Any:
    """A model of 25 MB whose layers take about 100 MB for each of the prompts of :func:`long_prompts`."""
    return on_device(tiny("llama", intermediate_size=1 << 16, num_hidden_layers=1))


def long_prompts(n: int) -> list[Prompt]:
    return [Prompt(f"{index:02}{96 * 'x'}", 16 * "y") for index in range(n)]


def test_a_batch_that_does_not_fit_is_halved(wide: Any, tokenizer: PreTrainedTokenizerFast) -> None:
    scorer, prompts = TeacherForcedScorer(ScoringConfig(batch_size=64)), long_prompts(64)
    candidate = on_device(changed(tiny("llama", intermediate_size=1 << 16, num_hidden_layers=1)))
    expected = scorer.score_batch(wide, candidate, prompts, tokenizer)
    with memory_limited(1 << 30):
        report = scorer.score_batch(wide, candidate, prompts, tokenizer)
    assert expected.batch_size == 64
    assert report.batch_size in (2, 4, 8, 16)
    np.testing.assert_allclose(report.scores, expected.scores, atol=1e-4)


class Waits:
    """Counts how often the host waits for the device, and where."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._calls: list[str] = []
        # The debug mode of torch sees copies and item(), but not these.
        for owner in (torch.cuda, torch.cuda.Event, torch.cuda.Stream):
            monkeypatch.setattr(owner, "synchronize", self._counting(owner.synchronize))

    def _counting(self, synchronise: Callable[..., object]) -> Callable[..., object]:
        def call(*arguments: object, **named: object) -> object:
            self._calls.append(synchronise.__qualname__)
            mode = torch.cuda.get_sync_debug_mode()
            torch.cuda.set_sync_debug_mode("default")  # or some of these would be counted twice
            try:
                return synchronise(*arguments, **named)
            finally:
                torch.cuda.set_sync_debug_mode(mode)

        return call

    def of(self, run: Callable[[], object]) -> list[str]:
        self._calls.clear()
        with warnings.catch_warnings(record=True) as messages:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            try:
                run()
            finally:
                torch.cuda.set_sync_debug_mode("default")
        seen = [message for message in messages if "called a synchronizing" in str(message.message)]
        return self._calls + [f"{message.filename}:{message.lineno}" for message in seen]


def test_the_waits_of_the_host_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    waits, numbers = Waits(monkeypatch), torch.ones(3, device=DEVICE)
    assert waits.of(lambda: numbers + numbers) == []
    assert len(waits.of(numbers.cpu)) == 1
    assert len(waits.of(numbers.sum().item)) == 1
    assert len(waits.of(torch.cuda.synchronize)) == 1
    assert len(waits.of(torch.cuda.current_stream(DEVICE).synchronize)) == 1
    assert len(waits.of(torch.cuda.current_stream(DEVICE).record_event().synchronize)) == 1


@pytest.mark.parametrize("preset", ["balanced", "fastest", "accurate"])
@pytest.mark.parametrize("is_recorded", [True, False], ids=["recorded", "both models"])
def test_the_host_waits_for_the_device_once_per_batch(
    preset: str, is_recorded: bool, tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = on_device(tiny("llama"))
    config = ScoringConfig.preset(preset, batch_size=4, positions_per_prompt=16)
    scorer = TeacherForcedScorer(config)

    def run_of(n_batches: int) -> Callable[[], ScoreReport]:
        # Lengths differ, so that every batch is padded.
        prompts = [Prompt(f"{index:02}{(20 + index) * 'x'}", 16 * "y") for index in range(4 * n_batches)]
        if not is_recorded:
            return partial(scorer.score_batch, model, model, prompts, tokenizer)
        return partial(scorer.score_baseline, scorer.record(model, prompts, tokenizer), model, tokenizer)

    ids = torch.ones(4, 30, dtype=torch.long, device=DEVICE)
    mask = torch.ones_like(ids)
    mask[1:, 20:] = 0
    waits = Waits(monkeypatch)
    few, many = run_of(4), run_of(12)
    few(), many()  # what is done once for each device and shape
    with torch.inference_mode():
        in_forward = waits.of(lambda: model(ids, attention_mask=mask, use_cache=False))
    further = len(waits.of(many)) - len(waits.of(few))
    n_models = 1 if is_recorded else 2
    limit = MAX_WAITS_PER_BATCH + n_models * len(in_forward)
    assert further <= 8 * limit, f"{further / 8:.1f} waits per batch, {limit} allowed: {sorted(waits.of(few))}"


@pytest.mark.parametrize("is_recorded", [True, False], ids=["recorded", "both models"])
def test_the_whole_vocabulary_takes_few_times_the_memory_of_its_logits(
    is_recorded: bool, tokenizer: PreTrainedTokenizerFast
) -> None:
    vocabulary, batch_size, positions = 1 << 17, 8, 32
    model = on_device(tiny("llama", vocab_size=vocabulary, scale=1.0))
    scorer = TeacherForcedScorer(ScoringConfig(top_k=None, batch_size=batch_size, positions_per_prompt=positions))
    prompts = [Prompt(f"{index:02}{30 * 'x'}", positions * "y") for index in range(2 * batch_size)]
    run: Callable[[], object] = partial(scorer.score_batch, model, model, prompts, tokenizer)
    if is_recorded:
        run = partial(scorer.score_baseline, scorer.record(model, prompts, tokenizer), model, tokenizer)
    run()
    torch.cuda.empty_cache()
    peak = peak_of(run, model, DEVICE)
    assert peak is not None
    logits = batch_size * positions * vocabulary * 4
    assert peak.bytes - peak.weights <= MAX_LOGITS_IN_MEMORY * logits + MAX_BYTES_BESIDE
