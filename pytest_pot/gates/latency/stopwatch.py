"""Time runs of a candidate, and of a reference beside it, until the limits are decided.

Pure Python: the work, the clock and the function that waits for the device are arguments.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from pytest_pot.core.errors import PotError
from pytest_pot.core.gc_pause import gc_paused
from pytest_pot.engines.base import PeakMemory, RequestTimes
from pytest_pot.gates.latency.latency_report import Check, LatencyReport, Outcome, RequestFigures
from pytest_pot.gates.latency.limits import LatencyLimits
from pytest_pot.gates.latency.statistics import Timings, checked

__all__ = ["Deadline", "Measured", "Pair", "Stopwatch", "Work", "measure"]

_WARM_UPS = (2, 8)
"""Minimum and maximum number of untimed runs of each model."""
_GAIN = 0.1
"""A model is warm when a run is not faster than the fastest earlier run by at least this share."""
_TIMING_S = 0.05
"""The least seconds per timing. Short runs are repeated, and the timing is their median, so that an interruption as long as a
scheduler's time slice, which affects one run only, does not count."""
_REPEATS = 1000
"""The most runs per timing."""
_DROPPED = 3
"""So many pairs without a time of the reference, and as many as those with one, are no accident."""

Clock = Callable[[], float]


@dataclass(frozen=True)
class Work:
    """The work that one model is timed at. Loading, encoding and moving to the device are done beforehand."""

    run: Callable[[], object]
    lead: Callable[[], object] | None = None
    """Must run before each ``run``; timed separately, without a limit."""
    peak: Callable[[], PeakMemory | None] = lambda: None
    """Runs once more and returns the peak memory; None if it cannot be measured."""
    requests: Callable[[], Sequence[RequestTimes]] | None = None
    """The times of single requests in the last run, where each prompt is a request of its own: those are limited then."""
    most_repeats: int = _REPEATS
    """The most runs per timing: 1 where each run costs someone else something."""


@dataclass(frozen=True)
class Stopwatch:
    """A clock, in seconds, that is read after the device has finished its work."""

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
        start = self.now()
        run()
        seconds = self.now() - start
        if not seconds > 0:
            raise PotError(
                f"the clock {'went backwards' if seconds < 0 else 'stood still'} while a model ran ({seconds:g} s): nothing "
                "can be timed with it"
            )
        return seconds


@dataclass(frozen=True)
class Measured:
    """A description of one run, for the report."""

    what: str = "score"
    n_prompts: int = 1
    n_tokens: int = 1


@dataclass
class _Runner:
    """One model's timings so far."""

    work: Work
    watch: Stopwatch
    measured: Measured
    repeats: int = 1
    times: list[float] = field(default_factory=list)
    leads: list[float] = field(default_factory=list)
    requests: list[Sequence[RequestTimes]] = field(default_factory=list)
    batches: list[float] = field(default_factory=list)
    is_reference: bool = False
    n_at_once: int = 0
    """Requests so far whose tokens all came at once."""

    def once(self) -> tuple[float, float]:
        lead = 0.0 if self.work.lead is None else self.watch.time(self.work.lead)
        return lead, self.watch.time(self.work.run)

    def time(self) -> bool:
        """Take a timing; False if the run has no time that counts, and nothing was kept."""
        leads, times = zip(*(self.once() for _ in range(self.repeats)), strict=True)
        if self.work.requests is not None:
            return self._keep_requests(leads[-1], times[-1], self.work.requests())
        self.times.append(statistics.median(times))
        if self.work.lead is not None:
            self.leads.append(statistics.median(leads))
        return True

    def drop(self) -> None:
        """Forget the last timing."""
        self.n_at_once -= sum(request.all_at_once for requests in self.requests[-1:] for request in requests)
        for kept in (self.times, self.leads, self.requests, self.batches):
            del kept[-1:]

    def _keep_requests(self, lead: float, time: float, requests: Sequence[RequestTimes]) -> bool:
        """Keep a run whose prompts were requests of their own.

        Its time is that of the request whose first token came last. Then all prompts have been read, and only generation is
        timed, as in this process. A request that began earlier stands still while the server reads the others' prompts, and how
        many do is decided by which requests arrive together: it changes from run to run.

        Of a request whose tokens all came at once, only an upper bound is known. A candidate may count with it, which makes it
        slower at most; a reference would seem slower too, and hide a slower candidate, so it counts with the other requests.
        """
        streamed = [request for request in requests if not request.all_at_once]
        self.n_at_once += len(requests) - len(streamed)
        if len(streamed) < len(requests):
            time += lead  # an upper bound: the first tokens came with the last
        # Where several tokens came first, fewer are left to be timed.
        batch = time * self.measured.n_tokens / sum(request.tokens for request in requests)
        counted = streamed if self.is_reference else requests
        if not counted:
            return False
        steps = self.measured.n_tokens // self.measured.n_prompts
        last = max(counted, key=lambda request: request.waited + request.first_token)
        self.times.append(steps * last.per_token)
        self.leads.append(statistics.median(request.first_token for request in counted))
        self.requests.append(counted)
        self.batches.append(batch)
        return True

    @property
    def figures(self) -> RequestFigures | None:
        if self.work.requests is None:
            return None
        every = [request for requests in self.requests for request in requests]
        return RequestFigures(
            first_token=tuple(request.first_token for request in every),
            per_token=tuple(request.per_token for request in every),
            slowest=tuple(max(request.per_token for request in requests) for requests in self.requests),
            batches=tuple(self.batches),
            n_at_once=self.n_at_once,
        )

    def timings(self, memory: PeakMemory | None) -> Timings:
        return Timings(self.times, memory, self.figures)

    def warm_up(self, expired: Callable[[], bool]) -> float:
        """Run until runs no longer get faster; return the seconds of the fastest run."""
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
    """The work of a candidate and, if there is one, of the reference beside it."""

    candidate: Work
    reference: Work | None = None


@dataclass(frozen=True)
class Deadline:
    """When measuring must end; a timing that has begun is completed."""

    max_seconds: float = math.inf
    started: float | None = None
    """The start of ``max_seconds``, by the stopwatch's clock; by default, the start of measuring."""


def measure(
    pair: Pair,
    limits: LatencyLimits,
    watch: Stopwatch,
    measured: Measured = Measured(),
    deadline: Deadline = Deadline(),
    progress: Callable[[int, int], None] | None = None,
) -> LatencyReport:
    """Time the candidate, and the reference beside it, until the limits are decided or time runs out.

    Timings come in pairs, one per model, in alternating order: so other load on the machine, and effects of the first run on
    the second, affect both models equally. After the first look (10 pairs), timing continues only if a limit lies between the
    lower and the upper bound; it stops if the candidate is clearly slower, or clearly is not. The last look is at all timings
    (40 pairs), or at those measured when time runs out. A pair without a time of the reference does not count.

    Raises:
        PotError: the clock went backwards, or stood still; or too many pairs do not count.
    """
    start = watch.now() if deadline.started is None else deadline.started

    def expired() -> bool:
        return watch.now() - start >= deadline.max_seconds

    candidate = _Runner(pair.candidate, watch, measured)
    reference = None if pair.reference is None else _Runner(pair.reference, watch, measured, is_reference=True)
    runners = [candidate] if reference is None else [reference, candidate]
    with gc_paused():
        for runner in runners:
            fastest = runner.warm_up(expired)
            if limits.stat != "p95":  # p95 is about single runs, which a median would hide
                runner.repeats = min(runner.work.most_repeats, math.ceil(_TIMING_S / fastest))
        memory = pair.candidate.peak() if limits.need_memory else None
        reference_memory = pair.reference.peak() if limits.need_memory and pair.reference is not None else None

        def look() -> tuple[Check, ...]:
            reference_timings = None if reference is None else reference.timings(reference_memory)
            return checked(limits, candidate.timings(memory), reference_timings, measured.n_prompts, measured.n_tokens)

        checks: tuple[Check, ...] = ()
        decided, dropped = False, 0
        for target in limits.looks:
            while len(candidate.times) < target and not expired():
                tried = len(candidate.times) + dropped
                order = runners if tried % 2 == 0 else runners[::-1]
                kept = [runner for runner in order if runner.time()]
                if len(kept) < len(order):
                    dropped += 1
                    for runner in kept:
                        runner.drop()
                    _refuse_untimed(dropped, tried + 1)
                if progress is not None:
                    progress(len(candidate.times), limits.looks[-1])
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
        requests=candidate.figures,
        reference_requests=None if reference is None else reference.figures,
        memory=memory,
        reference_memory=reference_memory,
        elapsed_s=watch.now() - start,
        capped=not decided and len(candidate.times) < limits.looks[-1],
    )


def _refuse_untimed(dropped: int, tried: int) -> None:
    """Raises :class:`PotError` if ``dropped`` of ``tried`` pairs are too many."""
    if dropped >= _DROPPED and 2 * dropped >= tried:
        raise PotError(
            f"in {dropped} of {tried} runs of the reference, all tokens of each stream came at once, so that its time per "
            "token cannot be measured. Something between may collect them, or they are too few (new_tokens=64)"
        )
