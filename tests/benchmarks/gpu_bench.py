"""What all sections of gpu.py share: models, prompts, rounds of timings, and the device's measured peak."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

import torch
from bench import AUTO, Way
from gpu_models import REAL, SHAPES, build, made_tokenizer, published
from transformers import PreTrainedTokenizerBase

from pytest_pot import PRESETS, Prompt, ScoreReport, ScoringConfig, TeacherForcedScorer
from pytest_pot.prompts.builtin import builtin_prompts

__all__ = ["CONFIGS", "GpuBench", "Pair"]

CONFIGS: Mapping[str, ScoringConfig] = {"auto": AUTO, **PRESETS}
"""All presets by name."""

_SIDE = {"cuda": 8192, "cpu": 256}
_COPIED = {"cuda": 1 << 30, "cpu": 1 << 22}
"""Rows and columns of the matrices for the peak, and bytes that are copied for the bandwidth."""


@dataclass(frozen=True)
class Pair:
    """A model and its tokenizer. Reference and candidate are the same object: what is timed does not depend on it."""

    name: str
    model: Any
    tokenizer: PreTrainedTokenizerBase

    def live(self, config: ScoringConfig, prompts: Sequence[Prompt]) -> partial[ScoreReport]:
        return partial(TeacherForcedScorer(config).score_batch, self.model, self.model, prompts, self.tokenizer)

    def recorded(self, config: ScoringConfig, prompts: Sequence[Prompt]) -> partial[ScoreReport]:
        """A recording is made at once; it is the first of the arguments of what is returned."""
        scorer = TeacherForcedScorer(config)
        baseline = scorer.record(self.model, prompts, self.tokenizer)
        return partial(scorer.score_baseline, baseline, self.model, self.tokenizer)


@dataclass
class GpuBench:
    """The device, the shapes and the number of prompts and rounds that all sections share."""

    device: torch.device
    shapes: Sequence[str]
    n_prompts: int | None
    rounds: int
    _pairs: dict[str, Pair] = field(default_factory=dict)

    @property
    def on_cuda(self) -> bool:
        return self.device.type == "cuda"

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        return made_tokenizer()

    @cached_property
    def prompts(self) -> list[Prompt]:
        return builtin_prompts(self.n_prompts)

    @property
    def smallest(self) -> str:
        """The shape for sections that need only one."""
        return "tiny" if "tiny" in self.shapes else "135m"

    def pair(self, shape: str) -> Pair:
        """The model of ``shape``, in bf16; made once."""
        if shape not in self._pairs:
            if shape == REAL:
                self._pairs[shape] = Pair(shape, *published(self.device))
            else:
                self._pairs[shape] = Pair(shape, build(SHAPES[shape], self.device), self.tokenizer)
        return self._pairs[shape]

    def spread(self, n: int) -> list[Prompt]:
        """``n`` prompts, evenly spaced in order of length."""
        by_length = sorted(self.prompts, key=lambda prompt: len(prompt.text))
        n = min(n, len(by_length))
        return [by_length[(2 * i + 1) * len(by_length) // (2 * n)] for i in range(n)]

    def synchronise(self) -> None:
        if self.on_cuda:
            torch.cuda.synchronize(self.device)

    def time(self, ways: Mapping[str, Way], rounds: int | None = None) -> dict[str, list[float]]:
        """Seconds that each way takes in each round, after one run of it that is not timed."""
        seconds: dict[str, list[float]] = {name: [] for name in ways}
        for index in range(1 + (self.rounds if rounds is None else rounds)):
            for name, way in ways.items():
                self.synchronise()
                started = time.perf_counter()
                way()
                self.synchronise()
                if index > 0:
                    seconds[name].append(time.perf_counter() - started)
        return seconds

    @cached_property
    def flops(self) -> float:
        """Floating-point operations per second in a large product of two bf16 matrices."""
        side = _SIDE[self.device.type]
        left, right = (torch.randn(side, side, dtype=torch.bfloat16, device=self.device) for _ in range(2))
        return 2 * side**3 / self._mean_s(lambda: left @ right)

    def copies(self) -> dict[str, float]:
        """Bytes per second of copies on the device (read and written), to it and from it (with pinned memory)."""
        size = _COPIED[self.device.type]
        here, there = (torch.empty(size, dtype=torch.uint8, device=self.device) for _ in range(2))
        host = torch.empty(size, dtype=torch.uint8, pin_memory=self.on_cuda)
        return {
            "on the device, read and written": 2 * size / self._mean_s(lambda: here.copy_(there)),
            "host to device, pinned": size / self._mean_s(lambda: here.copy_(host, non_blocking=True)),
            "device to host, pinned": size / self._mean_s(lambda: host.copy_(here, non_blocking=True)),
        }

    def _mean_s(self, run: Way, runs: int = 10) -> float:
        def repeated() -> None:
            for _ in range(runs):
                run()

        return statistics.median(self.time({"": repeated}, rounds=1)[""]) / runs
