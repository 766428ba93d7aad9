"""Verdicts at 95 % on the whole built-in suite, in 100 seeded orders: SmolLM2 against changed copies of itself.

Every prompt is scored once; a verdict in an order is what the sequential test says of the scores in that order, in batches of
four, as a gate takes them. Writes results/orders.md. Takes some minutes on two cores.

    python tests/benchmarks/orders.py
"""

from __future__ import annotations

import random
import statistics
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers

from pytest_pot import ScoringConfig, TeacherForcedScorer, Verdict
from pytest_pot.engines.perturbations import perturb
from pytest_pot.prompts import Prompt, builtin_prompts
from pytest_pot.sequential import SequentialTest
from pytest_pot.verdict import TOLERANCES

sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))

TARGET = Path(__file__).parent / "results" / "orders.md"
ORDERS, BATCH = 100, 4
DAMAGED_KIND = "multilingual"


def main() -> None:
    transformers.utils.logging.disable_progress_bar()
    import smollm2

    reference, tokenizer = smollm2.reference()
    prompts = builtin_prompts(None)
    candidates: dict[str, tuple[Callable[[], Any], str, Verdict | None]] = {
        "identical": (lambda: smollm2.identical()[0], "half", Verdict.SAME),
        "bf16": (lambda: perturb(reference, "bf16"), "half", Verdict.SAME),
        "int8 per row": (lambda: perturb(reference, "int8 per row"), "int8", Verdict.SAME),
        "int8 per row, limit half": (lambda: perturb(reference, "int8 per row"), "half", Verdict.DIFFERENT),
        "pruned 20 %": (lambda: perturb(reference, "pruned 20 %"), "int8", Verdict.DIFFERENT),
        "int4 in groups": (lambda: perturb(reference, "int4 in groups"), "int8", Verdict.DIFFERENT),
        "foreign": (lambda: smollm2.foreign()[0], "int8", Verdict.DIFFERENT),
        f"damaged on {DAMAGED_KIND} only": (lambda: damaged(reference, tokenizer, prompts), "half", None),
    }
    scorer = TeacherForcedScorer(ScoringConfig(batch_size=8))
    baseline = scorer.record(reference, prompts, tokenizer)
    rows = []
    for name, (make, tolerance, expected) in candidates.items():
        report = scorer.score_baseline(baseline, make(), tokenizer)
        rows.append(row(name, report.scores.tolist(), report.kinds, tolerance, expected))
        print(rows[-1], flush=True)
    TARGET.write_text(document(rows, len(prompts)), encoding="utf-8")


def document(rows: Sequence[str], n_prompts: int) -> str:
    made = f"torch {torch.__version__}, {torch.get_num_threads()} threads"
    return "\n".join(
        [
            f"# Verdicts in {ORDERS} orders",
            "",
            f"Written by `tests/benchmarks/orders.py`: SmolLM2-135M-Instruct, the {n_prompts} built-in prompts as a pool,",
            f"preset balanced, confidence 95 %, {made}.",
            "",
            "| candidate | tolerance | mean tv | verdicts in 100 orders | prompts: median, most | expected |",
            "|---" * 6 + "|",
            *rows,
            "",
            f"The last one has noise for embeddings of the tokens that only prompts of kind {DAMAGED_KIND} hold.",
            "",
        ]
    )


def row(name: str, scores: Sequence[float], kinds: dict[str, float], tolerance: str, expected: Verdict | None) -> str:
    verdicts: Counter[str] = Counter()
    used = []
    for seed in range(ORDERS):
        order = list(range(len(scores)))
        random.Random(seed).shuffle(order)
        test = SequentialTest(TOLERANCES[tolerance], pool=len(scores))
        for start in range(0, len(order), BATCH):
            if test.update(scores[index] for index in order[start : start + BATCH]) is not Verdict.UNDECIDED:
                break
        verdicts[str(test.verdict)] += 1
        used.append(test.decision().n_used)
    told = ", ".join(f"{count} {verdict}" for verdict, count in sorted(verdicts.items()))
    mean = statistics.fmean(scores)
    if expected is None:
        rest = max(value for kind, value in kinds.items() if kind not in (DAMAGED_KIND, "long"))
        about = f"{mean:.4f} ({DAMAGED_KIND} {kinds[DAMAGED_KIND]:.3f}, others at most {rest:.4f})"
    else:
        about = f"{mean:.4f}"
    took = f"{statistics.median(used):.0f}, {max(used)}"
    return f"| {name} | {tolerance} | {about} | {told} | {took} | {expected or 'never SAME'} |"


def damaged(reference: Any, tokenizer: Any, prompts: Sequence[Prompt]) -> Any:
    """A copy with noise in place of the embeddings of the tokens that one kind of prompt has to itself."""
    kinds: dict[int, set[str | None]] = {}
    for prompt in prompts:
        if prompt.kind != "long":  # which is made of the others
            for token in tokenizer(f"{prompt.text}{prompt.continuation}")["input_ids"]:
                kinds.setdefault(token, set()).add(prompt.kind)
    own = torch.tensor([token for token, found in kinds.items() if found == {DAMAGED_KIND}])
    model = perturb(reference, "noise 2^-12")
    weight = torch.nn.Parameter(model.get_input_embeddings().weight.detach().clone())  # untied: the output head is left alone
    noise = torch.randn(len(own), weight.shape[1], generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        weight[own] = weight.std() * noise
    model.get_input_embeddings().weight = weight
    return model


if __name__ == "__main__":
    main()
