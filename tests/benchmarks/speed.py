"""What scoring costs on a real model, and where every factor comes from; always as ratios within one run.

Every section takes its ways in turns, round after round, and its figures are medians over rounds of the ratio within a round:
a machine that is slow for a while is slow for all of them. Writes speed.json, speed.md and, where matplotlib is installed
(the extra ``bench``), speed.svg into ``--out``.

    PYTHONPATH=. python tests/benchmarks/speed.py [--rounds 5] [--prompts 8] [--sections presets batches ...] [--out FOLDER]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers

from pytest_pot import PRESETS, Prompt, ScoreReport, ScoringConfig, TeacherForcedScorer
from pytest_pot.engines.causal_lm import CausalLM
from pytest_pot.engines.memory import peak_of
from pytest_pot.engines.perturbations import perturb
from pytest_pot.prompts import builtin_prompts
from pytest_pot.sequential import SequentialTest
from pytest_pot.verdict import identity_limits

sys.path += [str(Path(__file__).parents[2] / "examples"), str(Path(__file__).parent)]

import smollm2
import speed_report
from floor import products

Model = torch.nn.Module
Way = Callable[[], object]

AUTO = replace(ScoringConfig.preset("balanced"), batch_size="auto")
BATCH_SIZES = (1, 2, 4, 8, 16, 32)
TOP_KS = (10, 30, 100, 300, 1000)
COUNTS = (10, 100, 1000)


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

    def original(self) -> Way:
        return partial(self.live, ScoringConfig.preset("original"))

    def time(self, ways: Mapping[str, Way]) -> dict[str, list[float]]:
        """Seconds of each way in each round; one round before the first does not count."""
        taken: dict[str, list[float]] = {name: [] for name in ways}
        for round_ in range(self.rounds + 1):
            for name, way in ways.items():
                started = time.perf_counter()
                way()
                if round_ > 0:
                    taken[name].append(time.perf_counter() - started)
        return taken


# --- sections: each yields rows ---

Rows = Iterator[dict[str, Any]]


def against(yardstick: Sequence[float], taken: Sequence[float], scale: float = 1.0) -> dict[str, float]:
    """The ratio of times to the yardstick's, round by round: median, least, most."""
    ratios = sorted(scale * mine / theirs for mine, theirs in zip(taken, yardstick, strict=True))
    return {"ratio": statistics.median(ratios), "least": ratios[0], "most": ratios[-1], "s": statistics.median(taken)}


def presets(bench: Bench) -> Rows:
    """(a) The five configurations, with both models run and with the reference recorded."""
    ways: dict[str, Way] = {"original": bench.original()}
    for name in PRESETS:
        if name != "original":
            ways[name] = partial(bench.live, ScoringConfig.preset(name))
            ways[f"{name}, recorded"] = bench.recorded(ScoringConfig.preset(name))
    ways["balanced, recorded, batch auto"] = bench.recorded(AUTO)
    taken = bench.time(ways)
    for name in ways:
        yield {"way": name, **against(taken["original"], taken[name])}


def batches(bench: Bench) -> Rows:
    """(b) Batch sizes, on 32 prompts and a recorded reference."""
    prompts = builtin_prompts(32)
    ways: dict[str, Way] = {"original": bench.original()}
    for size in (*BATCH_SIZES, "auto"):
        ways[str(size)] = bench.recorded(replace(AUTO, batch_size=size), prompts)
    taken = bench.time(ways)
    for name in list(ways)[1:]:
        yield {"batch": name, **against(taken["original"], taken[name], len(bench.prompts) / len(prompts))}


def top_k(bench: Bench) -> Rows:
    """(c) Top-k against the whole vocabulary: scores, verdicts, time."""
    changed = {"int8": perturb(bench.reference, "int8 per row"), "pruned 20 %": perturb(bench.reference, "pruned 20 %")}
    configs = {str(k): replace(AUTO, top_k=k) for k in TOP_KS} | {"whole": replace(AUTO, top_k=None)}
    taken = bench.time({"original": bench.original(), **{name: bench.recorded(config) for name, config in configs.items()}})
    whole: dict[str, float] = {}
    found = []
    for name, config in reversed(configs.items()):
        scorer = TeacherForcedScorer(config)
        baseline = scorer.record(bench.reference, bench.prompts, bench.tokenizer)
        row: dict[str, Any] = {"k": name, **against(taken["original"], taken[name])}
        row["identical"] = scorer.score_baseline(baseline, bench.reference, bench.tokenizer).mean
        for change, model in changed.items():
            report = scorer.score_baseline(baseline, model, bench.tokenizer)
            row[change] = report.mean
            row[f"{change}, error"] = report.mean / whole.setdefault(change, report.mean) - 1
            row[f"{change}, verdict"] = str(identity_limits("tv", tolerance="int8").verdict(report.mean, report.max))
        found.append(row)
    yield from reversed(found)


def counts(bench: Bench) -> Rows:
    """(d) 10, 100 and 1000 short prompts: time per prompt, and memory above that of the model."""
    config = replace(ScoringConfig.preset("balanced"), batch_size=8, positions_per_prompt=8, max_length=16)
    ways, peaks = {}, {}
    for n in COUNTS:
        prompts = [Prompt(p.text, f"{p.continuation} {i}") for i, p in zip(range(n), 8 * builtin_prompts(None), strict=False)]
        ways[str(n)] = bench.recorded(config, prompts)
        peaks[str(n)] = peak_of(ways[str(n)], bench.candidate, torch.device("cpu"))
    taken = bench.time(ways)
    for n in COUNTS:
        row = against(taken[str(COUNTS[1])], taken[str(n)], COUNTS[1] / n)
        peak = peaks[str(n)]
        above = None if peak is None else (peak.bytes - peak.weights) / 1e6
        yield {"prompts": n, **row, "ms/prompt": 1e3 * row["s"] / n, "peak MB": above}


class Whole(torch.nn.Module):
    """A model that gives all logits at all positions, whatever it is asked for."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.model(ids, attention_mask=attention_mask, use_cache=False).logits
        return logits


def waterfall(bench: Bench) -> Rows:
    """(e) From ``original`` to a verdict, one technique after the other; (f) and the products that cannot be spared."""
    n = len(bench.prompts)
    all_logits = Bench(Whole(bench.reference), Whole(bench.candidate), bench.tokenizer, bench.prompts, bench.rounds)
    pruned = perturb(bench.reference, "pruned 20 %")
    pool = builtin_prompts(None)
    renormalised = replace(AUTO, tail="renormalise", top_k=50)
    scorer = TeacherForcedScorer(replace(AUTO, batch_size=4))
    baseline = scorer.record(bench.reference, pool, bench.tokenizer)

    def decided(candidate: Model, tolerance: str) -> ScoreReport:
        limits = identity_limits("tv", tolerance=tolerance)
        test = SequentialTest(limits.max_score, score_clip=limits.max_prompt_score, pool=len(pool))
        report = scorer.draw_fresh(baseline, candidate, bench.tokenizer, test, seed=0, started=time.perf_counter(), note="")
        verdicts[tolerance] = f"{test.verdict} after {report.n_prompts} prompts"
        return report

    verdicts: dict[str, str] = {}
    ways: dict[str, Way] = {
        "original": bench.original(),
        "in batches, top-k and tail": partial(all_logits.live, AUTO),
        "logits at the needed positions only": partial(bench.live, AUTO),
        "reference recorded": bench.recorded(AUTO),
        "50 rows of the output layer (renormalised)": bench.recorded(renormalised),
        "16 positions, as the preset fastest": bench.recorded(replace(renormalised, positions_per_prompt=16)),
        "the matrix products alone": products(bench.candidate, bench.live(AUTO).tokens, AUTO),
        "DIFFERENT: pruned 20 %, tolerance int8": partial(decided, pruned, "int8"),
        "SAME: bf16, tolerance half": partial(decided, bench.candidate, "half"),
    }
    taken = bench.time(ways)
    for name in ways:
        verdict = next((v for v in verdicts.values() if name.startswith(v.split()[0])), None)
        # A verdict is what 100 prompts are scored for.
        row = against(taken["original"], taken[name], n / 100 if verdict else 1.0)
        floor = against(taken["the matrix products alone"], taken[name])["ratio"]
        yield {"way": name, **row, "floors": None if verdict or name == "original" else floor, "verdict": verdict or ""}


@contextmanager
def nothing_shared() -> Iterator[None]:
    """The engine without its sharing of beginnings."""
    CausalLM.share_prefixes = False
    try:
        yield
    finally:
        CausalLM.share_prefixes = True


def prefix(bench: Bench) -> Rows:
    """32 prompts that begin with the same 128 tokens and have 16 of their own, the prefix shared and not."""
    texts = [prompt.text + prompt.continuation for prompt in builtin_prompts(None)]
    ids = bench.tokenizer(" ".join(texts[40:60]))["input_ids"]
    head = bench.tokenizer.decode(ids[:128])
    prompts = [Prompt(head, bench.tokenizer.decode(bench.tokenizer(" " + text)["input_ids"][:16])) for text in texts[:32]]
    config = replace(AUTO, positions_per_prompt=16)
    shared = bench.recorded(config, prompts)
    found: dict[str, ScoreReport] = {}

    def alone() -> None:
        with nothing_shared():
            found["apart"] = apart()

    def together() -> None:
        found["shared"] = shared()

    with nothing_shared():
        apart = bench.recorded(config, prompts)
    ways: dict[str, Way] = {"apart": alone, "shared": together}
    taken = bench.time(ways)
    for name in ways:
        yield {"prefix": name, **against(taken["apart"], taken[name]), "tv": found[name].mean}


SECTIONS: Mapping[str, Callable[[Bench], Rows]] = {
    "presets": presets,
    "batches": batches,
    "top_k": top_k,
    "counts": counts,
    "waterfall": waterfall,
    "prefix": prefix,
}


def machine() -> dict[str, Any]:
    cpu = platform.processor()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        cpu = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), cpu)
    return {
        "cpu": f"{cpu}, {os.cpu_count()} cores, {torch.backends.cpu.get_cpu_capability()}",
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "model": "SmolLM2-135M-Instruct, float32",
    }


def main() -> None:
    arguments = parse()
    transformers.utils.logging.disable_progress_bar()
    reference, tokenizer = smollm2.reference()
    bench = Bench(reference, perturb(reference, "bf16"), tokenizer, builtin_prompts(arguments.prompts), arguments.rounds)
    document: dict[str, Any] = {**machine(), "rounds": arguments.rounds, "prompts": arguments.prompts, "sections": {}}
    for name in arguments.sections:
        started = time.perf_counter()
        document["sections"][name] = list(SECTIONS[name](bench))
        print("\n".join(speed_report.section(name, document)), f"\n({time.perf_counter() - started:.0f} s)\n", flush=True)
    folder = Path(arguments.out)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "speed.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    (folder / "speed.md").write_text(speed_report.page(document), encoding="utf-8")
    print(f"written to {folder}: speed.json, speed.md{speed_report.plot(document, folder / 'speed.svg')}")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--prompts", type=int, default=8, help="of the sections that do not say otherwise")
    parser.add_argument("--sections", nargs="+", choices=SECTIONS, default=list(SECTIONS))
    parser.add_argument("--out", default=tempfile.gettempdir(), help="the folder to write to")
    return parser.parse_args()


if __name__ == "__main__":
    main()
