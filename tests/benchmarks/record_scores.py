"""Record the prompt scores of SmolLM2 candidates, for sequential_errors.py, against_confseq.py and orders.py.

Writes data/smollm2_tv.json: the metric tv of all built-in prompts with the preset balanced, by candidate. Takes a few minutes
on two cores.

    python tests/benchmarks/record_scores.py
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers

from pytest_pot import ScoringConfig, TeacherForcedScorer
from pytest_pot.calibration.perturbations import perturb
from pytest_pot.prompts.builtin import builtin_prompts
from pytest_pot.prompts.prompt import Prompt

sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))

TARGET = Path(__file__).parent / "data" / "smollm2_tv.json"
DAMAGED_KIND = "multilingual"


def main() -> None:
    transformers.utils.logging.disable_progress_bar()
    import smollm2

    reference, tokenizer = smollm2.reference()
    prompts = builtin_prompts(None)
    makers: dict[str, Callable[[], Any]] = {
        "identical": lambda: smollm2.identical()[0],
        "bf16": lambda: perturb(reference, "bf16"),
        "int8": lambda: perturb(reference, "int8 per row"),
        "pruned 20 %": lambda: perturb(reference, "pruned 20 %"),
        "int4": lambda: perturb(reference, "int4 in groups"),
        "foreign": lambda: smollm2.foreign()[0],
        f"damaged on {DAMAGED_KIND} only": lambda: damaged(reference, tokenizer, prompts),
    }
    scorer = TeacherForcedScorer(ScoringConfig.preset("balanced", metric="tv", batch_size=8))
    baseline = scorer.record(reference, prompts, tokenizer)
    scores = {}
    for name, make in makers.items():
        report = scorer.score_baseline(baseline, make(), tokenizer)
        scores[name] = [float(f"{score:.6g}") for score in report.scores]
        print(f"{name}: mean {report.mean:.4g}, worst {report.max:.4g}", flush=True)
    TARGET.parent.mkdir(exist_ok=True)
    TARGET.write_text("{\n" + ",\n".join(f'"{name}": {json.dumps(values)}' for name, values in scores.items()) + "\n}\n")


def damaged(reference: Any, tokenizer: Any, prompts: Sequence[Prompt]) -> Any:
    """A copy in which noise replaces the embeddings of all tokens that occur only in prompts of kind ``DAMAGED_KIND``."""
    kinds: dict[int, set[str | None]] = {}
    for prompt in prompts:
        if prompt.kind != "long":  # long prompts are made of the others
            for token in tokenizer(f"{prompt.text}{prompt.continuation}")["input_ids"]:
                kinds.setdefault(token, set()).add(prompt.kind)
    own = torch.tensor([token for token, token_kinds in kinds.items() if token_kinds == {DAMAGED_KIND}])
    model: Any = perturb(reference, "noise 2^-12")
    # A new parameter, untied from the output head, which stays the same.
    weight = torch.nn.Parameter(model.get_input_embeddings().weight.detach().clone())
    noise = torch.randn(len(own), weight.shape[1], generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        weight[own] = weight.std() * noise
    model.get_input_embeddings().weight = weight
    return model


if __name__ == "__main__":
    main()
