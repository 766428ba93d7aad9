"""The stopwatch: runs of a candidate, and of a reference beside it, timed until the limits are decided.

Pure Python: what is run, the clock and the function that waits for the device are passed in.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable
from dataclasses import dataclass, field

from pytest_pot.core.errors import PotError
from pytest_pot.core.gc_pause import gc_paused
from pytest_pot.engines.base import PeakMemory
from pytest_pot.gates.latency.latency_report import Check, LatencyReport, Outcome
from pytest_pot.gates.latency.limits import LatencyLimits
from pytest_pot.gates.latency.statistics import Timings, checked

__all__ = ["Deadline", "Measured", "Pair", "Stopwatch", "Work", "measure"]

_WARM_UPS = (2, 8)
"""Untimed runs of each model, at least and at most."""
_GAIN = 0.1
"""A model is warm when a run is not faster than the fastest before by this share."""
_TIMING_S = 0.05
"""One timing lasts at least this long: short runs are repeated, and the timing is their median, so that an interruption of the
length of a scheduler's time slice, which hits one run only, does not count."""
_REPEATS = 1000
"""The most runs in one timing."""

Clock = Callable[[], float]


@dataclass(frozen=True)
class Work:
    """What one model is timed at. Whatever need not be timed has been done: loading, encoding, moving to the device."""

    run: Callable[[], object]
    lead: Callable[[], object] | None = None
    """What has to come before each run; timed separately, and not held against a limit."""
    peak: Callable[[], PeakMemory | None] = lambda: None
    """Does one more run and gives its peak memory; None where that cannot be measured."""


@dataclass(frozen=True)
class Stopwatch:
    """A clock, in seconds, that is read when the device has finished its work."""

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

    def time(self) -> None:
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


@dataclass(frozen=True)
class Pair:
    """What is timed: a candidate, and a reference beside it if there is one."""

    candidate: Work
    reference: Work | None = None


@dataclass(frozen=True)
class Measured:
    """What one run is, for the report."""

    what: str = "score"
    n_prompts: int = 1
    n_tokens: int = 1


@dataclass(frozen=True)
class Deadline:
    """When measuring has to end; a timing that has begun is completed."""

    max_seconds: float = math.inf
    started: float | None = None
    """When the seconds began, by the clock of the stopwatch; when measuring begins, by default."""


def measure(
    pair: Pair,
    limits: LatencyLimits,
    watch: Stopwatch,
    measured: Measured = Measured(),
    deadline: Deadline = Deadline(),
    progress: Callable[[int, int], None] | None = None,
) -> LatencyReport:
    """Time the candidate, and the reference beside it, until the limits are decided, or time is up.

    Timings come in pairs, one of each model, in alternating order: whatever the machine does meanwhile, and whatever the first
    of two does to the second, affects both alike. After the first look (10 pairs), more are taken only where the limit lies
    between a lower and an upper bound: if it is clear that the candidate is slower, or that it is not, that is the end. The
    last look is at all of them (40 pairs), or at what there is when time is up.

    Raises:
        PotError: the clock went backwards, or stood still.
    """
    started = watch.now() if deadline.started is None else deadline.started

    def expired() -> bool:
        return watch.now() - started >= deadline.max_seconds

    candidate = _Runner(pair.candidate, watch)
    reference = None if pair.reference is None else _Runner(pair.reference, watch)
    runners = [candidate] if reference is None else [reference, candidate]
    with gc_paused():
        for runner in runners:
            fastest = runner.warm_up(expired)
            if limits.stat != "p95":  # p95 is of single runs, which a median would hide
                runner.repeats = min(_REPEATS, math.ceil(_TIMING_S / fastest))
        memory = pair.candidate.peak() if limits.need_memory else None
        reference_memory = pair.reference.peak() if limits.need_memory and pair.reference is not None else None

        def look() -> tuple[Check, ...]:
            beside = None if reference is None else Timings(reference.times, reference_memory)
            return checked(limits, Timings(candidate.times, memory), beside, measured.n_prompts, measured.n_tokens)

        checks: tuple[Check, ...] = ()
        decided = False
        for target in limits.looks:
            while len(candidate.times) < target and not expired():
                for runner in runners if len(candidate.times) % 2 == 0 else reversed(runners):
                    runner.time()
                if progress is not None:
                    progress(len(candidate.times), target)
            checks = look()
            decided = any(check.outcome is Outcome.FAIL for check in checks) or all(check.settled for check in checks)
            if decided or expired():
                break
    return LatencyReport(
        what=measured.what,
        candidate=tuple(candidate.times),
        reference=None if reference is None else tuple(reference.times),
        checks=checks,
        n_prompts=measured.n_prompts,
        n_tokens=measured.n_tokens,
        repeats=candidate.repeats,
        lead=tuple(candidate.leads),
        reference_lead=() if reference is None else tuple(reference.leads),
        memory=memory,
        reference_memory=reference_memory,
        elapsed_s=watch.now() - started,
        capped=not decided and len(candidate.times) < limits.looks[-1],
    )
