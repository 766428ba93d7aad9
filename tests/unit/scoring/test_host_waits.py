"""How often the host waits for the device, by the path that a GPU takes: once per batch, when the next one has started."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from pytest_pot import PRESETS, Prompt, ScoreReport, ScoringConfig
from pytest_pot.engines.pytorch.batch_reader import Reader
from pytest_pot.engines.pytorch.output_layer import OutputLayer
from pytest_pot.engines.pytorch.transfer import HostCopy
from pytest_pot.engines.registry import opened
from pytest_pot.prompts.tokenization import EncodedPrompts
from pytest_pot.scoring import comparison, metrics
from pytest_pot.scoring.run import ScoringRun

from ..dispatch import Calls
from ..models import changed, tiny

BATCH = 2


class Watch:
    """The copies to the host in their order, and the operations that made the host wait before each."""

    def __init__(self) -> None:
        self.calls = Calls()
        self.events: list[tuple[str, int]] = []
        self.waits: list[dict[str, int]] = []
        self.n_bytes = 0

    def copies(self) -> type[HostCopy]:
        watch = self

        class Noted(HostCopy):
            def __init__(self, tensors: Sequence[torch.Tensor]) -> None:
                super().__init__(tensors)
                self.number = sum(what == "start" for what, _ in watch.events)
                watch.events.append(("start", self.number))
                watch.waits.append(watch.calls.host_waits)
                watch.n_bytes += sum(tensor.nbytes for tensor in tensors)

            def arrays(self) -> list[npt.NDArray[np.generic]]:
                watch.events.append(("arrays", self.number))
                return super().arrays()

        return Noted

    def leave_out(self, model: PreTrainedModel) -> None:
        """Count nothing in the model itself; its output layer counts, and a hook of its own would change how it is run."""
        inner = model.get_submodule("model")
        inner.register_forward_pre_hook(lambda *_: setattr(self.calls, "paused", True))
        inner.register_forward_hook(lambda *_: setattr(self.calls, "paused", False))


@pytest.fixture(autouse=True)
def _as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(OutputLayer, "some_ids", False)
    monkeypatch.setattr(metrics, "_CELLS_PER_CHUNK", {})
    prepare = Reader.__init__

    def without_mask(self: Reader, *arguments: Any, **named: Any) -> None:
        prepare(self, *arguments, **named)
        self.hides_padding = False

    monkeypatch.setattr(Reader, "__init__", without_mask)


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Watch:
    watch = Watch()
    monkeypatch.setattr(comparison, "HostCopy", watch.copies())
    return watch


def scored(
    watch: Watch, vocab_size: int, preset: str, recorded: bool, prompts: list[Prompt], tokenizer: PreTrainedTokenizerFast
) -> ScoreReport:
    model = tiny("llama", vocab_size=vocab_size)
    other = changed(model)
    config = ScoringConfig.preset(preset, batch_size=BATCH, every_position=False)
    run = ScoringRun(config, EncodedPrompts(prompts, tokenizer))
    for each in (model, other):
        watch.leave_out(each)
    with opened(other, "candidate", config) as candidate, opened(model, "reference", config) as reference:
        if recorded:
            baseline = run.record(reference, model)
            with watch.calls:
                return run.replay(baseline, candidate)
        with watch.calls:
            return run.score(reference, candidate)


@pytest.mark.parametrize("recorded", [False, True], ids=["live", "recorded"])
@pytest.mark.parametrize("preset", PRESETS)
def test_the_host_waits_once_per_batch_after_the_next_has_started(
    preset: str, recorded: bool, watch: Watch, prompts: list[Prompt], tokenizer: PreTrainedTokenizerFast
) -> None:
    report = scored(watch, 5000, preset, recorded, prompts, tokenizer)
    n = len(report.batches)
    assert n == len(prompts) // BATCH > 3
    # One copy per batch, whose arrays are read when the next batch has started.
    expected = [("start", 0)]
    for number in range(1, n):
        expected += [("start", number), ("arrays", number - 1)]
    assert watch.events == [*expected, ("arrays", n - 1)]
    # The first batch checks, once per model, that the output layer can be split off. Later ones wait for nothing.
    assert set(watch.waits[0]) <= {"aten.equal"}
    assert sum(watch.waits[0].values()) <= (1 if recorded else 2)
    assert watch.waits[1:] == watch.waits[:1] * (n - 1)
    assert watch.calls.host_waits == watch.waits[0]
    assert watch.calls.counts["aten.add"] + watch.calls.counts["aten.sum"] > n  # it does count


@pytest.mark.parametrize("preset", PRESETS)
def test_few_bytes_go_to_the_host_whatever_the_vocabulary(
    preset: str, prompts: list[Prompt], tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = []
    for vocab_size in (97, 5000):
        watch = Watch()
        monkeypatch.setattr(comparison, "HostCopy", watch.copies())
        report = scored(watch, vocab_size, preset, True, prompts, tokenizer)
        sizes.append(watch.n_bytes / sum(tokens.n_positions for tokens in report.tokens))
    assert sizes[0] == sizes[1] < 300
