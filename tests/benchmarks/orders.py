"""Verdicts at 95 % confidence on the whole built-in suite, in 100 seeded orders: SmolLM2 against changed copies of itself.

For each order, the sequential test gets the scores that record_scores.py wrote, in batches of four, as in a gate with
the preset balanced. Writes results/orders.md, and fails if a verdict is wrong more often than expected.

    python tests/benchmarks/orders.py
"""

from __future__ import annotations

import json
import random
import statistics
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from pytest_pot import Verdict
from pytest_pot.gates.verdict.limits import identity_limits
from pytest_pot.gates.verdict.sequential import SequentialTest
from pytest_pot.prompts.builtin import builtin_prompts

HERE = Path(__file__).parent
TARGET = HERE / "results" / "orders.md"
ORDERS, BATCH = 100, 4
AT_LEAST = 98
DAMAGED_KIND = "multilingual"
DAMAGED = f"damaged on {DAMAGED_KIND} only"
CASES: tuple[tuple[str, str, Verdict | None], ...] = (
    ("identical", "half", Verdict.SAME),
    ("bf16", "half", Verdict.SAME),
    ("int8", "int8", Verdict.SAME),
    ("int8", "half", Verdict.DIFFERENT),
    ("int4", "int4", Verdict.SAME),
    ("int4", "int8", Verdict.DIFFERENT),
    ("pruned 20 %", "int8", Verdict.DIFFERENT),
    ("foreign", "int8", Verdict.DIFFERENT),
    ("foreign", "int4", Verdict.DIFFERENT),
    *((DAMAGED, tolerance, None) for tolerance in ("half", "int8", "int4")),
)
"""Candidate, tolerance, and the expected verdict; None: any verdict but SAME."""


def main() -> None:
    recorded = json.loads((HERE / "data" / "smollm2_tv.json").read_text(encoding="utf-8"))
    rows, failures = [], []
    for name, tolerance, expected in CASES:
        verdicts, used = outcomes(recorded[name], tolerance)
        n_right = ORDERS - verdicts[Verdict.SAME] if expected is None else verdicts[expected]
        if n_right < (ORDERS if expected is None else AT_LEAST):
            failures.append(f"{name} at {tolerance}")
        shares = ", ".join(f"{count} {verdict}" for verdict, count in sorted(verdicts.items()))
        mean = statistics.fmean(recorded[name])
        n_used = f"{statistics.median(used):.0f}, {max(used)}"
        cells = (name, tolerance, f"{mean:.4f}", shares, n_used, expected or "never SAME")
        rows.append(f"| {' | '.join(map(str, cells))} |")
        print(rows[-1])
    TARGET.write_text(document(rows, recorded[DAMAGED]), encoding="utf-8")
    if failures:
        raise SystemExit(f"too many wrong verdicts: {', '.join(failures)}")


def document(rows: Sequence[str], damaged: Sequence[float]) -> str:
    by_kind: dict[str, list[float]] = {}
    for prompt, score in zip(builtin_prompts(None), damaged, strict=True):
        by_kind.setdefault(str(prompt.kind), []).append(score)
    means = {kind: statistics.fmean(scores) for kind, scores in by_kind.items()}
    rest = max(mean for kind, mean in means.items() if kind not in (DAMAGED_KIND, "long"))
    return "\n".join(
        [
            f"# Verdicts in {ORDERS} orders",
            "",
            "Written by `tests/benchmarks/orders.py` from the scores that `record_scores.py` recorded: SmolLM2-135M-Instruct,",
            f"the {len(damaged)} built-in prompts as a pool, preset balanced, confidence 95 %.",
            "",
            "| candidate | tolerance | mean tv | verdicts in 100 orders | prompts: median, most | expected |",
            "|---" * 6 + "|",
            *rows,
            "",
            f"In the last candidate, noise replaces the embeddings of tokens found only in {DAMAGED_KIND} prompts.",
            f"These prompts score {means[DAMAGED_KIND]:.3f} on average, other kinds at most {rest:.4f} (except long ones,",
            "which are made of all kinds). Where the mean of all prompts is within the limit, too many of them are above the",
            "limit for one prompt, and neither claim is true: the verdict is UNDECIDED, which fails both markers.",
            "",
        ]
    )


def outcomes(scores: Sequence[float], tolerance: str) -> tuple[Counter[Verdict], list[int]]:
    """How often each verdict was reached over all orders, and the number of prompts used in each order."""
    limits = identity_limits("tv", tolerance=tolerance)
    verdicts: Counter[Verdict] = Counter()
    used = []
    for seed in range(ORDERS):
        order = list(range(len(scores)))
        random.Random(seed).shuffle(order)
        test = SequentialTest(limits.max_score, score_clip=limits.max_prompt_score, pool=len(scores))
        for start in range(0, len(order), BATCH):
            if test.update(scores[index] for index in order[start : start + BATCH]) is not Verdict.UNDECIDED:
                break
        verdicts[test.verdict] += 1
        used.append(test.decision().n_used)
    return verdicts, used


if __name__ == "__main__":
    main()
