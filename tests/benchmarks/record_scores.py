"""Record the prompt scores of SmolLM2 candidates, which the simulations of the sequential test resample.

Writes data/smollm2_tv.json: the metric tv of every built-in prompt under the preset balanced, by candidate.

    python tests/benchmarks/record_scores.py
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import torch
import transformers

from pytest_pot import ScoringConfig, TeacherForcedScorer
from pytest_pot.prompts import builtin_prompts

sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))

TARGET = Path(__file__).parent / "data" / "smollm2_tv.json"
PRUNED_SHARE = 0.2
INT4_GROUP = 32


def main() -> None:
    transformers.utils.logging.disable_progress_bar()
    import smollm2

    makers: dict[str, Callable[[], smollm2.Pair]] = {
        "identical": smollm2.identical,
        "bf16": smollm2.bf16,
        "int8": smollm2.int8,
        "pruned 20 %": lambda: smollm2.changed(prune),
        "int4": lambda: smollm2.changed(int4),
        "foreign": smollm2.foreign,
    }
    reference, tokenizer = smollm2.reference()
    scorer = TeacherForcedScorer(ScoringConfig.preset("balanced", metric="tv"))
    scores = {}
    for name, make in makers.items():
        report = scorer.score_batch(reference, make()[0], builtin_prompts(), tokenizer)
        scores[name] = [float(f"{score:.6g}") for score in report.scores]
        print(f"{name}: mean {report.mean:.4g}, worst {report.max:.4g}")
    TARGET.parent.mkdir(exist_ok=True)
    TARGET.write_text("{\n" + ",\n".join(f'"{name}": {json.dumps(found)}' for name, found in scores.items()) + "\n}\n")


def prune(weight: torch.Tensor) -> torch.Tensor:
    """The share of a matrix's weights that are nearest to zero, set to zero."""
    least = weight.abs().flatten().kthvalue(int(weight.numel() * PRUNED_SHARE)).values
    return torch.where(weight.abs() <= least, 0.0, weight)


def int4(weight: torch.Tensor) -> torch.Tensor:
    """Rounded to 4-bit integers, one scale per group of a row."""
    groups = weight.reshape(-1, INT4_GROUP)
    scale = (groups.abs().amax(dim=1, keepdim=True) / 7).clamp_min(1e-12)
    return (torch.round(groups / scale) * scale).reshape(weight.shape)


if __name__ == "__main__":
    main()
