"""The stopwatch: runs of a candidate, and of a reference beside it, timed until the limits are decided.

Pure Python: what is run, the clock and the synchroniser are passed in.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable
from dataclasses import dataclass, field

from pytest_pot.core.errors import PotError
from pytest_pot.core.gc_pause import no_garbage_collection
from pytest_pot.gates.latency.statistics import Check, LatencyLimits, LatencyReport, Outcome, Peak, checked

__all__ = ["Stopwatch", "Work", "measure"]

_WARM_UPS = (2, 8)
"""Untimed runs of each model, at least and at most."""
_GAIN = 0.1
"""A model is warm when a run is not faster than the fastest before by this share."""
_TIMING_S = 0.05
"""The least that one timing lasts: short runs are repeated, and the timing is their median. So what is as long as a scheduler's
time slice and meets one of the runs alone does not count."""
_REPEATS = 1000
"""And the most runs in a timing."""

Clock = Callable[[], float]


@dataclass(frozen=True)
class Work:
    """What one model is timed at. Whatever need not be timed has been done: loading, encoding, moving to the device."""

    run: Callable[[], object]
    lead: Callable[[], object] | None = None
    """What has to come before each run; timed by itself, and not held against a limit."""
    peak: Callable[[], Peak | None] = lambda: None
    """The peak memory of one run more; None where it cannot be told."""


@dataclass(frozen=True)
class Stopwatch:
    """A clock, in seconds, that is read when the device has done what it was told."""

    clock: Clock
    synchronise: Callable[[], None] = lambda: None

    def now(self) -> float:
        self.synchronise()
        return self.clock()

    def time(self, run: Callable[[], object]) -> float:
        """The seconds that ``run`` takes.

        Raises:
            PotError: the clock went backwards, or stood still.
        """
        started = self.now()
        run()
        taken = self.now() - started
        if not taken > 0:
            raise PotError(
                f"the clock {'went backwards' if taken < 0 else 'stood still'} while a model ran ({taken:g} s): nothing can be "
                "timed with it"
            )
        return taken


@dataclass
class _Runner:
    """One model's timings so far."""

    work: Work
    watch: Stopwatch
    repeats: int = 1
    times: list[float] = field(default_factory=list)
    leads: list[float] = field(default_factory=list)

    def once(self) -> tuple[float, float]:
        lead = 0.0 if self.work.lead is None else self.watch.time(self.work.lead)
        return lead, self.watch.time(self.work.run)

    def take(self) -> None:
        leads, times = zip(*(self.once() for _ in range(self.repeats)), strict=True)
        self.times.append(statistics.median(times))
        if self.work.lead is not None:
            self.leads.append(statistics.median(leads))

    def warm_up(self, expired: Callable[[], bool]) -> float:
        """Run until that makes it no faster; the seconds of the fastest run."""
        least, most = _WARM_UPS
        fastest = math.inf
        for count in range(1, most + 1):
            _, time = self.once()
            settled = time > (1 - _GAIN) * fastest
            fastest = min(fastest, time)
            if count >= least and (settled or expired()):
                break
        return fastest


def measure(
    candidate: Work,
    reference: Work | None,
    limits: LatencyLimits,
    watch: Stopwatch,
    *,
    what: str = "score",
    n_prompts: int = 1,
    n_tokens: int = 1,
    max_seconds: float = math.inf,
    started: float | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> LatencyReport:
    """Time ``candidate``, and ``reference`` beside it, until the limits are decided, or time is up.

    Timings come in pairs, one of each model, and the order alternates: what the machine does meanwhile, and what the first of
    two does to the second, meets both alike. After the first look (10 pairs), more are taken only where the limit lies between
    a bound from below and one from above: if it is clear that the candidate is slower, or that it is not, that is the end.
    The last look is made on all of them (40 pairs), or on what there is when time is up.

    Args:
        started: when the ``max_seconds`` began, by the clock of ``watch``; now, by default.

    Raises:
        PotError: the clock went backwards, or stood still.
    """
    started = watch.now() if started is None else started

    def expired() -> bool:
        return watch.now() - started >= max_seconds

    ours = _Runner(candidate, watch)
    runners = [ours] if reference is None else [_Runner(reference, watch), ours]
    theirs = None if reference is None else runners[0]
    with no_garbage_collection():
        for runner in runners:
            fastest = runner.warm_up(expired)
            if limits.stat != "p95":  # a tail is one of single runs, which a median would hide
                runner.repeats = min(_REPEATS, math.ceil(_TIMING_S / fastest))
        memory = candidate.peak() if limits.weigh else None
        reference_memory = reference.peak() if limits.weigh and reference is not None else None

        def look() -> tuple[Check, ...]:
            times = None if theirs is None else theirs.times
            return checked(limits, ours.times, times, n_prompts, n_tokens, memory, reference_memory)

        checks: tuple[Check, ...] = ()
        decided = False
        for target in limits.looks:
            while len(ours.times) < target and not expired():
                for runner in runners if len(ours.times) % 2 == 0 else reversed(runners):
                    runner.take()
                if progress is not None:
                    progress(len(ours.times), target)
            checks = look()
            decided = any(check.outcome is Outcome.FAIL for check in checks) or all(check.settled for check in checks)
            if decided or expired():
                break
    return LatencyReport(
        what=what,
        candidate=tuple(ours.times),
        reference=None if theirs is None else tuple(theirs.times),
        checks=checks,
        n_prompts=n_prompts,
        n_tokens=n_tokens,
        repeats=ours.repeats,
        lead=tuple(ours.leads),
        reference_lead=() if theirs is None else tuple(theirs.leads),
        memory=memory,
        reference_memory=reference_memory,
        elapsed_s=watch.now() - started,
        capped=not decided and len(ours.times) < limits.looks[-1],
    )
