"""Write the tables of the ladder from the figures of ladder.py: results/ladder.md, metrics.md and tolerances.md.

PYTHONPATH=. python tests/benchmarks/ladder_report.py
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from pytest_pot.core.names import METRICS
from pytest_pot.gates.verdict.limits import PROMPT_FACTOR, TOLERANCES, Verdict, default_prompt_limit, identity_limits

sys.path.append(str(Path(__file__).parent))

from sequential_errors import decide

RESULTS = Path(__file__).parent / "results"
PRESETS = ("original", "accurate", "balanced", "fastest")
GATED = "tv"
SEPARATION = 1.5

Array = np.ndarray


@dataclass(frozen=True)
class Ladder:
    """The figures of one model."""

    data: dict[str, Any]

    @property
    def name(self) -> str:
        return str(self.data["model"])

    @property
    def rungs(self) -> dict[str, dict[str, Any]]:
        """The rungs with exact figures."""
        return {name: views for name, views in self.data["rungs"].items() if "exact" in views}

    def scores(self, rung: str, metric: str = GATED, view: str = "exact") -> Array:
        return np.array(self.rungs[rung][view]["scores"][metric])

    def mean(self, rung: str, metric: str = GATED, view: str = "exact") -> float:
        return float(self.scores(rung, metric, view).mean())


LADDERS = [Ladder(json.loads((RESULTS / f"ladder_{name}.json").read_text())) for name in ("smollm2", "stories15m")]

SAME_WEIGHTS = ("batch of 1", "batch of 3", "batch of 16", "2 threads", "eager attention")
RUNG_OF_TOLERANCE = {
    "identical": ("itself",),
    "numeric": SAME_WEIGHTS,
    "half": ("fp16", "bf16"),
    "int8": ("int8 per row",),
    "int4": ("int4 in groups",),
}
NOISE = tuple(f"noise 2^-{n}" for n in range(12, 2, -1))
ANOTHER = ("foreign model",)
UNNAMED = ("fp16 arithmetic", "bf16 arithmetic", "int8 per tensor", "pruned 20 %", "layers swapped", "wrong RoPE base")
"""Changes for which no tolerance is named."""
CHAINS = {
    "precision": ("eager attention", "fp16", "bf16", "int8 per row", "int8 per tensor", "int4 in groups", "foreign model"),
    "pruning": ("pruned 1 %", "pruned 5 %", "pruned 20 %"),
    "noise": NOISE,
    "fine-tuning": ("fine-tuned 1 step", "fine-tuned 10 steps", "fine-tuned 100 steps"),
}
"""Sequences of rungs in which each change is larger than the one before by its nature, not only by its score."""


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
    yield "Written by `tests/benchmarks/ladder.py` and `ladder_report.py`. How much known changes move two trained models."
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
            "On the reference's likeliest tokens only: means with `balanced` (100 tokens and the tail as one cell, 32 "
            "positions) and `fastest` (50 tokens, renormalised, 16 positions). The tail of `balanced` holds "
            f"{ladder.rungs['itself']['balanced']['tail_mass']:.1%} of the reference's probability."
        )
        yield ""
        views = ("balanced", "fastest")
        yield from table("rung", *(f"{view} {metric}" for view in views for metric in METRICS))
        for rung, measured in ladder.rungs.items():
            if all(view in measured for view in views):
                yield row(rung, *(number(ladder.mean(rung, metric, view)) for view in views for metric in METRICS))
    yield ""
    yield "## The same verdict under every preset?"
    yield ""
    yield (
        f"The tightest named tolerance that calls the rung SAME: mean {GATED} within the limit, and no prompt above "
        f"{PROMPT_FACTOR:g} times the limit, nor above a quarter of the way from it to 1. "
        f"{', '.join(f'{name} {limit:g}' for name, limit in TOLERANCES.items())}; "
        "All prompts of the tables above. –: not measured, or nothing to measure (`original` has no batches)."
    )
    for ladder in LADDERS:
        yield ""
        yield f"### {ladder.name}"
        yield ""
        yield from table("rung", *(f"`{preset}`: {GATED}" for preset in PRESETS), "tightest tolerance")
        for rung, by_view in ladder.rungs.items():
            # The preset original scores one prompt at a time, whatever the batch size: there is no difference to measure.
            presets = [preset for preset in PRESETS if not (preset == "original" and rung.startswith("batch of"))]
            tolerances = {preset: tightest(ladder.scores(rung, GATED, preset)) for preset in presets if preset in by_view}
            cells = [number(ladder.mean(rung, GATED, p)) if p in tolerances else "–" for p in PRESETS]
            names = set(tolerances.values())
            differences = ", ".join(f"{name} ({preset})" for preset, name in tolerances.items())
            yield row(rung, *cells, next(iter(names), "–") if len(names) < 2 else f"**{differences}**")


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
"""The 95 % quantile of the standard normal distribution."""
RUNS = 1000
MAX_PROMPTS = 400
MIN_LIMIT = 1e-12
"""The limit if the lower rung scores 0."""


@dataclass(frozen=True)
class Needed:
    """Prompts that a metric needs to tell a rung from the one below; inf if it cannot, or not with :data:`MAX_PROMPTS`."""

    fixed: float
    """Prompts in a sample of fixed size: each mean is on its side of the limit in 95 of 100 samples (normal approximation)."""
    different: float
    """Prompts after which 95 of 100 sequential tests have called the upper rung DIFFERENT."""
    same: float
    """Prompts after which 95 of 100 sequential tests have called the lower rung SAME."""

    @staticmethod
    def of(metric: str, lower: Array, upper: Array) -> Needed:
        if upper.mean() <= lower.mean():
            return Needed(math.inf, math.inf, math.inf)
        limit = max(math.sqrt(lower.mean() * upper.mean()), MIN_LIMIT)
        gaps = ((upper, upper.mean() - limit), (lower, limit - lower.mean()))
        fixed = max((Z * float(scores.std(ddof=1)) / gap) ** 2 for scores, gap in gaps)
        used = []
        for scores, verdict in ((upper, Verdict.DIFFERENT), (lower, Verdict.SAME)):
            samples = np.random.default_rng(0).choice(scores, (RUNS, MAX_PROMPTS))
            outcome = decide(samples, limit, default_prompt_limit(metric, limit), None)
            right = outcome.different if verdict is Verdict.DIFFERENT else outcome.same
            used.append(float(np.quantile(np.where(right, outcome.n_used, math.inf), 0.95, method="higher")))
        return Needed(fixed, *used)


def metrics_page() -> Iterator[str]:
    yield "# Which metric to gate on"
    yield ""
    yield "Written by `tests/benchmarks/ladder_report.py` from the scores of `ladder.md` (exact metrics, by prompt)."
    yield ""
    yield (
        "The limit between two consecutive rungs is the geometric mean of their mean scores. Each cell has three numbers of "
        "prompts. First, in a sample of fixed size: the upper rung's mean is above the limit, and the lower one's below it, "
        "each in 95 of 100 samples (normal approximation, from mean and standard deviation over prompts; not rounded up). "
        "Second: 95 of 100 runs of the sequential test, at 95 % confidence, have called the upper rung DIFFERENT. Third: the "
        f"same for the lower rung and SAME (at least 59, by design). {RUNS} runs of up to {MAX_PROMPTS} prompts, scores "
        "resampled. ∞: more prompts than that, or the upper rung does not score higher."
    )
    totals: dict[str, list[Needed]] = {metric: [] for metric in METRICS}
    precision: dict[str, list[Needed]] = {metric: [] for metric in METRICS}
    for ladder in LADDERS:
        yield ""
        yield f"## {ladder.name}"
        yield ""
        yield from table("chain", "lower rung", "upper rung", *METRICS)
        for chain, rungs in CHAINS.items():
            for lower, upper in pairwise(rung for rung in rungs if rung in ladder.rungs):
                pairs = [Needed.of(metric, ladder.scores(lower, metric), ladder.scores(upper, metric)) for metric in METRICS]
                for metric, needed in zip(METRICS, pairs, strict=True):
                    totals[metric].append(needed)
                    if chain == "precision":
                        precision[metric].append(needed)
                cells = (f"{prompts(n.fixed)} · {prompts(n.different)} · {prompts(n.same)}" for n in pairs)
                yield row(chain, lower, upper, *cells)
    yield ""
    yield "## All pairs"
    yield ""
    heads = [f"{what}: {how}" for what in ("fixed size", "DIFFERENT", "SAME") for how in ("median", "worst")]
    yield from table("metric", *heads)
    for metric, pairs in totals.items():
        sizes = np.array([[n.fixed, n.different, n.same] for n in pairs])
        middle = np.quantile(sizes, 0.5, axis=0, method="higher")
        yield row(metric, *(prompts(n) for both in zip(middle, sizes.max(axis=0), strict=True) for n in both))
    yield ""
    yield "## The winner"
    yield ""
    fixed = {metric: prompts(max(n.fixed for n in totals[metric])) for metric in METRICS}
    soonest = {metric: prompts(max(n.different for n in precision[metric])) for metric in METRICS}
    same = {metric: prompts(max(n.same for n in precision[metric])) for metric in METRICS}
    yield (
        f"On a sample of fixed size, as in a completely scored suite: `tv`. It needs at most {fixed['tv']} prompts for any "
        f"pair, where `jsd` needs up to {fixed['jsd']}, `kl` {fixed['kl']}, `kl_reverse` {fixed['kl_reverse']} (a few "
        f"prompts carry much of their mean), `delta_ce` {fixed['delta_ce']} and `top1_flip` {fixed['top1_flip']} (most of "
        "the change does not flip the likeliest token)."
    )
    yield ""
    yield (
        "The sequential test decides sooner on `jsd`, `kl` and `kl_reverse`. These grow with about the square of `tv`, so the "
        "same two rungs are further apart as multiples of the limit, and its bets win by this distance. This matters where "
        "rungs are a factor of 2 apart, as in the noise chain. In the precision chain the highest numbers needed are "
        f"{soonest['tv']} prompts against {soonest['jsd']} of `jsd` for DIFFERENT, and "
        f"{same['tv']} against {same['jsd']} for SAME."
    )
    yield ""
    yield (
        f"So `{GATED}` is the default, because gates without `confidence` score the whole suite. It is also bounded, and "
        "has a meaning in plain words. With `confidence` and tight limits of your own, `jsd` needs fewer prompts."
    )


def prompts(n: float) -> str:
    return "∞" if n == math.inf else f"{n:.0f}" if n == int(n) else f"{n:.2g}" if n < 99 else f"{n:.0f}"


# --- tolerances.md ---


@dataclass(frozen=True)
class Standing:
    """The place of a tolerance between its own rung and the next one, over all models."""

    name: str
    spans: tuple[tuple[float, float], ...]
    """For each model: the highest figure of the tolerance's rung, and the lowest figure above 0 of the next rung."""

    @staticmethod
    def of(name: str) -> Standing:
        names = list(TOLERANCES)
        next_rungs = RUNG_OF_TOLERANCE[names[names.index(name) + 1]] if name != names[-1] else ANOTHER
        spans = []
        for ladder in LADDERS:
            own = [ladder.mean(rung) for rung in RUNG_OF_TOLERANCE[name] if rung in ladder.rungs]
            after = [ladder.mean(rung) for rung in next_rungs if rung in ladder.rungs]
            spans.append((max(own), min(mean for mean in after if mean > 0)))
        return Standing(name, tuple(spans))

    @property
    def limit(self) -> float:
        return TOLERANCES[self.name]

    @property
    def highest(self) -> float:
        return max(high for high, _ in self.spans)

    @property
    def lowest(self) -> float:
        return min(low for _, low in self.spans)

    @property
    def middle(self) -> float:
        return math.sqrt(self.highest * self.lowest)

    def cells(self) -> list[str]:
        below = f"{self.limit / self.highest:.3g}" if self.highest else "–"
        above = f"{self.lowest / self.limit:.3g}" if self.limit else "–"
        separation = " and ".join(f"{low / high:.3g}" if high else "∞" for high, low in self.spans)
        figures = [number(x) for span in self.spans for x in span]
        return [f"`{self.name}`", *figures, number(self.middle), f"{self.limit:g}", below, above, separation]


def tolerances_page() -> Iterator[str]:
    yield "# Tolerances"
    yield ""
    yield f"Written by `tests/benchmarks/ladder_report.py` from the scores of `ladder.md`: mean {GATED}, whole vocabulary."
    yield ""
    heads = [f"{ladder.name}: {what}" for ladder in LADDERS for what in ("rung", "next")]
    yield from table("tolerance", *heads, "geometric middle", "limit", "room below", "room above", "separation")
    for name in TOLERANCES:
        yield row(*Standing.of(name).cells())
    yield ""
    for name, members in {**RUNG_OF_TOLERANCE, "after the last": ANOTHER}.items():
        yield f"- {name}: {', '.join(members)}"
    yield ""
    yield (
        "Rung: the highest figure of the changes that the tolerance is named for. Next: the lowest figure above 0 of the "
        "changes that the next tolerance is named for. Geometric middle: the geometric mean of the highest rung and the lowest "
        "next over both models. Room below: limit / highest rung. Room above: lowest next / limit. Separation: next / rung, "
        f"for each model; it should be at least {SEPARATION}. A room below 1 means that the limit is on the wrong side."
    )
    yield ""
    yield (
        "`int4` is below the geometric middle. There it does not let the noise of 2^-3 pass (half of SmolLM2's tokens would "
        "differ), and still has room above the crudest quantisation to four bits on the more sensitive of the two models."
    )
    yield ""
    yield "## Changes without a tolerance of their own"
    yield ""
    yield (
        "The ladder measures sizes, not causes: a mistake as large as a coarse quantisation passes where that quantisation "
        "passes. Each cell: the figure of the rung, and the same divided by that of the model's own `bf16`, `int8 per row` and "
        "`int4 in groups`. Arithmetic: the same weights, computed in half precision, against a reference in float32."
    )
    yield ""
    own = ("bf16", "int8 per row", "int4 in groups")
    yield from table("rung", *(f"{ladder.name}: {what}" for ladder in LADDERS for what in (GATED, *(f"/ {of}" for of in own))))
    for rung in (*UNNAMED, *ANOTHER):
        means = [(ladder.mean(rung), ladder) for ladder in LADDERS if rung in ladder.rungs]
        yield row(rung, *(x for mean, by in means for x in (number(mean), *(f"{mean / by.mean(of):.2f}" for of in own))))
    yield ""
    yield (
        "These SmolLM2 weights were published in 4 bits (Q4_1, with an offset per group), so they are already on that grid. "
        "`int4 in groups` moves them to another grid, without an offset. A better quantiser scores lower."
    )
    yield ""
    yield "## Every rung at the current limits"
    yield ""
    yield from table("rung", *(f"{ladder.name}: {GATED}, tightest tolerance" for ladder in LADDERS))
    for rung in LADDERS[0].rungs:
        yield row(rung, *(f"{number(ladder.mean(rung))}, {tightest(ladder.scores(rung))}" for ladder in LADDERS))


def main() -> None:
    for name, page in (("ladder", ladder_page), ("metrics", metrics_page), ("tolerances", tolerances_page)):
        (RESULTS / f"{name}.md").write_text("\n".join(page()) + "\n")


if __name__ == "__main__":
    main()
