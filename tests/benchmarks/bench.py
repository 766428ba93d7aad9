"""What every section of speed.py works with: models, prompts, rounds, ratios."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from pytest_pot import Prompt, ScoreReport, ScoringConfig, TeacherForcedScorer
from pytest_pot.engines.pytorch.engine import TorchEngine
from pytest_pot.prompts.tokenization import tokenise
from pytest_pot.scoring.encoding import fit_all

sys.path.append(str(Path(__file__).parent))

from floor import products

__all__ = ["AUTO", "Bench", "Model", "Rows", "Way", "against", "cut_short"]

Model = torch.nn.Module
Way = Callable[[], object]

AUTO = replace(ScoringConfig.preset("balanced"), batch_size="auto")


@dataclass
class Bench:
    """What every section works with."""

    reference: Model
    candidate: Model
    """bf16 weights in float32: another model, and the same arithmetic."""
    tokenizer: Any
    prompts: list[Prompt]
    rounds: int

    def live(self, config: ScoringConfig, prompts: Sequence[Prompt] | None = None) -> ScoreReport:
        given = self.prompts if prompts is None else prompts
        return TeacherForcedScorer(config).score_batch(self.reference, self.candidate, given, self.tokenizer)

    def recorded(self, config: ScoringConfig, prompts: Sequence[Prompt] | None = None) -> Callable[[], ScoreReport]:
        scorer = TeacherForcedScorer(config)
        baseline = scorer.record(self.reference, self.prompts if prompts is None else prompts, self.tokenizer)
        return lambda: scorer.score_baseline(baseline, self.candidate, self.tokenizer)

    def spread(self, prompts: Sequence[Prompt], every: int) -> list[Prompt]:
        """Each so manieth of ``prompts`` by length, to stand for all where a way takes them one by one."""
        by_length = sorted(prompts, key=lambda prompt: len(self.tokenizer(prompt.text)["input_ids"]))
        return by_length[every // 2 :: every]

    def original(self, prompts: Sequence[Prompt] | None = None) -> Way:
        return partial(self.live, ScoringConfig.preset("original"), prompts)

    def floor(self, config: ScoringConfig, prompts: Sequence[Prompt] | None = None) -> Way:
        """One model's matrix products for the same tokens and positions, see :func:`floor.products`."""
        with TorchEngine.opened(self.reference, "reference", config) as engine:
            encoded = tokenise(self.tokenizer, self.prompts if prompts is None else prompts)
            tokens = fit_all(config, encoded, engine, None)
        return products(self.candidate, tokens, config)

    def time(self, ways: Mapping[str, Way]) -> dict[str, list[float]]:
        """Seconds of each way in each round."""
        taken: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(self.rounds):
            for name, way in ways.items():
                started = time.perf_counter()
                way()
                taken[name].append(time.perf_counter() - started)
        return taken


def cut_short(prompts: Sequence[Prompt], tokenizer: Any) -> list[Prompt]:
    """``prompts`` with the last two fifths of their contexts alone: 45 tokens on average, with 32 of the continuation."""
    encoded = [tokenizer(prompt.text)["input_ids"] for prompt in prompts]
    texts = [tokenizer.decode(ids[-round(0.4 * len(ids)) :]) for ids in encoded]
    return [Prompt(text, prompt.continuation) for text, prompt in zip(texts, prompts, strict=True)]


Rows = Iterator[dict[str, Any]]


def against(yardstick: Sequence[float], taken: Sequence[float], scale: float = 1.0) -> dict[str, float]:
    """The ratio of times to the yardstick's, round by round: median, least, most."""
    ratios = sorted(scale * mine / theirs for mine, theirs in zip(taken, yardstick, strict=True))
    return {"ratio": statistics.median(ratios), "least": ratios[0], "most": ratios[-1], "s": statistics.median(taken)}
