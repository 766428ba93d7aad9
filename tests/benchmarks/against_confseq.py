"""Compare the sequential test with the package confseq, by the authors of the method. Writes results/against_confseq.md.

Run this by hand: confseq is not a dependency. Its build needs Boost's headers, CMake and a newer pybind11 than it asks for, and
it works only with numpy 1. In a separate environment:

    pip install "setuptools<70" wheel scikit-build "cmake<4" ninja "pybind11<3" "numpy<2" "scipy<1.16" matplotlib multiprocess
    BOOST_ROOT=/usr pip install --no-build-isolation confseq==0.0.11
    PYTHONPATH=. python tests/benchmarks/against_confseq.py
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np

try:
    from confseq import betting as theirs
except ImportError as error:
    raise SystemExit(f"skipped: confseq is not installed ({error}); see the top of this file") from None

from pytest_pot.gates.verdict import betting as ours
from pytest_pot.gates.verdict.sequential import SequentialTest

HERE = Path(__file__).parent
REAL = json.loads((HERE / "data" / "smollm2_tv.json").read_text())
TOLERANCE = 1e-6
BREAKS = 1000
POOL = 256

Array = np.ndarray


def wealth(x: Array, m: float, pool: int | None, sign: int) -> Array:
    """confseq's wealth, [n], after each of ``x`` [n], all in 0..1, with our bets.

    They bet that the mean is above ``m`` if ``sign`` is 1, and below if it is -1.
    """

    def bet(fraction: float) -> Callable[[Array, float], Array]:
        def stakes(x: Array, m: float) -> Array:
            before = np.concatenate([[0.0], np.cumsum(x)[:-1]])
            mean = np.full(len(x), m) if pool is None else (pool * m - before) / (pool - np.arange(len(x)))
            return fraction / (mean if sign > 0 else 1.0 - mean)

        return stakes

    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        found: Array = theirs.diversified_betting_mart(
            x,
            m,
            [bet(fraction) for fraction in ours._FRACTIONS],
            lambdas_weights=ours._SHARES,
            N=pool,
            theta=1 if sign > 0 else 0,
            trunc_scale=1,
        )
        return found


def wealth_error(scores: Array, limit: float, clip: float, pool: int | None) -> float:
    """The largest relative difference between our wealth and theirs, in all three tests, where both are finite and theirs is
    above 0."""
    test = SequentialTest(limit, score_clip=clip, pool=pool)
    test.update(scores)
    ours_wealth = np.array([step.wealth for step in test.decision().steps])
    share = 0.05 if pool is None else np.ceil(0.05 * pool) / pool
    expected = np.stack(
        [
            wealth(scores, limit, pool, 1),
            wealth(np.minimum(scores, clip) / clip, limit / clip, pool, -1),
            wealth((scores > clip).astype(float), share, pool, -1),
        ],
        axis=1,
    )
    comparable = np.isfinite(ours_wealth) & np.isfinite(expected) & (expected > 0)
    assert comparable.mean() > 0.3
    return float(np.max(np.abs(ours_wealth[comparable] / expected[comparable] - 1.0)))


def interval_errors(x: Array, pool: int | None) -> tuple[float, float]:
    """The largest difference between the ends of our interval and theirs: by bisection of their wealth, and on their grid of
    1,000 means."""

    def highest_wealth(m: float, sign: int) -> float:
        return float(wealth(x, m, pool, sign).max())

    def bisect(refuted: Callable[[float], bool], inside: float, outside: float) -> float:
        for _ in range(40):
            middle = (inside + outside) / 2
            inside, outside = (inside, middle) if refuted(middle) else (middle, outside)
        return inside

    mean = float(np.mean(x))
    low = bisect(lambda m: highest_wealth(m, 1) >= 40, mean, 0.0)
    high = bisect(lambda m: highest_wealth(m, -1) >= 40, mean, 1.0)
    interval = ours.mean_interval(x.tolist(), 1.0, 0.05, pool)

    def hedged(x: Array, m: float) -> Array:
        hedged: Array = np.maximum(wealth(x, m, pool, 1), wealth(x, m, pool, -1)) / 2
        return hedged

    grid_low, grid_high = theirs.cs_from_martingale(x, hedged, breaks=BREAKS, alpha=0.05, N=pool, running_intersection=True)
    exact = max(abs(interval[0] - low), abs(interval[1] - high))
    return exact, max(abs(interval[0] - grid_low[-1]), abs(interval[1] - grid_high[-1]))


HEAD = """\
# Against confseq 0.0.11

Written by `tests/benchmarks/against_confseq.py`. confseq's `diversified_betting_mart` gets the bets of pytest-pot and 200
scores, scaled to 0..1 as it needs, from a source or from a pool of {pool}. The wealth of all three tests is compared after each
score. The interval is for the mean clipped at 10 limits, in units of the clip. It is compared with a bisection of confseq's own
wealth, and with its `cs_from_martingale`, which tries {breaks} means and adds one step on either side.

| scores, limit | drawn from | wealth, relative | interval | interval on the grid |
| --- | --- | --- | --- | --- |
"""

OTHER = """
The largest difference is {largest:.1e}. The differences on the grid come from the grid: at most two of its steps. Where the
scores drawn from a pool make a mean impossible, pytest-pot says so at that draw and confseq at the next; these steps are left
out.

## Another quantity: confseq's own bets

`hedged_cs` with its defaults (predictable plug-in bets of at most half the largest bet) and the interval of pytest-pot, for the
clipped mean in units of the limit. The scores are from a source:

| scores, limit | prompts | pytest-pot | hedged_cs |
| --- | --- | --- | --- |
"""


def main() -> None:
    generator = np.random.default_rng(0)
    bf16, int8 = np.array(REAL["bf16"]), np.array(REAL["int8"])
    broken = np.where(generator.random(200) < 0.03, 0.5, generator.choice(bf16, 200))
    cases = {
        "bf16, limit 0.01": (generator.choice(bf16, 200), 0.01),
        "bf16 with 3 % outliers, limit 0.01": (broken, 0.01),
        "int8, limit 0.01": (generator.choice(int8, 200), 0.01),
        "int8, limit 0.035": (generator.choice(int8, 200), 0.035),
        "uniform, limit 0.09": (generator.uniform(0.0, 0.2, 200), 0.09),
    }
    lines = HEAD.format(pool=POOL, breaks=BREAKS).splitlines()
    largest = 0.0
    for name, (scores, limit) in cases.items():
        clip = 10 * limit
        for pool in (None, POOL):
            by_wealth = wealth_error(scores, limit, clip, pool)
            by_ends, on_grid = interval_errors(np.minimum(scores, clip) / clip, pool)
            source = "a source" if pool is None else "a pool"
            lines.append(f"| {name} | {source} | {by_wealth:.1e} | {by_ends:.1e} | {on_grid:.1e} |")
            largest = max(largest, by_wealth, by_ends)
            assert on_grid <= 2.0 / BREAKS + 1e-9, on_grid
    lines += OTHER.format(largest=largest).splitlines()
    for name, (scores, limit) in cases.items():
        x = np.minimum(scores, 10 * limit) / (10 * limit)
        low, high = theirs.hedged_cs(x, alpha=0.05, breaks=BREAKS)
        for n in (10, 60, 200):
            mine = ours.mean_interval(x[:n].tolist(), 1.0, 0.05)
            lines.append(
                f"| {name} | {n} | {10 * mine[0]:.3f} .. {10 * mine[1]:.3f} | {10 * low[n - 1]:.3f} .. {10 * high[n - 1]:.3f} |"
            )
    (HERE / "results" / "against_confseq.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))
    if largest > TOLERANCE:
        raise SystemExit(f"a difference of {largest:.1e} is above {TOLERANCE:.0e}")


if __name__ == "__main__":
    main()
