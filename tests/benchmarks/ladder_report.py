"""The tables of the ladder, from what ladder.py measured: results/ladder.md, results/metrics.md, results/tolerances.md.

PYTHONPATH=. python tests/benchmarks/ladder_report.py
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from pytest_pot.config import METRICS
from pytest_pot.sequential import SequentialTest
from pytest_pot.verdict import PROMPT_FACTOR, TOLERANCES, Verdict, identity_limits

RESULTS = Path(__file__).parent / "results"
PRESETS = ("original", "accurate", "balanced", "fastest")
GATED = "tv"
SEPARATION = 1.5

Array = np.ndarray


@dataclass(frozen=True)
class Ladder:
    """What was measured on one model."""

    data: dict[str, Any]

    @property
    def name(self) -> str:
        return str(self.data["model"])

    @property
    def rungs(self) -> dict[str, dict[str, Any]]:
        return dict(self.data["rungs"])

    def scores(self, rung: str, metric: str = GATED, view: str = "exact") -> Array:
        return np.array(self.rungs[rung][view]["scores"][metric])

    def mean(self, rung: str, metric: str = GATED, view: str = "exact") -> float:
        return float(self.scores(rung, metric, view).mean())


LADDERS = [Ladder(json.loads((RESULTS / f"ladder_{name}.json").read_text())) for name in ("smollm2", "stories15m")]

OTHERWISE = ("batch of 1", "batch of 3", "batch of 16", "2 threads", "eager attention")
RUNG_OF_TOLERANCE = {
    "identical": ("itself",),
    "numeric": OTHERWISE,
    "half": ("fp16", "bf16"),
    "int8": ("int8 per row",),
    "int4": ("int4 in groups",),
}
NOISE = tuple(f"noise 2^-{n}" for n in range(12, 2, -1))
BROKEN = ("layers swapped", "wrong RoPE base", "foreign model")
CHAINS = {
    "precision": ("eager attention", "fp16", "bf16", "int8 per row", "int8 per tensor", "int4 in groups", "foreign model"),
    "pruning": ("pruned 1 %", "pruned 5 %", "pruned 20 %"),
    "noise": NOISE,
    "fine-tuning": ("fine-tuned 1 step", "fine-tuned 10 steps", "fine-tuned 100 steps"),
}
"""Rungs that follow one another by their nature, and not only by their scores."""


def number(x: float) -> str:
    return "0" if x == 0 else f"{x:.1e}" if abs(x) < 1e-3 else f"{x:.3g}"


def table(*head: str) -> list[str]:
    return [f"| {' | '.join(head)} |", f"|{' --- |' * len(head)}"]


def row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


# --- ladder.md ---


def ladder_page() -> Iterator[str]:
    yield "# The ladder"
    yield ""
    yield "Written by `tests/benchmarks/ladder.py` and `ladder_report.py`. By how much known changes move two trained models."
    for ladder in LADDERS:
        data = ladder.data
        positions = ladder.rungs["itself"]["exact"]["positions"]
        yield ""
        yield f"## {ladder.name}"
        yield ""
        yield (
            f"{data['prompts']} prompts, {positions} positions, whole vocabulary; {data['machine']}, torch {data['torch']}, "
            f"transformers {data['transformers']}. The reference ran in batches of 8. Each cell: the mean over prompts · its "
            "coefficient of variation over prompts · the worst prompt."
        )
        yield ""
        yield from table("rung", *METRICS)
        for rung in ladder.rungs:
            yield row(rung, *(cell(ladder.scores(rung, metric)) for metric in METRICS))
        yield ""
        yield (
            "With the reference's likeliest tokens only: means under `balanced` (100 and a tail as one cell, 32 positions) "
            "and `fastest` (50, renormalised, 16 positions). The tail of `balanced` holds "
            f"{ladder.rungs['itself']['balanced']['tail_mass']:.1%} of the reference's probability."
        )
        yield ""
        views = [view for view in ("balanced", "fastest") if all(view in found for found in ladder.rungs.values())]
        yield from table("rung", *(f"{view} {metric}" for view in views for metric in METRICS))
        for rung in ladder.rungs:
            yield row(rung, *(number(ladder.mean(rung, metric, view)) for view in views for metric in METRICS))
    yield ""
    yield "## The same verdict under every preset?"
    yield ""
    yield (
        f"The tightest named tolerance that calls the rung SAME: mean {GATED} within the limit, and no prompt above "
        f"{PROMPT_FACTOR:g} times the limit. {', '.join(f'{name} {limit:g}' for name, limit in TOLERANCES.items())}; "
        "all prompts of the tables above."
    )
    for ladder in LADDERS:
        yield ""
        yield f"### {ladder.name}"
        yield ""
        yield from table("rung", *(f"`{preset}`: {GATED}" for preset in PRESETS), "tightest tolerance")
        for rung in ladder.rungs:
            found = {preset: tightest(ladder.scores(rung, GATED, preset)) for preset in PRESETS if preset in ladder.rungs[rung]}
            agreed = len(set(found.values())) == 1
            names = next(iter(found.values())) if agreed else ", ".join(f"{name} ({preset})" for preset, name in found.items())
            cells = [number(ladder.mean(rung, GATED, p)) if p in found else "not measured" for p in PRESETS]
            yield row(rung, *cells, names if agreed else f"**{names}**")


def cell(scores: Array) -> str:
    mean = float(scores.mean())
    return f"{number(mean)} · {scores.std(ddof=1) / mean:.2f} · {number(float(scores.max()))}" if mean > 0 else "0"


def tightest(scores: Array) -> str:
    for name in TOLERANCES:
        limits = identity_limits(GATED, tolerance=name)
        if limits.verdict(float(scores.mean()), float(scores.max())) is Verdict.SAME:
            return name
    return "none"


# --- metrics.md ---

Z = 1.6449
"""95 %, one-sided."""
RUNS = 200
MOST = 400


def fixed(lower: Array, upper: Array) -> float:
    """Prompts with which both rungs' means are on their sides of the limit in 95 of 100 samples; by the normal law."""
    limit = math.sqrt(lower.mean() * upper.mean())
    gaps = ((upper, upper.mean() - limit), (lower, limit - lower.mean()))
    needed = [(Z * float(scores.std(ddof=1)) / gap) ** 2 for scores, gap in gaps if scores.any()]
    return max(needed, default=math.inf) if upper.mean() > lower.mean() else math.inf


def sequential(lower: Array, upper: Array) -> float:
    """Prompts after which 95 of 100 sequential tests, at the same limit, call the upper rung DIFFERENT."""
    limit = math.sqrt(lower.mean() * upper.mean())
    if upper.mean() <= lower.mean():
        return math.inf
    generator = np.random.default_rng(0)
    used = []
    for _ in range(RUNS):
        test, n = SequentialTest(limit), 0
        while n < MOST and test.update([generator.choice(upper)]) is Verdict.UNDECIDED:
            n += 1
        used.append(n + 1 if test.verdict is Verdict.DIFFERENT else math.inf)
    return float(np.quantile(used, 0.95, method="higher"))


def metrics_page() -> Iterator[str]:
    yield "# Which metric to gate on"
    yield ""
    yield "Written by `tests/benchmarks/ladder_report.py` from the scores of `ladder.md` (exact metrics, by prompt)."
    yield ""
    yield (
        "Two rungs that follow one another are told apart by a limit at the geometric middle of their mean scores (0 where "
        "the lower one scores 0). Each cell: the prompts of a sample of fixed size with which the upper rung's mean is above "
        "the limit and the lower one's below it, each in 95 of 100 samples (normal law, from mean and standard deviation over "
        f"prompts; not rounded up) · the prompts after which 95 of 100 runs of the sequential test at 95 % confidence say "
        f"DIFFERENT of the upper rung ({RUNS} runs, scores resampled). ∞: the upper rung does not score higher, or "
        f"{MOST} prompts do not show it."
    )
    totals: dict[str, list[tuple[float, float]]] = {metric: [] for metric in METRICS}
    for ladder in LADDERS:
        yield ""
        yield f"## {ladder.name}"
        yield ""
        yield from table("chain", "lower rung", "upper rung", *METRICS)
        for chain, rungs in CHAINS.items():
            for lower, upper in pairwise(rungs):
                cells = []
                for metric in METRICS:
                    pair = ladder.scores(lower, metric), ladder.scores(upper, metric)
                    needed = fixed(*pair), sequential(*pair)
                    totals[metric].append(needed)
                    cells.append(" · ".join(prompts(n) for n in needed))
                yield row(chain, lower, upper, *cells)
    yield ""
    yield "## All pairs"
    yield ""
    yield from table("metric", "fixed: geometric mean", "fixed: worst", "sequential: mean", "sequential: worst", "never")
    for metric, needed in totals.items():
        told = np.array([pair for pair in needed if all(map(math.isfinite, pair))])
        sizes, steps = told[:, 0], told[:, 1]
        yield row(
            metric,
            f"{np.exp(np.log(np.maximum(sizes, 1e-9)).mean()):.3f}",
            f"{sizes.max():.1f}",
            f"{steps.mean():.2f}",
            f"{steps.max():.0f}",
            f"{len(needed) - len(told)} of {len(needed)}",
        )


def prompts(n: float) -> str:
    return "∞" if n == math.inf else f"{n:.0f}" if n == int(n) else f"{n:.2g}" if n < 99 else f"{n:.0f}"


# --- tolerances.md ---


def tolerances_page() -> Iterator[str]:
    yield "# Tolerances"
    yield ""
    yield f"Written by `tests/benchmarks/ladder_report.py` from the scores of `ladder.md`: mean {GATED}, whole vocabulary."
    yield ""
    heads = [f"{ladder.name}{what}" for ladder in LADDERS for what in ("", ", next rung")]
    yield from table("tolerance", "rung", *heads, "geometric middle", "limit", "room below", "room above", "separation")
    names = list(TOLERANCES)
    for name, above in zip(names, [*names[1:], None], strict=True):
        members = RUNG_OF_TOLERANCE[name]
        following = RUNG_OF_TOLERANCE[above] if above else BROKEN
        spans = [
            (max(ladder.mean(rung) for rung in members), min(ladder.mean(rung) for rung in following if ladder.mean(rung) > 0))
            for ladder in LADDERS
        ]
        highest, lowest = max(high for high, _ in spans), min(low for _, low in spans)
        limit = TOLERANCES[name]
        own = [f"{low / high:.3g}" if high else "∞" for high, low in spans]
        yield row(
            f"`{name}`",
            ", ".join(members),
            *(number(x) for span in spans for x in span),
            number(math.sqrt(highest * lowest)),
            f"{limit:g}",
            f"{limit / highest:.3g}" if highest else "–",
            f"{lowest / limit:.3g}" if limit else "–",
            " and ".join(own),
        )
    yield ""
    yield (
        "Rung: the changes that the tolerance is named for; the figure is the highest of them, the next rung's is the lowest "
        f"above 0 (of {', '.join(BROKEN)} for the last). Room below: the limit over the highest figure of both models. Room "
        "above: the lowest figure of the next rung over the limit. Separation: the next rung over this one, model by model; "
        f"{SEPARATION} is what is asked for."
    )
    yield ""
    yield "## Where every rung stands"
    yield ""
    yield from table("rung", *(f"{ladder.name}: {GATED}, tightest tolerance" for ladder in LADDERS))
    for rung in LADDERS[0].rungs:
        yield row(rung, *(f"{number(ladder.mean(rung))}, {tightest(ladder.scores(rung))}" for ladder in LADDERS))


def main() -> None:
    for name, page in (("ladder", ladder_page), ("metrics", metrics_page), ("tolerances", tolerances_page)):
        (RESULTS / f"{name}.md").write_text("\n".join(page()) + "\n")


if __name__ == "__main__":
    main()
