"""Sections of speed.py: what a scoring run costs, by configuration, batch size, top-k, number of prompts, shared prefix."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from bench import AUTO, Bench, Rows, Way, against, cut_short

from pytest_pot import PRESETS, Prompt, ScoreReport, ScoringConfig, TeacherForcedScorer
from pytest_pot.calibration.perturbations import perturb
from pytest_pot.engines.pytorch.engine import TorchEngine
from pytest_pot.engines.pytorch.memory import peak_of
from pytest_pot.gates.verdict.limits import identity_limits
from pytest_pot.prompts.builtin import builtin_prompts

__all__ = ["batches", "counts", "prefix", "presets", "top_k"]

BATCH_SIZES = (1, 2, 4, 8, 16, 32)
TOP_KS = (10, 100, 1000)
COUNTS = (10, 100, 1000)
_ONE_BY_ONE = ("accurate", "single")
_LIVE = ("auto", "balanced")
"""The presets that are also timed with both models run."""
_EVERY_THIRD, _EVERY_FIFTH = 3, 5
"""``original`` and other ways with batches of one or two prompts score only one prompt in three or five, in order of length:
their time per prompt hardly depends on the number of prompts."""


def presets(bench: Bench) -> Rows:
    """(a) The presets with the reference recorded, and ``auto`` and ``balanced`` also with both models run, on 16 prompts."""
    prompts = cut_short(builtin_prompts(16), bench.tokenizer)
    sample = bench.spread(prompts, _EVERY_THIRD)
    configs = {name: ScoringConfig.preset(name) for name in PRESETS if name != "original"}
    ways: dict[str, Way] = {"original": bench.original(sample)}
    floors: dict[str, Way] = {}
    n_prompts = {"original": len(sample)}
    for name, config in configs.items():
        texts, recorded = sample if name in _ONE_BY_ONE else prompts, f"{name}, recorded"
        if name in _LIVE:
            ways[name] = partial(bench.live, config, texts)
        ways[recorded], floors[recorded] = bench.recorded(config, texts), bench.floor(config, texts)
        n_prompts[name] = n_prompts[recorded] = len(texts)
    seconds = bench.time({**ways, **{f"floor of {name}": floor for name, floor in floors.items()}})
    for name in ways:
        row = against(seconds["original"], seconds[name], len(sample) / n_prompts[name])
        floor = against(seconds[f"floor of {name}"], seconds[name])["ratio"] if name in floors else None
        yield {"way": name, **row, "s": row["s"] / n_prompts[name], "floors": floor}


def batches(bench: Bench) -> Rows:
    """(b) Batch sizes, on 32 prompts and a recorded reference."""
    prompts = cut_short(builtin_prompts(32), bench.tokenizer)
    sample = bench.spread(prompts, _EVERY_FIFTH)
    ways: dict[str, Way] = {"original": bench.original(sample)}
    baseline = TeacherForcedScorer(AUTO).record(bench.reference, prompts, bench.tokenizer)
    ways["1"] = bench.recorded(replace(AUTO, batch_size=1), sample)
    for size in (*BATCH_SIZES[1:], "auto"):
        scorer = TeacherForcedScorer(replace(AUTO, batch_size=size))
        ways[str(size)] = partial(scorer.score_baseline, baseline, bench.candidate, bench.tokenizer)
    seconds = bench.time(ways)
    for name in list(ways)[1:]:
        texts = sample if name == "1" else prompts
        yield {"batch": name, **against(seconds["original"], seconds[name], len(sample) / len(texts))}


def top_k(bench: Bench) -> Rows:
    """(c) Top-k against the whole vocabulary: scores, verdicts, time."""
    candidates = {"int8": perturb(bench.reference, "int8 per row"), "pruned 20 %": perturb(bench.reference, "pruned 20 %")}
    configs = {str(k): replace(AUTO, top_k=k) for k in TOP_KS} | {"whole": replace(AUTO, top_k=None)}
    sample = bench.spread(bench.prompts, _EVERY_THIRD)
    ways = {name: bench.recorded(config) for name, config in configs.items()}
    seconds = bench.time({"original": bench.original(sample), **ways})
    whole: dict[str, float] = {}
    rows = []
    for name, config in reversed(configs.items()):
        scorer = TeacherForcedScorer(config)
        baseline = scorer.record(bench.reference, bench.prompts, bench.tokenizer)
        row: dict[str, Any] = {"k": name, **against(seconds["original"], seconds[name], len(sample) / len(bench.prompts))}
        row["identical"] = scorer.score_baseline(baseline, bench.reference, bench.tokenizer).mean
        for change, model in candidates.items():
            report = scorer.score_baseline(baseline, model, bench.tokenizer)
            row[change] = report.mean
            row[f"{change}, error"] = report.mean / whole.setdefault(change, report.mean) - 1
            row[f"{change}, verdict"] = str(identity_limits("tv", tolerance="int8").verdict(report.mean, report.max))
        rows.append(row)
    yield from reversed(rows)


def counts(bench: Bench) -> Rows:
    """(d) 10, 100 and 1000 prompts of minimum length: time per prompt, and memory above that of the model."""
    config = replace(ScoringConfig.preset("balanced"), batch_size=20, positions_per_prompt=1, max_length=3)
    ways, peaks = {}, {}
    for n in COUNTS:
        prompts = [Prompt(p.text, f"{p.continuation} {i}") for i, p in zip(range(n), 8 * builtin_prompts(None), strict=False)]
        ways[str(n)] = bench.recorded(config, prompts)
        peaks[str(n)] = peak_of(ways[str(n)], bench.candidate, torch.device("cpu"))
    seconds = bench.time(ways)
    for n in COUNTS:
        row = against(seconds[str(COUNTS[1])], seconds[str(n)], COUNTS[1] / n)
        peak = peaks[str(n)]
        above = None if peak is None else (peak.bytes - peak.weights) / 1e6
        yield {"prompts": n, **row, "ms/prompt": 1e3 * row["s"] / n, "peak MB": above}


@contextmanager
def without_shared_prefixes() -> Iterator[None]:
    """Turn off the engine's sharing of prefixes."""
    TorchEngine.share_prefixes = False
    try:
        yield
    finally:
        TorchEngine.share_prefixes = True


def prefix(bench: Bench) -> Rows:
    """32 prompts with the same first 128 tokens and 16 tokens of their own, with and without sharing the prefix."""
    texts = [prompt.text + (prompt.continuation or "") for prompt in builtin_prompts(None)]
    ids = bench.tokenizer(" ".join(texts[40:60]))["input_ids"]
    head = bench.tokenizer.decode(ids[:128])
    prompts = [Prompt(head, bench.tokenizer.decode(bench.tokenizer(" " + text)["input_ids"][:16])) for text in texts[:32]]
    config = replace(AUTO, positions_per_prompt=16)
    shared = bench.recorded(config, prompts)
    reports: dict[str, ScoreReport] = {}

    def alone() -> None:
        with without_shared_prefixes():
            reports["apart"] = apart()

    def together() -> None:
        reports["shared"] = shared()

    with without_shared_prefixes():
        apart = bench.recorded(config, prompts)
    ways: dict[str, Way] = {"apart": alone, "shared": together}
    seconds = bench.time(ways)
    for name in ways:
        yield {"prefix": name, **against(seconds["apart"], seconds[name]), "tv": reports[name].mean}
