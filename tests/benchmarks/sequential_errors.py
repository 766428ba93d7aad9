"""Simulate how often the sequential test is wrong and how many prompts it needs. Writes results/sequential_errors.md.

The claim is only just false, the test looks for a verdict after every prompt, and a run continues until there is a verdict or
the horizon is reached. All runs of a case advance together, in numpy. Some runs of each case are repeated with SequentialTest,
one prompt at a time, and must reach the same verdict at the same prompt.

    python tests/benchmarks/sequential_errors.py [--runs 4000] [--horizon 1000]

Takes about four minutes, and stops after ``--limit-s`` seconds. Fails if a share of wrong verdicts is above 5 % plus the error
of the simulation.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pytest_pot import Verdict
from pytest_pot.gates.verdict import betting
from pytest_pot.gates.verdict.limits import TOLERANCES, default_prompt_limit
from pytest_pot.gates.verdict.sequential import SequentialTest

HERE = Path(__file__).parent
ALPHA = 0.05
POOL = 256
OUTLIERS = 0.05
REPEATED = 10
REPEATED_UP_TO = 300
REAL = json.loads((HERE / "data" / "smollm2_tv.json").read_text())

Array = np.ndarray
Bets = Callable[[Iterator[Array]], Iterator[Array]]
"""Takes the payoffs of a ticket that costs 1, [runs] per step; yields the wealth after each step, [runs]."""
Draw = Callable[[np.random.Generator, tuple[int, int]], Array]


# --- the sequential test, over many runs at once ---


def constant_bets(payoffs: Iterator[Array]) -> Iterator[Array]:
    """The wealth after each step, [runs], with the bets of pytest-pot."""
    fractions, wealths = np.array(betting._FRACTIONS), np.array(betting._SHARES)
    for payoff in payoffs:
        wealths = np.minimum(wealths * (1.0 - fractions + fractions * payoff[:, None]), 1e200)
        yield wealths.sum(axis=1)


OURS = (constant_bets,) * 3


def estimated_bets(guess: float, cap: float) -> Bets:
    """The bets of Waudby-Smith and Ramdas (aGRAPA), from the running mean and variance of the payoff. They start as if there
    had been one payoff of ``guess`` with a standard deviation of ½. ``cap``: the largest stake."""

    def bets(payoffs: Iterator[Array]) -> Iterator[Array]:
        total, squares, wealth = np.array(guess), np.array(0.25), np.array(1.0)
        for n, payoff in enumerate(payoffs, 1):
            gain = total / n - 1.0
            stake = np.clip(gain / (squares / n + gain**2), 0.0, cap)
            wealth = np.minimum(wealth * (1.0 - stake + stake * payoff), 1e200)
            yield wealth
            total = total + payoff
            squares = squares + (payoff - total / (n + 1)) ** 2

    return bets


def first_refuted(values: Array, limit: float, pool: int | None, bets: Bets) -> Array:
    """[runs]: after how many of ``values``, [runs, n], "the mean is at most ``limit``" is refuted; n + 1 if never."""
    runs, n = values.shape
    first = np.full(runs, n + 1)

    def payoffs() -> Iterator[Array]:
        total = np.zeros(runs)
        for place in range(n):
            mean = np.full(runs, limit) if pool is None else (pool * limit - total) / (pool - place)
            with np.errstate(divide="ignore", invalid="ignore"):
                yield np.where(mean > 0.0, values[:, place] / mean, 1.0)
            total += values[:, place]
            if pool is not None:  # certainly false?
                np.minimum(first, np.where(total > pool * limit, place + 1, n + 1), out=first)

    for place, wealth in enumerate(bets(payoffs()), 1):
        np.minimum(first, np.where(wealth >= 1 / ALPHA, place, n + 1), out=first)
    return first


@dataclass(frozen=True)
class Outcome:
    """The verdicts of many runs: three arrays, [runs]. ``n_used``: prompts until the verdict, or n + 1 without a verdict."""

    different: Array
    same: Array
    n_used: Array

    def share(self, verdict: Verdict) -> float:
        return float(np.mean(self.different if verdict is Verdict.DIFFERENT else self.same))


def decide(scores: Array, limit: float, clip: float, pool: int | None, bets: tuple[Bets, Bets, Bets] = OURS) -> Outcome:
    """The verdicts on ``scores``, [runs, n]. For a pool, leave out its last prompt: after it, nothing is inferred."""
    n = scores.shape[1]
    share = OUTLIERS if pool is None else math.ceil(OUTLIERS * pool) / pool
    different = first_refuted(scores, limit, pool, bets[0])
    mean = first_refuted(clip - np.minimum(scores, clip), clip - limit, pool, bets[1])
    outliers = first_refuted((scores <= clip).astype(float), 1 - share, pool, bets[2])
    same = np.maximum(mean, outliers)
    first = np.minimum(different, same)
    return Outcome((different <= same) & (different <= n), (same < different) & (same <= n), first)


def check_against_product(scores: Array, limit: float, clip: float, pool: int | None, outcome: Outcome) -> None:
    """Check that SequentialTest, one prompt at a time, agrees on a few of the runs."""
    for run in range(REPEATED):
        test = SequentialTest(limit, score_clip=clip, pool=pool)
        n = min(REPEATED_UP_TO, scores.shape[1])
        for score in scores[run, :n]:
            if test.update([score]) is not Verdict.UNDECIDED:
                break
        decided_after = test.decision().decided_after
        if outcome.n_used[run] > n:
            assert decided_after is None, (run, decided_after, outcome.n_used[run])
        else:
            expected = Verdict.DIFFERENT if outcome.different[run] else Verdict.SAME
            assert (test.verdict, decided_after) == (expected, outcome.n_used[run]), (run, expected, outcome.n_used[run])


# --- distributions of scores ---


@dataclass(frozen=True)
class Source:
    """A distribution of scores."""

    name: str
    draw: Draw
    clipped_mean: Callable[[float], float]
    """From a clip to the mean of the scores clipped there; from inf to the mean of the scores."""
    clip_factor: float = 10.0
    """The clip, as a multiple of the limit, in the case where the clipped mean is at the limit."""


def resampled(name: str) -> Draw:
    return lambda generator, size: generator.choice(REAL[name], size)


def real(name: str) -> Source:
    return Source(f"SmolLM2 {name}", resampled(name), lambda clip: float(np.minimum(REAL[name], clip).mean()))


def lognormal_clipped_mean(clip: float) -> float:
    """The clipped mean of exp(Normal(-2, 2)), whose mean is 1."""
    if clip == math.inf:
        return 1.0

    def normal(x: float) -> float:
        return (1.0 + math.erf(x / math.sqrt(2.0))) / 2.0

    return normal((math.log(clip) - 2.0) / 2.0) + clip * (1.0 - normal((math.log(clip) + 2.0) / 2.0))


SOURCES = (
    Source("uniform", lambda g, size: g.uniform(0.0, 2.0, size), lambda c: 1.0 if c > 2.0 else c - c * c / 4.0),
    Source("exponential", lambda g, size: g.exponential(1.0, size), lambda c: 1.0 - math.exp(-c)),
    Source("log-normal (σ = 2)", lambda g, size: g.lognormal(-2.0, 2.0, size), lognormal_clipped_mean),
    # With a clip of 10 limits, the clipped mean would always be below the limit.
    Source("0, but 1 in 100 prompts is 1", lambda g, size: (g.random(size) < 0.01) * 1.0, lambda c: 0.01 * min(1.0, c), 300.0),
    *(real(name) for name in REAL if name != "identical"),
)


# --- wrong verdicts ---

MARGIN = 1e-7
"""The claim is false by this relative margin, so that rounding cannot make it true."""


def errors(source: Source, runs: int, horizon: int, pool: int | None, seed: int) -> Iterator[tuple[str, Verdict, float]]:
    """For each way in which a claim can be just false: its name, the claim, and the share of runs that make the claim."""
    generator = np.random.default_rng(seed)
    scores = source.draw(generator, (runs, horizon if pool is None else pool))
    if pool is not None:
        empty = np.flatnonzero(scores.sum(axis=1) == 0.0)  # a pool of zeros has no limit at its mean
        scores[empty, generator.integers(pool, size=len(empty))] = 1.0

    def wrong(in_limits: Array, clip: float, verdict: Verdict) -> float:
        sample = in_limits if pool is None else in_limits[:, :-1]
        outcome = decide(sample, 1.0, clip, pool)
        check_against_product(sample, 1.0, clip, pool, outcome)
        return outcome.share(verdict)

    def edge(factor: float) -> Array:
        """The limit that equals the mean clipped at ``factor`` limits, for the source or for each pool: [1 or runs, 1]."""
        if pool is None:
            return fixed_point(lambda clip: np.array([source.clipped_mean(float(clip[0]))]), factor, 1)[:, None]
        return fixed_point(lambda clip: np.minimum(scores, clip[:, None]).mean(axis=1), factor, runs)[:, None]

    yield "mean at the limit", Verdict.DIFFERENT, wrong(scores / edge(math.inf) * (1 - MARGIN), 10.0, Verdict.DIFFERENT)
    factor = source.clip_factor
    yield "clipped mean at the limit", Verdict.SAME, wrong(scores / edge(factor) * (1 + MARGIN), factor, Verdict.SAME)
    for clip in (10.0, 2.0):
        bulk = 0.2 * np.minimum(scores / source.clipped_mean(math.inf), 5.0)  # not above the limit
        broken = np.where(outliers(generator, bulk.shape, pool), 20.0, bulk)
        yield f"share of outliers at its limit, clip {clip:g} θ", Verdict.SAME, wrong(broken, clip, Verdict.SAME)


def fixed_point(clipped_mean: Callable[[Array], Array], factor: float, n: int) -> Array:
    """The largest θ, [n], that equals the mean of the scores clipped at ``factor`` θ."""
    low, high = np.zeros(n), clipped_mean(np.full(n, math.inf))
    if factor == math.inf:
        return high
    for _ in range(60):
        middle = (low + high) / 2
        below = clipped_mean(factor * middle) >= middle
        low, high = np.where(below, middle, low), np.where(below, high, middle)
    return high


def outliers(generator: np.random.Generator, shape: tuple[int, int], pool: int | None) -> Array:
    """Which prompts are outliers: 5 % of those from a source; the smallest number that is too large in each pool."""
    if pool is None:
        return generator.random(shape) < OUTLIERS
    return generator.permuted(np.tile(np.arange(pool) < math.ceil(OUTLIERS * pool), (shape[0], 1)), axis=1)


# --- prompts needed ---


@dataclass(frozen=True)
class Case:
    """Scores for which the claim ``verdict`` is true."""

    name: str
    limit: float
    verdict: Verdict
    draw: Draw
    metric: str = "tv"
    """The metric whose default clip applies; for kl it is always 10 limits."""


def with_outliers(name: str, share: float) -> Draw:
    def draw(generator: np.random.Generator, size: tuple[int, int]) -> Array:
        return np.where(generator.random(size) < share, 0.5, generator.choice(REAL[name], size))

    return draw


def scaled(mean: float) -> Draw:
    scores = np.array(REAL["int8"]) / np.mean(REAL["int8"]) * mean
    return lambda generator, size: generator.choice(scores, size)


HALF, INT8 = TOLERANCES["half"], TOLERANCES["int8"]
CASES = (
    Case("pruned 20 %, tolerance int8", INT8, Verdict.DIFFERENT, resampled("pruned 20 %")),
    Case("int4, tolerance int8", INT8, Verdict.DIFFERENT, resampled("int4")),
    Case("foreign model, tolerance int8", INT8, Verdict.DIFFERENT, resampled("foreign")),
    Case("int8, tolerance half", HALF, Verdict.DIFFERENT, resampled("int8")),
    Case("scores like int8's around 1.25 limits", 1.0, Verdict.DIFFERENT, scaled(1.25), "kl"),
    Case("identical, tolerance half", HALF, Verdict.SAME, resampled("identical")),
    Case("bf16, tolerance half", HALF, Verdict.SAME, resampled("bf16")),
    Case("int8, tolerance int8", INT8, Verdict.SAME, resampled("int8")),
    Case("scores like int8's around 0.6 limits", 1.0, Verdict.SAME, scaled(0.6), "kl"),
    Case("scores like int8's around 0.8 limits", 1.0, Verdict.SAME, scaled(0.8), "kl"),
    Case("bf16, but 1 in 200 prompts is at 0.5", HALF, Verdict.SAME, with_outliers("bf16", 0.005)),
    Case("bf16, but 1 in 100 prompts is at 0.5", HALF, Verdict.SAME, with_outliers("bf16", 0.01)),
)
ESTIMATED = {cap: (estimated_bets(2.0, cap), estimated_bets(1.05, cap), estimated_bets(1.05, cap)) for cap in (0.75, 0.95)}


def needed(case: Case, runs: int, horizon: int, seed: int) -> list[str]:
    """Table cells: median and 95th percentile of the prompts used. For a source, a pool, and a source with estimated bets."""
    cells = []
    for pool, bets in (
        (None, (constant_bets,) * 3),
        (POOL, (constant_bets,) * 3),
        *((None, estimated) for estimated in ESTIMATED.values()),
    ):
        generator = np.random.default_rng(seed)
        n = horizon if pool is None else pool
        scores = case.draw(generator, (runs, n))
        clip = default_prompt_limit(case.metric, case.limit)
        outcome = decide(scores[:, : n if pool is None else n - 1], case.limit, clip, pool, bets)
        n_used = np.where(outcome.different | outcome.same, outcome.n_used, n)
        right = outcome.share(case.verdict)
        median, most = np.quantile(n_used, (0.5, 0.95), method="higher").astype(int)
        undecided = 1 - float(np.mean(outcome.different | outcome.same))
        wrong = max(0.0, 1 - right - undecided)
        note = "".join(f", {share:.1%} {what}" for share, what in ((undecided, "open"), (wrong, "other")) if share > 0.0005)
        cells.append(f"{median} / {most}{note}")
    return cells


# --- the report ---


HEAD = """\
# The sequential test, simulated

Written by `tests/benchmarks/sequential_errors.py`. θ is the limit, confidence is 95 % (α = 0.05). Unless stated otherwise, the
clip is 10 θ (at the tolerance int8 it is a quarter of the way from θ to 1, 3.9 θ), and `max_outliers` is 0.05.

## Wrong verdicts

{runs} runs per figure. The claim is only just false, and the test looks for a verdict after every prompt: up to {horizon}
prompts from a source, up to {last} from a pool of {pool} (after the last prompt nothing is inferred). A true share of 5 % may
appear as {most:.2%} by chance (three standard deviations of the simulation).

| scores | false at the edge | wrong verdict | from a source | from a pool |
| --- | --- | --- | --- | --- |
"""

NEEDED = """
The largest share is {largest:.2%}. For scores of 0 and 1, the clip is 300 θ in the case of the clipped mean at the limit: with
a clip of 10 θ, the clipped mean would be below the limit.

## Prompts needed

Median / 95th percentile over {runs} runs in which the claim is true. Scores are resampled from real ones; at most {horizon}
prompts from a source, {pool} from a pool. "open": no verdict by then (after the last prompt of a pool, everything is known).
"other": the other verdict. For a pool this can be the true one, if a few outliers raise its mean above the limit. The last two
columns are the same test with the bets of Waudby-Smith and Ramdas (aGRAPA, favourable starting values), capped at 0.75 and 0.95
of the largest bet that cannot make the wealth negative.

| scores, limit | verdict | source | pool of {pool} | aGRAPA 0.75, source | aGRAPA 0.95, source |
| --- | --- | --- | --- | --- | --- |
"""


def main() -> None:
    arguments = parse()
    runs, horizon = arguments.runs, arguments.horizon
    started = time.perf_counter()
    most = ALPHA + 3 * math.sqrt(ALPHA * (1 - ALPHA) / runs)
    head = HEAD.format(runs=runs, horizon=horizon, pool=POOL, last=POOL - 1, most=most)
    lines = head.splitlines()
    largest = 0.0
    for seed, source in enumerate(SOURCES):
        from_source = errors(source, runs, horizon, None, seed)
        from_pool = errors(source, runs, horizon, POOL, 1000 + seed)
        for (edge, verdict, first), (_, _, second) in zip(from_source, from_pool, strict=True):
            lines.append(f"| {source.name} | {edge} | {verdict} | {first:.2%} | {second:.2%} |")
            print(lines[-1], flush=True)
            largest = max(largest, first, second)
            stop_after(arguments.limit_s, started)
    lines += NEEDED.format(runs=runs, horizon=horizon, pool=POOL, largest=largest).splitlines()
    for seed, case in enumerate(CASES):
        lines.append(f"| {case.name} | {case.verdict} | " + " | ".join(needed(case, runs, horizon, 2000 + seed)) + " |")
        print(lines[-1], flush=True)
        stop_after(arguments.limit_s, started)
    target = HERE / "results" / "sequential_errors.md"
    target.parent.mkdir(exist_ok=True)
    target.write_text("\n".join(lines) + "\n")
    print(f"{target.name}: largest share of wrong verdicts {largest:.2%}, {time.perf_counter() - started:.0f} s")
    if largest > most:
        raise SystemExit(f"wrong verdicts: {largest:.2%} is above {most:.2%}")


def stop_after(limit_s: float, started: float) -> None:
    if time.perf_counter() - started > limit_s:
        raise SystemExit(f"stopped after {limit_s:.0f} s: use fewer --runs, a smaller --horizon or a larger --limit-s")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=4000)
    parser.add_argument("--horizon", type=int, default=1000)
    parser.add_argument("--limit-s", type=float, default=1200)
    return parser.parse_args()


if __name__ == "__main__":
    main()
