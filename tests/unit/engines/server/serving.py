"""A real HTTP server on a loopback port, in a thread, that answers what a Python object says."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Protocol

__all__ = ["App", "Reply", "serving"]


@dataclass(frozen=True)
class Reply:
    """``body``: what becomes JSON; or an iterator of server-sent events."""

    status: int
    body: Any


class App(Protocol):
    """What a server does."""

    headers: Mapping[str, str]

    def answer(self, method: str, path: str, body: Any) -> Reply:
        """To one request, ``body`` parsed; called in several threads at a time."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exc_info()[1], ConnectionError):  # a client that gave up is no error of the server
            super().handle_error(request, client_address)


@contextmanager
def serving(app: App) -> Iterator[str]:
    """The URL of a server that answers what ``app`` says."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def do_GET(self) -> None:
            self._respond(None)

        def do_POST(self) -> None:
            self._respond(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

        def _respond(self, body: Any) -> None:
            reply = app.answer(self.command, self.path, body)
            self.send_response_only(reply.status)
            for name, value in app.headers.items():
                self.send_header(name, value)
            if isinstance(reply.body, Iterator):
                self.send_header("Content-Type", "text/event-stream")
                self.send_header("Connection", "close")
                self.end_headers()
                for event in reply.body:
                    self.wfile.write(f"data: {json.dumps(event)}\n\n".encode())
                self.wfile.write(b"data: [DONE]\n\n")
                return
            content = json.dumps(reply.body).encode()
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

    server = _Server(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
