"""A local server that answers what a Python object says: JSON, or a stream of events."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

from . import local_server

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


@contextmanager
def serving(app: App) -> Iterator[str]:
    """The URL of a server that answers what ``app`` says."""

    def answer(sent: local_server.Sent) -> local_server.Reply:
        reply = app.answer(sent.method, sent.path, sent.body)
        headers = dict(app.headers)
        if not isinstance(reply.body, Iterator):
            return local_server.Reply(reply.body, reply.status, headers)
        events = b"".join(f"data: {json.dumps(event)}\n\n".encode() for event in reply.body)
        headers["content-type"] = "text/event-stream"
        return local_server.Reply(events + b"data: [DONE]\n\n", reply.status, headers)

    with local_server.running(answer) as server:
        yield server.url
