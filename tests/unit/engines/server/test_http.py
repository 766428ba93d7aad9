"""Requests to servers that answer, are busy, hang, break off or answer something else. No server is a mock: all speak HTTP."""

from __future__ import annotations

import _thread
import gzip
import json
import socket
import threading
import time
import tracemalloc
from collections.abc import Callable
from email.utils import formatdate
from typing import Any

import httpcore2
import httpx2
import pytest

from pytest_pot.core.errors import PotError
from pytest_pot.engines.server import address, connections, http, retries
from pytest_pot.engines.server.http import Client

from ...streaming import HANGS_S, ends_soon
from .local_server import LocalServer, Reply, Sent, no_threads_are_left, running

NAME = "the candidate's server"


def serve(app: Callable[[Sent], Reply]) -> Any:
    return running(app)


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retries, "_FIRST_PAUSE_S", 0.02)
    monkeypatch.delenv("POT_API_KEY", raising=False)


def client_of(server: LocalServer, timeout: float = 60.0, concurrency: int = 8) -> Client:
    return Client(server.url, timeout=timeout, concurrency=concurrency, name=NAME)


def error_of(client: Client, path: str = "/x") -> str:
    with pytest.raises(PotError) as error:
        client.post(path, {"a": 1})
    assert error.value.__cause__ is None
    return str(error.value)


def test_json_goes_out_and_comes_back() -> None:
    with serve(lambda sent: Reply({"got": sent.body, "path": sent.path}, headers={"X-Name": "Value"})) as server:
        client = Client(f"{server.url}/prefix")
        answer = client.post("/v1/completions", {"prompt": [1, 2]})
        assert answer.body == {"got": {"prompt": [1, 2]}, "path": "/prefix/v1/completions"}
        assert answer.headers["x-name"] == "Value"
        assert client.get("/y").body["got"] is None
        assert [sent.method for sent in server.requests] == ["POST", "GET"]
        assert server.requests[0].headers["content-type"] == "application/json"
        assert "authorization" not in server.requests[0].headers
        assert len({sent.connection for sent in server.requests}) == 1
        client.close()


def test_allowed_statuses_are_answers() -> None:
    replies = iter([Reply({"detail": "Not Found"}, 404), Reply(b"<html>no</html>", 404), Reply({"busy": 1}, 503)])
    with serve(lambda sent: next(replies)) as server:
        client = client_of(server)
        assert client.get("/x", allow=(404,)).body == {"detail": "Not Found"}
        assert client.get("/x", allow=(404,)).body == "<html>no</html>"
        assert client.get("/x", allow=(503,)).status == 503
        assert len(server.requests) == 3


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        (
            Reply({"error": {"message": "no\nsuch id"}}, 400),
            'POST {url}/x answered 400: {"error": {"message": "no\\nsuch id"}}',
        ),
        (Reply(b"", 500), "POST {url}/x answered 500: nothing"),
        (
            Reply({"error": "key"}, 401),
            '{"error": "key"}. If it asks for a key, give it as the environment variable POT_API_KEY',
        ),
        (
            Reply(b"<html>\n <body>Sign in</body>", headers={"content-type": "text/html; charset=utf-8"}),
            "POST {url}/x answered 200 with text/html, which cannot be read as JSON (Expecting value at character 0): "
            "<html> <body>Sign in</body>",
        ),
        (
            Reply(b""),
            "POST {url}/x answered 200 with application/json, which cannot be read as JSON (Expecting value at character",
        ),
        (Reply(b"\xff\xfe{"), "which cannot be read as JSON"),
        (Reply(b'{"a": "\xff"}'), "which cannot be read as JSON (it is not UTF-8)"),
        (Reply(b"[" * 100_000), "which cannot be read as JSON (its parts are nested too deep): [[["),
        (Reply(b"9" * 5000), "which cannot be read as JSON ("),
        (
            Reply(b'{"choices": [{"logprobs": [null, {"12": 1, "7": 2, "12": 3}]}]}'),
            "which cannot be read as JSON ('12' is there twice in choices[0].logprobs[1])",
        ),
        (
            Reply(b"", 307, {"location": "https://user:sesame@elsewhere.example/x?key=sesame"}),
            "POST {url}/x answered 307, which sends to https://***@elsewhere.example/x?***. No redirect is followed: give the "
            "address that it leads to",
        ),
        (Reply(b"", 302, {"location": "/login"}), "POST {url}/x answered 302, which sends to /login. No redirect is followed"),
        (Reply(gzip.compress(b'{"a": 1}')[:-12], headers={"content-encoding": "gzip"}), "cannot be read as JSON"),
        (
            Reply(b"no gzip", headers={"content-encoding": "gzip"}),
            "POST {url}/x answered 200, but what it compressed cannot be read",
        ),
    ],
)
def test_other_answers_are_errors_with_the_status_and_the_start_of_the_body(reply: Reply, message: str) -> None:
    with serve(lambda sent: reply) as server:
        told = error_of(client_of(server))
        assert told.startswith(f"{NAME}: POST {server.url}/x answered ")
        assert message.replace("{url}", server.url) in told
        assert len(told) < 700
        assert "sesame" not in told
        assert len(server.requests) == 1


def test_an_honest_compressed_answer_is_read() -> None:
    with serve(lambda sent: Reply(gzip.compress(b'{"a": [1, 2]}'), headers={"content-encoding": "gzip"})) as server:
        assert client_of(server).get("/x").body == {"a": [1, 2]}
        assert server.requests[0].headers["accept-encoding"] == "identity"


def test_a_gzip_bomb_is_not_unpacked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "_MOST_BYTES", 4 << 20)
    bomb = gzip.compress(b'"' + b" " * (200 << 20), 1)
    with serve(lambda sent: Reply(bomb, headers={"content-encoding": "gzip"})) as server:
        tracemalloc.start()
        try:
            told = error_of(client_of(server))
            assert tracemalloc.get_traced_memory()[1] < 32 << 20, "the most bytes at a time"
        finally:
            tracemalloc.stop()
        assert f"POST {server.url}/x answered 200 with more than 4 MiB, and no more is read: compare fewer ids" in told


def test_long_answers_are_read() -> None:
    """11 MB are what vLLM says of 32 prompts."""
    entry = {str(index): {"logprob": -1.5, "rank": 7, "decoded_token": "abc"} for index in range(100)}
    with serve(lambda sent: Reply({"choices": [{"prompt_logprobs": [entry] * 2000}]})) as server:
        body = client_of(server).get("/x").body
        assert len(body["choices"][0]["prompt_logprobs"]) == 2000
        assert http._MOST_BYTES > 20 * 11e6


def test_numbers_that_are_no_json_are_left_to_whoever_knows_their_place() -> None:
    with serve(lambda sent: Reply(b'{"a": [NaN, Infinity, -Infinity]}')) as server:
        assert str(client_of(server).get("/x").body) == "{'a': [nan, inf, -inf]}"


# -- trying again --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [429, 503])
def test_a_busy_server_is_asked_again(status: int) -> None:
    replies = iter([Reply({}, status), Reply({}, status), Reply({"a": 1})])
    with serve(lambda sent: next(replies)) as server:
        assert client_of(server).post("/x", {}).body == {"a": 1}
        assert len(server.requests) == 3


@pytest.mark.parametrize("after", [lambda: "1", lambda: formatdate(time.time() + 2, usegmt=True)])
def test_it_says_when(after: Callable[[], str]) -> None:
    def app(sent: Sent) -> Reply:
        return Reply({"a": 1}) if len(server.requests) > 1 else Reply({}, 429, {"retry-after": after()})

    with serve(app) as server:
        start = time.perf_counter()
        client_of(server).post("/x", {})
        assert time.perf_counter() - start > 0.9


def test_a_server_that_stays_busy_is_asked_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retries, "_FIRST_PAUSE_S", 0.001)
    with serve(lambda sent: Reply({"error": "loading model"}, 503)) as server:
        told = error_of(client_of(server))
        assert len(server.requests) == 10
        assert f"POST {server.url}/x answered 503 to 10 requests in " in told
        assert told.endswith(' s, and is asked no more: {"error": "loading model"}')


@pytest.mark.parametrize("after", ["2", "999999999999", "soon", "Fri, 99 Foo", "-5"])
def test_what_it_asks_for_is_bounded_by_the_timeout(after: str) -> None:
    with serve(lambda sent: Reply({}, 503, {"retry-after": after})) as server:
        assert " s, and is asked no more: {}" in error_of(client_of(server, timeout=0.5))
        assert len(server.requests) == 1 or after != "2"


@pytest.mark.parametrize("status", [400, 404, 408, 500, 502, 504])
def test_no_other_status_is_tried_again(status: int) -> None:
    with serve(lambda sent: Reply({}, status)) as server:
        assert f"answered {status}: {{}}" in error_of(client_of(server))
        assert len(server.requests) == 1


def test_a_server_that_starts_is_waited_for_a_little() -> None:
    with serve(lambda sent: Reply({"a": 1})) as server:
        pass
    port = server.port
    client = Client(f"http://127.0.0.1:{port}", name=NAME)
    start = time.perf_counter()
    assert error_of(client) == (
        f"{NAME}: POST http://127.0.0.1:{port}/x cannot connect: nobody listens there, or not yet (connection refused). Is the "
        "server running, and is the address right?"
    )
    assert time.perf_counter() - start > 0.03


def test_an_unknown_host_is_said() -> None:
    told = error_of(Client("http://no-such-host.invalid:8000", name=NAME))
    assert told.startswith(f"{NAME}: POST http://no-such-host.invalid:8000/x cannot connect: ")
    assert told.endswith(". Is the server running, and is the address right?")


def test_a_connection_that_the_server_dropped_while_idle_is_made_anew() -> None:
    with serve(lambda sent: Reply({"a": 1}, close=True)) as server:
        client = client_of(server)
        for _ in range(5):
            assert client.post("/x", {}).body == {"a": 1}
        assert len(server.requests) == 5


def drop(connection: socket.socket) -> None:
    connection.shutdown(socket.SHUT_RDWR)


def test_one_that_it_drops_just_when_we_send_too() -> None:
    """The server has read the request, as far as it can tell, and says nothing: nothing was answered, so it is asked again."""
    replies = iter([Reply({"a": 1}), Reply(raw=drop), Reply({"a": 2})])
    with serve(lambda sent: next(replies)) as server:
        client = client_of(server)
        assert [client.post("/x", {}).body["a"] for _ in range(2)] == [1, 2]
        assert len(server.requests) == 3


def test_a_new_connection_that_is_cut_is_an_error() -> None:
    with serve(lambda sent: Reply(raw=drop)) as server:
        told = error_of(client_of(server))
        assert told == (
            f"{NAME}: POST {server.url}/x got no answer: Server disconnected without sending a response. Did the server stop?"
        )
        assert len(server.requests) == 1


def test_an_answer_that_breaks_off_is_an_error() -> None:
    def half(connection: socket.socket) -> None:
        connection.sendall(b'HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{"a": [1, 2')
        drop(connection)

    replies = iter([Reply({"a": 1}), Reply(raw=half)])
    with serve(lambda sent: next(replies)) as server:
        client = client_of(server)
        client.post("/x", {})  # also where the connection had been idle
        assert f"POST {server.url}/x answered 200, but was cut off after 51 bytes: " in error_of(client)
        assert len(server.requests) == 2


@pytest.mark.parametrize("garbage", [b"SSH-2.0-OpenSSH\r\n\r\n", b"\x00" * 2000, b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 50_000])
def test_what_is_no_http_is_an_error(garbage: bytes) -> None:
    with serve(lambda sent: Reply(raw=lambda connection: connection.sendall(garbage))) as server:
        assert " got no answer: " in error_of(client_of(server))
        assert len(server.requests) == 1


# -- timeouts ------------------------------------------------------------------------------------------------------------


def drip(start: bytes, part: bytes) -> Callable[[socket.socket], None]:
    """Sends ``part`` until the client leaves, which it does long before it was sent a thousand times."""

    def write(connection: socket.socket) -> None:
        connection.sendall(start)
        for _ in range(1200):
            connection.sendall(part)
            time.sleep(0.1)

    return write


def fall_silent(start: bytes) -> Callable[[socket.socket], None]:
    """Sends nothing after ``start``, until the client leaves."""

    def write(connection: socket.socket) -> None:
        connection.sendall(start)
        connection.settimeout(HANGS_S)
        connection.recv(1)

    return write


@pytest.mark.wall_time
def test_a_server_that_hangs_times_out() -> None:
    with serve(lambda sent: Reply(pause=HANGS_S)) as server, ends_soon():
        start = time.perf_counter()
        told = error_of(client_of(server, timeout=0.4))
        assert told == f"{NAME}: POST {server.url}/x did not answer completely within 0.4 s (--pot-server-timeout)"
        assert time.perf_counter() - start > 0.3
        assert len(server.requests) == 1


@pytest.mark.wall_time
@pytest.mark.parametrize("start", [b"HTTP/1.1 200 OK\r\ncontent-length: 10000\r\n\r\n", b"HTTP/1.1 200 OK\r\nx:"])
def test_so_does_one_that_sends_byte_after_byte(start: bytes) -> None:
    with serve(lambda sent: Reply(raw=drip(start, b" "))) as server, ends_soon():
        told = error_of(client_of(server, timeout=0.5))
        assert "did not answer completely within 0.5 s (--pot-server-timeout)" in told


# -- side by side --------------------------------------------------------------------------------------------------------


def test_requests_run_side_by_side_and_come_back_in_order() -> None:
    def app(sent: Sent) -> Reply:
        return Reply(sent.body, pause=0.05 if sent.body["i"] % 2 else 0.02)

    with serve(app) as server:
        client = client_of(server, concurrency=4)
        server.together = 4
        assert client.side_by_side(lambda i: client.post("/x", {"i": i}).body["i"], range(24)) == list(range(24))
        assert server.most_at_once == 4
        assert len({sent.connection for sent in server.requests}) == 4
        assert client.side_by_side(lambda i: i, []) == []
        assert no_threads_are_left()


class Other(RuntimeError):
    pass


def test_the_first_error_is_raised_and_the_rest_is_not_begun() -> None:
    begun = []

    def ask(i: int) -> int:
        begun.append(i)
        if i == 5:
            raise Other("five")
        client.post("/x", {"i": i})
        return i

    with serve(lambda sent: Reply({}, pause=0.0 if sent.body["i"] < 4 else HANGS_S)) as server:
        client = client_of(server, concurrency=2)
        with pytest.raises(Other, match="five"):
            client.side_by_side(ask, range(100))
        assert sorted(begun) == list(range(6))


@pytest.mark.parametrize("stream", [False, True], ids=["answer", "stream"])
def test_what_began_before_an_error_sends_nothing_after_it(stream: bool) -> None:
    begun, over = threading.Event(), threading.Event()
    ends: list[str] = []

    def ask(i: int) -> None:
        if i == 0:
            assert begun.wait(HANGS_S)
            raise Other("the first")
        begun.set()
        try:
            deadline = time.monotonic() + HANGS_S
            while client._interruptions == 0:
                assert time.monotonic() < deadline
                time.sleep(0.01)
            list(client.stream("/x", {})) if stream else client.post("/x", {})
        except PotError as error:
            ends.append(str(error))
            raise
        finally:
            over.set()

    with serve(lambda sent: Reply({})) as server:
        client = client_of(server, concurrency=2)
        with pytest.raises(Other, match="the first"):
            client.side_by_side(ask, range(2))
        assert over.wait(HANGS_S)
        assert server.requests == []
        assert ends == [f"{NAME}: POST {server.url}/x was not sent: another request failed"]
        assert client.side_by_side(lambda i: client.post("/x", {}).body, range(3)) == [{}] * 3
        assert client.post("/x", {}).body == {}


def test_a_connection_that_is_made_during_an_interrupt_carries_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    stopped = threading.Event()
    exchange = connections.Exchange(60.0, stopped.is_set)
    with serve(lambda sent: Reply({})) as server:
        pool = connections.Connections(address.parse(server.url), None, most=1)
        connect = pool._sockets._system.connect_tcp

        def connect_and_stop(*arguments: Any) -> Any:
            stream = connect(*arguments)
            stopped.set()
            pool.interrupt()
            return stream

        monkeypatch.setattr(pool._sockets._system, "connect_tcp", connect_and_stop)
        with pytest.raises(httpcore2.ReadError, match="interrupted"):
            pool.send(httpx2.Request("GET", server.url), exchange)
        pool.close()
        assert server.requests == []


def test_fewer_than_it_may_run_where_a_caller_says_so() -> None:
    with serve(lambda sent: Reply({}, pause=0.05)) as server:
        client = client_of(server, concurrency=8)
        server.together = 3
        client.side_by_side(lambda i: client.post("/x", {}), range(9), 3)
        assert server.most_at_once == 3
        server.together = 8
        client.side_by_side(lambda i: client.post("/x", {}), range(20), 100)
        assert server.most_at_once == 8


def test_what_runs_beside_an_error_is_cut() -> None:
    with serve(lambda sent: Reply({"error": "no"}, 400) if sent.body["i"] == 1 else Reply(pause=2 * HANGS_S)) as server:
        server.together = 8
        client = client_of(server, timeout=2 * HANGS_S)
        with pytest.raises(PotError, match="answered 400"):
            client.side_by_side(lambda i: client.post("/x", {"i": i}), range(50))
        assert no_threads_are_left()
        assert len(server.requests) == 8


@pytest.mark.parametrize("busy", [False, True], ids=["hangs", "is busy"])
def test_an_interrupt_ends_all_at_once(busy: bool) -> None:
    """Ctrl-C comes to the thread that waits."""

    all_wait, over = threading.Event(), threading.Event()

    def app(sent: Sent) -> Reply:
        if len(server.requests) == 8:
            all_wait.set()
        return Reply({}, 503, {"retry-after": "240"}) if busy else Reply(pause=2 * HANGS_S)

    def interrupt() -> None:
        all_wait.wait(HANGS_S)
        if not over.wait(0.2):
            _thread.interrupt_main()

    interrupter = threading.Thread(target=interrupt, daemon=True)
    with serve(app) as server:
        client = client_of(server, timeout=1000)
        try:
            interrupter.start()
            with pytest.raises(KeyboardInterrupt):
                client.side_by_side(lambda i: client.post("/x", {"i": i}), range(50))
        finally:  # a later interrupt would stop all tests
            over.set()
            all_wait.set()
            interrupter.join()
        assert no_threads_are_left()
        assert len(server.requests) == 8


# -- streams -------------------------------------------------------------------------------------------------------------


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
    with serve(lambda sent: reply) as server:
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
    with serve(lambda sent: Reply(body, headers={"content-type": "text/event-stream"})) as server:
        client = client_of(server)
        for _ in range(3):
            assert list(client.stream("/x", {})) == TWO
        assert len({sent.connection for sent in server.requests}) == 1


# -- what is not done ----------------------------------------------------------------------------------------------------


def test_no_cookie_is_kept_and_no_password_is_looked_up(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login user password sesame\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    with serve(lambda sent: Reply({}, headers={"set-cookie": "a=b"})) as server:
        client = client_of(server)
        client.get("/x")
        client.get("/x")
        for sent in server.requests:
            assert not {"cookie", "authorization"} & set(sent.headers)


def test_a_proxy_is_not_asked_for_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    with serve(lambda sent: Reply({"proxy": sent.path})) as proxy, serve(lambda sent: Reply({"direct": True})) as server:
        monkeypatch.setenv("http_proxy", proxy.url)
        monkeypatch.delenv("no_proxy", raising=False)
        monkeypatch.delenv("NO_PROXY", raising=False)
        assert client_of(server).get("/x").body == {"direct": True}
        remote = Client("http://models.example:81", timeout=60)
        assert remote.get("/x").body == {"proxy": "http://models.example:81/x"}
        assert len(proxy.requests) == 1


@pytest.mark.parametrize("package", ["httpx2", "orjson"])
def test_without_a_library_one_line_says_what_to_install(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util

    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == package else found(name))
    with pytest.raises(PotError) as error:
        Client("http://127.0.0.1:1")
    assert str(error.value) == f"a server needs the package {package}: pip install 'pytest-pot[server]'"


@pytest.mark.parametrize("variable", ["SSL_CERT_FILE", "missing"])
def test_certificates_that_cannot_be_read_are_said(variable: str, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "certificates.pem"
    if variable != "missing":
        path.write_text("none")
    monkeypatch.setenv("SSL_CERT_FILE", str(path))
    with pytest.raises(PotError) as error:
        Client("https://127.0.0.1:1")
    start = (
        "https://127.0.0.1:1 is asked with encryption, and the certificates that this machine trusts cannot be read from "
        f"SSL_CERT_FILE={str(path)!r}, an environment variable: "
    )
    assert str(error.value).startswith(start)
    assert "\n" not in str(error.value)
    monkeypatch.setenv("https_proxy", "https://proxy.example:3128")
    monkeypatch.setenv("http_proxy", "https://proxy.example:3128")
    with pytest.raises(PotError, match=r"https://proxy\.example:3128 is asked with encryption"):
        Client("http://models.example")


@pytest.mark.parametrize("host", ["1.1.999.0", "9991xn--.", "z0_xn--255"])
def test_a_name_that_no_host_has_is_said(host: str) -> None:
    told = error_of(Client(f"http://{host}:80", timeout=60, name=NAME))
    assert told.startswith(f"{NAME}: POST http://{host}:80/x cannot connect: ")
    assert "is the address right?" in told.lower()
