"""Test a hypothesis about a mean by betting against it: the wealth grows only where the hypothesis is false. Pure Python.

The values V_1, V_2, … are at least 0, and the null hypothesis says that their mean is at most v. A bettor stakes a fraction f
of the wealth on a ticket that costs v and pays V. This multiplies the wealth by ``1 − f + f V/v``, which is ``1 + λ (V − v)``
with ``λ = f/v``. Under the null hypothesis no such bet gains on average, so the probability that the wealth *ever* reaches
1/α is at most α (Ville 1939), whenever one looks or stops. The only assumption about V is V >= 0.

Which f? Waudby-Smith and Ramdas, "Estimating means of bounded random variables by betting" (2020), choose it from running
estimates of mean and variance. Here the initial wealth is split among bettors who each stake a constant fraction of theirs,
and the wealth is the sum over all bettors (their "diversified" bettor; Cover's universal portfolio, 1991, on a grid). Compared
with the best bettor, known only afterwards, the sum loses at most a factor: that bettor's initial share. So there are no
parameters to tune and no estimates that can be wrong, and the wealth is monotone in v, so that bisection finds an interval.
In simulations this needs fewer prompts than their bets where scores are regular. Where one prompt in a hundred is an outlier,
it needs more prompts than their bets with a low cap, and fewer than their bets with a high cap
(tests/benchmarks/results/sequential_errors.md).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from fractions import Fraction

__all__ = ["Capital", "MeanTest", "mean_interval"]

_FRACTIONS = (1.0, 0.9, 0.75, 0.6, 0.45, 0.3, 0.2, 0.1, 0.05, 0.025, 0.0125, 0.006)
"""The fraction of its own wealth that each bettor stakes, every time. A fraction of 1 is best where no value is near 0, but
loses everything at a value of 0; a hundredth is best where one value in a hundred is large and all others are 0."""

_FIRST_SHARE = 0.8
"""The first bettor's share of the initial wealth. With it, 61 prompts without an outlier are enough, where 59 is the minimum.
A larger share would save one or two of these prompts, but cost dozens once there is an outlier."""

_HARMONIC_SUM = sum(1.0 / rank for rank in range(1, len(_FRACTIONS)))
_SHARES = (_FIRST_SHARE, *((1.0 - _FIRST_SHARE) / rank / _HARMONIC_SUM for rank in range(1, len(_FRACTIONS))))

_LARGEST_PAYOFF = 10**300
"""Payoffs are capped here to avoid float overflow. Less payoff means less wealth, so the test stays valid."""

_BISECTIONS = 40


class Capital:
    """The joint wealth of all bettors; 1 at the start."""

    def __init__(self) -> None:
        self.log = 0.0
        """Natural logarithm of the wealth."""
        self._shares = list(_SHARES)
        """Each bettor's current share of the wealth."""

    @property
    def stake(self) -> float:
        """The fraction of the joint wealth, 0..1, that is staked on the next value."""
        return min(1.0, math.fsum(fraction * share for fraction, share in zip(_FRACTIONS, self._shares, strict=True)))

    @property
    def best(self) -> float:
        """Natural logarithm of the wealth, had the bettor who did best so far held all of it from the start."""
        return self.log + math.log(max(share / initial for share, initial in zip(self._shares, _SHARES, strict=True)))

    def settle(self, payoff: float) -> None:
        """Settle the bets on a ticket that costs 1 and pays ``payoff`` >= 0."""
        parts = [share * (1.0 - fraction + fraction * payoff) for share, fraction in zip(self._shares, _FRACTIONS, strict=True)]
        growth = sum(parts)
        if growth > 0.0:
            self.log += math.log(growth)
            self._shares = [part / growth for part in parts]
        else:  # the first bettor staked and lost everything; the other shares had underflowed to 0
            self.log = -math.inf


class MeanTest:
    """Tests the null hypothesis "the mean is at most ``limit``" on values >= 0, one at a time.

    The values are drawn from a source, or from a pool of known size N: without replacement, in random order. If the pool has
    the mean v, the values left before draw i have the mean ``(N v − S_{i−1}) / (N − i + 1)``, where S is the sum so far. The
    bet uses this mean in place of v (Waudby-Smith and Ramdas, section 4). Once it is negative, the hypothesis is certainly
    false; after the last draw nothing is left to infer. Sums are exact (fractions), so that this certainty does not depend on
    rounding.
    """

    def __init__(self, limit: Fraction, pool: int | None = None, *, inclusive: bool = False) -> None:
        """``pool``: its size, or None for a source. ``inclusive``: the test is to show that the mean is at least ``limit``, not
        that it is above; this matters only where the result is certain."""
        self._limit = limit
        self._pool = pool
        self._inclusive = inclusive
        self._total = Fraction(0)
        self._capital = Capital()
        self.n = 0
        self.certain = False
        """The values so far already refute the hypothesis, whatever is drawn next."""

    @property
    def stake(self) -> float:
        """λ of the next bet, in 1 / the unit of the values: 0 to 1 / the expected mean; inf where that mean is 0 or less."""
        mean = float(self._expected())
        return self._capital.stake / mean if mean > 0.0 else math.inf

    @property
    def log_wealth(self) -> float:
        """Natural logarithm of the wealth; inf once the hypothesis is certainly false."""
        return math.inf if self.certain else self._capital.log

    @property
    def wealth(self) -> float:
        """At least 0; inf once the hypothesis is certainly false, or where the wealth is too large for a float."""
        log = self.log_wealth
        return math.exp(log) if log < 709.0 else math.inf

    @property
    def growth(self) -> float:
        """Average growth of the log wealth per value, had the bettor who did best so far held all the wealth from the start."""
        return self._capital.best / self.n if self.n else 0.0

    def observe(self, value: Fraction) -> None:
        """Settle the bet on ``value`` >= 0, the next value drawn."""
        mean = self._expected()
        if mean > 0:
            self._capital.settle(float(value / mean) if value < mean * _LARGEST_PAYOFF else float(_LARGEST_PAYOFF))
        self._total += value
        self.n += 1
        bound = self._limit * (self.n if self._pool is None else self._pool)
        if self._pool is not None or self._limit == 0:
            self.certain = self._total > bound or (self._inclusive and self._total == bound)

    def _expected(self) -> Fraction:
        """The mean of the values that can still be drawn, if the mean of all is exactly ``limit``."""
        if self._pool is None:
            return self._limit
        n_left = self._pool - self.n
        return (self._limit * self._pool - self._total) / n_left if n_left else Fraction(0)


def mean_interval(values: Sequence[float], bound: float, alpha: float, pool: int | None = None) -> tuple[float, float]:
    """A confidence interval for the mean: its lower and upper end, in the unit of the values.

    ``values`` are those drawn so far, all in 0..``bound``. The interval is that of the hedged capital (Waudby-Smith and Ramdas,
    theorem 3): it excludes a mean once the bet that the true mean is larger, or the bet that it is smaller, has ever been worth
    2/α. With a probability of at least 1 − α, none of the intervals computed along the way, after any number of values, misses
    the mean of the source or pool. Each end is rounded outwards. Both ends are the same once the whole pool is drawn, and where
    no mean is left, which is as rare as a miss.
    """
    if pool is not None and len(values) == pool:
        mean = math.fsum(values) / pool
        return mean, mean
    low = _refuted_up_to(values, bound, alpha / 2, pool)
    high = bound - _refuted_up_to([bound - value for value in values], bound, alpha / 2, pool)
    return low, max(low, high)


def _refuted_up_to(values: Sequence[float], bound: float, alpha: float, pool: int | None) -> float:
    """The largest v in 0..``bound`` for which "the mean is at most v" is refuted at ``alpha``; 0 if there is none."""
    low, high = 0.0, bound
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        if any(wealth >= 1 / alpha for wealth in _wealths(values, middle, pool)):
            low = middle
        else:
            high = middle
    return low


def _wealths(values: Sequence[float], limit: float, pool: int | None) -> Iterator[float]:
    """The wealth after each value, as :class:`MeanTest` computes it, but with floats: not exact, and many times as fast."""
    wealths = list(_SHARES)
    total = 0.0
    for n_drawn, value in enumerate(values):
        mean = limit if pool is None else (pool * limit - total) / (pool - n_drawn)
        if mean <= 0.0:
            yield math.inf
            return
        payoff = value / mean
        wealths = [wealth * (1.0 - fraction + fraction * payoff) for wealth, fraction in zip(wealths, _FRACTIONS, strict=True)]
        total += value
        yield sum(wealths)
    if pool is not None and total > pool * limit:
        yield math.inf
