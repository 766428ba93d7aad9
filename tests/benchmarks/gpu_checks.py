"""Sections of gpu.py on what must hold: memory, a distance of exactly 0 for identical models, the noise floor."""

from __future__ import annotations

import copy
from dataclasses import replace
from itertools import combinations
from typing import Any

import torch
from bench import AUTO, Rows
from gpu_bench import CONFIGS, GpuBench, Pair
from gpu_models import REAL, build, why_no_smollm2
from transformers import LlamaConfig

from pytest_pot import Prompt, ScoringConfig, TeacherForcedScorer
from pytest_pot.engines.pytorch.memory import peak_of

__all__ = ["identity", "memory", "noise"]

_LARGE, _SMALL = 1 << 18, 1 << 13
_MEMORY_PRESETS = ("auto", "balanced", "fastest", "accurate")
_N_WHOLE = 8
"""Prompts for the preset ``accurate``, which runs them in batches of 2: each needs 67 MB in a recording."""

_DTYPES = (torch.bfloat16, torch.float16, torch.float32)
_N_IDENTICAL, _N_NOISE = 16, 32


def memory(bench: GpuBench) -> Rows:
    """Peak memory above the model's, for a tiny model with a vocabulary of 262,144 (8,192 on a CPU)."""
    sizes: dict[str, Any] = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2}
    size = _LARGE if bench.on_cuda else _SMALL
    config = LlamaConfig(vocab_size=size, max_position_embeddings=1024, tie_word_embeddings=True, **sizes)
    pair = Pair("tiny", build(config, bench.device), bench.tokenizer)
    prompts = [Prompt(f"{i} " + 300 * "word ", 80 * "and ") for i in range(64)]
    for name in _MEMORY_PRESETS:
        scored = prompts[:_N_WHOLE] if name == "accurate" else prompts
        row: dict[str, Any] = {"preset": name, "vocabulary": size, "prompts": len(scored)}
        for run, make in (("recorded", pair.recorded), ("both models", pair.live)):
            way = make(CONFIGS[name], scored)
            if bench.on_cuda:
                torch.cuda.empty_cache()
            peak = peak_of(way, pair.model, bench.device)
            row[f"{run}, MB above the model"] = None if peak is None else (peak.bytes - peak.weights) / 1e6
        yield row


def identity(bench: GpuBench) -> Rows:
    """A model against its copy, in every preset and precision. Anything but 0 is an error, after all rows."""
    names = [bench.smallest]
    reason = why_no_smollm2() if bench.on_cuda else "SmolLM2's own weights are left out: this is a trial on a CPU"
    if reason is None:
        names.append(REAL)
    else:
        print(reason, flush=True)
    wrong = []
    for name in names:
        pair = bench.pair(name)
        for dtype in _DTYPES:
            model = copy.deepcopy(pair.model).to(dtype)
            twin = copy.deepcopy(model)
            for preset, config in CONFIGS.items():
                means = _means(Pair(name, model, pair.tokenizer), twin, config, bench.spread(_N_IDENTICAL))
                wrong += [(name, dtype, preset)] if any(means.values()) else []
                yield {"shape": name, "precision": str(dtype).removeprefix("torch."), "preset": preset, **means}
    if wrong:
        raise RuntimeError(f"a model and its copy are not at distance 0: {wrong}")


def _means(pair: Pair, twin: Any, config: ScoringConfig, prompts: list[Prompt]) -> dict[str, float]:
    """The largest mean of any metric, live and recorded."""
    scorer = TeacherForcedScorer(config)
    live = scorer.score_batch(pair.model, twin, prompts, pair.tokenizer)
    recorded = scorer.score_baseline(scorer.record(pair.model, prompts, pair.tokenizer), twin, pair.tokenizer)
    reports = {"both models": live, "recorded": recorded}
    return {run: max(map(abs, report.metrics.values())) for run, report in reports.items()}


def noise(bench: GpuBench) -> Rows:
    """A model against itself in batches of another size, and the noise floor that pytest-pot shows for it."""
    prompts = bench.spread(_N_NOISE)
    for shape in bench.shapes:
        pair = bench.pair(shape)
        for dtype in _DTYPES[:2] if shape == bench.smallest else _DTYPES[:1]:
            model = pair.model if dtype == torch.bfloat16 else copy.deepcopy(pair.model).to(dtype)
            scorers = {str(size): TeacherForcedScorer(replace(AUTO, batch_size=size)) for size in (1, 8, "auto")}
            floors = {size: scorer.noise_floor(model, prompts, pair.tokenizer) for size, scorer in scorers.items()}
            figures = []
            for first, second in combinations(scorers, 2):
                # Not the other way round: with the batch size "auto", the batches of a recording are run again.
                baseline = scorers[second].record(model, prompts, pair.tokenizer)
                report = scorers[first].score_baseline(baseline, model, pair.tokenizer)
                floor = floors[second]
                figures.append((f"{first} and {second}", report.mean, floor, report.tail_mass))
            largest = max(mean for _, mean, _, _ in figures)
            for batches, mean, floor, tail_mass in figures:
                row = {"shape": shape, "precision": str(dtype).removeprefix("torch."), "batches": batches, "mean tv": mean}
                row |= {"floor that is shown": floor, "floor / largest": _ratio(floor, largest), "tail mass": tail_mass}
                yield row


def _ratio(floor: float | None, largest: float) -> float | None:
    """1 where both are exactly 0."""
    if floor is None or largest == 0:
        return 1.0 if floor == largest else None
    return floor / largest
