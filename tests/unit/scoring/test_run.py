"""One run: what the noise floor leaves behind, and what counts as its time."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from pytest_pot import Baseline, Prompt, ScoreReport, ScoringConfig
from pytest_pot.engines.base import Room
from pytest_pot.engines.pytorch.engine import TorchEngine
from pytest_pot.engines.registry import opened
from pytest_pot.prompts.tokenization import EncodedPrompts
from pytest_pot.scoring.run import ScoringRun

from ..models import tiny


def shapes_read(model: torch.nn.Module) -> list[tuple[int, ...]]:
    """The shapes of the ids that ``model`` reads from now on."""
    shapes: list[tuple[int, ...]] = []

    def note(_: torch.nn.Module, arguments: tuple[torch.Tensor, ...]) -> None:
        shapes.append(tuple(arguments[0].shape))

    embeddings = next(module for module in model.modules() if isinstance(module, torch.nn.Embedding))
    embeddings.register_forward_pre_hook(note)
    return shapes


def test_the_noise_floor_leaves_both_models_alike(tokenizer: PreTrainedTokenizerFast, prompts: list[Prompt]) -> None:
    """A model that has run batches knows whether its output layer can be split off, and reads other shapes then."""
    reference, candidate = tiny("llama"), tiny("llama")
    for model in (reference, candidate):
        model.config.logit_multiplier = 0.5  # says that something is done to the logits, and not what
    read = shapes_read(reference), shapes_read(candidate)
    run = ScoringRun(ScoringConfig(), EncodedPrompts(prompts, tokenizer))
    with opened(reference, "reference", run.config) as ref, opened(candidate, "candidate", run.config) as cand:
        assert run.noise_floor(ref) is not None
        read[0].clear()
        report = run.score(ref, cand)
    assert report.max == 0.0
    assert read[0] == read[1] != []


def test_what_a_restart_forgets() -> None:
    with TorchEngine.opened(tiny("llama"), "reference", ScoringConfig()) as engine:
        engine.use_whole_output()
        assert not engine.splits_output
        engine.restart()
        assert engine.splits_output


def test_encoding_counts_as_the_runs_time_and_the_noise_floor_does_not(tokenizer: PreTrainedTokenizerFast) -> None:
    class Slow:
        """A tokenizer that takes a tenth of a second for each text."""

        def __call__(self, text: str, **options: object) -> object:
            time.sleep(0.1)
            return tokenizer(text, **options)

        def decode(self, ids: list[int]) -> str:
            return str(tokenizer.decode(ids))

    run = ScoringRun(ScoringConfig(), EncodedPrompts([Prompt("ab", "cd"), Prompt("ef", "gh")], Slow()))
    model = tiny("llama")
    with opened(model, "reference", run.config) as ref, opened(model, "candidate", run.config) as cand:
        run.noise_floor(ref)
        assert run.score(ref, cand).elapsed_s > 0.4


@pytest.mark.parametrize("recorded_with", ["auto", 3])
def test_recorded_batches_are_run_again_whatever_room_and_batch_size_are_now(
    tokenizer: PreTrainedTokenizerFast, prompts: list[Prompt], monkeypatch: pytest.MonkeyPatch, recorded_with: Any
) -> None:
    """With the batch size "auto", another device, or the same one with other free memory, plans other batches."""
    wide = tiny("llama", hidden_size=384, intermediate_size=768)
    encoded = EncodedPrompts([*prompts, *(Prompt(letter + "z" * 39, "end") for letter in "abcdefghi")], tokenizer)
    shapes = shapes_read(wide)

    def use_room(tokens: int) -> None:
        monkeypatch.setattr(TorchEngine, "room", Room(most=tokens, per_forward=32))

    def run(config: ScoringConfig, baseline: Baseline | None = None, *, same: bool = False) -> Baseline | ScoreReport:
        shapes.clear()
        with opened(wide, "reference", config) as engine:
            one = ScoringRun(config, encoded)
            return one.record(engine, wide) if baseline is None else one.replay(baseline, engine, same_batches=same)

    use_room(180)
    baseline = run(ScoringConfig(batch_size=recorded_with))
    assert isinstance(baseline, Baseline)
    recorded_shapes = list(shapes)
    assert baseline.batches == tuple(n for n, _ in recorded_shapes)
    use_room(1024)
    sizes: tuple[Any, ...] = ("auto", 5)
    for size in sizes:
        again = run(ScoringConfig(batch_size=size), baseline, same=True)
        assert shapes == recorded_shapes
        assert isinstance(again, ScoreReport)
        assert again.max == 0.0
        planned = run(ScoringConfig(batch_size=size), baseline)
        assert isinstance(planned, ScoreReport)
        assert shapes != recorded_shapes
        assert planned.max < 1e-6


def test_recorded_batches_that_do_not_fit_are_halved(tokenizer: PreTrainedTokenizerFast) -> None:
    model = tiny("llama")
    encoded = EncodedPrompts([Prompt(letter + "z" * 39, "end") for letter in "abcdefghijk"], tokenizer)
    run = ScoringRun(ScoringConfig(batch_size=7), encoded)
    with opened(model, "reference", run.config) as engine:
        baseline = run.record(engine, model)
        assert baseline.batches == (7, 4)

        def raise_out_of_memory(_: torch.nn.Module, arguments: tuple[torch.Tensor, ...]) -> None:
            if len(arguments[0]) > 3:
                raise torch.OutOfMemoryError("out of memory")

        shapes = shapes_read(model)
        model.get_input_embeddings().register_forward_pre_hook(raise_out_of_memory)
        report = run.replay(baseline, engine, same_batches=True)
    assert [n for n, _ in shapes] == [7, 3, 3, 1, 3, 1]  # the recorded 7 and 4, in parts
    assert report.n_prompts == 11


def test_a_recording_without_its_batches_is_scored_in_the_recorded_batch_size(
    tokenizer: PreTrainedTokenizerFast, prompts: list[Prompt]
) -> None:
    model = tiny("llama")
    run = ScoringRun(ScoringConfig(batch_size=3), EncodedPrompts(prompts, tokenizer))
    with opened(model, "reference", run.config) as engine:
        baseline = replace(run.record(engine, model), batches=())
        other = ScoringRun(ScoringConfig(), run.encoded)
        report = other.replay(baseline, engine, same_batches=True)
    assert (report.max, report.batch_size) == (0.0, 3)
