"""The statistics of latency, and the stopwatch with a simulated clock."""

from __future__ import annotations

import gc
import itertools
import json
import math
import random
from collections.abc import Iterable, Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_pot import LatencyReport, PotError, ScoringConfig
from pytest_pot.core.errors import InvalidArgument
from pytest_pot.engines.base import PeakMemory
from pytest_pot.gates.latency.explain import explain
from pytest_pot.gates.latency.gate import LatencyResult
from pytest_pot.gates.latency.latency_report import Outcome
from pytest_pot.gates.latency.limits import LatencyLimits
from pytest_pot.gates.latency.settings import LatencySettings
from pytest_pot.gates.latency.statistics import Timings, checked, lower_rank, upper_rank
from pytest_pot.gates.latency.stopwatch import Deadline, Measured, Pair, Stopwatch, Work, measure

TWICE = LatencyLimits(max_slowdown=2)


class Machine:
    """Two models with a given series of run times each, whose last time repeats for ever."""

    def __init__(self, reference: Iterable[float], candidate: Iterable[float], warm_ups: int = 2) -> None:
        self.now = 0.0
        self.order = ""
        self.reference = self._work("r", reference, warm_ups)
        self.candidate = self._work("c", candidate, warm_ups)

    def _work(self, name: str, times: Iterable[float], warm_ups: int) -> Work:
        series = _with_warm_up(times, warm_ups)

        def run() -> None:
            self.order += name
            self.now += next(series)

        return Work(run)

    def measure(self, limits: LatencyLimits, *, alone: bool = False, **options: Any) -> LatencyReport:
        watch = Stopwatch(lambda: self.now)
        deadline = Deadline(**{name: options.pop(name) for name in ("max_seconds", "started") if name in options})
        progress = options.pop("progress", None)
        pair = Pair(self.candidate, None if alone else self.reference)
        return measure(pair, limits, watch, Measured(**options), deadline, progress)


def _with_warm_up(times: Iterable[float], warm_ups: int) -> Iterator[float]:
    """``times``, after repeating the first one for the warm-up runs of a model that is already warm."""
    series = iter(times)
    time = next(series)
    yield from [time] * (warm_ups + 1)
    for time in series:
        yield time
    yield from itertools.repeat(time)


# -- ranks -------------------------------------------------------------------------------------------------------------


def coverage_from_below(n: int, share: float, rank: int) -> float:
    """P(x_(rank) <= quantile), summed over all 2^n combinations of values at most or above the quantile."""
    hits = 0.0
    for outcome in itertools.product((True, False), repeat=n):
        if sum(outcome) >= rank:
            hits += math.prod(share if below else 1 - share for below in outcome)
    return hits


@pytest.mark.parametrize("share", [0.5, 0.95, 0.3])
@pytest.mark.parametrize("n", [1, 4, 5, 10, 13])
def test_the_lower_bound_is_the_highest_order_statistic_that_covers(n: int, share: float) -> None:
    covering = [rank for rank in range(1, n + 1) if coverage_from_below(n, share, rank) >= 0.95]
    assert lower_rank(n, share) == max(covering, default=0)


@pytest.mark.parametrize("share", [0.5, 0.05, 0.3])
@pytest.mark.parametrize("n", [1, 4, 5, 10, 13])
def test_the_upper_bound_is_the_lowest_order_statistic_that_covers(n: int, share: float) -> None:
    # x_(rank) is at least the quantile if at most rank - 1 values are below it.
    covering = [rank for rank in range(1, n + 1) if 1 - coverage_from_below(n, share, rank) >= 0.95]
    assert upper_rank(n, share) == min(covering, default=n + 1)


def test_the_two_looks_have_the_documented_error_rates() -> None:
    """The error rates that the docstring of ``checked`` states."""
    assert (lower_rank(10, 0.5), lower_rank(40, 0.5)) == (2, 15)
    wrong = [1 - coverage_from_below(10, 0.5, 2), sum(math.comb(40, i) for i in range(15)) / 2**40]
    assert wrong == pytest.approx([0.011, 0.040], abs=5e-4)
    assert [upper_rank(n, 0.95) <= n for n in (58, 59)] == [False, True]


@given(st.integers(1, 60), st.sampled_from([0.5, 0.95]))
def test_lower_and_upper_ranks_mirror_each_other(n: int, share: float) -> None:
    low, high = lower_rank(n, share), upper_rank(n, share)
    assert 0 <= low < high <= n + 1
    assert low == n + 1 - upper_rank(n, 1 - share)


# -- exact outcomes ----------------------------------------------------------------------------------------------------


def test_equal_times_pass() -> None:
    machine = Machine([1], [1])
    report = machine.measure(TWICE)
    assert (report.verdict, report.slowdown, report.iqr) == (Outcome.PASS, 1, 0)
    assert report.n_pairs == 10
    assert report.checks[0].bound == 1


def test_the_order_alternates_after_the_warm_up() -> None:
    machine = Machine([1], [1])
    machine.measure(TWICE)
    assert machine.order == "rrcc" + "rccr" * 5


def test_exactly_at_the_limit_passes() -> None:
    assert Machine([1], [2]).measure(TWICE).verdict is Outcome.PASS


def test_just_above_the_limit_fails_at_the_first_look() -> None:
    report = Machine([1], [2.125]).measure(TWICE)
    assert (report.verdict, report.n_pairs, report.slowdown) == (Outcome.FAIL, 10, 2.125)


def test_drift_cancels() -> None:
    """The machine slows down steadily to a quarter of its speed, which is neither model's fault."""
    clock = [2.0 ** (i / 10) for i in range(20)]
    report = Machine(clock[::2], clock[1::2]).measure(LatencyLimits(max_slowdown=1.25))
    assert report.verdict is Outcome.PASS
    assert report.slowdown == pytest.approx(2**0.1)


def test_one_huge_outlier_changes_nothing() -> None:
    without_outlier = Machine([1], [1]).measure(TWICE)
    with_outlier = Machine([1], [1, 1, 1, 1000, 1]).measure(TWICE)
    assert (with_outlier.verdict, with_outlier.slowdown, with_outlier.n_pairs) == (Outcome.PASS, without_outlier.slowdown, 10)


def test_one_fast_run_does_not_save_a_slow_candidate() -> None:
    report = Machine([1], [3, 3, 0.125, 3]).measure(TWICE)
    assert (report.verdict, report.n_pairs, report.checks[0].bound) == (Outcome.FAIL, 10, 3)


def test_bimodal_times_take_more_pairs_and_may_be_inconclusive() -> None:
    """If three of five runs take three times as long, 40 pairs give the bound 1; if three of four do, they give 3."""
    report = Machine([1], [1, 3, 3, 1, 3] * 8).measure(TWICE)
    assert report.n_pairs == 40
    assert (report.verdict, report.slowdown, report.checks[0].bound) == (Outcome.INCONCLUSIVE, 3, 1)
    report = Machine([1], [1, 3, 3, 3] * 10).measure(TWICE)
    assert (report.verdict, report.n_pairs, report.checks[0].bound) == (Outcome.FAIL, 40, 3)


def test_an_unclear_pass_takes_more_pairs() -> None:
    """Two of the first ten ratios are above the limit, so the first look does not decide on a pass."""
    first = [1, 1, 1, 1, 1, 1, 1, 1, 3, 3]
    report = Machine([1], [*first, *[1] * 30]).measure(TWICE)
    assert (report.verdict, report.n_pairs, report.slowdown) == (Outcome.PASS, 40, 1)
    report = Machine([1], [*first, *[3] * 30]).measure(TWICE)
    assert (report.verdict, report.n_pairs, report.slowdown) == (Outcome.FAIL, 40, 3)


def test_too_little_time_for_ten_pairs_is_inconclusive() -> None:
    report = Machine([1], [5]).measure(TWICE, max_seconds=30)
    assert (report.verdict, report.capped) == (Outcome.INCONCLUSIVE, True)
    assert report.n_pairs == 3  # 12 s for the warm-up, then 6 s each
    assert report.slowdown == 5
    assert report.checks[0].point is None


def test_a_deadline_between_the_looks_decides_on_the_pairs_so_far() -> None:
    report = Machine([1], [1, 3, 3, 1, 3] * 8).measure(TWICE, max_seconds=64)
    assert report.capped
    assert 10 < report.n_pairs < 40
    assert report.verdict is Outcome.INCONCLUSIVE


def test_the_warm_up_runs_until_a_model_gets_no_faster() -> None:
    machine = Machine([1], [16, 8, 4, 2, 1.9], warm_ups=0)
    machine.measure(TWICE)
    assert machine.order.startswith("rr" + "ccccc" + "rc")
    machine = Machine([1], [2.0**-i for i in range(20)], warm_ups=0)
    machine.measure(TWICE, max_seconds=0.1)
    assert machine.order == "rr" + "cc", "time is up, whatever it does"


def test_short_runs_are_repeated_and_long_ones_are_not() -> None:
    machine = Machine([1 / 64], [1 / 64])
    report = machine.measure(TWICE)
    assert report.repeats > 1
    assert report.repeats / 64 >= 0.05
    assert machine.order[4:].startswith("r" * report.repeats + "c" * report.repeats)
    assert report.candidate == (1 / 64,) * 10
    assert Machine([1], [1]).measure(TWICE).repeats == 1


def test_each_model_has_its_own_number_of_repeats() -> None:
    """A candidate that takes a hundred times as long fails after ten pairs, not when time is up."""
    machine = Machine([1 / 1024], [100 / 1024])
    report = machine.measure(TWICE, max_seconds=10)
    assert (report.verdict, report.n_pairs, report.slowdown, report.repeats) == (Outcome.FAIL, 10, 100, 1)
    assert machine.order.count("r") > 500


def test_one_slow_run_among_several_short_ones_does_not_count() -> None:
    """In every timing, one run in eight takes forty times as long; we report the time of most runs."""
    times = [1 / 256] * 7 + [40 / 256]
    report = Machine([1], times * 100).measure(LatencyLimits(budget_ms=5), alone=True)
    assert report.repeats > 8
    assert (report.verdict, report.ms_per_prompt) == (Outcome.PASS, 1000 / 256)


def test_memory_is_measured_only_if_it_is_limited() -> None:
    """Measuring it resets the process's peak memory, which the user may want to read."""
    calls = []
    machine = Machine([1], [1])

    def peak() -> PeakMemory:
        calls.append(1)
        return PeakMemory(1_000_000, 1, "resident")

    candidate, reference = (Work(work.run, peak=peak) for work in (machine.candidate, machine.reference))
    watch = Stopwatch(lambda: machine.now)
    assert measure(Pair(candidate, reference), TWICE, watch).memory is None
    assert not calls
    report = measure(Pair(candidate, reference), LatencyLimits(max_memory_ratio=1.5), watch)
    assert (report.memory, report.verdict, len(calls)) == (PeakMemory(1_000_000, 1, "resident"), Outcome.PASS, 2)


# -- budgets -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("limits", "name", "value"),
    [
        ({"budget_ms": 300}, "ms per prompt", 250),
        ({"budget_ms": 1200, "per": "batch"}, "ms per batch", 1000),
        ({"budget_ms": 12, "per": "token"}, "ms per token", 10),
        ({"budget_ms": 300, "stat": "p95"}, "ms per prompt (p95)", 250),
        ({"min_tokens_per_s": 90}, "tokens per second", 100),
    ],
)
def test_a_budget_times_only_the_candidate(limits: dict[str, Any], name: str, value: int) -> None:
    machine = Machine([1000], [1])
    report = machine.measure(LatencyLimits(**limits), alone=True, n_prompts=4, n_tokens=100)
    [check] = report.checks
    assert (check.name, check.outcome) == (name, "pass")
    assert (check.point, check.bound) == pytest.approx((value, value))
    assert "r" not in machine.order
    assert (report.reference, report.n_pairs, report.slowdown, report.ratios) == (None, 0, None, ())


@pytest.mark.parametrize("limits", [{"budget_ms": 200}, {"min_tokens_per_s": 110}, {"budget_ms": 200, "stat": "p95"}])
def test_a_missed_budget_fails(limits: dict[str, Any]) -> None:
    report = Machine([1], [1]).measure(LatencyLimits(**limits), alone=True, n_prompts=4, n_tokens=100)
    assert report.verdict is Outcome.FAIL


def test_a_p95_budget_times_single_runs() -> None:
    """One run in eight takes ten times as long: this changes the 95th percentile, but not the median."""
    times = [1 / 64] * 7 + [10 / 64]
    median = Machine([1], times * 100).measure(LatencyLimits(budget_ms=50), alone=True)
    tail = Machine([1], times * 100).measure(LatencyLimits(budget_ms=50, stat="p95"), alone=True)
    assert (median.verdict, tail.verdict) == (Outcome.PASS, Outcome.FAIL)
    assert (tail.repeats, tail.checks[0].point) == (1, 10000 / 64)


def test_all_limits_must_hold_and_the_worst_check_decides() -> None:
    limits = LatencyLimits(budget_ms=1, max_slowdown=2, min_tokens_per_s=1e-3)
    report = Machine([1], [1]).measure(limits)
    assert [check.outcome for check in report.checks] == ["fail", "pass", "pass"]
    assert report.decisive.limit_name == "budget_ms"


def test_memory_is_compared_with_its_limits() -> None:
    limits = LatencyLimits(max_memory_mb=100, max_memory_ratio=1.5)
    peaks = PeakMemory(150_000_000, 1, "resident"), PeakMemory(120_000_000, 1, "resident")
    checks = checked(limits, Timings([], peaks[0]), Timings([], peaks[1]), 1, 1)
    assert [(check.name, check.point, check.outcome) for check in checks] == [
        ("MB of memory", 150, "fail"),
        ("memory ratio", 1.25, "pass"),
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "there is no limit to hold; give at least one of budget_ms, max_slowdown, min_tokens_per_s, max_memory_mb, "),
        ({"budget_ms": -1}, "budget_ms=-1 must be a finite number above 0"),
        ({"max_slowdown": 0}, "max_slowdown=0 must be a finite number above 0"),
        ({"max_slowdown": math.nan}, "max_slowdown=nan must be a finite number above 0"),
        ({"max_memory_mb": "1"}, "max_memory_mb='1' must be a finite number above 0"),
        ({"min_tokens_per_s": True}, "min_tokens_per_s=True must be a finite number above 0"),
        ({"budget_ms": 1, "per": "second"}, "per='second' is not one of 'prompt', 'batch', 'token'"),
        ({"budget_ms": 1, "stat": "mean"}, "stat='mean' is not one of 'median', 'p95'"),
    ],
)
def test_wrong_limits_are_errors(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidArgument) as error:
        LatencyLimits(**arguments)
    assert str(error.value).startswith(message)


# -- the clock and the machine -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("step", "word"), [(-1.0, "went backwards"), (0.0, "stood still")])
def test_a_clock_that_does_not_advance_is_an_error(step: float, word: str) -> None:
    machine = Machine([1], [1, 1, 1, step])
    with pytest.raises(PotError, match=f"the clock {word} while a model ran"):
        machine.measure(TWICE)


def test_the_clock_is_read_after_the_device_is_done() -> None:
    events: list[str] = []

    def clock() -> float:
        events.append("clock")
        return float(len(events))

    watch = Stopwatch(clock, lambda: events.append("done"))
    watch.time(lambda: events.append("run"))
    assert events == ["done", "clock", "run", "done", "clock"]


def test_the_lead_is_timed_separately() -> None:
    machine = Machine([1], [1])
    leads = iter([5.0] * 2 + [8.0] * 10)

    def lead() -> None:
        machine.now += next(leads)

    candidate = Work(machine.candidate.run, lead)
    report = measure(Pair(candidate, machine.reference), TWICE, Stopwatch(lambda: machine.now))
    assert (report.slowdown, report.lead, report.reference_lead) == (1, (8.0,) * 10, ())


@pytest.mark.parametrize("enabled", [True, False])
@pytest.mark.parametrize("times", [[1], [1, 1, 0]], ids=["measured", "refused"])
def test_garbage_collection_is_off_during_timing_and_then_restored(enabled: bool, times: list[int]) -> None:
    before = gc.isenabled()
    machine = Machine([1], times)
    states: set[bool] = set()

    def run() -> None:
        states.add(gc.isenabled())
        machine.candidate.run()

    try:
        (gc.enable if enabled else gc.disable)()
        try:
            measure(Pair(Work(run), machine.reference), TWICE, Stopwatch(lambda: machine.now))
        except PotError:
            assert times != [1]
        assert gc.isenabled() is enabled
    finally:
        (gc.enable if before else gc.disable)()
    assert states == {False}


# -- messages ---------------------------------------------------------------------------------------------------------


def first_and_last_line(report: LatencyReport, limits: LatencyLimits) -> tuple[str, str]:
    """The first and the last line of the explanation."""
    gate_settings = LatencySettings(
        gate="pot_latency",
        preset="single",
        config=ScoringConfig(),
        limits=limits,
    )
    first, *_, last = explain(LatencyResult(gate_settings, ("a", "b"), report)).splitlines()
    return first, last


def test_a_narrowly_missed_limit_is_shown_with_enough_digits() -> None:
    limits = LatencyLimits(max_slowdown=1.25)
    first, _ = first_and_last_line(Machine([1], [1.2503]).measure(limits), limits)
    assert first.startswith("pot_latency: slowdown 1.2503x > 1.25x (95% bound 1.2503x, 10 pairs; ")


def test_noisy_times_are_inconclusive_and_say_what_to_do() -> None:
    report = Machine([1], [1, 3, 3, 1, 3] * 8).measure(TWICE)
    first, last = first_and_last_line(report, TWICE)
    assert first.startswith(
        "pot_latency: inconclusive: slowdown 3.00x > 2.00x, but its bound was within the limit (95% bound 1.00x, 40 pairs; "
    )
    assert last == (
        "  what to do: the times vary too much (IQR 67%) for 40 pairs to decide; run it again on a less busy machine, or time "
        "more or longer prompts"
    )


# -- properties --------------------------------------------------------------------------------------------------------

times = st.lists(st.floats(0.25, 8), min_size=40, max_size=40)


@settings(deadline=None)
@given(times, times, st.floats(0.25, 8))
def test_the_verdict_agrees_with_the_bound_for_any_times(reference: list[float], candidate: list[float], limit: float) -> None:
    report = Machine(reference, candidate).measure(LatencyLimits(max_slowdown=limit))
    [check] = report.checks
    assert report.n_pairs in (10, 40)
    assert check.bound is not None
    assert check.point is not None
    assert min(report.ratios) <= check.bound <= check.point <= max(report.ratios)
    assert (report.verdict is Outcome.FAIL) == (check.bound > limit)
    assert (report.verdict is Outcome.PASS) == (check.point <= limit)
    assert json.loads(json.dumps(report.to_dict(), allow_nan=False)) == report.to_dict()


@settings(deadline=None)
@given(times, times, st.floats(0.5, 4))
def test_the_unit_of_time_changes_nothing(reference: list[float], candidate: list[float], limit: float) -> None:
    def verdict(unit: float) -> tuple[Outcome, int]:
        slower, faster = ([unit * time for time in series] for series in (reference, candidate))
        report = Machine(slower, faster).measure(LatencyLimits(max_slowdown=limit))
        return report.verdict, report.n_pairs

    assert verdict(1) == verdict(4)  # a power of two: no rounding


@settings(deadline=None)
@given(times, times, st.floats(0.5, 4), st.integers(1, 4))
def test_a_faster_candidate_never_turns_a_pass_into_a_failure(
    reference: list[float], candidate: list[float], limit: float, power: int
) -> None:
    slow = Machine(reference, candidate).measure(LatencyLimits(max_slowdown=limit))
    fast = Machine(reference, [max(0.2, time / 2**power) for time in candidate]).measure(LatencyLimits(max_slowdown=limit))
    if slow.verdict is Outcome.PASS and (slow.n_pairs, slow.repeats) == (fast.n_pairs, fast.repeats):
        assert fast.verdict is Outcome.PASS


def outcome_shares(slowdown: float, limit: float, noise: float, gates: int) -> dict[Outcome, float]:
    """The share of each outcome over simulated gates with independent, log-normal times."""
    draw = random.Random(0)
    counts = dict.fromkeys(Outcome, 0)

    def times(typical: float) -> Iterator[float]:
        while True:
            yield typical * math.exp(draw.gauss(0, noise))

    for _ in range(gates):
        report = Machine(times(1), times(slowdown)).measure(LatencyLimits(max_slowdown=limit))
        counts[report.verdict] += 1
    return {outcome: count / gates for outcome, count in counts.items()}


@pytest.mark.parametrize("noise", [0.02, 0.2, 0.5])
def test_a_candidate_exactly_at_the_limit_fails_as_rarely_as_documented(noise: float) -> None:
    # 5.1 % at most; three standard errors of 1000 gates are 2.1 %.
    assert outcome_shares(1.25, 1.25, noise, 1000)[Outcome.FAIL] < 0.051 + 0.021


def test_the_same_model_passes_and_a_slower_one_fails() -> None:
    assert outcome_shares(1.0, 1.25, 0.3, 500)[Outcome.FAIL] < 0.005
    assert outcome_shares(1.5, 1.25, 0.1, 500)[Outcome.FAIL] == 1
    assert outcome_shares(1.5, 1.25, 0.18, 500)[Outcome.FAIL] > 0.95
