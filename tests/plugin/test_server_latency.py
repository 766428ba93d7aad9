"""Gates on the latency of servers in real runs, against real HTTP servers with known delays.

Limits are far from the delays, which a busy machine lengthens, except where a test is marked with ``wall_time``.
"""

from __future__ import annotations

import json
import re
from contextlib import ExitStack
from pathlib import Path
from xml.etree import ElementTree

import httpx2  # noqa: F401 - in-process runs forget what they import
import pytest

from ..unit.streaming import Delays, served, simulated
from .conftest import Project

CONFTEST = """
import pytest

from tests.unit.streaming import asked

URLS = {urls!r}


def opened(role, **config):
    with asked(URLS[role], role, **config) as engine:
        yield engine


@pytest.fixture(scope="session")
def pot_reference():
    yield from opened("reference")


@pytest.fixture(scope="session")
def pot_candidate():
    yield from opened("candidate", **{config!r})


@pytest.fixture(scope="session")
def pot_tokenizer():
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained({tokenizer!r})
"""
STEP = 0.02


class Servers:
    """A project whose models are servers with delays."""

    def __init__(self, project: Project, stack: ExitStack) -> None:
        self.project, self._stack = project, stack
        project.ini(pot_prompts="prompts.jsonl")

    def start(self, candidate: Delays, reference: Delays | None = None, **config: object) -> None:
        urls = {"candidate": self._stack.enter_context(served(candidate))}
        if reference is not None:
            urls["reference"] = self._stack.enter_context(served(reference))
        text = CONFTEST.format(urls=urls, config=config, tokenizer=str(self.project.tiny.reference))
        if reference is None:
            text = text.replace("pot_reference", "unused")
        (self.project.path / "conftest.py").write_text(text, encoding="utf-8")

    def test(self, arguments: str, *options: str) -> pytest.RunResult:
        body = f"import pytest\n\n@pytest.mark.pot_latency({arguments})\ndef test_it():\n    pass\n"
        return self.project.run_tests(body, *options)


@pytest.fixture
def servers(project: Project, monkeypatch: pytest.MonkeyPatch) -> object:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2]))
    with ExitStack() as stack:
        yield Servers(project, stack)


@pytest.mark.wall_time
def test_a_server_that_is_slower_per_token_fails_and_its_copy_passes(servers: Servers) -> None:
    fast = Delays(first=0.05, token=STEP)
    servers.start(Delays(first=0.05, token=1.5 * STEP), fast)
    result = servers.test("max_slowdown=1.2, what='decode'")
    result.assert_outcomes(failed=1)
    [headline] = [line for line in result.outlines if line.startswith("pot_latency: ")]
    found = re.fullmatch(
        r"pot_latency: slowdown (1\.\d+)x > 1\.20x \(95% bound [\d.]+x, (?:10|40) pairs; reference ([\d.]+) ms, "
        r"candidate ([\d.]+) ms, IQR \d+%\)",
        headline,
    )
    assert found is not None
    assert float(found[1]) == pytest.approx(1.5, rel=0.1)
    assert float(found[2]) == pytest.approx(1000 * 7 * STEP, rel=0.15)
    servers.start(Delays(first=0.05, token=STEP), fast)
    servers.test("max_slowdown=1.2, what='decode'").assert_outcomes(passed=1)


def test_the_message_the_table_json_and_junit_have_the_figures(servers: Servers) -> None:
    servers.start(Delays(first=0.06, token=STEP))
    result = servers.test("budget_ms=1, per='token', what='decode'", "-v", "--pot-report=gates.json", "--junitxml=junit.xml")
    result.assert_outcomes(failed=1)
    lines = result.outlines
    number = r"[\d.]+"
    headline = re.compile(
        rf"pot_latency: ({number}) ms per output token > 1 \(95% bound ({number}), 10 timings; candidate ({number}) ms, "
        r"IQR \d+%\)"
    )
    [(score, bound, run)] = [found.groups() for line in lines if (found := headline.fullmatch(line))]
    figures = re.compile(
        rf"  candidate: ({number}) ms to the first token \(p95 {number}\), then ({number}) ms per token \(p95 {number}\), "
        rf"{number} ms once all prompts were read; "
        rf"({number}) tokens per second of 3 requests side by side \(95% of runs at least {number}\); 30 requests"
    )
    told = [match for line in lines if (match := figures.fullmatch(line))]
    assert len(told) == 1, "in the failure, and not once more below the table"
    [gate] = json.loads((servers.project.path / "gates.json").read_text(encoding="utf-8"))["gates"]
    # Each is told with three digits.
    assert float(score) == pytest.approx(gate["score"], rel=0.01)
    assert float(bound) == pytest.approx(gate["bound"], rel=0.01)
    assert float(run) == pytest.approx(gate["candidate_ms"], rel=0.01)
    for told_one, name in zip(told[0].groups(), ("first_token_ms", "per_token_ms", "tokens_per_s"), strict=True):
        assert float(told_one) == pytest.approx(gate[name], rel=0.01)
    # All in milliseconds and per second. A busy machine adds to each delay, and never takes from the first one; an event that
    # comes late shortens the time to the next.
    assert 60 <= gate["first_token_ms"] < 10 * 60
    for per_token in (gate["score"], gate["per_token_ms"], gate["candidate_ms"] / 7):
        assert 0.1 * 1000 * STEP < per_token < 10 * 1000 * STEP
    assert 0.1 * 3 / STEP < gate["tokens_per_s"] < 10 * 3 / STEP
    assert 1 < gate["bound"] <= gate["score"]
    assert gate["per_token_p95_ms"] >= gate["per_token_ms"]
    assert gate["tokens_per_s_p95"] <= gate["tokens_per_s"]
    assert "  the network between here and the server is in the times" in lines
    junit = ElementTree.parse(servers.project.path / "junit.xml")
    properties = {each.get("name"): each.get("value") for each in junit.iter("property")}
    for name in ("first_token_ms", "first_token_p95_ms", "per_token_ms", "per_token_p95_ms", "tokens_per_s", "requests"):
        assert properties[f"pot_{name}"] == str(gate[name])


def test_a_passing_gate_tells_the_figures_with_v(servers: Servers) -> None:
    delays = Delays(first=0.01, token=0.005)
    servers.start(delays)
    result = servers.test("budget_ms=1000, per='token', what='decode'", "-v")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(
        [
            "*test_it* (latency):",
            "  greedy decoding of 3 prompts, 21 tokens; preset auto, delays at http://127.0.0.1:*",
            "  candidate: * ms to the first token (p95 *), then * ms per token *",
            "  the network between here and the server is in the times",
        ]
    )
    assert len(delays.prompts) in range(3 * 12, 3 * 19), "2 to 8 runs to warm up, and 10 timings"
    assert len({prompt[:5] for prompt in delays.prompts}) > 0.9 * len(delays.prompts), "no prompt is sent twice"


def test_the_scoring_requests_of_a_server_are_timed(servers: Servers) -> None:
    delays = Delays(score=0.15, together=3)
    servers.start(delays)
    result = servers.test("budget_ms=50, per='batch'", "-v", "--pot-report=gates.json")
    result.assert_outcomes(failed=1)
    [gate] = json.loads((servers.project.path / "gates.json").read_text(encoding="utf-8"))["gates"]
    assert 150 <= gate["score"] < 1500
    result.stdout.re_match_lines(
        [
            r"pot_latency: \d+ ms per batch > 50 \(.*",
            r"  candidate .*; scoring of 3 prompts, \d+ tokens; preset auto, delays at .*",
            r"  the network between here and the server is in the times",
        ]
    )
    assert len(delays.prompts) <= 3 * 18


@pytest.mark.parametrize("what", ["score", "decode"])
def test_a_server_can_be_compared_with_a_model_in_this_process(servers: Servers, what: str) -> None:
    servers.start(Delays(first=0.02, token=0.02, score=0.2))
    result = servers.test(f"max_slowdown=1.2, what={what!r}, reference={str(servers.project.tiny.reference)!r}")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        ["  the network between here and the server is in the candidate's times, and not in the reference's"]
    )


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ("budget_ms=5, what='prefill'", "*the candidate is a server, delays at http://*, and what='prefill' times the bare*"),
        (
            "max_memory_mb=5",
            "*max_memory_mb limits the memory of a model in this process, but the candidate is a server, delays at http://*",
        ),
    ],
)
def test_what_a_server_cannot_be_asked_is_refused_before_a_request(servers: Servers, arguments: str, line: str) -> None:
    delays = Delays()
    servers.start(delays)
    result = servers.test(arguments)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines([line])
    assert not delays.prompts
    assert "Traceback" not in result.stdout.str()


@pytest.mark.parametrize(
    ("delays", "line"),
    [
        (Delays(token=0.001, extra={5: "end"}), "*ended a stream after 5 of 8 tokens*"),
        (Delays(token=0.001, extra={5: "error"}), "*out of memory*"),
        (Delays(first=0.02, buffered=True, simulated=True), "*sent all 8 tokens at once in *"),
        (Delays(token=0.001, extra={5: "cut"}), "*http://127.0.0.1:*"),
        (Delays(token=0.001, extra={5: "stall"}), "*http://127.0.0.1:*"),
    ],
)
def test_a_stream_that_is_not_whole_is_never_a_figure(
    servers: Servers, delays: Delays, line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if delays.simulated:
        simulated(monkeypatch)
    servers.start(delays, server_timeout=0.5 if "stall" in delays.extra.values() else 60)
    result = servers.test("budget_ms=1e9, what='decode'", "-v")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines([line])
    assert "ms per" not in result.stdout.str()
    assert "Traceback" not in result.stdout.str()
