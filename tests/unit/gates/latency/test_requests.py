"""Limits on servers: single requests on a simulated clock, and what is refused."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest

from pytest_pot import LatencyReport, PotError, ScoringConfig
from pytest_pot.engines.base import RequestTimes
from pytest_pot.engines.tokens import Tokens
from pytest_pot.gates.latency.explain import explain, properties
from pytest_pot.gates.latency.latency_report import Outcome
from pytest_pot.gates.latency.limits import LatencyLimits
from pytest_pot.gates.latency.result import LatencyOutcome
from pytest_pot.gates.latency.settings import LatencySettings
from pytest_pot.gates.latency.stopwatch import Measured, Pair, Stopwatch, Work, measure
from pytest_pot.gates.latency.workloads import refuse_memory, work

from ...streaming import DelayEngine, Delays, asked, served

N_PROMPTS, STEPS = 4, 7
DECODING = Measured("decode", N_PROMPTS, N_PROMPTS * STEPS)
BATCH = [Tokens((*range(i, i + 20), *[0] * (STEPS + 1)), 20) for i in (10, 40, 70, 100)]


class Service:
    """Requests with given times, answered side by side on a clock of its own."""

    def __init__(self) -> None:
        self.now = 0.0
        self.runs = 0

    def work(self, runs: Callable[[int], Sequence[RequestTimes]]) -> Work:
        counter = itertools.count()
        last: list[Sequence[RequestTimes]] = []

        def lead() -> None:
            last[:] = [runs(next(counter))]
            self.now += min(request.first_token for request in last[0])

        def run() -> None:
            self.runs += 1
            first = min(request.first_token for request in last[0])
            self.now += max(self._end(request) for request in last[0]) - first

        return Work(run, lead, requests=lambda: last[0], most_repeats=1)

    @staticmethod
    def _end(request: RequestTimes) -> float:
        return request.first_token + (1e-6 if request.all_at_once else request.tokens * request.per_token)

    def measure(self, limits: LatencyLimits, candidate: Work, reference: Work | None = None) -> LatencyReport:
        return measure(Pair(candidate, reference), limits, Stopwatch(lambda: self.now), DECODING)


def requests(*per_token: float, first: float = 0.1, tokens: int = STEPS) -> list[RequestTimes]:
    return [RequestTimes(first, each, tokens) for each in per_token]


def always(*per_token: float, **more: Any) -> Callable[[int], Sequence[RequestTimes]]:
    return lambda _: requests(*per_token, **more)


def budget(runs: Callable[[int], Sequence[RequestTimes]], **limits: Any) -> LatencyReport:
    service = Service()
    return service.measure(LatencyLimits(**({"budget_ms": 1.0} | limits)), service.work(runs))


@pytest.mark.parametrize(
    ("per", "stat", "name", "point"),
    [
        ("token", "median", "ms per output token", 10),
        ("token", "p95", "ms per output token (p95)", 40),
        ("prompt", "median", "ms per request after its first token", 10 * STEPS),
        ("prompt", "p95", "ms per request after its first token (p95)", 40 * STEPS),
        ("batch", "median", "ms per batch after its first token", 40 * STEPS),
        ("batch", "p95", "ms per batch after its first token (p95)", 40 * STEPS),
    ],
)
def test_a_budget_limits_what_a_request_takes_however_many_run_beside_it(per: str, stat: str, name: str, point: float) -> None:
    held_up = RequestTimes(0.05, 0.04, STEPS)  # its first token came first, and then the others' prompts were read
    report = budget(lambda _: [held_up, *requests(0.01, 0.01, 0.01)], per=per, stat=stat)
    [check] = report.checks
    assert (check.name, check.outcome) == (name, Outcome.FAIL)
    assert check.point == pytest.approx(point)
    assert check.bound == pytest.approx(point)


def test_tokens_per_second_are_those_of_all_requests_together() -> None:
    report = budget(always(*[0.01] * 4), budget_ms=None, min_tokens_per_s=401)
    [check] = report.checks
    assert check.point == pytest.approx(400)
    assert check.outcome is Outcome.FAIL


def test_requests_that_wait_for_each_other_do_not_add_up_to_a_rate() -> None:
    """A server with one slot gives a token every 10 ms, however many requests wait; the rates of single requests would add up
    to 4 times as many."""
    waiting = [RequestTimes(0.1 + i * STEPS * 0.01, 0.01, STEPS) for i in range(4)]
    report = budget(lambda _: waiting, budget_ms=None, min_tokens_per_s=101)
    assert report.checks[0].point == pytest.approx(100)
    assert report.verdict is Outcome.FAIL


def test_tokens_that_came_first_do_not_raise_the_rate() -> None:
    report = budget(always(*[0.01] * 4, tokens=4), budget_ms=None, min_tokens_per_s=401)
    assert report.checks[0].point == pytest.approx(400)


def test_a_run_that_came_at_once_does_not_raise_the_rate() -> None:
    report = budget(lambda _: [at_once(0.17)] * 4, budget_ms=None, min_tokens_per_s=1)
    assert report.checks[0].point == pytest.approx(32 / 0.17, rel=1e-3)


def test_a_slowdown_compares_the_times_per_token() -> None:
    """Long times to the first token do not hide a candidate that is slower per token."""
    service = Service()
    slow, fast = service.work(always(*[0.015] * 4, first=3.0)), service.work(always(*[0.01] * 4, first=3.0))
    report = service.measure(LatencyLimits(max_slowdown=1.2), slow, fast)
    assert report.verdict is Outcome.FAIL
    assert report.slowdown == pytest.approx(1.5)
    assert service.measure(LatencyLimits(max_slowdown=1.2), fast, slow).verdict is Outcome.PASS


def at_once(first: float = 0.5) -> RequestTimes:
    """All tokens came when the last one was made; the time to the first token makes the time per token an upper bound."""
    return RequestTimes(first, first / (STEPS + 1), STEPS + 1, all_at_once=True)


@pytest.mark.parametrize("n_at_once", [1, 3])
def test_a_reference_that_buffers_some_streams_does_not_hide_a_slow_candidate(n_at_once: int) -> None:
    service = Service()
    slow = service.work(always(*[0.03] * 4))
    fast = service.work(lambda _: [at_once()] * n_at_once + requests(*[0.01] * (4 - n_at_once)))
    report = service.measure(LatencyLimits(max_slowdown=1.25), slow, fast)
    assert report.slowdown == pytest.approx(3)
    assert report.verdict is Outcome.FAIL
    assert report.reference_requests is not None
    assert set(report.reference_requests.per_token) == {0.01}
    assert report.reference_requests.n_at_once == 10 * n_at_once
    assert f"without {10 * n_at_once} whose tokens all came at once" in explain(outcome(report, max_slowdown=1.25))


def test_a_pair_in_which_no_stream_of_the_reference_can_be_timed_does_not_count() -> None:
    service = Service()
    slow = service.work(lambda run: requests(*[0.03 + 0.001 * run] * 4))
    fast = service.work(lambda run: [at_once()] * 4 if run % 3 == 0 else requests(*[0.01 + 0.001 * run / 3] * 4))
    report = service.measure(LatencyLimits(max_slowdown=1.25), slow, fast)
    assert report.verdict is Outcome.FAIL
    assert report.n_pairs == len(report.lead) == len(report.reference_lead) == 10
    assert report.ratios == pytest.approx([3] * 10), "each time beside the one that was measured next to it"


def test_a_reference_that_cannot_be_timed_is_an_error() -> None:
    service = Service()
    slow, fast = service.work(always(*[0.03] * 4)), service.work(lambda _: [at_once()] * 4)
    with pytest.raises(PotError, match="in 3 of 3 runs of the reference, all tokens of each stream came at once"):
        service.measure(LatencyLimits(max_slowdown=1.25), slow, fast)


def test_a_candidate_counts_with_the_upper_bound() -> None:
    service = Service()
    candidate = service.work(lambda _: [at_once(0.4), *requests(*[0.01] * 3)])
    report = service.measure(LatencyLimits(max_slowdown=1.25), candidate, service.work(always(*[0.01] * 4)))
    assert report.slowdown == pytest.approx(5)
    assert "the tokens of 10 all came at once" in explain(outcome(report, max_slowdown=1.25))


@pytest.mark.parametrize("early", [1, 2, 3])
def test_which_requests_arrive_together_does_not_change_the_slowdown(early: int) -> None:
    """llama-server reads the prompts that are there, and those that come a moment later hold the first ones up."""

    def runs(per_token: float) -> Callable[[int], Sequence[RequestTimes]]:
        def of(run: int) -> Sequence[RequestTimes]:
            n = (early + run) % 4
            held_up = RequestTimes(0.3, per_token + 0.2, STEPS)
            return [held_up] * n + [RequestTimes(1.5, per_token, STEPS)] * (4 - n)

        return of

    service = Service()
    slow, fast = service.work(runs(0.015)), service.work(lambda run: runs(0.01)(run + 1))
    report = service.measure(LatencyLimits(max_slowdown=1.2), slow, fast)
    assert report.slowdown == pytest.approx(1.5)
    assert report.verdict is Outcome.FAIL
    assert report.n_pairs == 10


def test_the_last_first_token_is_that_of_the_run_where_requests_wait_to_be_sent() -> None:
    waiting = [RequestTimes(0.9, 0.04, STEPS), RequestTimes(0.2, 0.01, STEPS, waited=1.5)] * 2
    assert budget(lambda _: waiting, per="token").checks[0].point == pytest.approx(10)


@pytest.mark.parametrize(("stat", "most"), [("median", 48), ("p95", 68)])
def test_the_number_of_runs_is_bounded(stat: str, most: int) -> None:
    """Short runs are not repeated: each one costs the server something."""
    service = Service()
    getting_faster = service.work(lambda run: requests(*[0.0001 * (1 + 0.5**run)] * 4, first=0.001))
    limits = LatencyLimits(budget_ms=0.0001, per="token", stat=stat)
    assert service.measure(limits, getting_faster).verdict is Outcome.FAIL
    noisy = service.work(lambda run: requests(*[0.001 if run % 2 else 0.003] * 4, first=0.001))
    before = service.runs
    service.measure(LatencyLimits(budget_ms=2, per="token", stat=stat), noisy)
    assert 10 < service.runs - before <= most


def outcome(report: LatencyReport, **limits: Any) -> LatencyOutcome:
    settings = LatencySettings(
        gate="pot_latency", preset="auto", config=ScoringConfig(), limits=LatencyLimits(**limits), what="decode"
    )
    return LatencyOutcome(settings, (None if report.reference is None else "old", "new"), report)


def named(report: LatencyReport, *roles: str) -> LatencyReport:
    return replace(report, remote=roles, label="delays at http://127.0.0.1:1")


def test_the_message_has_the_median_and_the_95th_percentile_of_the_requests() -> None:
    report = named(budget(always(0.01, 0.01, 0.01, 0.02), per="token"), "candidate")
    lines = explain(outcome(report, budget_ms=1.0)).splitlines()
    assert lines[0].startswith("pot_latency: 10 ms per output token > 1 (95% bound 10, 10 timings; candidate 70 ms, IQR 0%)")
    assert lines[2:4] == [
        "  candidate: 100 ms to the first token (p95 100), then 10 ms per token (p95 20), 10 ms once all prompts were read; "
        "200 tokens per second of 4 requests side by side (95% of runs at least 200); 40 requests",
        "  the network between here and the server is in the times",
    ]
    assert lines[4].startswith("  what to do: an absolute limit suits one server under one load, and one network")


@pytest.mark.parametrize(
    ("roles", "line"),
    [
        (("candidate", "reference"), "the network between here and each server is in the times"),
        (
            ("candidate",),
            "the network between here and the server is in the candidate's times, and not in the reference's",
        ),
        (
            ("reference",),
            "the network between here and the server is in the reference's times, and not in the candidate's",
        ),
    ],
)
def test_the_message_says_whose_times_have_the_network_in_them(roles: tuple[str, ...], line: str) -> None:
    service = Service()
    slow, fast = service.work(always(*[0.015] * 4)), service.work(always(*[0.01] * 4))
    report = named(service.measure(LatencyLimits(max_slowdown=1.2), slow, fast), *roles)
    assert f"  {line}" in explain(outcome(report, max_slowdown=1.2)).splitlines()
    assert line in properties(outcome(report, max_slowdown=1.2))["notes"]


def test_properties_and_json_hold_the_figures_of_the_requests() -> None:
    report = named(budget(always(0.01, 0.01, 0.01, 0.02), per="token"), "candidate")
    values = properties(outcome(report, budget_ms=1.0))
    expected = {"first_token_ms": 100, "first_token_p95_ms": 100, "per_token_ms": 10, "per_token_p95_ms": 20, "requests": 40}
    assert {name: values[name] for name in expected} == pytest.approx(expected)
    assert values["tokens_per_s"] == values["tokens_per_s_p95"] == pytest.approx(200)
    assert values["remote"] == ["candidate"]
    assert report.ms_per_prompt == pytest.approx(70)
    whole = report.to_dict()
    assert json.loads(json.dumps(whole, allow_nan=False)) == whole
    assert len(whole["requests"]["per_token"]) == 40
    assert len(whole["requests"]["batches"]) == 10
    assert whole["reference_requests"] is None


def test_scoring_sends_prompts_that_were_not_read_and_is_not_repeated() -> None:
    delays = Delays()
    with served(delays) as url, asked(url) as engine:
        task = work(engine, "candidate", BATCH, "score", 10)
        assert (task.lead, task.requests, task.most_repeats) == (None, None, 1)
        task.run()
        task.run()
    assert len({prompt[:5] for prompt in delays.prompts}) == 8
    assert {prompt[5:] for prompt in delays.prompts} == {tokens.ids[5:] for tokens in BATCH}


def test_a_bare_forward_pass_and_memory_are_refused() -> None:
    with served(Delays()) as url, asked(url) as engine:
        with pytest.raises(PotError) as error:
            work(engine, "reference", BATCH, "prefill", None)
        assert str(error.value).startswith(f"the reference is a server, delays at {url}, and what='prefill' times the bare")
        with pytest.raises(PotError) as error:
            refuse_memory(engine, "candidate", "max_memory_mb")
        assert str(error.value).endswith("cannot be measured from here. Leave max_memory_mb out")


def test_a_process_of_our_own_is_called_none_of_the_user_s_servers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DelayEngine, "own_process", True)
    with served(Delays()) as url, asked(url) as engine:
        with pytest.raises(PotError, match=r"^the reference runs in a process of its own, delays at "):
            work(engine, "reference", BATCH, "prefill", None)
        with pytest.raises(PotError, match=r"but the candidate runs in a process of its own, delays at .* whose memory cannot"):
            refuse_memory(engine, "candidate", "max_memory_mb")
