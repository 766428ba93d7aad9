"""Answers that come as a stream of events."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable
from typing import Any

import pytest

from pytest_pot.core.errors import PotError
from pytest_pot.engines.server import connections

from ...streaming import HANGS_S, ends_soon
from .clients import client_of, drip, drop, fall_silent
from .clients import short_pauses as short_pauses
from .local_server import Reply, running

STREAM = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


def chunk(part: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(part), part)


def chunked(*parts: bytes, end: bool = True, pause: Callable[[], object] = lambda: None) -> Reply:
    """``pause``: is called after each part."""

    def write(connection: socket.socket) -> None:
        connection.sendall(STREAM)
        for part in parts:
            connection.sendall(chunk(part))
            pause()
        if end:
            connection.sendall(b"0\r\n\r\n")
        drop(connection)

    return Reply(raw=write)


def event(value: object) -> bytes:
    return b"data: " + json.dumps(value).encode() + b"\n\n"


def events(reply: Reply, timeout: float = 60.0, seen: Callable[[], None] = lambda: None) -> list[Any]:
    """``seen``: is called for each event."""
    with running(lambda sent: reply) as server:
        read = []
        for each in client_of(server, timeout).stream("/v1/completions", {"stream": True}):
            read.append(each)
            seen()
        return read


class Turns:
    """A server sends an event once the client has seen the one before."""

    def __init__(self) -> None:
        self._n_seen = threading.Semaphore(0)
        self.now = 0.0
        """A clock for deadlines."""

    def seen(self) -> None:
        self._n_seen.release()

    def wait(self) -> None:
        assert self._n_seen.acquire(timeout=HANGS_S)
        self.now += 20.0

    def monotonic(self) -> float:
        return self.now


TWO = [{"choices": [{"text": "a\u2028b"}]}, {"choices": [{"text": "c", "finish_reason": "length"}]}]


@pytest.mark.parametrize(
    "reply",
    [
        chunked(*map(event, TWO), b"data: [DONE]\n\n"),
        chunked(b"".join(map(event, TWO))),
        chunked(*[bytes([byte]) for byte in b"".join(map(event, TWO)) + b"data: [DONE]\n\n"]),
        chunked(b": ping\n\n", b"event: x\r\nid: 1\r\n", event(TWO[0]).replace(b"\n", b"\r\n"), event(TWO[1])[:-1]),
    ],
    ids=["done", "at once", "bytes", "other lines"],
)
def test_events_come_back_as_json(reply: Reply) -> None:
    assert events(reply) == TWO


@pytest.mark.parametrize(
    "last", [{"content": "", "stop": True}, {"text": "x", "meta_info": {"finish_reason": {"type": "length"}}}]
)
def test_other_servers_say_the_end_in_their_last_event(last: Any) -> None:
    assert events(chunked(event({"content": "a", "stop": False}), event(last))) == [{"content": "a", "stop": False}, last]


def test_events_come_as_they_are_sent() -> None:
    turns = Turns()
    parts = [{"i": 1}, {"i": 2}, {"stop": True}]
    assert events(chunked(*map(event, parts), pause=turns.wait), seen=turns.seen) == parts


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        (chunked(event(TWO[0]), end=False), "was cut off after "),
        (chunked(event(TWO[0])), "ended its stream before its last event"),
        (chunked(), "ended its stream before its last event"),
        (
            chunked(event(TWO[0]), event({"error": {"message": "boom"}})),
            'reported an error in its stream: {"error": {"message": "boom"}}',
        ),
        (chunked(event(TWO[0]), b'error: {"code": 500}\n\n'), 'reported an error in its stream: {"error": {"code": 500}}'),
        (chunked(b"data: {oops\n\n"), "answered an event, which cannot be read as JSON"),
        (chunked(b"x" * (17 << 20)), "a line of its stream is longer than 16777216 bytes"),
        (Reply({"error": "no"}, 400), 'answered 400: {"error": "no"}'),
        (Reply({}, 503), "answered 503: {}"),
        (Reply({"choices": []}), 'did not stream, but answered {"choices": []}'),
        (Reply(b"<html>", headers={"content-type": "text/html"}), "answered 200 with text/html, which cannot be read as JSON"),
        (Reply(raw=drop), "got no answer: "),
    ],
)
def test_a_stream_that_is_none_is_an_error(reply: Reply, message: str) -> None:
    with pytest.raises(PotError) as error:
        events(reply)
    assert message in str(error.value)
    assert "/v1/completions" in str(error.value)


def test_a_stream_times_out_between_events_and_not_as_a_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    turns = Turns()
    monkeypatch.setattr(connections, "time", turns)
    parts = [*[event({"i": i}) for i in range(8)], event({"stop": True})]
    assert len(events(chunked(*parts, pause=turns.wait), seen=turns.seen)) == 9
    assert turns.now == 9 * 20 > 60


@pytest.mark.wall_time
@pytest.mark.parametrize("go_on", [fall_silent, lambda start: drip(start, chunk(b": ping\n\n"))], ids=["silence", "pings"])
def test_a_stream_without_a_next_event_times_out(go_on: Callable[[bytes], Callable[[socket.socket], None]]) -> None:
    reply = Reply(raw=go_on(STREAM + chunk(event({"i": 1}))))
    with ends_soon(), pytest.raises(PotError, match=r"did not answer completely within 0\.3 s"):
        events(reply, timeout=0.3)


def test_the_connection_of_a_stream_is_used_again() -> None:
    body = b"".join(map(event, TWO)) + b"data: [DONE]\n\n"
    with running(lambda sent: Reply(body, headers={"content-type": "text/event-stream"})) as server:
        client = client_of(server)
        for _ in range(3):
            assert list(client.stream("/x", {})) == TWO
        assert len({sent.connection for sent in server.requests}) == 1
