"""Measure scoring on a GPU: speed against the bare forwards and the device's peak, memory, latency gates, identity, noise.

Needs no network and no file: the models have the shapes of SmolLM2-135M, Qwen2.5-1.5B and Qwen2.5-7B, with random weights that
are made on the device, and the tokenizer is trained on the built-in prompts. Where the file of SmolLM2 is at hand, the section
``identity`` runs it too. Made to take less than six minutes on one card. Writes gpu.json, gpu.md and profile.txt
to ``--out``, after every section; exits with 1 if a section failed.

    PYTHONPATH=. python tests/benchmarks/gpu.py --out FOLDER [--sections presets noise ...] [--shapes 135m 1.5b 7b]

``--device cpu --shapes tiny`` tries the script where there is no GPU.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers

sys.path += [str(Path(__file__).parents[2] / "examples"), str(Path(__file__).parent)]

import gpu_report
from bench import AUTO, Rows
from gpu_bench import GpuBench
from gpu_checks import identity, memory, noise
from gpu_latency import latency
from gpu_models import SHAPES
from gpu_profile import profile
from gpu_speed import accurate, bare, batches, peak, presets

from pytest_pot.prompts.tokenization import tokenise

Sections = Mapping[str, Callable[[GpuBench], Rows]]


def sections(folder: Path) -> Sections:
    return {
        "peak": peak,
        "bare": bare,
        "accurate": accurate,
        "noise": noise,
        "profile": partial(profile, target=folder / "profile.txt"),
        "presets": presets,
        "batches": batches,
        "memory": memory,
        "identity": identity,
        "latency": latency,
    }


def main() -> int:
    arguments = parse()
    device = torch.device(arguments.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        print(
            "gpu.py needs a CUDA device, and torch sees none here; --device cpu --shapes tiny tries the script", file=sys.stderr
        )
        return 1
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    bench = GpuBench(device, arguments.shapes, arguments.prompts, arguments.rounds)
    folder = Path(arguments.out)
    folder.mkdir(parents=True, exist_ok=True)
    document = described(bench)
    print(f"{document['device']}; {document['prompts']} prompts of {document['tokens']} tokens\n", flush=True)
    deadline = time.perf_counter() + arguments.limit_s
    for name in arguments.sections:
        if time.perf_counter() > deadline:
            document["errors"][name] = f"not run: {arguments.limit_s:g} s were over"
            continue
        run(name, sections(folder)[name], bench, document)
        (folder / "gpu.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
        (folder / "gpu.md").write_text(gpu_report.page(document), encoding="utf-8")
    print("\n".join(gpu_report.targets(document)))
    print(f"\n{sum(document['seconds'].values()):.0f} s, written to {folder}: gpu.json, gpu.md")
    for name, error in document["errors"].items():
        print(f"{name} failed: {error}")
    return 1 if document["errors"] else 0


def run(name: str, section: Callable[[GpuBench], Rows], bench: GpuBench, document: dict[str, Any]) -> None:
    """Add the rows of one section to ``document`` and print them; an error is shown, and kept with the rows before it."""
    started = time.perf_counter()
    rows: list[dict[str, Any]] = []
    document["sections"][name] = rows
    try:
        for row in section(bench):
            rows.append(row)
            print(row, file=sys.stderr, flush=True)
    except Exception as error:
        traceback.print_exc()
        document["errors"][name] = f"{type(error).__name__}: {error}"
    document["seconds"][name] = time.perf_counter() - started
    print("\n".join(gpu_report.section(name, document)), f"\n({document['seconds'][name]:.0f} s)\n", flush=True)
    if bench.on_cuda:
        torch.cuda.empty_cache()


def described(bench: GpuBench) -> dict[str, Any]:
    """The machine and the prompts, before any section has run."""
    lengths = [
        min(AUTO.max_length, len(context) + min(AUTO.positions_per_prompt, len(continuation or ())))
        for context, continuation in tokenise(bench.tokenizer, bench.prompts)
    ]
    return {
        "device": torch.cuda.get_device_name(bench.device) if bench.on_cuda else "CPU",
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "shapes": list(bench.shapes),
        "prompts": len(bench.prompts),
        "tokens": round(statistics.mean(lengths), 1),
        "rounds": bench.rounds,
        "sections": {},
        "errors": {},
        "seconds": {},
    }


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", required=True, help="the folder to write to")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=[name for name in SHAPES if name != "tiny"])
    names = list(sections(Path()))
    parser.add_argument("--sections", nargs="+", choices=names, default=names)
    parser.add_argument("--prompts", type=int, help="built-in prompts; all 257 by default")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--limit-s", type=float, default=360, help="seconds after which no further section begins")
    return parser.parse_args()


if __name__ == "__main__":
    raise SystemExit(main())
