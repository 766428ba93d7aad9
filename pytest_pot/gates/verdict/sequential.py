"""The sequential test: prompt scores in, one of three verdicts out as soon as it is safe. Pure Python.

With θ the limit, B the clip (10 θ unless given) and α = 1 − confidence, two claims are tested at once on the same scores:

- DIFFERENT: the mean score is above θ. Nothing is asked of the scores but that they are at least 0.
- SAME: the mean of the scores clipped at B is at most θ, *and* fewer than ``max_outliers`` of the prompts score above B. Each
  half is tested at α; both must hold, so α is not divided (an intersection-union test, Berger 1982). No test can bound the
  mean of unbounded scores from above, hence the clip.

What is promised, for scores drawn independently from a source, or without replacement from a pool in random order: the
probability of SAME where its claim is false is at most α, and that of DIFFERENT where its claim is false is at most α; not
for a number of prompts fixed in advance, but for all numbers together, so one may look after each. Both claims may be true (a
broken prompt among many lifts the mean, and is cut by the clip); the one shown first is the verdict, and DIFFERENT where both
are at once.

θ = 0 asks whether the candidate is the reference, bit for bit. Then one score above 0 is DIFFERENT, and SAME claims only that
fewer than ``max_outliers`` of the prompts score anything but 0: clipping at 10 θ leaves nothing else to claim.

A pool that was scored whole needs no inference. Then the verdict is DIFFERENT where the mean is above θ; SAME where it is
not and fewer than ``max_outliers`` are above B; and UNDECIDED where the mean is within θ, but too many prompts are above B:
neither claim is true, and no further prompt could help. (A share of θ/B or more would lift the mean above θ, so that with
a clip of 10 θ this is a share between a twentieth and a tenth.) Else UNDECIDED means that more prompts are needed.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from typing import NamedTuple

from pytest_pot.core.errors import InvalidArgument
from pytest_pot.core.validation import finite_number
from pytest_pot.gates.verdict.betting import MeanTest, mean_interval
from pytest_pot.gates.verdict.limits import DEFAULT_MAX_OUTLIERS, Verdict

__all__ = ["DEFAULT_CONFIDENCE", "Decision", "PerTest", "SequentialTest", "Step"]

DEFAULT_CONFIDENCE = 0.95
CLIP_FACTOR = 10.0
"""The clip in limits, unless the user says."""

_WHOLE = 1e-9
"""A number of prompts this near to a whole one is that whole one: 0.07 × 100 is 7 prompts, though not in binary."""


class PerTest(NamedTuple):
    """One number for each of the three tests."""

    different: float
    """Of "the mean score is at most θ"; refuting it is the verdict DIFFERENT."""
    mean: float
    """Of "the mean of the clipped score is at least θ"; refuting it is one half of SAME."""
    outliers: float
    """Of "at least ``max_outliers`` of the prompts are above the clip"; refuting it is the other half."""


@dataclass(frozen=True)
class Step:
    """One prompt's part in the evidence."""

    score: float
    stakes: PerTest
    """λ of the three bets, chosen before the score was seen, in 1 / the score's unit (1 / share for the outliers): wealth is
    multiplied by 1 + λ (X − θ), 1 − λ (min(X, B) − θ) and 1 − λ ([X > B] − ``max_outliers``), where θ and ``max_outliers`` of
    a pool are those of its rest. inf where that rest could not have any value but the least."""
    wealth: PerTest
    """After the score; at least 0, and inf where the hypothesis is refuted for certain."""


@dataclass(frozen=True)
class Decision:
    """What the scores so far say, and all that it was read from."""

    verdict: Verdict
    n_used: int
    """How many prompts were scored, with those of the last batch that came after the verdict."""
    decided_after: int | None
    """After how many of them the verdict was reached; None for UNDECIDED."""
    exhausted: bool
    """The pool was scored whole: the verdict is a plain fact about it."""
    n_outliers: int
    """How many scores are above the clip."""
    wealth: PerTest
    """At the end; a test's wealth may have been larger before, and what it once refuted stays refuted."""
    threshold: float
    """1 / α: the wealth that refutes."""
    interval: tuple[float, float] | None
    """An interval for the mean of the *clipped* score, of source or pool, that holds with the asked confidence at whatever
    moment one stops. It has two ends, each at α / 2, where a verdict is tested at α: the limit may still be just inside.
    Its lower end bounds the mean of the score itself too. None where the limit is 0, or with no score yet."""
    expected_further: int | None
    """How many prompts more would decide, if wealth grows as it has so far: the most likely verdict's. From a pool, at most
    what is left of it. None once there is a verdict, where no wealth is growing, and where the pool is exhausted."""
    steps: tuple[Step, ...]
    """The whole trajectory, one step per prompt."""


class SequentialTest:
    """Takes prompt scores in the order drawn, any number at a time, and says what they are evidence of.

    The caller draws the order, at random: from a source, or from a ``pool`` of that many prompts without replacement. Scores
    are in the metric's unit, at least 0.

    Raises:
        InvalidArgument: ``limit`` not a finite number of at least 0, ``confidence`` not between 0.5 and 1, ``score_clip``
            not above ``limit`` (or given where ``limit`` is 0), ``max_outliers`` not between 0 and 1, or ``pool`` not a whole
            number above 0.
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
                raise InvalidArgument(f"score_clip={score_clip!r} has no use where the limit is 0: every score above 0 counts")
            finite_number("score_clip", score_clip, f"a finite number above the limit, {limit!r}", lambda x: x > limit)
        if pool is not None and (isinstance(pool, bool) or not isinstance(pool, int) or pool < 1):
            raise InvalidArgument(f"pool={pool!r} must be a whole number of at least 1, or None")
        self.limit = float(limit)
        self.clip = CLIP_FACTOR * self.limit if score_clip is None else float(score_clip)
        self.threshold = 1.0 / (1.0 - confidence)
        self._pool = pool
        theta, clip = Fraction(self.limit), Fraction(self.clip)
        self._different = MeanTest(theta, pool)
        # What is large when scores are small: how far below the clip a score is, and whether it is not above it.
        self._mean = MeanTest(clip - theta, pool, inclusive=True)
        self._outliers = MeanTest(1 - _least_share(max_outliers, pool), pool)
        self._refuted = [False, False, False]
        self._verdict = Verdict.UNDECIDED
        self._decided_after: int | None = None
        self._steps: list[Step] = []

    @property
    def verdict(self) -> Verdict:
        """The verdict first reached; UNDECIDED until then."""
        return self._verdict

    @property
    def decided(self) -> bool:
        """Whether a verdict has been reached."""
        return self._verdict is not Verdict.UNDECIDED

    @property
    def expected_further(self) -> int | None:
        """Prompts until a verdict, if those to come are like those so far; None where there is no telling, or no need."""
        if self._verdict is not Verdict.UNDECIDED or self._exhausted:
            return None
        different, mean, outliers = map(self._needed, self._tests, self._refuted)
        needed = min(different, max(mean, outliers))
        if self._pool is not None:
            needed = min(needed, self._pool - len(self._steps))
        return None if needed == math.inf else math.ceil(needed)

    def update(self, scores: Iterable[float]) -> Verdict:
        """Take the scores of the next prompts, all of them, and return the verdict.

        A verdict reached inside the batch is the one that taking its scores one by one would have reached: what comes after
        is recorded, and changes it no more. But a batch that exhausts the pool leaves nothing to infer: what was not decided
        before it is then decided by the scores of the whole pool.

        Raises:
            InvalidArgument: a score that is not a finite number of at least 0, or more scores than the pool has; nothing is
                taken then.
        """
        batch = [float(score) for score in scores]
        for score in batch:
            if not 0 <= score < math.inf:
                raise InvalidArgument(f"score {score!r} must be a finite number of at least 0")
        if self._pool is not None and len(self._steps) + len(batch) > self._pool:
            raise InvalidArgument(f"{len(self._steps) + len(batch)} scores are more than the pool's {self._pool}")
        open_before = self._verdict is Verdict.UNDECIDED
        for score in batch:
            self._take(score)
        if self._exhausted and open_before and self._verdict is not self._reached():
            self._verdict = self._reached()
            self._decided_after = None if self._verdict is Verdict.UNDECIDED else len(self._steps)
        return self._verdict

    def decision(self) -> Decision:
        """What the scores so far say. The interval is computed here, in milliseconds for some hundred scores."""
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

    def _take(self, score: float) -> None:
        stakes = PerTest(*(test.stake for test in self._tests))
        self._different.observe(Fraction(score))
        self._mean.observe(Fraction(self.clip) - Fraction(min(score, self.clip)))
        self._outliers.observe(Fraction(score <= self.clip))
        wealth = self._wealth()
        self._steps.append(Step(score, stakes, wealth))
        self._refuted = [known or one >= self.threshold for known, one in zip(self._refuted, wealth, strict=True)]
        if self._verdict is Verdict.UNDECIDED:
            self._verdict = self._reached()
            if self._verdict is not Verdict.UNDECIDED:
                self._decided_after = len(self._steps)

    def _reached(self) -> Verdict:
        # Of a pool scored whole all is known, and what was inferred on the way counts no more.
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

    def _needed(self, test: MeanTest, refuted: bool) -> float:
        """Prompts until the test's wealth is large enough; inf where it is not growing."""
        if refuted:
            return 0.0
        return max(1.0, (math.log(self.threshold) - test.log_wealth) / test.growth) if test.growth > 0.0 else math.inf


def _least_share(max_outliers: float, pool: int | None) -> Fraction:
    """The least share of outliers that is too many; a pool holds a whole number of them."""
    if pool is None:
        return Fraction(max_outliers)
    return Fraction(max(1, math.ceil(max_outliers * pool - _WHOLE)), pool)
