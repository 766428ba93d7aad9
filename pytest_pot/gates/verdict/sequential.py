"""The sequential test: it takes prompt scores and gives one of three verdicts as soon as this is safe. Pure Python.

Let θ be the limit, B the clip (10 θ by default) and α = 1 − confidence. Two claims are tested at once on the same scores:

- DIFFERENT: the mean score is above θ. The scores need only be at least 0.
- SAME: the mean of the scores clipped at B is at most θ, *and* fewer than ``max_outliers`` of the prompts score above B. Each
  half is tested at α; both must hold, so α is not divided (an intersection-union test, Berger 1982). The clip is needed
  because no test can bound the mean of unbounded scores from above.

The guarantee, for scores drawn independently from a source, or without replacement from a pool in random order: the
probability of SAME where its claim is false is at most α, and so is that of DIFFERENT where its claim is false. This holds for
all numbers of prompts together, not only for one fixed in advance, so one may look after each prompt. Both claims may be true:
one broken prompt among many raises the mean, but the clip cuts it. Then the claim shown first is the verdict, or DIFFERENT
where both are shown at the same prompt.

θ = 0 asks whether the candidate is the reference, bit for bit. Then one score above 0 means DIFFERENT, and SAME claims only
that fewer than ``max_outliers`` of the prompts have a score other than 0: the clip is 0 too, and leaves nothing else to claim.

A pool that was scored completely needs no inference. The verdict is then DIFFERENT if the mean is above θ; SAME if it is not,
and fewer than ``max_outliers`` are above B; and UNDECIDED if the mean is within θ, but too many prompts are above B: neither
claim is true, and no further prompt could help. (A share of θ/B or more above B would raise the mean above θ. So with the
default clip and ``max_outliers``, this share is between a twentieth and a tenth.) In all other cases, UNDECIDED means that
more prompts are needed.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from typing import NamedTuple

from pytest_pot.core.brief import Brief
from pytest_pot.core.errors import InvalidArgument
from pytest_pot.core.validation import finite_number
from pytest_pot.gates.verdict.betting import MeanTest, mean_interval
from pytest_pot.gates.verdict.limits import DEFAULT_MAX_OUTLIERS, Verdict

__all__ = ["DEFAULT_CONFIDENCE", "Decision", "PerTest", "SequentialTest", "Step"]

DEFAULT_CONFIDENCE = 0.95
CLIP_FACTOR = 10.0
"""The default clip, as a multiple of the limit."""

_INTEGER_TOLERANCE = 1e-9
"""A number of prompts this close to an integer counts as that integer: 0.07 × 100 is 7 prompts, but not in binary floats."""


class PerTest(NamedTuple):
    """One number for each of the three tests."""

    different: float
    """Null hypothesis: the mean score is at most θ. Refuting it gives the verdict DIFFERENT."""
    mean: float
    """Null hypothesis: the mean of the clipped score is at least θ. Refuting it is one half of SAME."""
    outliers: float
    """Null hypothesis: at least ``max_outliers`` of the prompts are above the clip. Refuting it is the other half of SAME."""


@dataclass(frozen=True)
class Step:
    """What one prompt adds to the evidence."""

    score: float
    stakes: PerTest
    """λ of the three bets, chosen before the score was seen, in 1 / the unit of the score (1 / share for the outliers). The
    score X multiplies the wealth by 1 + λ (X − θ), 1 − λ (min(X, B) − θ) and 1 − λ ([X > B] − ``max_outliers``). For a pool,
    θ and ``max_outliers`` are those of the prompts not yet drawn. inf where these could only have the lowest value."""
    wealth: PerTest
    """After the score; at least 0, and inf once the null hypothesis is certainly false."""


@dataclass(frozen=True, repr=False)
class Decision(Brief):
    """The verdict on the scores so far, and what it is based on."""

    verdict: Verdict
    n_used: int
    """How many prompts were scored, including those of the last batch that came after the verdict."""
    decided_after: int | None
    """The number of prompts after which the verdict was reached; None for UNDECIDED."""
    exhausted: bool
    """The whole pool was scored: the verdict is a plain fact about it."""
    n_outliers: int
    """How many scores are above the clip."""
    wealth: PerTest
    """At the end. It may have been larger before; a hypothesis that was refuted once stays refuted."""
    threshold: float
    """1 / α: a test refutes its null hypothesis when its wealth reaches this."""
    interval: tuple[float, float] | None
    """A confidence interval for the mean of the *clipped* score in the source or pool, valid whenever one stops. Its two ends
    are at α / 2 each, but a verdict is tested at α: the limit may still be just inside. Its lower end also bounds the mean of
    the unclipped score. None if the limit is 0 or there are no scores yet."""
    expected_further: int | None
    """How many more prompts the nearest verdict needs, if wealth keeps growing as it has so far. For a pool, at most those
    that are left. None once there is a verdict, once the pool is exhausted, and for a source while no wealth is growing."""
    steps: tuple[Step, ...]
    """The whole trajectory, one step per prompt."""


class SequentialTest:
    """Takes prompt scores in the order drawn, any number at a time, and decides on a verdict.

    The caller must draw the prompts at random: from a source, or without replacement from a ``pool`` of that many prompts.
    ``limit``, ``score_clip`` and the scores are in the unit of the metric; ``max_outliers`` is a share of the prompts.

    Raises:
        InvalidArgument: ``limit`` is not a finite number of at least 0, ``confidence`` is not between 0.5 and 1,
            ``score_clip`` is not above ``limit`` (or is given although ``limit`` is 0), ``max_outliers`` is not between 0 and
            1, or ``pool`` is not an integer above 0.
    """

    def __init__(
        self,
        limit: float,
        *,
        confidence: float = DEFAULT_CONFIDENCE,
        score_clip: float | None = None,
        max_outliers: float = DEFAULT_MAX_OUTLIERS,
        pool: int | None = None,
    ) -> None:
        finite_number("limit", limit, "a finite number of at least 0", lambda x: x >= 0)
        finite_number("confidence", confidence, "a number above 0.5 and below 1", lambda x: 0.5 < x < 1)
        finite_number("max_outliers", max_outliers, "a number above 0 and below 1", lambda x: 0 < x < 1)
        if score_clip is not None:
            if limit == 0:
                raise InvalidArgument(
                    f"score_clip={score_clip!r} has no effect if limit=0, where any score above 0 counts: leave it out"
                )
            finite_number("score_clip", score_clip, f"a finite number above the limit, {limit!r}", lambda x: x > limit)
        if pool is not None and (isinstance(pool, bool) or not isinstance(pool, int) or pool < 1):
            raise InvalidArgument(f"pool={pool!r} must be a whole number of at least 1, or None")
        self.limit = float(limit)
        self.clip = CLIP_FACTOR * self.limit if score_clip is None else float(score_clip)
        self.threshold = 1.0 / (1.0 - confidence)
        self._pool = pool
        theta, clip = Fraction(self.limit), Fraction(self.clip)
        self._different = MeanTest(theta, pool)
        # A test can only show that a mean is large, so use values that are large when scores are small: how far a score is
        # below the clip, and whether it is no outlier.
        self._mean = MeanTest(clip - theta, pool, inclusive=True)
        self._outliers = MeanTest(1 - _lowest_bad_share(max_outliers, pool), pool)
        self._refuted = [False, False, False]
        self._verdict = Verdict.UNDECIDED
        self._decided_after: int | None = None
        self._steps: list[Step] = []

    @property
    def verdict(self) -> Verdict:
        """The first verdict reached; UNDECIDED until then."""
        return self._verdict

    @property
    def decided(self) -> bool:
        """Whether a verdict has been reached."""
        return self._verdict is not Verdict.UNDECIDED

    @property
    def expected_further(self) -> int | None:
        """See :attr:`Decision.expected_further`."""
        if self._verdict is not Verdict.UNDECIDED or self._exhausted:
            return None
        different, mean, outliers = map(self._prompts_needed, self._tests, self._refuted)
        needed = min(different, max(mean, outliers))
        if self._pool is not None:
            needed = min(needed, self._pool - len(self._steps))
        return None if needed == math.inf else math.ceil(needed)

    def update(self, scores: Iterable[float]) -> Verdict:
        """Record the scores of the next prompts and return the verdict.

        A verdict reached within the batch is the same as if the scores had come one by one: later scores are recorded, but do
        not change it. The exception is a batch that exhausts the pool: if there was no verdict before this batch, the scores
        of the whole pool decide, and nothing is inferred.

        Raises:
            InvalidArgument: a score is not a finite number of at least 0, or there are more scores than the pool has prompts;
                then no score is recorded.
        """
        batch = [float(score) for score in scores]
        for score in batch:
            if not 0 <= score < math.inf:
                raise InvalidArgument(f"score {score!r} must be a finite number of at least 0")
        if self._pool is not None and len(self._steps) + len(batch) > self._pool:
            n_scores = len(self._steps) + len(batch)
            raise InvalidArgument(f"{n_scores} scores for a pool of {self._pool} prompts: score each prompt of the pool once")
        was_undecided = self._verdict is Verdict.UNDECIDED
        for score in batch:
            self._observe(score)
        if self._exhausted and was_undecided and self._verdict is not self._current_verdict():
            self._verdict = self._current_verdict()
            self._decided_after = None if self._verdict is Verdict.UNDECIDED else len(self._steps)
        return self._verdict

    def decision(self) -> Decision:
        """The verdict and its evidence. Computes the interval, which takes milliseconds for some hundred scores."""
        return Decision(
            verdict=self._verdict,
            n_used=len(self._steps),
            decided_after=self._decided_after,
            exhausted=self._exhausted,
            n_outliers=sum(step.score > self.clip for step in self._steps),
            wealth=self._wealth(),
            threshold=self.threshold,
            interval=self._interval(),
            expected_further=self.expected_further,
            steps=tuple(self._steps),
        )

    @property
    def _tests(self) -> tuple[MeanTest, MeanTest, MeanTest]:
        return self._different, self._mean, self._outliers

    @property
    def _exhausted(self) -> bool:
        return len(self._steps) == self._pool

    def _observe(self, score: float) -> None:
        stakes = PerTest(*(test.stake for test in self._tests))
        self._different.observe(Fraction(score))
        self._mean.observe(Fraction(self.clip) - Fraction(min(score, self.clip)))
        self._outliers.observe(Fraction(score <= self.clip))
        wealth = self._wealth()
        self._steps.append(Step(score, stakes, wealth))
        self._refuted = [
            refuted or test_wealth >= self.threshold for refuted, test_wealth in zip(self._refuted, wealth, strict=True)
        ]
        if self._verdict is Verdict.UNDECIDED:
            self._verdict = self._current_verdict()
            if self._verdict is not Verdict.UNDECIDED:
                self._decided_after = len(self._steps)

    def _current_verdict(self) -> Verdict:
        # Once the whole pool is scored, everything about it is known, and replaces what was inferred on the way.
        different, mean, outliers = [test.certain for test in self._tests] if self._exhausted else self._refuted
        if different:
            return Verdict.DIFFERENT
        return Verdict.SAME if mean and outliers else Verdict.UNDECIDED

    def _wealth(self) -> PerTest:
        return PerTest(*(test.wealth for test in self._tests))

    def _interval(self) -> tuple[float, float] | None:
        if self.limit == 0 or not self._steps:
            return None
        clipped = [min(step.score, self.clip) for step in self._steps]
        return mean_interval(clipped, self.clip, 1.0 / self.threshold, self._pool)

    def _prompts_needed(self, test: MeanTest, refuted: bool) -> float:
        """Prompts until the wealth of ``test`` reaches the threshold; inf if it is not growing."""
        if refuted:
            return 0.0
        return max(1.0, (math.log(self.threshold) - test.log_wealth) / test.growth) if test.growth > 0.0 else math.inf


def _lowest_bad_share(max_outliers: float, pool: int | None) -> Fraction:
    """The smallest share of outliers that is too large; in a pool the number of outliers is an integer."""
    if pool is None:
        return Fraction(max_outliers)
    return Fraction(max(1, math.ceil(max_outliers * pool - _INTEGER_TOLERANCE)), pool)
