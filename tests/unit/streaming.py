"""A server with known delays that streams tokens over real HTTP, and the engine that asks it."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar

from pytest_pot import PotError, ScoringConfig
from pytest_pot.engines.server.address import Address
from pytest_pot.engines.server.answers import Row
from pytest_pot.engines.server.engine import ServerEngine, ServerModel
from pytest_pot.engines.server.http import Client
from pytest_pot.engines.tokens import Tokens

__all__ = ["DelayEngine", "Delays", "asked", "served"]

VOCAB = 280


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
    sizes: Sequence[int] | None = None
    """Tokens per event; by default one each."""
    buffered: bool = False
    """Whether all events are sent together, after the last one was made, as by a proxy."""
    extra: Mapping[int, str] = field(default_factory=dict)
    """By how many events were sent: ``"stall"``, ``"cut"``, ``"error"`` or ``"end"``."""
    status: int = 200
    prompts: list[tuple[int, ...]] = field(default_factory=list)
    """What was sent to it."""
    busiest: int = 0
    """The most requests at a time."""

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        self._slots = threading.Semaphore(self.slots)
        self._running = 0
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
            with self._slots:
                yield
        finally:
            with self._lock:
                self._running -= 1


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
                self._stream(body["n"], time.perf_counter(), tuple(body["ids"]))

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

    def _stream(self, n_tokens: int, due: float, ids: tuple[int, ...]) -> None:
        delays = self.delays
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        due += delays.first + delays.read * delays.unread(ids)
        sent, kept = 0, ""
        for size in delays.sizes if delays.sizes is not None else [1] * n_tokens:
            time.sleep(max(0.0, due - time.perf_counter()))
            extra = delays.extra.get(sent)
            if extra == "stall":
                delays.ended.wait(30)
            if extra == "cut":
                self.close_connection = True
                return
            if extra == "end":
                break
            event = {"error": "out of memory"} if extra == "error" else {"tokens": [1] * size}
            kept += f"data: {json.dumps(event)}\n\n"
            if not delays.buffered:
                self._chunk(kept)
                kept = ""
            sent += 1
            due += delays.token
        self._chunk(kept + f"data: {json.dumps({'tokens': [], 'usage': sent})}\n\ndata: [DONE]\n\n")
        self._chunk("")

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
        return "/generate", {"ids": list(ids), "n": n_tokens}

    def tokens_in(self, event: Any) -> int:
        if "error" in event:
            raise PotError(f"the {self.role}'s server, {self.model.address.url}, sent an error: {event['error']}")
        return len(event["tokens"])


@contextmanager
def asked(url: str, role: str = "candidate", **config: Any) -> Iterator[DelayEngine]:
    """An engine for the server at ``url``."""
    settings = ScoringConfig(**config)
    client = Client(url, timeout=settings.server_timeout, concurrency=settings.server_concurrency)
    try:
        yield DelayEngine(ServerModel(Address(url), "openai", "delays", client), role, settings)
    finally:
        client.close()
