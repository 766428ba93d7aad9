"""One run: what the noise floor leaves behind, what counts as its time, and what a recording keeps."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from pytest_pot import Baseline, Prompt, ScoringConfig
from pytest_pot.engines.pytorch.backend import PyTorchBackend
from pytest_pot.engines.pytorch.engine import TorchEngine
from pytest_pot.engines.pytorch.weights.named import NamedWeights
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


@pytest.mark.parametrize("why", ["told not to", "not in memory", "no weights to show"])
def test_what_is_known_of_the_weights_is_kept_where_it_can_be(
    tokenizer: PreTrainedTokenizerFast, prompts: list[Prompt], why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny("llama")
    config = ScoringConfig(top_k=5)

    def record(keep_weights: bool = True) -> Baseline:
        with opened(model, "reference", config) as engine:
            run = ScoringRun(config, EncodedPrompts(prompts[:2], tokenizer))
            return run.record(engine, model, keep_weights=keep_weights)

    whole = record()
    assert whole.weights_print is not None
    assert whole.weights_print.model_class == "LlamaForCausalLM"
    if why == "not in memory":
        monkeypatch.setattr(NamedWeights, "unreadable", "one is not in memory")
    elif why == "no weights to show":
        monkeypatch.delattr(PyTorchBackend, "weights")
    without = record(keep_weights=why != "told not to")
    assert without.weights_print is None
    assert replace(whole, weights_print=None).to_bytes() == without.to_bytes()


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
