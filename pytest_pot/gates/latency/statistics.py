"""Check limits against a series of timings. Pure Python, no clock and no model.

The errors of a wall clock are one-sided: other load on the machine makes a run longer, never shorter, by any amount and for any
length of time. So this module uses no mean and no standard deviation. A limit applies to a *quantile* of the times, or of the
ratios of times measured next to each other, and a gate fails only if a distribution-free bound of that quantile is beyond the
limit."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pytest_pot.engines.base import PeakMemory
from pytest_pot.gates.latency.latency_report import Check, Outcome, RequestFigures, quantile
from pytest_pot.gates.latency.limits import CONFIDENCE, LatencyLimits

__all__ = ["Timings", "checked"]


@dataclass(frozen=True)
class Timings:
    """The measurements of one model."""

    times: Sequence[float]
    """Seconds per run; with ``requests``, of the request whose first token came last."""
    memory: PeakMemory | None = None
    requests: RequestFigures | None = None
    """What single requests took, where each prompt of a run is a request of its own."""

    def budgeted(self, limits: LatencyLimits, n_prompts: int, n_tokens: int) -> tuple[str, list[float]]:
        """The figure that ``budget_ms`` limits: what it is called, and its value in milliseconds for each run.

        A batch that a model in this process computes has one time, which is divided by its prompts or tokens. Requests to a
        server have a time each, and users wait for that, however many others the server answers meanwhile: it is not divided by
        the number of prompts. For a median, a run counts with the request whose first token came last, when all prompts had
        been read; for a 95th percentile, with its slowest request, which had to wait for other prompts, or whatever held it up.
        """
        if self.requests is None:
            units = {"prompt": n_prompts, "batch": 1, "token": n_tokens}[limits.per]
            return f"ms per {limits.per}", [1000 * time / units for time in self.times]
        if limits.per == "batch":
            return "ms per batch after its first token", [1000 * time for time in self.requests.batches]
        steps = n_tokens // n_prompts
        per_token = [time / steps for time in self.times] if limits.stat == "median" else self.requests.slowest
        if limits.per == "token":
            return "ms per output token", [1000 * time for time in per_token]
        return "ms per request after its first token", [1000 * steps * time for time in per_token]

    @property
    def batches(self) -> Sequence[float]:
        """Seconds per run, of all its prompts together."""
        return self.times if self.requests is None else self.requests.batches


def checked(
    limits: LatencyLimits, candidate: Timings, reference: Timings | None, n_prompts: int, n_tokens: int
) -> tuple[Check, ...]:
    """Check every limit against the timings so far, in the order of :class:`LatencyLimits`.

    ``n_prompts`` and ``n_tokens`` are those of one run.

    With fewer timings than the first look needs, no time limit can fail; they are all inconclusive.

    A gate looks at most twice (for a median, at 10 and at 40 timings), and fails at either look if the bound is beyond the
    limit. If the timings are independent and the true quantile equals the limit, the first look fails wrongly with probability
    1.1 % (the bound is the 2nd of 10) and the second with 4.0 % (the 15th of 40): 5.1 % at most together, and far less if the
    candidate is clearly within the limit. If time runs out, the second look has fewer timings, and may fail wrongly with up to
    4.9 %. With several limits, these probabilities hold for each."""
    checks: list[Check] = []
    least = limits.looks[0]

    def add(limit_name: str, name: str, values: Sequence[float], share: float, limit: float) -> None:
        checks.append(_quantile_check(limit_name, name, values if len(values) >= least else (), share, limit))

    if limits.budget_ms is not None:
        name, values = candidate.budgeted(limits, n_prompts, n_tokens)
        stat = "" if limits.stat == "median" else f" ({limits.stat})"
        add("budget_ms", f"{name}{stat}", values, limits.share, limits.budget_ms)
    if limits.max_slowdown is not None:
        ratios = [c / r for c, r in zip(candidate.times, () if reference is None else reference.times, strict=True)]
        add("max_slowdown", "slowdown", ratios, 0.5, limits.max_slowdown)
    if limits.min_tokens_per_s is not None:
        add("min_tokens_per_s", "", [time / n_tokens for time in candidate.batches], 0.5, 1 / limits.min_tokens_per_s)
        checks[-1] = _as_rate(checks[-1], "tokens per second", limits.min_tokens_per_s)
    memory, reference_memory = candidate.memory, None if reference is None else reference.memory
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
    point = quantile(ordered, share)
    rank = lower_rank(len(ordered), share)
    lower = ordered[rank - 1] if rank else 0.0
    # With too few timings for an upper bound, use the largest: then at least no timing is beyond the limit.
    upper = ordered[min(upper_rank(len(ordered), share), len(ordered)) - 1]
    outcome = Outcome.FAIL if lower > limit else Outcome.PASS if point <= limit else Outcome.INCONCLUSIVE
    return Check(limit_name, name, point, lower, limit, outcome, settled=outcome is Outcome.FAIL or upper <= limit)


def _as_rate(check: Check, name: str, limit: float) -> Check:
    """Convert a check on seconds per token to one on tokens per second."""

    def inverse(value: float | None) -> float | None:
        return None if value is None else (1 / value if value else math.inf)

    point, bound = inverse(check.point), inverse(check.bound)
    return Check(check.limit_name, name, point, bound, limit, check.outcome, at_least=True, settled=check.settled)


def _plain_check(limit_name: str, name: str, value: float, limit: float) -> Check:
    return Check(limit_name, name, value, value, limit, Outcome.PASS if value <= limit else Outcome.FAIL)


def lower_rank(n: int, share: float, confidence: float = CONFIDENCE) -> int:
    """The rank r, from 1, of the order statistic that bounds a quantile from below; 0 if n is too small for one.

    x_(r) is at most the q-quantile, q = ``share``, if and only if at least r of the n values are. The number of such values is
    Binomial(n, q), or larger with ties. So r is the largest rank with P(Binomial(n, q) >= r) >= ``confidence``, for any
    distribution (David and Nagaraja, "Order Statistics", section 7.1).
    """
    return _largest(n, lambda r: 1 - _binomial_below(n, share, r), confidence)


def upper_rank(n: int, share: float, confidence: float = CONFIDENCE) -> int:
    """The rank of the order statistic that bounds a quantile from above; n + 1 if n is too small for one.

    It is the lower bound for the negated values.
    """
    return n + 1 - _largest(n, lambda r: _binomial_below(n, share, n + 1 - r), confidence)


def _largest(n: int, probability: Callable[[int], float], confidence: float) -> int:
    """The largest r from 1 to n with ``probability(r)``, which falls with r, at least ``confidence``; 0 if there is none."""
    rank = 0
    while rank < n and probability(rank + 1) >= confidence:
        rank += 1
    return rank


def _binomial_below(n: int, share: float, r: int) -> float:
    """P(Binomial(n, share) < r)."""
    return math.fsum(math.comb(n, i) * share**i * (1 - share) ** (n - i) for i in range(r))
