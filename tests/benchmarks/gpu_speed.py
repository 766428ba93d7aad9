"""Sections of gpu.py on speed: the device's peak, presets, batch sizes, the bare forwards, the whole vocabulary."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Literal

import torch
from bench import AUTO, Rows, Way, against
from gpu_bare import Bare, work
from gpu_bench import CONFIGS, GpuBench

from pytest_pot import Prompt, ScoringConfig, TeacherForcedScorer

__all__ = ["accurate", "bare", "batches", "peak", "presets"]

_SAMPLES = {"original": 4, "single": 16, "accurate": 16, "balanced": 96, "fastest": 128}
"""Prompts of the slower presets; their time per prompt hardly depends on how many there are."""
_BATCH_SIZES: tuple[int | Literal["auto"], ...] = (1, 2, 4, 8, 16, 32, 64, "auto")
_SAMPLE_OF_SMALL, _SMALL = 64, 4
_SAMPLE_OF_ONE = 16
"""Prompts for batches of up to ``_SMALL``, and for batches of one."""
_WHOLE = 32
"""Prompts for the whole vocabulary: each needs 20 MB in a recording."""


def peak(bench: GpuBench) -> Rows:
    """A product of two large bf16 matrices, and copies of 1 GiB."""
    yield {"what": "bf16 matrix product", "TFLOP/s": bench.flops / 1e12, "GB/s": None}
    for name, speed in bench.copies().items():
        yield {"what": f"copy {name}", "TFLOP/s": None, "GB/s": speed / 1e9}


def presets(bench: GpuBench) -> Rows:
    """Every preset, recorded and with both models run."""
    for shape in bench.shapes:
        pair, forwards = bench.pair(shape), Bare(bench.pair(shape), bench.prompts)
        for name, config in CONFIGS.items():
            prompts = bench.spread(_SAMPLES[name]) if name in _SAMPLES else bench.prompts
            recorded, live = pair.recorded(config, prompts), pair.live(config, prompts)
            ways: dict[str, Way] = {"bare": forwards.forwards(), "recorded": recorded, "both models": live}
            seconds = bench.time(ways, rounds=1 if name in _SAMPLES else bench.rounds)
            needed = work(pair.model, recorded.args[0].tokens)
            for way, n_models in (("recorded", 1), ("both models", 2)):
                ratio = _ratio(seconds, way, "bare", len(bench.prompts) / len(prompts))
                s = statistics.median(seconds[way])
                row = {"shape": shape, "preset": name, "run": way, "prompts": len(prompts)}
                share = n_models * needed / s / bench.flops
                yield {
                    **row,
                    "ms per prompt": 1000 * s / len(prompts),
                    "of the bare forwards": ratio,
                    "share": share,
                }
            del recorded, live, ways
            _release(bench)


def batches(bench: GpuBench) -> Rows:
    """Batch sizes, with a recorded reference."""
    for shape in bench.shapes:
        pair = bench.pair(shape)
        for size in _BATCH_SIZES:
            prompts: Sequence[Prompt] = bench.prompts
            if isinstance(size, int) and size <= _SMALL:
                prompts = bench.spread(_SAMPLE_OF_ONE if size == 1 else _SAMPLE_OF_SMALL)
            config = replace(AUTO, batch_size=size)
            baseline = TeacherForcedScorer(AUTO).record(pair.model, prompts, pair.tokenizer)
            way = partial(TeacherForcedScorer(config).score_baseline, baseline, pair.model, pair.tokenizer)
            s = statistics.median(bench.time({"": way}, rounds=1)[""])
            yield {"shape": shape, "batch": size, "prompts": len(prompts), "ms per prompt": 1000 * s / len(prompts)}


def bare(bench: GpuBench) -> Rows:
    """The preset auto, recorded, against the same forwards bare and against their matrix products alone."""
    for shape in bench.shapes:
        pair = bench.pair(shape)
        forwards = Bare(pair, bench.prompts)
        recorded = pair.recorded(AUTO, bench.prompts)
        ways: dict[str, Way] = {"recorded": recorded, "bare": forwards.forwards(), "products": forwards.products()}
        seconds = bench.time(ways)
        ms = {f"{name}, ms per prompt": 1000 * statistics.median(seconds[name]) / len(bench.prompts) for name in ways}
        needed = work(pair.model, forwards.tokens)
        shares = {f"{name}, share": needed / statistics.median(seconds[name]) / bench.flops for name in ways}
        batches_ran = {"batches": len(forwards.batches), "largest": max(map(len, forwards.batches))}
        ratio = {"recorded / bare": _ratio(seconds, "recorded", "bare"), "bare / products": _ratio(seconds, "bare", "products")}
        yield {"shape": shape, **batches_ran, **ms, **ratio, **shares}


def accurate(bench: GpuBench) -> Rows:
    """The whole vocabulary against the top-k, at the same batch size, positions and length."""
    same: dict[str, Any] = {"batch_size": 8, "positions_per_prompt": 32, "max_length": 256}
    configs = {name: ScoringConfig.preset(name, **same) for name in ("balanced", "accurate")}
    prompts = bench.spread(_WHOLE)
    for shape in bench.shapes:
        pair = bench.pair(shape)
        for run, make in (("recorded", pair.recorded), ("both models", pair.live)):
            ways: dict[str, Way] = {name: make(config, prompts) for name, config in configs.items()}
            seconds = bench.time(ways, rounds=min(2, bench.rounds))
            ms = {f"{name}, ms per prompt": 1000 * statistics.median(seconds[name]) / len(prompts) for name in configs}
            yield {"shape": shape, "run": run, **ms, "accurate / balanced": _ratio(seconds, "accurate", "balanced")}
            del ways
        _release(bench)


def _ratio(seconds: dict[str, list[float]], way: str, yardstick: str, scale: float = 1.0) -> float:
    return against(seconds[yardstick], seconds[way], scale)["ratio"]


def _release(bench: GpuBench) -> None:
    if bench.on_cuda:
        torch.cuda.empty_cache()
