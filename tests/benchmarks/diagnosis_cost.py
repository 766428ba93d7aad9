"""What it costs to know later what changed: recording SmolLM2 with the print of its weights, over recording it without.

Both ways alternate, because the speed of a machine drifts. The medians of both and the median ratio of the rounds are shown, by
the clock and in the processor's time of this process, which other processes disturb less.

    PYTHONPATH=. python tests/benchmarks/diagnosis_cost.py [--rounds 5] [--prompts 0]
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parents[2] / "examples"))

import smollm2

from pytest_pot import ScoringConfig
from pytest_pot.baseline.weights_arrays import weights_arrays
from pytest_pot.engines.registry import opened, weights
from pytest_pot.engines.weights import WeightsPrint
from pytest_pot.prompts.builtin import builtin_prompts
from pytest_pot.prompts.tokenization import EncodedPrompts
from pytest_pot.scoring.run import ScoringRun

CLOCKS: Mapping[str, Callable[[], float]] = {"clock": time.perf_counter, "processor": time.process_time}


def main() -> int:
    arguments = _parser().parse_args()
    model, tokenizer = smollm2.reference()
    prompts = list(builtin_prompts(None))
    prompts = prompts[: arguments.prompts or None]
    config = ScoringConfig.preset("auto")

    def record(keep_weights: bool) -> None:
        with opened(model, "reference", config) as engine:
            ScoringRun(config, EncodedPrompts(prompts, tokenizer)).record(engine, model, keep_weights=keep_weights)

    def print_of_weights() -> WeightsPrint:
        named = weights(model)
        assert named is not None
        return named.print()

    record(True)  # warm up
    ways = {"without": lambda: record(False), "with": lambda: record(True), "print": print_of_weights}
    rounds = [{name: _timed(way) for name, way in ways.items()} for _ in range(arguments.rounds)]
    printed = print_of_weights()
    figures: dict[str, Any] = {
        "prompts": len(prompts),
        "tensors": len(printed.tensors),
        "bytes_per_tensor": sum(array.nbytes for array in weights_arrays(printed).values()) / len(printed.tensors),
        **{clock: _summary(rounds, clock) for clock in CLOCKS},
    }
    print(json.dumps(figures, indent=1))
    return 0


def _timed(way: Callable[[], object]) -> dict[str, float]:
    started = {name: clock() for name, clock in CLOCKS.items()}
    way()
    return {name: clock() - started[name] for name, clock in CLOCKS.items()}


def _summary(rounds: Sequence[Mapping[str, Mapping[str, float]]], clock: str) -> dict[str, float]:
    """Medians in seconds, and the ratios of recording with and without the print."""
    ratios = [each["with"][clock] / each["without"][clock] for each in rounds]
    return {
        **{f"{name}_s": statistics.median(each[name][clock] for each in rounds) for name in rounds[0]},
        "ratio": statistics.median(ratios),
        "least_ratio": min(ratios),
        "largest_ratio": max(ratios),
    }


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="how often each way is timed")
    parser.add_argument("--prompts", type=int, default=0, help="how many of the built-in prompts are recorded; 0: all")
    return parser


if __name__ == "__main__":
    sys.exit(main())
