"""Measure what scoring costs on a real model, and what each technique saves, as ratios of times within one run.

Each section runs its ways in turns, round after round. Its figures are medians over rounds of the ratio within a round, so that
a machine that is slow for a while slows all ways down. Writes speed.json, speed.md and, if matplotlib is installed (the extra
``bench``), speed.svg to ``--out``.

    PYTHONPATH=. python tests/benchmarks/speed.py [--rounds 5] [--prompts 8] [--sections presets batches ...] [--out FOLDER]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import transformers

from pytest_pot.calibration.perturbations import perturb
from pytest_pot.engines.pytorch.device import hardware
from pytest_pot.prompts.builtin import builtin_prompts

sys.path += [str(Path(__file__).parents[2] / "examples"), str(Path(__file__).parent)]

import smollm2
import speed_report
from bench import AUTO, Bench, Rows, cut_short
from speed_limits import dtype, startup, vocabulary
from speed_verdicts import verdicts, waterfall
from speed_ways import batches, counts, prefix, presets, top_k

SECTIONS: Mapping[str, Callable[[Bench], Rows]] = {
    "vocabulary": vocabulary,  # first, because memory that other sections leave in the allocator would distort it
    "presets": presets,
    "batches": batches,
    "top_k": top_k,
    "counts": counts,
    "waterfall": waterfall,
    "verdicts": verdicts,
    "prefix": prefix,
    "dtype": dtype,
    "startup": startup,
}


def machine() -> dict[str, Any]:
    cpu, capability, *_ = hardware()
    return {
        "cpu": f"{cpu}, {os.cpu_count()} cores, {capability}",
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "model": "SmolLM2-135M-Instruct, float32",
    }


def main() -> None:
    arguments = parse()
    transformers.utils.logging.disable_progress_bar()
    reference, tokenizer = smollm2.reference()
    prompts = cut_short(builtin_prompts(arguments.prompts), tokenizer)
    bench = Bench(reference, perturb(reference, "bf16"), tokenizer, prompts, arguments.rounds)
    document: dict[str, Any] = {**machine(), "rounds": arguments.rounds, "prompts": arguments.prompts, "sections": {}}
    document["tokens"] = round(statistics.mean(len(tokens.ids) for tokens in bench.live(AUTO).tokens))
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
    parser.add_argument("--prompts", type=int, default=8, help="prompts in sections without a number of their own")
    parser.add_argument("--sections", nargs="+", choices=SECTIONS, default=list(SECTIONS))
    parser.add_argument("--out", default=tempfile.gettempdir(), help="the folder to write to")
    return parser.parse_args()


if __name__ == "__main__":
    main()
