"""What all sections of speed.py share: models, prompts, rounds and ratios of times."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
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

AUTO = ScoringConfig.preset("auto")


@dataclass
class Bench:
    """The models, prompts and number of rounds that all sections share. A *way* is a function to be timed."""

    reference: Model
    candidate: Model
    """The reference's weights rounded to bf16 but stored in float32: another model with the same arithmetic."""
    tokenizer: Any
    prompts: list[Prompt]
    rounds: int

    def live(self, config: ScoringConfig, prompts: Sequence[Prompt] | None = None) -> ScoreReport:
        texts = self.prompts if prompts is None else prompts
        return TeacherForcedScorer(config).score_batch(self.reference, self.candidate, texts, self.tokenizer)

    def recorded(self, config: ScoringConfig, prompts: Sequence[Prompt] | None = None) -> Callable[[], ScoreReport]:
        scorer = TeacherForcedScorer(config)
        baseline = scorer.record(self.reference, self.prompts if prompts is None else prompts, self.tokenizer)
        return lambda: scorer.score_baseline(baseline, self.candidate, self.tokenizer)

    def spread(self, prompts: Sequence[Prompt], every: int) -> list[Prompt]:
        """One in ``every`` of ``prompts`` in order of length: a sample for ways that run prompts one by one."""
        by_length = sorted(prompts, key=lambda prompt: len(self.tokenizer(prompt.text)["input_ids"]))
        return by_length[every // 2 :: every]

    def original(self, prompts: Sequence[Prompt] | None = None) -> Way:
        return partial(self.live, ScoringConfig.preset("original"), prompts)

    def floor(self, config: ScoringConfig, prompts: Sequence[Prompt] | None = None) -> Way:
        """The matrix products of one model for the same tokens and positions, see :func:`floor.products`."""
        with TorchEngine.opened(self.reference, "reference", config) as engine:
            encoded = tokenise(self.tokenizer, self.prompts if prompts is None else prompts)
            tokens = fit_all(config, encoded, engine, None)
        return products(self.candidate, tokens, config)

    def time(self, ways: Mapping[str, Way]) -> dict[str, list[float]]:
        """Seconds that each way takes in each round."""
        seconds: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(self.rounds):
            for name, way in ways.items():
                started = time.perf_counter()
                way()
                seconds[name].append(time.perf_counter() - started)
        return seconds


def cut_short(prompts: Sequence[Prompt], tokenizer: Any) -> list[Prompt]:
    """``prompts`` with only the last two fifths of their texts: 45 tokens on average, including 32 of the continuation."""
    encoded = [tokenizer(prompt.text)["input_ids"] for prompt in prompts]
    texts = [tokenizer.decode(ids[-round(0.4 * len(ids)) :]) for ids in encoded]
    return [Prompt(text, prompt.continuation) for text, prompt in zip(texts, prompts, strict=True)]


Rows = Iterator[dict[str, Any]]


def against(yardstick: Sequence[float], seconds: Sequence[float], scale: float = 1.0) -> dict[str, float]:
    """The ratio ``scale`` · time / yardstick's time, round by round: its median, minimum and maximum; and the median time."""
    ratios = sorted(scale * mine / theirs for mine, theirs in zip(seconds, yardstick, strict=True))
    return {"ratio": statistics.median(ratios), "least": ratios[0], "most": ratios[-1], "s": statistics.median(seconds)}
