"""The section of gpu.py that counts what one recorded run asks of the device, and what the host does meanwhile."""

from __future__ import annotations

import cProfile
import io
import pstats
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from bench import AUTO, Rows, Way
from gpu_bare import Bare
from gpu_bench import GpuBench
from torch.profiler import ProfilerActivity

from pytest_pot import TeacherForcedScorer

__all__ = ["profile"]

_COUNTED = {
    "kernel launches": ("cudaLaunchKernel", "cuLaunchKernel", "cudaGraphLaunch"),
    "copies to the device": ("Memcpy HtoD",),
    "copies to the host": ("Memcpy DtoH",),
    "copies on the device": ("Memcpy DtoD",),
    "cudaStreamSynchronize": ("cudaStreamSynchronize",),
    "cudaDeviceSynchronize (the profiler's own among them)": ("cudaDeviceSynchronize",),
    "cudaEventSynchronize": ("cudaEventSynchronize",),
    "aten::item": ("aten::item",),
    "aten::_local_scalar_dense": ("aten::_local_scalar_dense",),
}
"""What is counted, and how the names of its events begin in the profiler of torch."""


def profile(bench: GpuBench, target: Path) -> Rows:
    """One recorded run of the preset auto on the smallest shape, and its bare forwards; ``target``: for the host's profile."""
    pair = bench.pair(bench.smallest)
    calls: list[int] = []
    scorer = TeacherForcedScorer(AUTO, progress=lambda done, total: calls.append(done))
    baseline = scorer.record(pair.model, bench.prompts, pair.tokenizer)

    def run() -> None:
        scorer.score_baseline(baseline, pair.model, pair.tokenizer)

    run()
    calls.clear()
    counts = _events(run, bench)
    n_batches = len(calls)
    forwards = Bare(pair, bench.prompts)
    bare_counts = _events(forwards.forwards(), bench)
    for name, count in counts.items():
        per_bare_batch = bare_counts[name] / len(forwards.batches)
        row = {"event": name, "per run": count, "per batch": count / n_batches, "bare, per batch": per_bare_batch}
        yield {**row, "batches": n_batches}
    host = cProfile.Profile()
    host.runcall(run)
    text = io.StringIO()
    for order in ("tottime", "cumulative"):
        text.write(f"The host, by {order}\n")
        pstats.Stats(host, stream=text).sort_stats(order).print_stats(25)
    text.write("Synchronisations that torch warns of, by the line that caused them\n\n")
    text.writelines(f"{count:6} {place}\n" for place, count in _waits(run, bench).most_common())
    target.write_text(text.getvalue(), encoding="utf-8")


def _events(run: Way, bench: GpuBench) -> dict[str, int]:
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if bench.on_cuda else [])]
    with torch.profiler.profile(activities=activities) as profiler:
        run()
        bench.synchronise()
    totals: Counter[str] = Counter()
    events: Any = profiler.events()
    for event in events or ():
        for name, beginnings in _COUNTED.items():
            totals[name] += event.name.startswith(beginnings)
    return {name: totals[name] for name in _COUNTED}


def _waits(run: Way, bench: GpuBench) -> Counter[str]:
    """Where the host waits for the device, by torch's own debug mode."""
    if not bench.on_cuda:
        return Counter()
    with warnings.catch_warnings(record=True) as messages:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            run()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    waits = [message for message in messages if "called a synchronizing" in str(message.message)]
    return Counter(f"{message.filename}:{message.lineno}" for message in waits)
