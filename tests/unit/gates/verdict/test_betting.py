from __future__ import annotations

import functools
import itertools
import math
import operator
import random
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_pot.gates.verdict import betting
from pytest_pot.gates.verdict.betting import Capital, MeanTest, mean_interval

PARTS = [Fraction(fraction) for fraction in betting._FRACTIONS]
SHARES = [Fraction(share) for share in betting._SHARES]

values = st.floats(0, 10, allow_nan=False)


def plain_wealths(draws: list[float], limit: float, pool: int | None = None) -> list[Fraction]:
    """The wealth by its definition, in exact fractions: the bettors' shares times the products of 1 + λ (V − v)."""
    capitals, wealths, total = list(SHARES), [], Fraction(0)
    for place, value in enumerate(map(Fraction, draws)):
        v = Fraction(limit) if pool is None else (pool * Fraction(limit) - total) / (pool - place)
        capitals = [one * (1 + part / v * (value - v)) for one, part in zip(capitals, PARTS, strict=True)]
        total += value
        wealths.append(sum(capitals, Fraction(0)))
    return wealths


def mean_test(draws: list[float], limit: float, pool: int | None = None) -> MeanTest:
    test = MeanTest(Fraction(limit), pool)
    for value in draws:
        test.observe(Fraction(value))
    return test


def test_the_bettors_share_one_unit_of_wealth_and_no_bet_is_larger() -> None:
    assert sum(betting._SHARES) == pytest.approx(1, abs=1e-15)
    assert min(betting._SHARES) > 0
    assert all(0 < fraction <= 1 for fraction in betting._FRACTIONS)
    assert min(betting._FRACTIONS) < 1  # a value of 0 ruins only the boldest bettor
    assert Capital().log == pytest.approx(0, abs=1e-15)


def test_the_wealth_after_two_values_equals_the_hand_calculation() -> None:
    test = mean_test([3.0], 1.0)
    by_hand = sum(share * (1 + fraction * 2) for share, fraction in zip(betting._SHARES, betting._FRACTIONS, strict=True))
    assert test.wealth == pytest.approx(by_hand, rel=1e-12)
    test.observe(Fraction(0))
    by_hand = sum(
        share * (1 + fraction * 2) * (1 - fraction) for share, fraction in zip(betting._SHARES, betting._FRACTIONS, strict=True)
    )
    assert test.wealth == pytest.approx(by_hand, rel=1e-12)


@pytest.mark.parametrize("pool", [None, 40])
def test_the_wealth_is_the_product_that_defines_it(pool: int | None) -> None:
    draws = [random.Random(3).choice([0.0, 0.25, 0.5, 1.5]) + place / 64 for place in range(30)]
    test = MeanTest(Fraction(1), pool)
    for value, expected in zip(draws, plain_wealths(draws, 1.0, pool), strict=True):
        test.observe(Fraction(value))
        assert test.wealth == pytest.approx(float(expected), rel=1e-10)


@given(st.lists(values, min_size=1, max_size=40), st.floats(0.01, 5))
def test_a_stake_is_within_bounds_and_gives_the_next_wealth(draws: list[float], limit: float) -> None:
    test = MeanTest(Fraction(limit))
    for value in draws:
        before, stake = test.wealth, test.stake
        assert 0 <= stake <= (1 + 1e-12) / limit
        test.observe(Fraction(value))
        assert test.wealth == pytest.approx(before * (1 + stake * (value - limit)), rel=1e-8, abs=1e-12 * before)
        assert test.wealth >= 0


@given(st.lists(values, min_size=2, max_size=30), st.floats(0.01, 5), values, st.data())
def test_a_stake_does_not_depend_on_the_value_that_follows(
    draws: list[float], limit: float, other: float, data: st.DataObject
) -> None:
    place = data.draw(st.integers(0, len(draws) - 1))
    stakes = []
    for at_place in (draws[place], other):
        test = MeanTest(Fraction(limit), pool=50)
        for value in [*draws[:place], at_place][: place + 1]:
            stake = test.stake
            test.observe(Fraction(value))
        stakes.append(stake)
    assert stakes[0] == stakes[1]


def test_no_bet_gains_on_average_from_fair_values() -> None:
    """Over all sequences of six values, the mean wealth is exactly 1 if the mean value equals the limit."""
    total = Fraction(0)
    for code in range(3**6):
        draws = [(0.0, 0.5, 2.5)[code // 3**place % 3] for place in range(6)]  # mean 1
        total += plain_wealths(draws, 1.0)[-1]
        if code % 97 == 0:
            assert mean_test(draws, 1.0).wealth == pytest.approx(float(plain_wealths(draws, 1.0)[-1]), rel=1e-10)
    assert float(total / 3**6) == pytest.approx(1, rel=1e-12)


def test_no_bet_gains_on_average_from_a_fair_pool() -> None:
    """The same over all orders of a pool, where a fair bet compares with the mean of the remaining values."""
    pool = [0.0, 0.25, 0.5, 1.0, 3.25]  # mean 1
    for n in range(1, 5):
        wealths = [mean_test(list(order[:n]), 1.0, pool=5).wealth for order in itertools.permutations(pool)]
        assert all(map(math.isfinite, wealths))
        assert sum(wealths) / len(wealths) == pytest.approx(1, rel=1e-12)


def test_a_pool_is_certain_as_soon_as_its_rest_cannot_lower_the_mean_enough() -> None:
    test = MeanTest(Fraction(1), pool=4)
    test.observe(Fraction(4))
    assert not test.certain  # 4 and three zeros would have a mean of exactly 1
    assert test.stake == math.inf
    test.observe(Fraction(0))
    assert not test.certain
    test.observe(Fraction(1, 1000))
    assert bool(test.certain)  # without bool(), mypy still infers False
    assert test.wealth == math.inf


def test_certainty_does_not_depend_on_rounding() -> None:
    pool = [0.1] * 10
    assert functools.reduce(operator.add, pool) != 1.0  # in floating point; sum() compensates since Python 3.12
    assert not mean_test(pool, 0.1, pool=10).certain
    assert mean_test([*pool[1:], math.nextafter(0.1, 1)], 0.1, pool=10).certain
    inclusive = MeanTest(Fraction(0.1), pool=10, inclusive=True)
    for value in pool:
        inclusive.observe(Fraction(value))
    assert inclusive.certain


def test_an_endless_source_is_certain_only_with_a_limit_of_zero() -> None:
    assert not mean_test([1e6] * 5, 1.0).certain
    assert not mean_test([0.0] * 5, 0.0).certain
    assert mean_test([0.0] * 5, 0.0).wealth == pytest.approx(1)
    assert mean_test([0.0, 1e-300], 0.0).certain


def test_wealth_too_large_for_a_float_is_infinite() -> None:
    assert mean_test([1e6] * 60, 1e-4).wealth == math.inf
    tiny = mean_test([1e308, 0.0, 1e308], 5e-324)
    assert tiny.wealth == math.inf
    assert not tiny.certain


def test_lost_wealth_stays_zero_and_is_not_an_error() -> None:
    capital = Capital()
    for _ in range(8000):
        capital.settle(1e6)  # until the other bettors have too little for a float, compared with the boldest
    capital.settle(0.0)
    assert capital.log == -math.inf
    capital.settle(1e6)
    assert capital.log == -math.inf


def test_growth_is_that_of_the_best_bet() -> None:
    assert MeanTest(Fraction(1)).growth == 0.0
    assert mean_test([2.0] * 10, 1.0).growth == pytest.approx(math.log(2))
    assert mean_test([0.5] * 10, 1.0).growth < 0


@settings(max_examples=30)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=25), st.sampled_from([None, 25, 60]))
def test_an_interval_has_the_means_that_neither_bet_rejects(draws: list[float], pool: int | None) -> None:
    low, high = mean_interval(draws, 1.0, 0.05, pool)
    assert 0 <= low <= high <= 1
    if pool == len(draws) or low == high:  # all is known, or no mean is left
        return
    for mean in (low - 1e-6, low + 1e-6, high - 1e-6, high + 1e-6):
        if not 1e-9 < mean < 1 - 1e-9:
            continue
        flipped = [1 - value for value in draws]
        largest = max(_largest_wealth(draws, mean, pool), _largest_wealth(flipped, 1 - mean, pool))
        assert (largest < 40) == (low <= mean <= high)


def _largest_wealth(draws: list[float], limit: float, pool: int | None) -> float:
    """The largest wealth that MeanTest reaches."""
    test, most = MeanTest(Fraction(limit), pool), 0.0
    for value in draws:
        test.observe(Fraction(value))
        most = max(most, test.wealth)
    return most


def test_the_interval_of_a_whole_pool_is_its_mean() -> None:
    assert mean_interval([0.1] * 10, 1.0, 0.05, pool=10) == (0.1, 0.1)


def test_the_interval_respects_what_the_rest_of_a_pool_can_still_change() -> None:
    low, high = mean_interval([1.0], 1.0, 0.05, pool=4)
    assert low == pytest.approx(0.25)
    assert high == 1.0
    low, high = mean_interval([0.0], 1.0, 0.05, pool=4)
    assert low == 0.0
    assert high == pytest.approx(0.75)


def test_an_interval_never_gets_wider() -> None:
    generator = random.Random(1)
    draws = [generator.random() for _ in range(200)]
    ends = [mean_interval(draws[:n], 1.0, 0.05) for n in (1, 10, 50, 200)]
    assert [low for low, _ in ends] == sorted(low for low, _ in ends)
    assert [high for _, high in ends] == sorted((high for _, high in ends), reverse=True)
    low, high = ends[-1]
    assert low < 0.5 < high
    assert high - low < 0.25
