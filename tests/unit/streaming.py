"""A server with known delays that streams tokens over real HTTP, and the engine that asks it.

Real delays are as long as the machine makes them. Where a test is about figures, :func:`simulated` ones are exact: nobody
waits, and each event says when it would have been sent.
"""

from __future__ import annotations

import heapq
import json
import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar

import pytest

from pytest_pot import PotError, ScoringConfig
from pytest_pot.engines.server.address import Address
from pytest_pot.engines.server.answers import Row
from pytest_pot.engines.server.engine import ServerEngine, ServerModel
from pytest_pot.engines.server.http import Client
from pytest_pot.engines.tokens import Tokens

__all__ = ["HANGS_S", "DelayEngine", "Delays", "asked", "ends_soon", "served", "simulated"]

VOCAB = 280
HANGS_S = 120.0
"""Ends what would wait for ever; no test that passes takes so long."""
_SOON_S = 10.0


@contextmanager
def ends_soon() -> Iterator[None]:
    """Asserts that its body ends soon: a timeout in it of half a second is kept, and no longer one of our own is waited for."""
    start = time.perf_counter()
    yield
    assert time.perf_counter() - start < _SOON_S


class _Clock(threading.local):
    """Simulated time: that of the last event which this thread has read.

    In threads that read none, it is real: what they wait for may never come, and their own limits end that.
    """

    now = 0.0
    reads = False

    def perf_counter(self) -> float:
        return self.now if self.reads else time.perf_counter()


_CLOCK = _Clock()


def simulated(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Delays]:
    """Makes :class:`Delays` that take no time. Until ``monkeypatch`` is undone, the events of streams are the clock."""
    monkeypatch.setattr("pytest_pot.engines.server.generation.time", _CLOCK)
    return partial(Delays, simulated=True)


@dataclass
class Delays:
    """How a server behaves; seconds."""

    first: float = 0.0
    """Until the first token, besides reading."""
    token: float = 0.0
    """Between tokens."""
    read: float = 0.0
    """Per token of a prompt that the server has not read before."""
    score: float = 0.0
    caches: bool = False
    """Whether it remembers the prompts that it has read."""
    slots: int = 64
    """Requests that are answered at the same time; others wait."""
    together: int = 1
    """Requests that have to be there before any of them is answered."""
    simulated: bool = False
    """See :func:`simulated`."""
    sizes: Sequence[int] | None = None
    """Tokens per event; by default one each."""
    buffered: bool = False
    """Whether all events are sent together, after the last one was made, as by a proxy."""
    extra: Mapping[int, str] = field(default_factory=dict)
    """By how many events were sent: ``"stall"``, ``"cut"``, ``"error"`` or ``"end"``."""
    affected: int = 64
    """The most streams that ``extra`` is about."""
    status: int = 200
    prompts: list[tuple[int, ...]] = field(default_factory=list)
    """What was sent to it."""
    busiest: int = 0
    """The most requests at a time."""
    hung: bool = False
    """Whether a stall lasted until nobody waits any more."""

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        self._slots = threading.Semaphore(self.slots)
        self._free = [0.0] * self.slots
        self._meeting = threading.Barrier(self.together)
        self._running = 0
        self._n_affected = 0
        self.ended = threading.Event()
        """Ends a stall."""

    def unread(self, ids: tuple[int, ...]) -> int:
        """How many tokens of ``ids`` no earlier prompt began with; ``ids`` are remembered."""
        with self._lock:
            known = max((common(ids, other) for other in self.prompts), default=0) if self.caches else 0
            self.prompts.append(ids)
        return len(ids) - min(known, len(ids) - 1)

    @contextmanager
    def slot(self) -> Iterator[None]:
        with self._lock:
            self._running += 1
            self.busiest = max(self.busiest, self._running)
        try:
            self._meeting.wait(HANGS_S)
            with self._slots:
                yield
        finally:
            with self._lock:
                self._running -= 1

    def happens(self, n_sent: int) -> str | None:
        """What happens to one more stream that has sent so many events."""
        extra = self.extra.get(n_sent)
        if extra is None:
            return None
        with self._lock:
            self._n_affected += 1
            return extra if self._n_affected <= self.affected else None

    def begin(self, sent: float) -> float:
        """When a request gets its slot that was sent at the simulated time ``sent``."""
        if not self.simulated:
            return time.perf_counter()
        with self._lock:
            return max(sent, heapq.heappop(self._free))

    def end(self, now: float) -> None:
        """Another request may have the slot."""
        with self._lock:
            heapq.heappush(self._free, now)


def common(a: Sequence[int], b: Sequence[int]) -> int:
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else two small packets wait for each other
    delays: ClassVar[Delays]

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        with self.delays.slot():
            if self.path == "/score":
                self._score(body)
            elif self.delays.status != 200:
                self._json({"error": {"message": "no room"}}, self.delays.status)
            else:
                self.delays.end(self._stream(body["n"], self.delays.begin(body["sent"]), tuple(body["ids"])))

    def _score(self, body: Any) -> None:
        self.delays.unread(tuple(body["ids"]))
        time.sleep(self.delays.score)
        self._json({"ids": list(range(body["k"]))}, 200)

    def _json(self, body: Any, status: int) -> None:
        text = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def _stream(self, n_tokens: int, due: float, ids: tuple[int, ...]) -> float:
        """Returns when the last event was due."""
        delays = self.delays
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        due += delays.first + delays.read * delays.unread(ids)
        now, kept = due, list[Any]()
        for sent, size in enumerate(delays.sizes if delays.sizes is not None else [1] * n_tokens):
            now = due
            if not delays.simulated:
                time.sleep(max(0.0, now - time.perf_counter()))
            extra = delays.happens(sent)
            if extra == "stall" and not delays.ended.wait(HANGS_S):
                delays.hung = True
            if extra == "cut":
                self.close_connection = True
                return now
            if extra == "end":
                break
            kept.append({"error": "out of memory"} if extra == "error" else {"tokens": [1] * size})
            if not delays.buffered:
                self._events(kept, now)
                kept = []
            due += delays.token
        self._events([*kept, {"tokens": [], "usage": n_tokens}], now, "data: [DONE]\n\n")
        self._chunk("")
        return now

    def _events(self, events: Sequence[Mapping[str, Any]], now: float, end: str = "") -> None:
        at = {"at": now} if self.delays.simulated else {}
        self._chunk("".join(f"data: {json.dumps({**event, **at})}\n\n" for event in events) + end)

    def _chunk(self, text: str) -> None:
        self.wfile.write(f"{len(text):x}\r\n{text}\r\n".encode())
        self.wfile.flush()

    def log_message(self, *_: object) -> None:
        pass


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, *_: object) -> None:
        pass  # a client that leaves is part of the tests


@contextmanager
def served(delays: Delays) -> Iterator[str]:
    """The URL of a server that behaves so."""
    server = _Server(("127.0.0.1", 0), type("Handler", (_Handler,), {"delays": delays}))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        delays.ended.set()
        server.shutdown()
        server.server_close()
        thread.join()


class _Client(Client):
    """Reads events at the time that they tell."""

    def stream(self, path: str, body: Mapping[str, Any]) -> Iterator[Any]:
        events = super().stream(path, body)
        assert isinstance(events, Generator)
        with closing(events):
            for event in events:
                _CLOCK.now = event.get("at", 0.0)
                yield event


class DelayEngine(ServerEngine):
    """The kind of server that :func:`served` starts."""

    title = "delays"
    max_positions = 128
    vocab_size = VOCAB
    most_ids = VOCAB
    version = None

    def identity(self) -> Mapping[str, Any]:
        return {}

    def read(self, tokens: Tokens, k: int) -> list[Row]:
        ids = self.client.post("/score", {"ids": list(tokens.ids), "k": k}).body["ids"]
        return [Row(ids, [-7.0] * k, -7.0)] * tokens.n_positions

    def sample(self, contexts: Sequence[Sequence[int]], n_tokens: int, seed: int) -> list[list[int]]:
        raise NotImplementedError

    def generation(self, ids: Sequence[int], n_tokens: int) -> tuple[str, dict[str, Any]]:
        _CLOCK.reads = True
        return "/generate", {"ids": list(ids), "n": n_tokens, "sent": _CLOCK.now}

    def tokens_in(self, event: Any) -> int:
        if "error" in event:
            raise PotError(f"the {self.role}'s server, {self.model.address.url}, sent an error: {event['error']}")
        return len(event["tokens"])


@contextmanager
def asked(url: str, role: str = "candidate", **config: Any) -> Iterator[DelayEngine]:
    """An engine for the server at ``url``."""
    settings = ScoringConfig(**config)
    client = _Client(url, timeout=settings.server_timeout, concurrency=settings.server_concurrency)
    try:
        yield DelayEngine(ServerModel(Address(url), "openai", "delays", client), role, settings)
    finally:
        client.close()
