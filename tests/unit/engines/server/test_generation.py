"""Streamed generation, against a server with known delays over real HTTP. One test lets the delays pass."""

from __future__ import annotations

import random
import statistics
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from pytest_pot import PotError
from pytest_pot.engines.base import Generating, Remote, Streamed, Timeable
from pytest_pot.engines.server.generation import _Request, unread
from pytest_pot.engines.tokens import Tokens

from ...streaming import HANGS_S, DelayEngine, Delays, asked, common, ends_soon, served, simulated

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


@pytest.fixture
def exact(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Delays]:
    """Makes delays that take no time, and are as long as they say."""
    return simulated(monkeypatch)


def failure(delays: Delays, **config: Any) -> str:
    with pytest.raises(PotError) as error:
        timed(delays, **config)
    return str(error.value)


@pytest.mark.wall_time
def test_the_times_are_the_server_s_delays() -> None:
    times = timed(Delays(first=0.08, token=0.02))
    assert len(times) == 20
    # Other processes make single requests late, never early.
    assert 0.08 <= min(request.first_token for request in times) < 1.15 * 0.08
    # A late first token makes the rest seem faster, and a late last one slower.
    assert statistics.median(request.per_token for request in times) == pytest.approx(0.02, rel=0.1)
    # On a busy machine, some are read late, and several events at once.
    assert statistics.mode((request.tokens, request.all_at_once) for request in times) == (N - 1, False)


def test_the_times_are_those_at_which_events_are_read(exact: Callable[..., Delays]) -> None:
    times = timed(exact(first=0.08, token=0.02, together=4))
    assert len(times) == 20
    for request in times:
        assert request.first_token == pytest.approx(0.08)
        assert request.per_token == pytest.approx(0.02)
        assert (request.tokens, request.all_at_once, request.waited) == (N - 1, False, 0.0)


def test_a_run_has_two_parts_first_token_and_all_ended(exact: Callable[..., Delays]) -> None:
    delays = exact(token=0.02, extra={1: "stall"})
    with served(delays) as url, asked(url) as engine:
        generation = engine.generate(BATCH)
        generation.first_token()
        assert not delays.hung, "no stream has to send more than its first token"
        assert not generation.requests
        delays.ended.set()
        generation.other_tokens()
        assert [request.tokens for request in generation.requests] == [N - 1] * 4


def test_the_first_token_of_any_prompt_ends_the_first_part() -> None:
    delays = Delays(extra={0: "stall"}, affected=3)
    with served(delays) as url, asked(url) as engine:
        generation = engine.generate(BATCH)
        generation.first_token()
        assert not delays.hung, "one stream has sent its first token, and the other three have not"
        delays.ended.set()
        generation.other_tokens()
        assert len(generation.requests) == 4


def test_requests_run_side_by_side_up_to_the_concurrency_and_each_is_timed_from_its_own_start(
    exact: Callable[..., Delays],
) -> None:
    for concurrency in (2, 4):
        delays = exact(first=0.05, token=0.01, together=concurrency)
        times = timed(delays, runs=1, server_concurrency=concurrency)
        assert delays.busiest == concurrency
        assert len(delays.prompts) == 4
        assert [request.first_token for request in times] == pytest.approx([0.05] * 4)
        waited = [0.0] * concurrency + [0.05 + 0.01 * (N - 1)] * (4 - concurrency)
        assert sorted(request.waited for request in times) == pytest.approx(waited)


def test_a_server_that_answers_one_by_one_has_long_first_tokens_and_the_same_time_per_token(
    exact: Callable[..., Delays],
) -> None:
    times = timed(exact(first=0.02, token=0.01, slots=1, together=4), runs=1)
    firsts = sorted(request.first_token for request in times)
    assert firsts == pytest.approx([0.02 + i * (0.02 + 0.07) for i in range(4)])
    assert [request.per_token for request in times] == pytest.approx([0.01] * 4)


def test_no_run_finds_its_prompts_in_the_server_s_cache(exact: Callable[..., Delays]) -> None:
    times = timed(exact(read=0.005, token=0.005, caches=True))
    # A cached prompt would have its first token after 0.005 s. By chance, a few of the four drawn tokens may be the same.
    assert min(request.first_token for request in times) >= 0.005 * (20 - 4) - 1e-9
    assert max(request.first_token for request in times) == pytest.approx(0.005 * 20)


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


def test_events_with_several_tokens_are_counted(exact: Callable[..., Delays]) -> None:
    """A server with a draft model: one token, then several per step."""
    for request in timed(exact(first=0.05, token=0.06, sizes=[1, 3, 3, 1])):
        assert (request.tokens, request.all_at_once) == (7, False)
        assert request.per_token == pytest.approx(3 * 0.06 / 7)


def test_tokens_that_came_with_the_first_one_are_not_in_the_average(exact: Callable[..., Delays]) -> None:
    """Counting them would make a server that sends larger chunks look faster."""
    for request in timed(exact(first=0.05, token=0.08, sizes=[4, 4])):
        assert (request.tokens, request.all_at_once) == (4, False)
        assert request.per_token == pytest.approx(0.02)


def test_a_proxy_that_buffers_is_an_error(exact: Callable[..., Delays]) -> None:
    """All tokens come at once, so that hardly any time is between them."""
    message = failure(exact(first=0.02, token=0.005, buffered=True))
    assert message.startswith("the candidate's server, http://127.0.0.1:")
    assert ", sent all 8 tokens at once in 12 of 12 streams, so that the time per token cannot be measured." in message
    assert "proxy_buffering off" in message


def test_half_of_all_streams_at_once_is_an_error_in_whatever_runs_they_come(exact: Callable[..., Delays]) -> None:
    """One of two backends behind one address buffers: runs that stream and runs that do not take turns."""
    delays = exact(first=0.02, token=0.005)
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


def test_a_process_of_our_own_is_not_said_to_be_behind_a_proxy(
    exact: Callable[..., Delays], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(DelayEngine, "own_process", True)
    message = failure(exact(first=0.02, token=0.005, buffered=True))
    assert "http" not in message
    assert "proxy" not in message
    assert message.endswith("They are too few for a server so fast (new_tokens=64)")


def test_one_run_that_comes_at_once_gets_an_upper_bound(exact: Callable[..., Delays]) -> None:
    """It happens on a busy machine, and is no reason to fail."""
    times = timed(exact(first=0.05, token=0.005, buffered=True), runs=2)
    assert all(request.all_at_once for request in times)
    assert [request.per_token for request in times] == pytest.approx([(0.05 + 0.005 * 7) / 8] * 8)


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


@pytest.mark.wall_time
@pytest.mark.parametrize("n_sent", [0, 3])
def test_a_stream_that_stalls_is_an_error_in_time(n_sent: int) -> None:
    with ends_soon():
        message = failure(Delays(token=0.001, extra={n_sent: "stall"}), server_timeout=0.5)
    assert "http://127.0.0.1:" in message
    assert "0.5 s" in message, "the limit, and not the end of the stall"


def test_a_failure_of_one_stream_ends_the_others() -> None:
    go_on = [1] * 3 + [0] * int(4 * HANGS_S / 0.01)
    with served(Delays(token=0.01, sizes=go_on, together=4, extra={3: "error"}, affected=1)) as url, asked(url) as engine:
        generation = engine.generate(BATCH)
        generation.first_token()
        with pytest.raises(PotError, match="out of memory"):
            generation.other_tokens()
        deadline = time.perf_counter() + HANGS_S
        while names := [thread.name for thread in threading.enumerate() if thread.name == "pytest-pot stream"]:
            assert time.perf_counter() < deadline, names
            time.sleep(0.01)


def test_what_the_engine_can_be_asked() -> None:
    with served(Delays()) as url, asked(url) as engine:
        assert isinstance(engine, Generating)
        assert isinstance(engine, Remote)
        assert not isinstance(engine, Timeable)
        assert isinstance(engine.generate(BATCH), Streamed)
