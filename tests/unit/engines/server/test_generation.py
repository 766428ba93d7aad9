"""Streamed generation, against a server with known delays over real HTTP."""

from __future__ import annotations

import random
import statistics
import threading
import time
from typing import Any

import pytest

from pytest_pot import PotError
from pytest_pot.engines.base import Generating, Remote, Streamed, Timeable
from pytest_pot.engines.server.generation import _Request, unread
from pytest_pot.engines.tokens import Tokens

from ...streaming import DelayEngine, Delays, asked, common, served

N = 8
BATCH = [Tokens((*range(i, i + 20), *[0] * N), 20) for i in (10, 40, 70, 100)]


def timed(delays: Delays, runs: int = 5, batch: list[Tokens] = BATCH, **config: Any) -> list[Any]:
    """The times of the requests of all runs."""
    with served(delays) as url, asked(url, **config) as engine:
        generation = engine.generate(batch)
        times: list[Any] = []
        for _ in range(runs):
            generation.first_token()
            generation.other_tokens()
            times += generation.requests
    return times


def usual(times: list[Any]) -> tuple[int, bool]:
    """What most requests had: on a busy machine, some are read late, and several events at once."""
    return statistics.mode((request.tokens, request.all_at_once) for request in times)


def failure(delays: Delays, **config: Any) -> str:
    with pytest.raises(PotError) as error:
        timed(delays, **config)
    return str(error.value)


def test_the_times_are_the_server_s_delays() -> None:
    times = timed(Delays(first=0.08, token=0.02))
    assert len(times) == 20
    # Other processes make single requests late, never early.
    assert 0.08 <= min(request.first_token for request in times) < 1.15 * 0.08
    # A late first token makes the rest seem faster, and a late last one slower.
    assert statistics.median(request.per_token for request in times) == pytest.approx(0.02, rel=0.1)
    assert usual(times) == (N - 1, False)


def test_a_run_has_two_parts_first_token_and_all_ended() -> None:
    with served(Delays(first=0.1, token=0.03)) as url, asked(url) as engine:
        generation = engine.generate(BATCH)
        start = time.perf_counter()
        generation.first_token()
        first = time.perf_counter()
        generation.other_tokens()
        ended = time.perf_counter()
    assert 0.1 <= first - start < 0.2
    assert ended - first == pytest.approx(0.03 * (N - 1), rel=0.4)


def test_requests_run_side_by_side_up_to_the_concurrency_and_each_is_timed_from_its_own_start() -> None:
    delays = Delays(first=0.05, token=0.01)
    times = timed(delays, runs=1, server_concurrency=2)
    assert delays.busiest == 2
    assert len(delays.prompts) == 4
    assert all(0.05 <= request.first_token < 0.12 for request in times), "the last two began when the first two had ended"
    timed(delays, runs=1)
    assert delays.busiest == 4


def test_a_server_that_answers_one_by_one_has_long_first_tokens_and_the_same_time_per_token() -> None:
    times = timed(Delays(first=0.02, token=0.01, slots=1), runs=1)
    firsts = sorted(request.first_token for request in times)
    assert firsts[0] < 0.02 + 0.07
    assert firsts[-1] > 3 * (0.02 + 0.07)
    assert statistics.median(request.per_token for request in times) == pytest.approx(0.01, rel=0.3)


def test_no_run_finds_its_prompts_in_the_server_s_cache() -> None:
    delays = Delays(read=0.005, token=0.005, caches=True)
    times = timed(delays)
    # A cached prompt would have its first token after 0.005 s.
    assert min(request.first_token for request in times) >= 0.005 * (20 - 4)
    assert min(request.first_token for request in times) < 0.005 * 20 * 1.3


def test_prompts_that_were_not_read_differ_after_their_first_token_only() -> None:
    random.seed(0)
    first = unread(BATCH)
    random.seed(0)
    second = unread(BATCH)
    for one, other, original in zip(first, second, BATCH, strict=True):
        assert common(one.ids, other.ids) < 5, "the global generator is seeded in tests, and a server remembers"
        assert one.ids[0] == original.ids[0]
        assert one.ids[5:] == original.ids[5:]
        assert len(one.ids) == len(original.ids)
        assert {token for tokens in BATCH for token in tokens.ids[:20]} >= set(one.ids[:20])


@pytest.mark.parametrize("length", [1, 2, 3])
def test_short_prompts_keep_their_length_and_their_continuation(length: int) -> None:
    [tokens] = unread([Tokens((*range(length), 7, 8, 9), length)])
    assert (tokens.prompt_len, len(tokens.ids), tokens.targets, tokens.ids[0]) == (length, length + 3, (7, 8, 9), 0)


def test_events_with_several_tokens_are_counted() -> None:
    """A server with a draft model: one token, then several per step."""
    times = timed(Delays(first=0.05, token=0.06, sizes=[1, 3, 3, 1]))
    assert usual(times) == (7, False)
    assert statistics.median(request.per_token for request in times) == pytest.approx(3 * 0.06 / 7, rel=0.1)


def test_tokens_that_came_with_the_first_one_are_not_in_the_average() -> None:
    """Counting them would make a server that sends larger chunks look faster."""
    times = timed(Delays(first=0.05, token=0.08, sizes=[4, 4]))
    assert usual(times) == (4, False)
    assert statistics.median(request.per_token for request in times) == pytest.approx(0.02, rel=0.1)


def test_a_proxy_that_buffers_is_an_error() -> None:
    """All tokens come at once, so that hardly any time is between them."""
    message = failure(Delays(first=0.02, token=0.005, buffered=True))
    assert message.startswith("the candidate's server, http://127.0.0.1:")
    assert ", sent all 8 tokens at once in 12 of 12 streams, so that the time per token cannot be measured." in message
    assert "proxy_buffering off" in message


def test_half_of_all_streams_at_once_is_an_error_in_whatever_runs_they_come() -> None:
    """One of two backends behind one address buffers: runs that stream and runs that do not take turns."""
    delays = Delays(first=0.02, token=0.005)
    with served(delays) as url, asked(url) as engine:
        generation = engine.generate(BATCH[:1])

        def run(buffered: bool) -> None:
            delays.buffered = buffered
            generation.first_token()
            generation.other_tokens()

        run(False)
        run(True)
        run(False)
        with pytest.raises(PotError, match="sent all 8 tokens at once in 2 of 4 streams"):
            run(True)


def test_short_breaks_while_a_buffer_is_read_are_no_time_per_token() -> None:
    request = _Request(BATCH[0], sent=1.0)
    for now in (1.1, 1.1, 1.1003, 1.1003, 1.1003, 1.1003, 1.1005, 1.1005):
        request.add(now, 1)
    times = request.times(1.0)
    assert times.all_at_once
    assert times.per_token == pytest.approx(0.1005 / 8)


def test_a_process_of_our_own_is_not_said_to_be_behind_a_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DelayEngine, "own_process", True)
    message = failure(Delays(first=0.02, token=0.005, buffered=True))
    assert "http" not in message
    assert "proxy" not in message
    assert message.endswith("They are too few for a server so fast (new_tokens=64)")


def test_one_run_that_comes_at_once_gets_an_upper_bound() -> None:
    """It happens on a busy machine, and is no reason to fail."""
    times = timed(Delays(first=0.05, token=0.005, buffered=True), runs=2)
    assert all(request.all_at_once for request in times)
    assert all(request.per_token >= (0.05 + 0.005 * 7) / 8 for request in times)


def test_a_stream_that_ends_early_is_an_error() -> None:
    message = failure(Delays(token=0.001, extra={5: "end"}))
    assert "ended a stream after 5 of 8 tokens, so the time per token cannot be measured" in message


def test_a_stream_of_more_tokens_is_an_error() -> None:
    assert "streamed more than the 8 tokens that it was asked for" in failure(Delays(sizes=[1] * 9, token=0.001))


def test_a_stream_without_tokens_is_an_error() -> None:
    assert "ended a stream after 0 of 8 tokens" in failure(Delays(sizes=[]))


@pytest.mark.parametrize(("sizes", "n_events", "n_tokens"), [([0] * 8, 9, 0), ([1, 0, 1, 0, 0, 1, 1, 1], 4, 5)])
def test_events_whose_tokens_cannot_be_counted_are_no_end_of_text(sizes: list[int], n_events: int, n_tokens: int) -> None:
    message = failure(Delays(sizes=sizes, token=0.001))
    assert f"streamed {n_events} events in which no token could be counted" in message
    assert f"and {n_tokens} of 8 tokens in others" in message
    assert "end of text" not in message


def test_an_error_event_is_an_error() -> None:
    assert "out of memory" in failure(Delays(token=0.001, extra={3: "error"}))


def test_a_refused_request_is_an_error() -> None:
    assert "400" in failure(Delays(status=400))


def test_a_stream_that_breaks_off_is_an_error() -> None:
    assert "http://127.0.0.1:" in failure(Delays(token=0.001, extra={3: "cut"}))


@pytest.mark.parametrize("n_sent", [0, 3])
def test_a_stream_that_stalls_is_an_error_in_time(n_sent: int) -> None:
    start = time.perf_counter()
    assert "http://127.0.0.1:" in failure(Delays(token=0.001, extra={n_sent: "stall"}), server_timeout=0.5)
    assert time.perf_counter() - start < 5


def test_no_thread_is_left_after_a_failure() -> None:
    failure(Delays(token=0.01, extra={3: "error"}))
    deadline = time.perf_counter() + 5
    while names := [thread.name for thread in threading.enumerate() if thread.name == "pytest-pot stream"]:
        assert time.perf_counter() < deadline, names
        time.sleep(0.01)


def test_what_the_engine_can_be_asked() -> None:
    with served(Delays()) as url, asked(url) as engine:
        assert isinstance(engine, Generating)
        assert isinstance(engine, Remote)
        assert not isinstance(engine, Timeable)
        assert isinstance(engine.generate(BATCH), Streamed)
