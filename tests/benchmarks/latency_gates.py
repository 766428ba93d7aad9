"""Measure latency gates: how often they fail the same model, and how often one that is really slower, on a busy machine too.

Runs the product's own gate, with its defaults and max_slowdown=1.25, on a real model and one prompt. What is slower has more
layers. Burners are processes that do nothing but compute. Writes results/latency_gates.json after every gate, and goes on
from there: stop it when you like, run it again to go on. Then writes the table, results/latency_gates.md.

    PYTHONPATH=. python tests/benchmarks/latency_gates.py [--gates 100] [--slower-gates 60] [--threads N] [--limit-s N]
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import transformers

from pytest_pot import Prompt, ScoringConfig
from pytest_pot.gates.latency.gate import run_latency_gate
from pytest_pot.gates.latency.settings import LatencySettings
from pytest_pot.gates.latency.statistics import LatencyLimits, Outcome
from pytest_pot.gates.verdict.gate import GateInputs

sys.path.append(str(Path(__file__).parents[2] / "examples"))

import smollm2

RESULTS = Path(__file__).parent / "results"
OUTCOMES = RESULTS / "latency_gates.json"
TABLE = RESULTS / "latency_gates.md"
PRESET = "single"
PROMPTS = [Prompt("The old mill by the river", " stood empty all winter, and in spring")]
"""Short, so that a hundred gates in each condition fit into an hour or two."""
LIMIT = 1.25
SAME = "the same model"
LAYERS = {SAME: 30, "1.35 times slower": 45, "1.5 times slower": 51}
"""Candidates, by the layers that they have; the reference has 30, and its output head takes time as well."""
BURNERS = {0: tuple(LAYERS), 1: (SAME, "1.5 times slower"), 3: (SAME, "1.5 times slower")}
"""What is gated beside so many of them."""
BLOCK = 10
"""Gates in one condition before the next one's turn: what the machine does besides is to meet all of them."""

Row = tuple[str, float, float, int, float]
"""Outcome, slowdown, its bound, pairs, seconds."""


class Store:
    """The outcomes by condition, in a JSON file that is whole at every moment."""

    def __init__(self) -> None:
        self.rows: dict[str, list[Row]] = json.loads(OUTCOMES.read_text())["gates"] if OUTCOMES.exists() else {}

    def add(self, key: str, row: Row) -> None:
        self.rows.setdefault(key, []).append(row)
        text = json.dumps({"machine": machine(), "gates": dict(sorted(self.rows.items()))}, indent=1)
        compact = re.sub(r"\[[^][{}]*\]", lambda match: re.sub(r"\s+", " ", match[0]), text)  # a gate needs no more than a line
        partly = OUTCOMES.with_suffix(f".partly-{os.getpid()}")
        partly.write_text(compact + "\n")
        partly.replace(OUTCOMES)


def key_of(threads: int, burners: int, candidate: str) -> str:
    return f"{threads} threads, {burners} burners, {candidate}"


def machine() -> dict[str, Any]:
    return {
        "cores": os.cpu_count(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


def with_layers(reference: Any, n: int) -> Any:
    """A copy of ``reference`` with ``n`` layers, the first ones again after the last."""
    model = copy.deepcopy(reference)
    layers = list(model.model.layers)
    model.model.layers.extend(copy.deepcopy(layer) for layer in layers[: n - len(layers)])
    model.config.num_hidden_layers = n
    return model


@contextmanager
def burning(n: int) -> Iterator[None]:
    burners = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(n)]
    try:
        yield
    finally:
        for burner in burners:
            burner.kill()
            burner.wait()


def gate(reference: Any, candidate: Any, tokenizer: Any) -> Row:
    settings = LatencySettings(
        gate="pot_latency",
        preset=PRESET,
        config=ScoringConfig.preset(PRESET),
        reference=None,
        baseline=None,
        candidate=None,
        prompts=PROMPTS,
        key=None,
        limits=LatencyLimits(max_slowdown=LIMIT),
    )
    started = time.perf_counter()
    report = run_latency_gate(settings, GateInputs(reference, candidate, tokenizer, None, PROMPTS, ("", ""))).report
    taken = time.perf_counter() - started
    return (
        str(report.verdict),
        round(report.slowdown or 0, 3),
        round(report.checks[0].bound or 0, 3),
        report.n_pairs,
        round(taken, 2),
    )


def measure(arguments: argparse.Namespace, store: Store) -> bool:
    """Whether all gates have been run."""
    deadline = time.perf_counter() + arguments.limit_s
    reference, tokenizer = smollm2.reference()
    candidates = {name: with_layers(reference, n) for name, n in LAYERS.items()}
    conditions = [(burners, name) for burners in arguments.burners for name in BURNERS[burners]]
    for goal in range(BLOCK, arguments.gates + BLOCK, BLOCK):
        for burners, name in conditions:
            key = key_of(arguments.threads, burners, name)
            wanted = min(goal, arguments.gates if name == SAME else arguments.slower_gates)
            with burning(burners):
                while len(store.rows.get(key, [])) < wanted:
                    if time.perf_counter() > deadline:
                        return False
                    row = gate(reference, candidates[name], tokenizer)
                    store.add(key, row)
                    print(key, *row, flush=True)
    return True


def table(store: Store) -> str:
    lines = [
        "# Latency gates",
        "",
        f"SmolLM2-135M-Instruct, one short prompt, preset `{PRESET}`, `max_slowdown={LIMIT}`, and otherwise the defaults of",
        "`pot_latency`. Made by `tests/benchmarks/latency_gates.py`. A burner is a process that computes for ever; the machine",
        f"has {os.cpu_count()} cores. The reference has 30 layers, the slower candidates {LAYERS['1.35 times slower']} and",
        f"{LAYERS['1.5 times slower']}. *Slowdown* is the median over the gates of what each estimated; *threads* is what",
        "torch was set to (beside burners, the gate takes fewer).",
        "",
        "| threads | burners | candidate | gates | fail | inconclusive | slowdown | median time | with 40 pairs |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for key, rows in sorted(store.rows.items()):
        threads, burners, name = key.split(", ")
        outcomes, slowdowns, _, pairs, seconds = zip(*rows, strict=True)
        share = f"{outcomes.count(Outcome.FAIL)} ({outcomes.count(Outcome.FAIL) / len(rows):.0%})"
        cells = [
            threads.split()[0],
            burners.split()[0],
            name,
            len(rows),
            share,
            outcomes.count(Outcome.INCONCLUSIVE),
            f"{statistics.median(slowdowns):.2f}x",
            f"{statistics.median(seconds):.1f} s",
            sum(n > 10 for n in pairs),
        ]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gates", type=int, default=100, help="of the same model, in each condition")
    parser.add_argument("--slower-gates", type=int, default=60, help="of each slower one, at most as many as --gates")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of torch")
    parser.add_argument("--burners", type=int, nargs="+", choices=BURNERS, default=list(BURNERS))
    parser.add_argument("--limit-s", type=float, default=3600)
    arguments = parser.parse_args()
    transformers.utils.logging.disable_progress_bar()
    torch.set_num_threads(arguments.threads)
    store = Store()
    done = measure(arguments, store)
    TABLE.write_text(table(store))
    print(table(store))
    if not done:
        raise SystemExit("out of time; run it again to go on")


if __name__ == "__main__":
    main()
