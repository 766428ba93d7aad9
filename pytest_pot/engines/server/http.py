"""Requests to one server: JSON in, JSON out."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

from pytest_pot.core.errors import PotError

__all__ = ["Answer", "Client"]

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Answer:
    """What a server answered."""

    status: int
    headers: Mapping[str, str]
    """With names in lower case."""
    body: Any
    """Parsed JSON."""


class Client:
    """Sends requests to one server, at most ``concurrency`` at a time."""

    def __init__(self, url: str, *, timeout: float = 60.0, concurrency: int = 8) -> None:
        """``timeout``: seconds without an answer after which a request has failed."""
        import httpx2

        self.url = url
        self.concurrency = concurrency
        self._client = httpx2.Client(base_url=url, timeout=timeout)

    def get(self, path: str, allow: Sequence[int] = ()) -> Answer:
        """What the server answers to a GET request.

        Raises:
            PotError: there is no answer, it is no JSON, or its status is neither 2xx nor one of ``allow``.
        """
        return self._answer("GET", path, None, allow)

    def post(self, path: str, body: Mapping[str, Any], allow: Sequence[int] = ()) -> Answer:
        """As :meth:`get`, for a POST request with ``body`` as JSON."""
        return self._answer("POST", path, body, allow)

    def stream(self, path: str, body: Mapping[str, Any]) -> Iterator[Any]:
        """The events (server-sent, parsed JSON) that the server answers to a POST request, as they come, up to ``[DONE]``.

        Raises:
            PotError: as :meth:`get`, or the stream ends early.
        """
        with self._client.stream("POST", path, json=body) as response:
            for line in response.iter_lines():
                if line.startswith("data:") and (data := line.removeprefix("data:").strip()) != "[DONE]":
                    yield json.loads(data)

    def side_by_side(self, function: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
        """``function`` of each item, at most :attr:`concurrency` at a time, results in the order of ``items``.

        Raises:
            the first error that ``function`` raises; what has not begun by then is left out.
        """
        with ThreadPoolExecutor(self.concurrency) as pool:
            return list(pool.map(function, items))

    def close(self) -> None:
        """Close all connections."""
        self._client.close()

    def _answer(self, method: str, path: str, body: Mapping[str, Any] | None, allow: Sequence[int]) -> Answer:
        response = self._client.request(method, path, json=body)
        if not (response.is_success or response.status_code in allow):
            raise PotError(f"{method} {self.url}{path} answered {response.status_code}: {response.text[:300]}")
        return Answer(response.status_code, response.headers, response.json())
