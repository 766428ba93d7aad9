"""The tables of the ladder, from what ladder.py measured: results/ladder.md, results/metrics.md, results/tolerances.md.

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
    """What was measured on one model."""

    data: dict[str, Any]

    @property
    def name(self) -> str:
        return str(self.data["model"])

    @property
    def rungs(self) -> dict[str, dict[str, Any]]:
        """Those whose exact figures are there."""
        return {name: views for name, views in self.data["rungs"].items() if "exact" in views}

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
ANOTHER = ("foreign model",)
BETWEEN = ("fp16 arithmetic", "bf16 arithmetic", "int8 per tensor", "pruned 20 %", "layers swapped", "wrong RoPE base")
"""No tolerance is named for these."""
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
        "all prompts of the tables above. –: not measured, or (batches under `original`) nothing to measure."
    )
    for ladder in LADDERS:
        yield ""
        yield f"### {ladder.name}"
        yield ""
        yield from table("rung", *(f"`{preset}`: {GATED}" for preset in PRESETS), "tightest tolerance")
        for rung, measured in ladder.rungs.items():
            # The plain road takes one prompt at a time, whatever the batch size: nothing is another way there.
            asked = [preset for preset in PRESETS if not (preset == "original" and rung.startswith("batch of"))]
            found = {preset: tightest(ladder.scores(rung, GATED, preset)) for preset in asked if preset in measured}
            cells = [number(ladder.mean(rung, GATED, p)) if p in found else "–" for p in PRESETS]
            names = set(found.values())
            differ = ", ".join(f"{name} ({preset})" for preset, name in found.items())
            yield row(rung, *cells, next(iter(names), "–") if len(names) < 2 else f"**{differ}**")


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
RUNS = 1000
MOST = 400
LEAST = 1e-12
"""The limit where the lower rung scores 0."""


@dataclass(frozen=True)
class Needed:
    """Prompts that a metric needs to tell a rung from the one below; inf where it cannot, or not with :data:`MOST`."""

    fixed: float
    """Of a sample of fixed size, both means are on their sides of the limit in 95 of 100 samples, by the normal law."""
    different: float
    """95 of 100 sequential tests have called the upper rung DIFFERENT after so many."""
    same: float
    """95 of 100 sequential tests have called the lower rung SAME after so many."""

    @staticmethod
    def of(metric: str, lower: Array, upper: Array) -> Needed:
        if upper.mean() <= lower.mean():
            return Needed(math.inf, math.inf, math.inf)
        limit = max(math.sqrt(lower.mean() * upper.mean()), LEAST)
        gaps = ((upper, upper.mean() - limit), (lower, limit - lower.mean()))
        fixed = max((Z * float(scores.std(ddof=1)) / gap) ** 2 for scores, gap in gaps)
        used = []
        for scores, verdict in ((upper, Verdict.DIFFERENT), (lower, Verdict.SAME)):
            drawn = np.random.default_rng(0).choice(scores, (RUNS, MOST))
            outcome = decide(drawn, limit, default_prompt_limit(metric, limit), None)
            right = outcome.different if verdict is Verdict.DIFFERENT else outcome.same
            used.append(float(np.quantile(np.where(right, outcome.n_used, math.inf), 0.95, method="higher")))
        return Needed(fixed, *used)


def metrics_page() -> Iterator[str]:
    yield "# Which metric to gate on"
    yield ""
    yield "Written by `tests/benchmarks/ladder_report.py` from the scores of `ladder.md` (exact metrics, by prompt)."
    yield ""
    yield (
        "Two rungs that follow one another are told apart by a limit at the geometric middle of their mean scores. Each cell: "
        "the prompts of a sample of fixed size with which the upper rung's mean is above the limit and the lower one's below "
        "it, each in 95 of 100 samples (normal law, from mean and standard deviation over prompts; not rounded up) · the "
        "prompts after which 95 of 100 runs of the sequential test, at 95 % confidence, call the upper rung DIFFERENT · the "
        f"same for the lower rung and SAME (59 at least, by design). {RUNS} runs of up to {MOST} prompts, scores resampled. "
        "∞: not within that, or the upper rung does not score higher."
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
                found = [Needed.of(metric, ladder.scores(lower, metric), ladder.scores(upper, metric)) for metric in METRICS]
                for metric, needed in zip(METRICS, found, strict=True):
                    totals[metric].append(needed)
                    if chain == "precision":
                        precision[metric].append(needed)
                cells = (f"{prompts(n.fixed)} · {prompts(n.different)} · {prompts(n.same)}" for n in found)
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
        f"On a sample of fixed size, which is a suite scored whole, `tv`: it needs at most {fixed['tv']} prompts for any pair, "
        f"where `jsd` needs up to {fixed['jsd']}, `kl` {fixed['kl']}, `kl_reverse` {fixed['kl_reverse']} (a few prompts carry "
        f"much of their mean), `delta_ce` {fixed['delta_ce']} and `top1_flip` {fixed['top1_flip']} (most of what changes "
        "flips no first choice)."
    )
    yield ""
    yield (
        "The sequential test decides sooner on `jsd`, `kl` and `kl_reverse`: they go with about the square of `tv`, so that "
        "the same two rungs are further apart when counted in limits, and that is what its bets live on. It matters where "
        "rungs are a factor of 2 apart, as in the noise chain; in the precision chain the most that is needed is "
        f"{soonest['tv']} prompts against {soonest['jsd']} of `jsd` for DIFFERENT, and "
        f"{same['tv']} against {same['jsd']} for SAME."
    )
    yield ""
    yield (
        f"So `{GATED}` is the default, whole suites being what is gated without `confidence`; it is also bounded, and the one "
        "that can be said in words. With `confidence` and limits of one's own that are tight, `jsd` takes fewer prompts."
    )


def prompts(n: float) -> str:
    return "∞" if n == math.inf else f"{n:.0f}" if n == int(n) else f"{n:.2g}" if n < 99 else f"{n:.0f}"


# --- tolerances.md ---


@dataclass(frozen=True)
class Standing:
    """Where a tolerance stands between its own rung and the next, over all models."""

    name: str
    spans: tuple[tuple[float, float], ...]
    """Per model, the highest figure of the tolerance's rung, and the lowest above 0 of the next rung."""

    @staticmethod
    def of(name: str) -> Standing:
        names = list(TOLERANCES)
        following = RUNG_OF_TOLERANCE[names[names.index(name) + 1]] if name != names[-1] else ANOTHER
        spans = []
        for ladder in LADDERS:
            own = [ladder.mean(rung) for rung in RUNG_OF_TOLERANCE[name] if rung in ladder.rungs]
            after = [ladder.mean(rung) for rung in following if rung in ladder.rungs]
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
        "Rung: the highest figure of the changes that the tolerance is named for. Next: the lowest figure above 0 of those "
        "that the next one is named for. Geometric middle: of the highest rung and the lowest next over both models. Room "
        "below: the limit over the highest rung. Room above: the lowest next over the limit. Separation: next over rung, "
        f"model by model; at least {SEPARATION} is asked for. A room below 1 means that the limit is on the wrong side."
    )
    yield ""
    yield (
        "`int4` is set below the geometric middle, where it leaves out the noise of 2^-3 (half of SmolLM2's tokens would be "
        "others) and still has room above the crudest way to four bits on the more sensitive of the two models."
    )
    yield ""
    yield "## What no tolerance is named for"
    yield ""
    yield (
        "The ladder is one of sizes, and not of causes: a slip whose size is that of a coarse quantisation passes where that "
        "passes. Each rung's figure, and the same as a multiple of the model's own `bf16`, `int8 per row` and `int4 in "
        "groups`. Arithmetic: the same weights, but computed in half precision against a reference in float32."
    )
    yield ""
    own = ("bf16", "int8 per row", "int4 in groups")
    yield from table("rung", *(f"{ladder.name}: {what}" for ladder in LADDERS for what in (GATED, *(f"/ {of}" for of in own))))
    for rung in (*BETWEEN, *ANOTHER):
        means = [(ladder.mean(rung), ladder) for ladder in LADDERS if rung in ladder.rungs]
        yield row(rung, *(x for mean, by in means for x in (number(mean), *(f"{mean / by.mean(of):.2f}" for of in own))))
    yield ""
    yield (
        "SmolLM2's weights were published here in 4 bits (Q4_1, with an offset per group) and are on that grid already; "
        "`int4 in groups` puts them on another one, without an offset. A better quantiser stays further below."
    )
    yield ""
    yield "## Where every rung stands at the limits of now"
    yield ""
    yield from table("rung", *(f"{ladder.name}: {GATED}, tightest tolerance" for ladder in LADDERS))
    for rung in LADDERS[0].rungs:
        yield row(rung, *(f"{number(ladder.mean(rung))}, {tightest(ladder.scores(rung))}" for ladder in LADDERS))


def main() -> None:
    for name, page in (("ladder", ladder_page), ("metrics", metrics_page), ("tolerances", tolerances_page)):
        (RESULTS / f"{name}.md").write_text("\n".join(page()) + "\n")


if __name__ == "__main__":
    main()
