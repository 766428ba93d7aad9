"""Measure how often latency gates fail for the same model, and for a slower one, on a quiet and on a busy machine.

Runs the gate of pytest-pot, with its defaults and max_slowdown=1.25, on a real model and one prompt. The slower candidates have
more layers. A burner is a process that does nothing but compute, to keep a core busy. Writes results/latency_gates.json after
every gate: stop it at any time, and run it again to continue. At the end it writes the table, results/latency_gates.md.

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
from pytest_pot.gates.base import GateInputs
from pytest_pot.gates.latency.gate import LatencyGate
from pytest_pot.gates.latency.latency_report import Outcome
from pytest_pot.gates.latency.limits import LatencyLimits
from pytest_pot.gates.latency.settings import LatencySettings
from pytest_pot.prompts.tokenization import EncodedPrompts

sys.path.append(str(Path(__file__).parents[2] / "examples"))

import smollm2

RESULTS = Path(__file__).parent / "results"
OUTCOMES = RESULTS / "latency_gates.json"
TABLE = RESULTS / "latency_gates.md"
PRESET = "single"
PROMPTS = [Prompt("The old mill by the river", " stood empty all winter, and in spring")]
"""Short, so that a hundred gates in each condition take only an hour or two."""
LIMIT = 1.25
SAME = "the same model"
LAYERS = {SAME: 30, "1.35 times slower": 45, "1.5 times slower": 51}
"""The number of layers of each candidate. The reference has 30, and its output head takes time too."""
BURNERS = {0: tuple(LAYERS), 1: (SAME, "1.5 times slower"), 3: (SAME, "1.5 times slower")}
"""Candidates to gate, by the number of burners that run at the same time."""
BLOCK = 10
"""Gates in one condition before the next condition has its turn, so that other load on the machine affects all of them."""

Row = tuple[str, float, float, int, float]
"""Outcome, estimated slowdown, its confidence bound, number of pairs, seconds."""


class Store:
    """The outcomes by condition, in a JSON file that is replaced as a whole, so it is valid at any moment."""

    def __init__(self) -> None:
        self.rows: dict[str, list[Row]] = json.loads(OUTCOMES.read_text())["gates"] if OUTCOMES.exists() else {}

    def add(self, key: str, row: Row) -> None:
        self.rows.setdefault(key, []).append(row)
        text = json.dumps({"machine": machine(), "gates": dict(sorted(self.rows.items()))}, indent=1)
        compact = re.sub(r"\[[^][{}]*\]", lambda match: re.sub(r"\s+", " ", match[0]), text)  # one line per gate
        partial_file = OUTCOMES.with_suffix(f".partly-{os.getpid()}")
        partial_file.write_text(compact + "\n")
        partial_file.replace(OUTCOMES)


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
    """A copy of ``reference`` with ``n`` layers: the first layers are repeated after the last."""
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
        prompts=PROMPTS,
        limits=LatencyLimits(max_slowdown=LIMIT),
    )
    started = time.perf_counter()
    inputs = GateInputs(candidate, EncodedPrompts(PROMPTS, tokenizer), ("", ""), reference)
    report = LatencyGate(settings).run(inputs, lambda *_, **__: None).report
    seconds = time.perf_counter() - started
    return (
        str(report.verdict),
        round(report.slowdown or 0, 3),
        round(report.checks[0].bound or 0, 3),
        report.n_pairs,
        round(seconds, 2),
    )


def measure(arguments: argparse.Namespace, store: Store) -> bool:
    """Run the missing gates until the time is over. Returns whether all gates have been run."""
    deadline = time.perf_counter() + arguments.limit_s
    reference, tokenizer = smollm2.reference()
    candidates = {name: with_layers(reference, n) for name, n in LAYERS.items()}
    conditions = [(burners, name) for burners in arguments.burners for name in BURNERS[burners]]
    for goal in range(BLOCK, arguments.gates + BLOCK, BLOCK):
        for burners, name in conditions:
            key = key_of(arguments.threads, burners, name)
            n_wanted = min(goal, arguments.gates if name == SAME else arguments.slower_gates)
            with burning(burners):
                while len(store.rows.get(key, [])) < n_wanted:
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
        "`pot_latency`. Written by `tests/benchmarks/latency_gates.py`. A burner is a process that only computes; the machine",
        f"has {os.cpu_count()} cores. The reference has 30 layers, the slower candidates {LAYERS['1.35 times slower']} and",
        f"{LAYERS['1.5 times slower']}. *Slowdown* is the median of the gates' estimates; *threads* is torch's setting",
        "(the gate uses fewer while burners run).",
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
    parser.add_argument("--gates", type=int, default=100, help="gates of the same model, in each condition")
    parser.add_argument("--slower-gates", type=int, default=60, help="gates of each slower candidate, at most --gates")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="torch's number of threads")
    parser.add_argument("--burners", type=int, nargs="+", choices=BURNERS, default=list(BURNERS))
    parser.add_argument("--limit-s", type=float, default=3600)
    arguments = parser.parse_args()
    transformers.utils.logging.disable_progress_bar()
    torch.set_num_threads(arguments.threads)
    store = Store()
    is_complete = measure(arguments, store)
    TABLE.write_text(table(store))
    print(table(store))
    if not is_complete:
        raise SystemExit("out of time; run it again to continue")


if __name__ == "__main__":
    main()
