"""Betting against a hypothesis about a mean: a wealth that grows only where the hypothesis is false. Pure Python.

The values V_1, V_2, … are at least 0, and the hypothesis says that their mean is at most v. A bettor stakes a part f of the
wealth on a ticket that costs v and pays V: wealth is multiplied by ``1 − f + f V/v``, which is ``1 + λ (V − v)`` with
``λ = f/v``. Under the hypothesis no such bet can win on average, so the probability that the wealth *ever* reaches 1/α is at
most α (Ville 1939), at whatever moment one looks or stops. Nothing is asked of V but V >= 0.

Which f? Waudby-Smith and Ramdas, "Estimating means of bounded random variables by betting" (2020), bet by running estimates
of mean and variance. Here the wealth is divided at the start among bettors who each stake a constant part, and is the sum of
what they have (their "diversified" bettor; Cover's universal portfolio, 1991, over a grid). Whatever the best constant part
turns out to be, the sum falls behind it by no more than that bettor's share at the start: no parameters to tune, no estimate to
go wrong, and the wealth is monotone in v, so that an interval is found by bisection. Simulated, it needs fewer prompts than
their bets where scores are regular, and where one prompt in a hundred is an outlier, more than their bets capped low and fewer
than those capped high (tests/benchmarks/results/sequential_errors.md).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from fractions import Fraction

__all__ = ["Capital", "MeanTest", "mean_interval"]

_FRACTIONS = (1.0, 0.9, 0.75, 0.6, 0.45, 0.3, 0.2, 0.1, 0.05, 0.025, 0.0125, 0.006)
"""What each bettor stakes of the wealth, every time. All of it is best where no value is near 0, and is lost at a value of 0;
a hundredth is best where one value in a hundred is large and all others are 0."""

_BOLD = 0.8
"""The first bettor's share of the wealth at the start: 61 prompts without an outlier are enough where 59 is the least
possible; a larger share would save one or two of them and cost dozens once there is an outlier."""

_REST = sum(1.0 / place for place in range(1, len(_FRACTIONS)))
_SHARES = (_BOLD, *((1.0 - _BOLD) / place / _REST for place in range(1, len(_FRACTIONS))))

_LARGEST_PAYOFF = 10**300
"""What is paid beyond it, the bettors go without: a float holds no more."""

_BISECTIONS = 40


class Capital:
    """The wealth of all bettors together; 1 at the start."""

    def __init__(self) -> None:
        self.log = 0.0
        """Natural logarithm of the wealth."""
        self._held = list(_SHARES)
        """What part of the wealth is each bettor's."""

    @property
    def stake(self) -> float:
        """The part of the whole wealth, 0..1, that is staked on the next value."""
        return min(1.0, math.fsum(fraction * one for fraction, one in zip(_FRACTIONS, self._held, strict=True)))

    @property
    def best(self) -> float:
        """The logarithm of what the luckiest bettor made of one unit: the wealth, had that bettor been known from the start."""
        return self.log + math.log(max(one / share for one, share in zip(self._held, _SHARES, strict=True)))

    def settle(self, payoff: float) -> None:
        """Settle the bets on a ticket that cost 1 and pays ``payoff`` >= 0."""
        held = [one * (1.0 - fraction + fraction * payoff) for one, fraction in zip(self._held, _FRACTIONS, strict=True)]
        wealth = sum(held)
        if wealth > 0.0:
            self.log += math.log(wealth)
            self._held = [one / wealth for one in held]
        else:  # the boldest lost all, and next to it the others had too little for a float
            self.log = -math.inf


class MeanTest:
    """Tests "the mean is at most ``limit``" on values >= 0, one at a time: draws from a source, or from a pool of known size.

    From a pool of N the draws are without replacement, in random order. If the whole pool had the mean v, what is left of it
    before draw i would have the mean ``(N v − S_{i−1}) / (N − i + 1)``, S the sum so far: that takes the place of v in the
    bet (Waudby-Smith and Ramdas, section 4). Once it is negative, the hypothesis is refuted for certain; after the last draw
    there is nothing left to infer. Sums are exact (fractions), so that this certainty does not hang on rounding.
    """

    def __init__(self, limit: Fraction, pool: int | None = None, *, inclusive: bool = False) -> None:
        """``inclusive``: what the test is to show includes a mean of exactly ``limit``, which matters at certainty only."""
        self._limit = limit
        self._pool = pool
        self._inclusive = inclusive
        self._total = Fraction(0)
        self._capital = Capital()
        self.n = 0
        self.certain = False
        """What is known of the pool already refutes the hypothesis, whatever is drawn next."""

    @property
    def stake(self) -> float:
        """λ of the next bet, in 1 / the values' unit: between 0 and 1 / the mean expected; inf where that mean is 0."""
        mean = float(self._expected())
        return self._capital.stake / mean if mean > 0.0 else math.inf

    @property
    def log_wealth(self) -> float:
        """Natural logarithm of the wealth; inf once the hypothesis is refuted for certain."""
        return math.inf if self.certain else self._capital.log

    @property
    def wealth(self) -> float:
        """At least 0; inf once the hypothesis is refuted for certain, or where it is too large for a float."""
        log = self.log_wealth
        return math.exp(log) if log < 709.0 else math.inf

    @property
    def growth(self) -> float:
        """Growth of the logarithm of the wealth per value so far, the cost of finding the best bet left out."""
        return self._capital.best / self.n if self.n else 0.0

    def observe(self, value: Fraction) -> None:
        """Settle the bet on ``value`` >= 0, the next one drawn."""
        mean = self._expected()
        if mean > 0:
            self._capital.settle(float(value / mean) if value < mean * _LARGEST_PAYOFF else float(_LARGEST_PAYOFF))
        self._total += value
        self.n += 1
        bound = self._limit * (self.n if self._pool is None else self._pool)
        if self._pool is not None or self._limit == 0:
            self.certain = self._total > bound or (self._inclusive and self._total == bound)

    def _expected(self) -> Fraction:
        """The mean of what can still be drawn, if the hypothesis holds with equality."""
        if self._pool is None:
            return self._limit
        left = self._pool - self.n
        return (self._limit * self._pool - self._total) / left if left else Fraction(0)


def mean_interval(values: Sequence[float], bound: float, alpha: float, pool: int | None = None) -> tuple[float, float]:
    """Which means in 0..``bound`` the values so far, all in 0..``bound``, do not refute at ``alpha`` / 2 to either side.

    The interval is that of the hedged capital (Waudby-Smith and Ramdas, theorem 3): a mean is out once the bet that it is
    larger, or the bet that it is smaller, has ever been worth 2/α. With probability of at least 1 − α, no interval computed
    along the way, at any number of values, misses the mean of the source or pool. Each end is rounded outwards;
    where no mean is left, which happens as rarely as a miss, both are the same.
    """
    if pool is not None and len(values) == pool:
        mean = math.fsum(values) / pool
        return mean, mean
    low = _refuted_up_to(values, bound, alpha / 2, pool)
    high = bound - _refuted_up_to([bound - value for value in values], bound, alpha / 2, pool)
    return low, max(low, high)


def _refuted_up_to(values: Sequence[float], bound: float, alpha: float, pool: int | None) -> float:
    """The largest v for which "the mean is at most v" is refuted at ``alpha``; 0 where none is."""
    low, high = 0.0, bound
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        if any(wealth >= 1 / alpha for wealth in _wealths(values, middle, pool)):
            low = middle
        else:
            high = middle
    return low


def _wealths(values: Sequence[float], limit: float, pool: int | None) -> Iterator[float]:
    """The wealth after each value, in floating point: :class:`MeanTest` without its exactness, many times as fast."""
    held = list(_SHARES)
    total = 0.0
    for drawn, value in enumerate(values):
        mean = limit if pool is None else (pool * limit - total) / (pool - drawn)
        if mean <= 0.0:
            yield math.inf
            return
        payoff = value / mean
        held = [one * (1.0 - fraction + fraction * payoff) for one, fraction in zip(held, _FRACTIONS, strict=True)]
        total += value
        yield sum(held)
    if pool is not None and total > pool * limit:
        yield math.inf
