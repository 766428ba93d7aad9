from __future__ import annotations

import json
import math
import random
import statistics
from collections.abc import Callable, Iterable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_pot import PotError, Verdict
from pytest_pot.gates.verdict import betting
from pytest_pot.gates.verdict.limits import identity_limits
from pytest_pot.gates.verdict.sequential import Decision, SequentialTest

RECORDED = Path(__file__).parents[3] / "benchmarks" / "data" / "smollm2_tv.json"

scores = st.floats(0, 1, allow_nan=False)


def decide(draws: list[float], limit: float, **arguments: Any) -> Decision:
    """The decision after all scores in one batch."""
    test = SequentialTest(limit, **arguments)
    test.update(draws)
    return test.decision()


def one_by_one(draws: list[float], limit: float, **arguments: Any) -> Decision:
    """The decision after scores one by one, until there is a verdict."""
    test = SequentialTest(limit, **arguments)
    for score in draws:
        if test.update([score]) is not Verdict.UNDECIDED:
            break
    return test.decision()


def scores_near(mean: float, n: int = 256, cv: float = 0.15, seed: int = 0) -> list[float]:
    generator = random.Random(seed)
    return [abs(generator.gauss(mean, cv * mean)) for _ in range(n)]


# --- the wealth, by its definition ---


@pytest.mark.parametrize("pool", [None, 30])
def test_the_wealth_of_each_test_is_the_product_that_defines_it(pool: int | None) -> None:
    """Factors 1 + λ (X − θ), 1 − λ (min(X, B) − θ), 1 − λ ([X > B] − m); each bettor's λ is a share of the largest."""
    theta, clip, outliers = Fraction(1, 8), Fraction(1, 2), Fraction(1, 4)
    generator = random.Random(5)
    draws = [generator.choice([0.0, 0.125]) + place / 256 for place in range(20)] + [0.5, 0.75]
    decision = decide(draws, 1 / 8, score_clip=0.5, max_outliers=0.25, pool=pool)
    shares = [Fraction(share) for share in betting._SHARES]
    parts = [Fraction(part) for part in betting._FRACTIONS]
    capitals = [list(shares) for _ in range(3)]
    total, clipped, above = Fraction(0), Fraction(0), Fraction(0)
    least = outliers if pool is None else Fraction(8, 30)  # at least 7.5 prompts of 30 means at least 8
    for place, (score, step) in enumerate(zip(map(Fraction, draws), decision.steps, strict=True)):
        means = [theta, theta, least]
        if pool is not None:
            sums = (total, clipped, above)
            means = [(pool * mean - one) / (pool - place) for mean, one in zip(means, sums, strict=True)]
        y, z = min(score, clip), Fraction(score > clip)
        for i, part in enumerate(parts):
            capitals[0][i] *= 1 + part / means[0] * (score - means[0])
            capitals[1][i] *= 1 - part / (clip - means[1]) * (y - means[1])
            capitals[2][i] *= 1 - part / (1 - means[2]) * (z - means[2])
        assert step.wealth == pytest.approx([float(sum(one)) for one in capitals], rel=1e-10)
        total, clipped, above = total + score, clipped + y, above + z
    assert decision.wealth == decision.steps[-1].wealth
    assert decision.n_outliers == 1


def test_the_recorded_stakes_give_the_recorded_wealth() -> None:
    theta, clip, outliers = 0.1, 0.5, 0.2
    decision = decide([0.3, 0.0, 0.7, 0.1, 0.05], theta, score_clip=clip, max_outliers=outliers)
    before = (1.0, 1.0, 1.0)
    for step in decision.steps:
        x = step.score
        factors = (
            1 + step.stakes.different * (x - theta),
            1 - step.stakes.mean * (min(x, clip) - theta),
            1 - step.stakes.outliers * ((x > clip) - outliers),
        )
        assert step.wealth == pytest.approx([one * factor for one, factor in zip(before, factors, strict=True)], rel=1e-9)
        before = step.wealth


@given(st.lists(scores, min_size=1, max_size=40), st.floats(0.001, 0.3), st.sampled_from([None, 40, 64]))
def test_wealths_are_never_negative_and_stakes_are_within_their_bounds(
    draws: list[float], limit: float, pool: int | None
) -> None:
    decision = decide(draws, limit, pool=pool)
    for step in decision.steps:
        assert all(wealth >= 0 for wealth in step.wealth)  # and not NaN
        assert all(stake >= 0 for stake in step.stakes)
        if pool is None:
            assert step.stakes.different <= 1 / limit * (1 + 1e-12)
            assert step.stakes.mean <= 1 / (9 * limit) * (1 + 1e-12)
            assert step.stakes.outliers <= 1 / 0.95 * (1 + 1e-12)


@given(st.lists(scores, min_size=2, max_size=30), st.randoms(use_true_random=False), st.sampled_from([None, 30]))
def test_later_scores_do_not_change_earlier_steps(draws: list[float], generator: random.Random, pool: int | None) -> None:
    place = generator.randrange(1, len(draws))
    future = draws[place:]
    generator.shuffle(future)
    first, second = decide(draws, 0.1, pool=pool), decide([*draws[:place], *future], 0.1, pool=pool)
    assert first.steps[:place] == second.steps[:place]
    assert first.steps[place].stakes == second.steps[place].stakes  # made before the score that differs
    if first.decided_after is not None and first.decided_after <= place:
        assert (first.verdict, first.decided_after) == (second.verdict, second.decided_after)


# --- verdicts ---


def test_scores_far_above_the_limit_are_different_after_at_most_8() -> None:
    for seed in range(20):
        for mean in (0.2, 0.38, 0.83):
            decision = one_by_one(scores_near(mean, seed=seed), 0.08)
            assert decision.verdict is Verdict.DIFFERENT
            assert decision.decided_after is not None
            assert decision.n_used == decision.decided_after <= 8
            assert decision.wealth.different >= 20 > max(step.wealth.different for step in decision.steps[:-1])


@pytest.mark.parametrize("pool", [None, 256])
def test_scores_far_below_the_limit_are_the_same_after_at_most_96(pool: int | None) -> None:
    for seed in range(20):
        decision = one_by_one(scores_near(0.0044, seed=seed, cv=0.16), 0.01, pool=pool)
        assert decision.verdict is Verdict.SAME
        assert decision.n_used <= 96


@pytest.mark.parametrize(
    ("name", "limit", "verdict", "most"),
    [
        ("pruned 20 %", 0.08, Verdict.DIFFERENT, 8),
        ("int4", 0.08, Verdict.DIFFERENT, 8),
        ("foreign", 0.08, Verdict.DIFFERENT, 8),
        ("bf16", 0.01, Verdict.SAME, 96),
        ("identical", 0.01, Verdict.SAME, 96),
        ("identical", 0.0, Verdict.SAME, 96),
    ],
)
@pytest.mark.parametrize("endless", [False, True])
def test_recorded_scores_of_real_candidates_are_decided_quickly_in_any_order(
    name: str, limit: float, verdict: Verdict, most: int, endless: bool
) -> None:
    scores = json.loads(RECORDED.read_text())[name]
    pool = None if endless else len(scores)
    for seed in range(25):
        decision = one_by_one(random.Random(seed).sample(scores, len(scores)), limit, pool=pool)
        assert decision.verdict is verdict
        assert decision.n_used <= most


@pytest.mark.parametrize("tolerance", ["half", "int8", "int4"])
@pytest.mark.parametrize("endless", [False, True])
def test_a_real_candidate_that_is_damaged_on_one_kind_of_prompt_is_never_the_same(tolerance: str, endless: bool) -> None:
    scores = json.loads(RECORDED.read_text())["damaged on multilingual only"]
    limits = identity_limits("tv", tolerance=tolerance)
    assert limits.verdict(statistics.fmean(scores), max(scores)) is Verdict.DIFFERENT
    for seed in range(40):
        draws = random.Random(seed).sample(scores, len(scores))
        pool = None if endless else len(scores)
        assert one_by_one(draws, limits.max_score, score_clip=limits.max_prompt_score, pool=pool).verdict is not Verdict.SAME


def test_one_outlier_delays_same_but_does_not_exclude_it() -> None:
    draws = scores_near(0.0044)
    draws[10] = 0.5
    decision = one_by_one(draws, 0.01)
    assert decision.verdict is Verdict.SAME
    assert decision.n_outliers == 1
    assert decision.n_used > 96


def test_one_broken_prompt_in_eight_is_different() -> None:
    for seed in range(50):
        draws = scores_near(0.0044, seed=seed)
        for place in random.Random(seed).sample(range(256), 32):
            draws[place] = 0.5
        decision = one_by_one(draws, 0.01, pool=256)
        assert decision.verdict is Verdict.DIFFERENT


@given(st.lists(st.floats(0, 0.0999), min_size=100, max_size=100), st.floats(0.1, 10))
def test_same_needs_enough_prompts_to_exclude_outliers(draws: list[float], limit: float) -> None:
    """ln 0.05 / ln 0.95 = 58.4: fewer prompts cannot exclude a share of 5 %."""
    decision = one_by_one(draws, limit)
    assert decision.verdict is Verdict.SAME
    assert 59 <= decision.n_used <= 62


def test_the_clip_and_the_share_are_those_of_the_arguments() -> None:
    draws = [0.25] * 2 + [0.0] * 298
    assert decide(draws, 0.1, score_clip=0.25).n_outliers == 0  # a score at the clip is not above it
    assert decide(draws, 0.1, score_clip=0.2499).n_outliers == 2
    assert one_by_one([0.0] * 300, 0.1, max_outliers=0.2, score_clip=0.2).n_used < 20
    assert one_by_one([0.0] * 300, 0.1, confidence=0.99).n_used > 89  # ln 0.01 / ln 0.95
    assert one_by_one([0.0] * 300, 0.1).threshold == pytest.approx(20)


@settings(max_examples=60)
@given(st.lists(scores, min_size=1, max_size=80), st.integers(1, 40), st.sampled_from([None, 80]))
def test_batches_reach_the_same_verdict_as_single_prompts(draws: list[float], size: int, pool: int | None) -> None:
    single = one_by_one(draws, 0.2, pool=pool)
    test = SequentialTest(0.2, pool=pool)
    for start in range(0, len(draws), size):
        if test.update(draws[start : start + size]) is not Verdict.UNDECIDED:
            break
    batched = test.decision()
    if batched.exhausted and size > 1:
        return  # the whole pool decided; single prompts may have decided earlier
    assert (batched.verdict, batched.decided_after) == (single.verdict, single.decided_after)
    assert single.n_used <= batched.n_used < single.n_used + size
    assert batched.steps[: single.n_used] == single.steps


def test_a_batch_that_exhausts_the_pool_is_decided_by_the_whole_pool() -> None:
    whole = decide([0.0] * 100 + [0.5] * 20, 0.0, pool=120)
    assert (whole.verdict, whole.decided_after, whole.exhausted) == (Verdict.DIFFERENT, 120, True)
    first_is_odd = decide([0.27] + [0.0] * 27, 0.01, pool=28)  # mean 0.0096
    assert one_by_one([0.27], 0.01, pool=28).verdict is Verdict.DIFFERENT
    assert (first_is_odd.verdict, first_is_odd.decided_after) == (Verdict.SAME, 28)


def test_a_verdict_never_changes() -> None:
    test = SequentialTest(0.1)
    assert test.update([1.0] * 4) is Verdict.DIFFERENT
    assert test.update([0.0] * 500) is Verdict.DIFFERENT
    decision = test.decision()
    assert decision.decided_after is not None
    assert decision.decided_after < 4
    assert decision.n_used == 504
    assert decision.wealth.different < 20  # it was above 20 earlier


def test_a_rejected_hypothesis_stays_rejected() -> None:
    """The clipped mean is proved low by the fiftieth prompt; its wealth is lost again before outliers are excluded."""
    decision = one_by_one([0.0] * 50 + [0.5] * 5 + [0.0] * 45, 0.1)
    assert decision.verdict is Verdict.SAME
    assert decision.n_used == 61
    assert decision.steps[49].wealth.mean > 20 > decision.wealth.mean


def test_if_both_claims_are_true_the_first_one_proved_is_the_verdict() -> None:
    """With one huge score in a hundred, the mean is above the limit and the clipped mean below it."""
    assert one_by_one([0.0] * 99 + [50.0], 0.1, pool=100).verdict is Verdict.SAME
    assert one_by_one([50.0] + [0.0] * 99, 0.1, pool=100).verdict is Verdict.DIFFERENT


# --- a pool scored whole ---


@settings(max_examples=200)
@given(st.lists(st.sampled_from([0.0, 0.05, 0.1, 0.2, 0.9, 1.5]), min_size=1, max_size=20))
def test_a_fully_scored_pool_has_the_verdict_of_the_plain_rule(draws: list[float]) -> None:
    """At this confidence, 20 prompts decide only what is certain.

    Of 20 prompts or fewer, none may be above the clip, so only the last one makes SAME certain.
    """
    decision = decide(draws, 0.1, confidence=1 - 1e-15, pool=len(draws))
    exact = [Fraction(score) for score in draws]
    within = sum(exact) <= Fraction(0.1) * len(draws)
    few = sum(score > 1 for score in draws) < round(0.05 * len(draws), 9)
    expected = Verdict.DIFFERENT if not within else Verdict.SAME if few else Verdict.UNDECIDED
    assert decision.exhausted
    assert decision.verdict is expected
    assert decision.expected_further is None
    assert decision.interval == pytest.approx((np.minimum(draws, 1).mean(),) * 2)


def test_a_mean_of_exactly_the_limit_is_the_same_and_one_rounding_step_more_is_different() -> None:
    assert decide([0.1] * 10, 0.1, pool=10).verdict is Verdict.SAME
    assert decide([0.1] * 9 + [math.nextafter(0.1, 1)], 0.1, pool=10).verdict is Verdict.DIFFERENT


def test_a_pool_within_the_limit_with_too_many_outliers_is_undecided() -> None:
    draws = [0.0] * 18 + [0.51, 0.51]
    decision = decide(draws, 0.1, score_clip=0.5, pool=20)
    assert decision.verdict is Verdict.UNDECIDED
    assert decision.exhausted
    assert decision.expected_further is None
    assert decide(draws, 0.1, score_clip=0.5, max_outliers=0.11, pool=20).verdict is Verdict.SAME


@pytest.mark.parametrize(
    ("share", "pool", "allowed"), [(0.05, 20, 0), (0.07, 100, 6), (0.05, 30, 1), (0.5, 3, 1), (0.01, 20, 0)]
)
def test_the_outliers_allowed_in_a_pool_are_a_whole_number_below_the_share(share: float, pool: int, allowed: int) -> None:
    for n, verdict in ((allowed, Verdict.SAME), (allowed + 1, Verdict.UNDECIDED)):
        draws = [0.2] * n + [0.0] * (pool - n)
        decision = decide(draws, 1.0, score_clip=1.1, max_outliers=share, pool=pool)
        assert decision.verdict is Verdict.SAME  # nothing is above the clip
        draws = [1.2] * n + [0.0] * (pool - n)
        assert decide(draws, 1.0, score_clip=1.1, max_outliers=share, pool=pool).verdict is verdict


def test_a_fully_scored_pool_ignores_earlier_inferences() -> None:
    """Sixty prompts without an outlier wrongly reject that the pool has five, but it has five."""
    draws = [0.1005] * 60 + [0.1501] * 5 + [0.0915] * 35
    decision = decide(draws, 0.1, score_clip=0.15, pool=100)
    assert decision.steps[59].wealth.outliers > 20
    assert decision.n_outliers == 5
    assert decision.wealth.mean == math.inf
    assert decision.verdict is Verdict.UNDECIDED


def test_a_fully_scored_pool_above_the_limit_is_different_even_if_its_clipped_mean_is_below() -> None:
    draws = [0.7, *[0.03125] * 8, 0.0625]
    decision = decide(draws, 0.1, score_clip=0.5, max_outliers=0.25, pool=10, confidence=1 - 1e-9)
    assert decision.decided_after == 10
    assert decision.wealth == (math.inf,) * 3
    assert decision.verdict is Verdict.DIFFERENT


def test_a_pool_is_decided_as_soon_as_its_rest_cannot_change_the_verdict() -> None:
    decision = one_by_one([0.5, 0.6] + [0.0] * 8, 0.1, pool=10, confidence=1 - 1e-12)
    assert decision.verdict is Verdict.DIFFERENT
    assert decision.n_used == 2
    assert decision.wealth.different == math.inf


# --- a limit of 0 ---


@pytest.mark.parametrize("pool", [None, 256])
def test_with_a_limit_of_zero_any_other_score_is_different(pool: int | None) -> None:
    decision = one_by_one([0.0] * 20 + [5e-324] + [0.0] * 9, 0.0, pool=pool)
    assert decision.verdict is Verdict.DIFFERENT
    assert decision.n_used == 21


def test_with_a_limit_of_zero_zeros_are_the_same() -> None:
    assert one_by_one([0.0] * 100, 0.0).n_used == 61
    assert one_by_one([0.0] * 100, 0.0, pool=256).n_used == 54
    assert one_by_one([0.0] * 10, 0.0, pool=10).verdict is Verdict.SAME
    decision = decide([0.0] * 10, 0.0)
    assert decision.verdict is Verdict.UNDECIDED
    assert decision.interval is None
    assert decision.expected_further == pytest.approx(61 - 10, abs=1)


# --- what is expected, and the interval ---


def test_the_expected_number_of_further_prompts_is_about_the_number_needed() -> None:
    draws = scores_near(0.0044)
    needed = one_by_one(draws, 0.01).n_used
    for n in (5, 20, 40):
        assert decide(draws[:n], 0.01).expected_further == pytest.approx(needed - n, abs=3)
    draws = scores_near(0.13)
    needed = one_by_one(draws, 0.1).n_used
    assert decide(draws[: needed // 2], 0.1).expected_further == pytest.approx(needed / 2, rel=0.5)


def test_without_a_trend_only_the_rest_of_a_pool_is_expected() -> None:
    assert decide([], 0.1).expected_further is None
    assert decide([0.1] * 20, 0.1).expected_further is None  # at the limit
    assert decide([0.1] * 20, 0.1, pool=30).expected_further == 10  # the rest of the pool
    assert decide([], 0.1, pool=30).expected_further == 30
    assert decide([1.0] * 20, 0.1).expected_further is None


def test_without_scores_there_is_no_evidence() -> None:
    decision = decide([], 0.1)
    assert decision.verdict is Verdict.UNDECIDED
    assert (decision.n_used, decision.decided_after, decision.interval, decision.steps) == (0, None, None, ())
    assert decision.wealth == pytest.approx((1, 1, 1))


def test_the_interval_is_of_the_clipped_mean() -> None:
    draws = [0.0, 0.05, 5.0, 0.02] * 30
    decision = decide(draws, 0.1, score_clip=0.2)
    assert decision.interval == pytest.approx(betting.mean_interval([min(x, 0.2) for x in draws], 0.2, 0.05))
    assert decision.interval is not None
    low, high = decision.interval
    assert low < 0.0675 < high <= 0.2


# --- errors are as rare as promised ---


RUNS = 2000
LARGEST_SHARE = 0.05 + 3 * math.sqrt(0.05 * 0.95 / RUNS)
"""The largest share that 2,000 runs show of an error of 5 %, except for one time in a thousand."""


def share_of(verdict: Verdict, draw: Callable[[np.random.Generator], Iterable[float]], limit: float, **arguments: Any) -> float:
    """The share of runs that reach ``verdict`` after any of their prompts."""
    generator = np.random.default_rng(1)
    return sum(SequentialTest(limit, **arguments).update(draw(generator)) is verdict for _ in range(RUNS)) / RUNS


def test_a_mean_at_the_limit_is_rarely_called_different() -> None:
    share = share_of(Verdict.DIFFERENT, lambda generator: generator.exponential(1.0, 30), 1.0)
    assert 0.01 < share <= LARGEST_SHARE


def test_outliers_at_the_allowed_share_are_rarely_called_the_same() -> None:
    share = share_of(Verdict.SAME, lambda generator: 3.0 * (generator.random(20) < 0.2), 1.0, score_clip=2.0, max_outliers=0.2)
    assert 0.01 < share <= LARGEST_SHARE


def test_outliers_at_the_allowed_share_of_a_pool_are_rarely_called_the_same() -> None:
    pool = [3.0] * 4 + [0.0] * 16
    share = share_of(
        Verdict.SAME, lambda generator: generator.permutation(pool)[:19], 1.0, score_clip=2.0, max_outliers=0.2, pool=20
    )
    assert 0.01 < share <= LARGEST_SHARE


# --- arguments ---


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"limit": -0.1}, "limit=-0.1 must be a finite number of at least 0"),
        ({"limit": math.nan}, "limit=nan must be a finite number of at least 0"),
        ({"limit": True}, "limit=True must be"),
        ({"confidence": 0.5}, "confidence=0.5 must be a number above 0.5 and below 1"),
        ({"confidence": 1}, "confidence=1 must be"),
        ({"confidence": "0.95"}, "confidence='0.95' must be"),
        ({"max_outliers": 0}, "max_outliers=0 must be a number above 0 and below 1"),
        ({"max_outliers": 1.0}, "max_outliers=1.0 must be"),
        ({"score_clip": 0.1}, "score_clip=0.1 must be a finite number above the limit, 0.1"),
        ({"score_clip": math.inf}, "score_clip=inf must be"),
        ({"limit": 0.0, "score_clip": 1.0}, "score_clip=1.0 has no effect if limit=0, where any score above 0 counts"),
        ({"pool": 0}, "pool=0 must be a whole number of at least 1, or None"),
        ({"pool": 10.0}, "pool=10.0 must be"),
    ],
)
def test_wrong_arguments_are_errors(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=r".*") as error:
        SequentialTest(**{"limit": 0.1, **arguments})
    assert message in str(error.value)
    assert isinstance(error.value, PotError)


@pytest.mark.parametrize("score", [-1e-9, math.nan, math.inf])
def test_a_wrong_score_is_an_error_and_its_batch_does_not_count(score: float) -> None:
    test = SequentialTest(0.1)
    with pytest.raises(PotError, match="must be a finite number of at least 0"):
        test.update([0.1, score])
    assert test.decision().n_used == 0


def test_more_scores_than_the_pool_has_prompts_are_an_error() -> None:
    test = SequentialTest(0.1, pool=3)
    test.update(np.array([0.1, 0.1], dtype=np.float32))
    with pytest.raises(PotError, match="4 scores for a pool of 3 prompts: score each prompt of the pool once"):
        test.update([0.1, 0.1])
    assert test.decision().n_used == 2
