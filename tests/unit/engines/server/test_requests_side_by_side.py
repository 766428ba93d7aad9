"""Requests that are sent side by side: in order, at most so many, and cut where one fails or the run is interrupted."""

from __future__ import annotations

import _thread
import threading
import time
from typing import Any

import httpcore2
import httpx2
import pytest

from pytest_pot.core.errors import PotError
from pytest_pot.engines.server import address, connections

from ...streaming import HANGS_S
from .clients import NAME, client_of
from .clients import short_pauses as short_pauses
from .local_server import Reply, Sent, no_threads_are_left, running


def test_requests_run_side_by_side_and_come_back_in_order() -> None:
    def app(sent: Sent) -> Reply:
        return Reply(sent.body, pause=0.05 if sent.body["i"] % 2 else 0.02)

    with running(app) as server:
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

    with running(lambda sent: Reply({}, pause=0.0 if sent.body["i"] < 4 else HANGS_S)) as server:
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

    with running(lambda sent: Reply({})) as server:
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
    with running(lambda sent: Reply({})) as server:
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
    with running(lambda sent: Reply({}, pause=0.05)) as server:
        client = client_of(server, concurrency=8)
        server.together = 3
        client.side_by_side(lambda i: client.post("/x", {}), range(9), 3)
        assert server.most_at_once == 3
        server.together = 8
        client.side_by_side(lambda i: client.post("/x", {}), range(20), 100)
        assert server.most_at_once == 8


def test_what_runs_beside_an_error_is_cut() -> None:
    with running(lambda sent: Reply({"error": "no"}, 400) if sent.body["i"] == 1 else Reply(pause=2 * HANGS_S)) as server:
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
    with running(app) as server:
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
