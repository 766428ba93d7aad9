"""What a gate that fails costs over one that passes: the diagnosis, on SmolLM2 and changed copies of it.

Both gates compare the same two models on the same prompts. They differ in the limit alone: the one that passes computes nothing
else, the one that fails also finds out what changed. The reference is live, or recorded before. Both gates alternate, because
the speed of a machine drifts. Times are by the clock and in the processor's time of this process, which other processes disturb
less; the latter counts all threads.

    PYTHONPATH=. python tests/benchmarks/failing_gate_cost.py [--rounds 5] [--prompts 32] [--candidates int8 wrong_rope]
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parents[2] / "examples"))

import smollm2

from pytest_pot import ScoringConfig
from pytest_pot.engines.base import LoadedModel
from pytest_pot.engines.registry import opened
from pytest_pot.gates.base import GateInputs, GateSettings, RecordedReference, RunOptions
from pytest_pot.gates.verdict.gate import IdentityGate
from pytest_pot.prompts.builtin import builtin_prompts
from pytest_pot.prompts.tokenization import EncodedPrompts
from pytest_pot.scoring.run import ScoringRun

TARGET = 2.2
"""The time of the failing gate over that of the passing one is to be at most this."""
CLOCKS: Mapping[str, Callable[[], float]] = {"clock": time.perf_counter, "processor": time.process_time}


def main() -> int:
    arguments = _parser().parse_args()
    reference, tokenizer = smollm2.reference()
    prompts = EncodedPrompts(builtin_prompts()[: arguments.prompts], tokenizer)
    config = ScoringConfig.preset("auto")
    with opened(reference, "reference", config) as engine:
        recorded = RecordedReference(ScoringRun(config, prompts).record(engine, reference), "recorded")
    for name in arguments.candidates:
        candidate = LoadedModel.of(getattr(smollm2, name)()).model
        names = ("reference", name)
        for way, inputs in {
            "live": GateInputs(candidate, prompts, names, reference),
            "recorded": GateInputs(candidate, prompts, names, None, recording=lambda _: recorded),
        }.items():
            _timed(inputs, 1.0)  # warm up; the noise floor is measured once per model
            rounds = [(_timed(inputs, 1.0), _timed(inputs, 0.0)) for _ in range(arguments.rounds)]
            figures = {
                "candidate": name,
                "reference": way,
                "prompts": len(prompts),
                **{
                    clock: {
                        "passing_s": statistics.median(passing[0][clock] for passing, _ in rounds),
                        "failing_s": statistics.median(failing[0][clock] for _, failing in rounds),
                        "ratio": statistics.median(failing[0][clock] / passing[0][clock] for passing, failing in rounds),
                    }
                    for clock in CLOCKS
                },
                "target": TARGET,
                "what_changed": rounds[-1][1][1],
            }
            print(json.dumps(figures, indent=1), flush=True)
    return 0


def _timed(inputs: GateInputs, limit: float) -> tuple[dict[str, float], Any]:
    """Seconds of a gate with ``limit`` on the score, and what it says of what changed; None where it passed."""
    settings = GateSettings(gate="pot_identity", preset="auto", config=ScoringConfig())
    gate = IdentityGate.from_arguments(settings, {"max_score": limit, "max_prompt_score": limit}, RunOptions({}))
    started = {name: clock() for name, clock in CLOCKS.items()}
    result = gate.run(inputs, lambda *_, **__: None)
    elapsed = {name: clock() - started[name] for name, clock in CLOCKS.items()}
    assert result.passed == (limit > 0)
    return elapsed, None if result.diagnosis is None else list(result.diagnosis.what_changed)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="how often each gate is timed")
    parser.add_argument("--prompts", type=int, default=32, help="how many of the built-in prompts are compared")
    parser.add_argument("--candidates", nargs="+", default=["int8", "wrong_rope"], help="functions of examples/smollm2.py")
    return parser


if __name__ == "__main__":
    sys.exit(main())
