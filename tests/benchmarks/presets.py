"""What each preset costs on a real model, as a ratio to ``original``, the plain way.

Rounds are interleaved and the ratio is taken within each round, so that a machine that is slow for a while is slow for all
presets. What is printed is the median over rounds, with the lowest and the highest.

    python tests/benchmarks/presets.py [--prompts 16] [--rounds 5] [--threads N]
"""

from __future__ import annotations

import argparse
import statistics
import sys
from pathlib import Path

import torch
import transformers

from pytest_pot import PRESETS, ScoreReport, ScoringConfig, TeacherForcedScorer
from pytest_pot.prompts import builtin_prompts

sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))

YARDSTICK = "original"


def main() -> None:
    arguments = parse()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    transformers.utils.logging.disable_progress_bar()
    import smollm2

    reference, tokenizer = smollm2.reference()
    candidate, _ = smollm2.int8()
    prompts = builtin_prompts()[: arguments.prompts]

    def score(preset: str) -> ScoreReport:
        return TeacherForcedScorer(ScoringConfig.preset(preset)).score_batch(reference, candidate, prompts, tokenizer)

    for preset in PRESETS:
        score(preset)  # the first forward of a shape is slower
    rounds = [{preset: score(preset) for preset in PRESETS} for _ in range(arguments.rounds)]
    print(f"SmolLM2-135M against its int8 copy, {len(prompts)} prompts, both models run; {arguments.rounds} rounds")
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")
    print(f"{'preset':10} {'positions':>9} {'tv':>8} {'ms/prompt':>9}   times as fast as {YARDSTICK}")
    for preset in PRESETS:
        print(line(preset, rounds))


def line(preset: str, rounds: list[dict[str, ScoreReport]]) -> str:
    ratios = [scored[YARDSTICK].elapsed_s / scored[preset].elapsed_s for scored in rounds]
    report = rounds[0][preset]
    ms = statistics.median(scored[preset].ms_per_prompt for scored in rounds)
    spread = f"{statistics.median(ratios):.2f}  ({min(ratios):.2f} to {max(ratios):.2f})"
    return f"{preset:10} {report.n_positions:9d} {report.metrics['tv']:8.4f} {ms:9.1f}   {spread}"


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=0, help="of torch; as many as it likes by default")
    return parser.parse_args()


if __name__ == "__main__":
    main()
