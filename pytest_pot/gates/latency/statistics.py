"""Latency: limits, and what a series of timings says about them. Pure Python, no clock and no model.

A wall clock lies in one direction: whatever else the machine does makes a run longer, never shorter, by as much as it likes
and for as long as it likes. So nothing here looks at a mean or a standard deviation. A limit is held against a *quantile* of
the times, or of the ratios of times that were taken next to each other, and a gate fails only where a distribution-free
bound of that quantile is beyond the limit.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from pytest_pot.core.config import one_of
from pytest_pot.core.errors import InvalidArgument

__all__ = [
    "CONFIDENCE",
    "LIMITS",
    "PER",
    "REFERENCE_LIMITS",
    "STATS",
    "WHATS",
    "Check",
    "LatencyLimits",
    "LatencyReport",
    "Outcome",
    "Peak",
    "checked",
]

CONFIDENCE = 0.95
WHATS = ("score", "prefill", "decode")
"""What can be timed: the scoring forward of a batch, the bare forward, tokens generated one by one."""
LIMITS = ("budget_ms", "max_slowdown", "min_tokens_per_s", "max_memory_mb", "max_memory_ratio")
"""What can be limited."""
REFERENCE_LIMITS = ("max_slowdown", "max_memory_ratio")
"""The limits on what the candidate takes over what the reference takes."""
PER = ("prompt", "batch", "token")
STATS = ("median", "p95")
_SHARES = {"median": 0.5, "p95": 0.95}


class Outcome(StrEnum):
    """What the timings say of a limit."""

    PASS = "pass"
    FAIL = "fail"
    INCONCLUSIVE = "inconclusive"
    """The estimate is beyond the limit and its bound is not; or there was no time for enough timings."""


@dataclass(frozen=True)
class LatencyLimits:
    """What a candidate's time and memory may be; None is no limit, and all that are given must hold."""

    budget_ms: float | None = None
    """Milliseconds of the candidate alone, ``per`` and ``stat`` say of what."""
    max_slowdown: float | None = None
    """The candidate's time over the reference's, side by side."""
    min_tokens_per_s: float | None = None
    """Of the candidate alone: tokens read, or tokens generated with ``what="decode"``."""
    max_memory_mb: float | None = None
    """Peak of the candidate's run with its weights, in megabytes of 10^6 bytes."""
    max_memory_ratio: float | None = None
    """The candidate's peak over the reference's."""
    per: str = "prompt"
    stat: str = "median"

    def __post_init__(self) -> None:
        for name, value in self.given.items():
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
                raise InvalidArgument(f"{name}={value!r} must be a finite number above 0")
        if not self.given:
            raise InvalidArgument(f"there is no limit to hold; give at least one of {', '.join(LIMITS)}")
        one_of("per", self.per, PER)
        one_of("stat", self.stat, STATS)

    @property
    def given(self) -> dict[str, float]:
        """The limits that there are, by name."""
        return {name: getattr(self, name) for name in LIMITS if getattr(self, name) is not None}

    @property
    def need_reference(self) -> bool:
        """Whether a reference has to be run beside the candidate."""
        return any(name in self.given for name in REFERENCE_LIMITS)

    @property
    def weigh(self) -> bool:
        """Whether peak memory has to be measured, which resets the process's, or the device's, own record of it."""
        return self.max_memory_mb is not None or self.max_memory_ratio is not None

    @property
    def relative(self) -> bool:
        """Whether times are only compared with each other, and none is held against a clock."""
        return self.max_slowdown is not None and self.budget_ms is None and self.min_tokens_per_s is None

    @property
    def share(self) -> float:
        """The quantile of the candidate's own times that the budget is for, from 0 to 1."""
        return _SHARES[self.stat]

    @property
    def looks(self) -> tuple[int, int]:
        """How many timings (of pairs, where there is a reference) the first and the last look are made at.

        Fifty-nine are the fewest that can show a 95th percentile to be below anything (0.95^59 < 0.05).
        """
        return (20, 60) if self.budget_ms is not None and self.stat == "p95" else (10, 40)


@dataclass(frozen=True)
class Check:
    """One limit, and what was found."""

    limit_name: str
    """The argument of the marker: ``"max_slowdown"``."""
    name: str
    """What is limited, with its unit: ``"slowdown"``, ``"ms per prompt"``."""
    point: float | None
    """The estimate; None where nothing could be timed."""
    bound: float | None
    """The one-sided 95 % bound on the side of the limit that convicts; the figure itself where it is no statistic."""
    limit: float
    outcome: Outcome
    at_least: bool = False
    """Whether the limit is the least that the figure may be, rather than the most."""
    settled: bool = True
    """Whether more timings could hardly change the outcome."""


@dataclass(frozen=True)
class Peak:
    """A model's peak memory during one run, in bytes, its weights among them."""

    bytes: int
    weights: int
    kind: str
    """What was counted: ``"resident"`` or ``"allocated on cuda:0"``."""


@dataclass(frozen=True)
class LatencyReport:
    """Timings of a candidate, and of a reference beside it; times in seconds per run."""

    what: str
    candidate: tuple[float, ...]
    """The candidate's times, one per timing (the median of ``repeats`` runs)."""
    reference: tuple[float, ...] | None
    """The reference's, each taken next to the candidate's of the same index; None where there is none."""
    checks: tuple[Check, ...]
    n_prompts: int
    """Prompts in the batch that was timed."""
    n_tokens: int
    """Tokens of one run: of its prompts with their continuations, or those that it generates."""
    n_truncated: int = 0
    """Prompts that were cut on the left to fit."""
    repeats: int = 1
    """The candidate's runs per timing: as many as make it long enough to be measured well."""
    lead: tuple[float, ...] = ()
    """With ``what="decode"``: the candidate's times to the first token."""
    reference_lead: tuple[float, ...] = ()
    memory: Peak | None = None
    reference_memory: Peak | None = None
    threads: int | None = None
    """Threads that torch computed with on the CPU."""
    usual_threads: int | None = None
    """And those that it is set to: more, where other processes held some of the cores."""
    label: str = ""
    """Where and in which precision the models ran."""
    elapsed_s: float = 0.0
    capped: bool = False
    """Whether time ran out before the last look."""

    @property
    def verdict(self) -> Outcome:
        """FAIL where a limit is broken, INCONCLUSIVE where one may be, else PASS."""
        return self.decisive.outcome

    @property
    def decisive(self) -> Check:
        """The first check with the worst outcome."""
        return min(self.checks, key=lambda check: _SEVERITY.index(check.outcome))

    @property
    def ratios(self) -> tuple[float, ...]:
        """Candidate over reference, pair by pair."""
        return tuple(c / r for c, r in zip(self.candidate, self.reference or (), strict=bool(self.reference)))

    @property
    def n_pairs(self) -> int:
        """Pairs of timings; 0 where there is no reference."""
        return len(self.reference or ())

    @property
    def slowdown(self) -> float | None:
        """The median of the ratios."""
        return statistics.median(self.ratios) if self.ratios else None

    @property
    def iqr(self) -> float:
        """The interquartile range over the median: of the ratios, or of the candidate's times where there is no reference."""
        return interquartile(self.ratios or self.candidate)

    @property
    def ms_per_prompt(self) -> float | None:
        """The median of the candidate's times."""
        return 1000 * statistics.median(self.candidate) / self.n_prompts if self.candidate else None

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        checks = [{**asdict(check), "outcome": str(check.outcome)} for check in self.checks]
        lists = ("candidate", "reference", "lead", "reference_lead")
        given = {name: None if getattr(self, name) is None else list(getattr(self, name)) for name in lists}
        derived = ("n_pairs", "slowdown", "iqr", "ms_per_prompt")
        return {
            **asdict(self),
            **given,
            "checks": checks,
            "verdict": str(self.verdict),
            "ratios": list(self.ratios),
            **{name: getattr(self, name) for name in derived},
        }


def interquartile(values: Sequence[float]) -> float:
    """The interquartile range over the median; 0 where there are not two values."""
    if len(values) < 2:
        return 0.0
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return (high - low) / middle


_SEVERITY = (Outcome.FAIL, Outcome.INCONCLUSIVE, Outcome.PASS)


def checked(
    limits: LatencyLimits,
    candidate: Sequence[float],
    reference: Sequence[float] | None,
    n_prompts: int,
    n_tokens: int,
    memory: Peak | None = None,
    reference_memory: Peak | None = None,
) -> tuple[Check, ...]:
    """Every limit against the timings so far, in seconds per run; in the order of :class:`LatencyLimits`.

    With fewer timings than the first look takes, nothing can fail, and what depends on them is inconclusive.

    A gate looks twice at most, for a median at 10 and at 40 timings, and fails at either where the bound is beyond the limit.
    Where the timings are independent and the limit is exactly reached, the first look fails wrongly with probability 1.1 % (the
    bound is the 2nd of 10) and the second with 4.0 % (the 15th of 40): both together with 5.1 % at most, and far less where the
    candidate is within the limit by more than a hair. A second look at fewer, when time is up, can come to 4.9 %; each limit of
    several counts for itself.
    """
    checks: list[Check] = []
    least = limits.looks[0]

    def add(limit_name: str, name: str, values: Sequence[float], share: float, limit: float) -> None:
        checks.append(_quantile_check(limit_name, name, values if len(values) >= least else (), share, limit))

    if limits.budget_ms is not None:
        units = {"prompt": n_prompts, "batch": 1, "token": n_tokens}[limits.per]
        name = f"ms per {limits.per}" + ("" if limits.stat == "median" else f" ({limits.stat})")
        add("budget_ms", name, [1000 * time / units for time in candidate], limits.share, limits.budget_ms)
    if limits.max_slowdown is not None:
        ratios = [c / r for c, r in zip(candidate, reference or (), strict=True)]
        add("max_slowdown", "slowdown", ratios, 0.5, limits.max_slowdown)
    if limits.min_tokens_per_s is not None:
        add("min_tokens_per_s", "", [time / n_tokens for time in candidate], 0.5, 1 / limits.min_tokens_per_s)
        checks[-1] = _as_rate(checks[-1], "tokens per second", limits.min_tokens_per_s)
    if limits.max_memory_mb is not None and memory is not None:
        checks.append(_plain_check("max_memory_mb", "MB of memory", memory.bytes / 1e6, limits.max_memory_mb))
    if limits.max_memory_ratio is not None and memory is not None and reference_memory is not None:
        ratio = memory.bytes / reference_memory.bytes
        checks.append(_plain_check("max_memory_ratio", "memory ratio", ratio, limits.max_memory_ratio))
    return tuple(checks)


def _quantile_check(limit_name: str, name: str, values: Sequence[float], share: float, limit: float) -> Check:
    if not values:
        return Check(limit_name, name, None, None, limit, Outcome.INCONCLUSIVE, settled=False)
    ordered = sorted(values)
    point = statistics.median(ordered) if share == 0.5 else ordered[math.ceil(share * len(ordered)) - 1]
    rank = lower_rank(len(ordered), share)
    lower = ordered[rank - 1] if rank else 0.0
    # Where there are too few for a bound from above, the largest stands in: then at least nothing seen is beyond the limit.
    upper = ordered[min(upper_rank(len(ordered), share), len(ordered)) - 1]
    outcome = Outcome.FAIL if lower > limit else Outcome.PASS if point <= limit else Outcome.INCONCLUSIVE
    return Check(limit_name, name, point, lower, limit, outcome, settled=outcome is Outcome.FAIL or upper <= limit)


def _as_rate(check: Check, name: str, limit: float) -> Check:
    """A check on seconds per token as one on tokens per second."""

    def inverse(value: float | None) -> float | None:
        return None if value is None else (1 / value if value else math.inf)

    point, bound = inverse(check.point), inverse(check.bound)
    return Check(check.limit_name, name, point, bound, limit, check.outcome, at_least=True, settled=check.settled)


def _plain_check(limit_name: str, name: str, value: float, limit: float) -> Check:
    return Check(limit_name, name, value, value, limit, Outcome.PASS if value <= limit else Outcome.FAIL)


def lower_rank(n: int, share: float, confidence: float = CONFIDENCE) -> int:
    """The rank r, from 1, of the order statistic that bounds a quantile from below; 0 where n is too small for one.

    x_(r) is at most the quantile q = ``share`` wherever at least r of n values are, and their number is Binomial(n, q), or
    larger where there are ties: so r is the largest with P(Binomial(n, q) >= r) >= ``confidence``, whatever the distribution
    (David and Nagaraja, "Order Statistics", section 7.1).
    """
    return _largest(n, lambda r: 1 - _binomial_below(n, share, r), confidence)


def upper_rank(n: int, share: float, confidence: float = CONFIDENCE) -> int:
    """The rank of the order statistic that bounds a quantile from above; n + 1 where n is too small for one.

    The lower bound of the values turned around.
    """
    return n + 1 - _largest(n, lambda r: _binomial_below(n, share, n + 1 - r), confidence)


def _largest(n: int, probability: Callable[[int], float], confidence: float) -> int:
    """The largest r from 1 to n with ``probability(r)``, which falls with r, at least ``confidence``; 0 where there is none."""
    rank = 0
    while rank < n and probability(rank + 1) >= confidence:
        rank += 1
    return rank


def _binomial_below(n: int, share: float, r: int) -> float:
    """P(Binomial(n, share) < r)."""
    return math.fsum(math.comb(n, i) * share**i * (1 - share) ** (n - i) for i in range(r))
