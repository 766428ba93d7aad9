"""Requests to one server: JSON in, JSON out.

Whatever goes wrong is a :class:`PotError` that names the server, the request, the status and the start of what was answered.
"""

from __future__ import annotations

import json
import threading
import time
import warnings
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from pytest_pot.core.errors import PotError
from pytest_pot.core.text import shorten
from pytest_pot.core.version import __version__
from pytest_pot.engines.loading import require_packages
from pytest_pot.engines.server import address as addresses
from pytest_pot.engines.server import strict_json
from pytest_pot.engines.server.api_key import VARIABLE, ApiKey
from pytest_pot.engines.server.events import DONE, data_of, is_last
from pytest_pot.engines.server.hiding import LogFilter, Secret
from pytest_pot.engines.server.proxies import proxy_for
from pytest_pot.engines.server.retries import BUSY, CONNECT_S, Failed, Tries, failure_of, why_cut
from pytest_pot.engines.server.side_by_side import side_by_side

if TYPE_CHECKING:  # these need the optional HTTP library
    import httpx2

    from pytest_pot.engines.server.connections import Connections, Exchange

__all__ = ["Answer", "Client"]

Item = TypeVar("Item")
Result = TypeVar("Result")

_MOST_BYTES = 1 << 28
"""The longest answer that is read, decompressed: 256 MiB. 32 prompts of 50 tokens with 100 ids at each are 11 MB; one prompt of
70 tokens with all 50,000 ids of a vocabulary at each is 200 MB."""
_NOT_SENT = "was not sent: another request failed"
_SHOWN = 300
"""Characters of an answer that a message shows."""


@dataclass(frozen=True)
class Answer:
    """What a server answered."""

    status: int
    headers: Mapping[str, str]
    """With names in lower case."""
    body: Any = field(repr=False)
    """Parsed JSON."""


class Client:
    """Sends requests to one server, at most ``concurrency`` at a time. Several threads may use it.

    Requests are pure questions: asking twice changes nothing. Yet a request is sent again only where no answer has begun and it
    is plain why: nobody listened (a server that starts), the server had closed the connection while it was idle (llama-server
    and vLLM do), or it said that it is busy (429, 503). Whatever else fails would fail again, or hide that the server is ill.
    """

    def __init__(self, url: str, *, timeout: float = 60.0, concurrency: int = 8, name: str = "the server") -> None:
        """Nothing is sent yet.

        Args:
            url: without ``/v1`` at its end.
            timeout: seconds after which a request that was not answered completely has failed.
            name: what messages call the server: ``"the candidate's server"``.

        Raises:
            PotError: the HTTP library is not installed; the key in ``POT_API_KEY`` is none; or the proxy or the certificates
                that the environment names cannot be used.
        """
        require_packages("a server", ("httpx2", "orjson"), "server")
        from pytest_pot.engines.server.connections import Connections

        self.url = url
        self.timeout = timeout
        self.concurrency = concurrency
        self.name = name
        place = addresses.parse(url)
        self._key = ApiKey.from_environment()
        if self._key is not None and not (place.is_encrypted or place.is_loopback):
            warnings.warn(
                f"the key in {VARIABLE} is sent to {url} without encryption: whoever can read the network can read it. Use an "
                "https:// address, or a tunnel to this machine",
                stacklevel=2,
            )
        self._proxy = proxy_for(place)
        self._secrets: list[Secret] = [self._key] if self._key is not None else []
        if self._proxy is not None and self._proxy.secret is not None:
            self._secrets.append(self._proxy.secret)
        self._connections: Connections = Connections(place, self._proxy, most=max(concurrency, 1) + 1)
        self._interruptions = 0
        self._begun = threading.local()
        """``interruptions``: how many there were when what this thread does side by side with others began."""
        self._wake = threading.Condition()
        weakref.finalize(self, _end, self._connections, [secret.hide_in_logs() for secret in self._secrets])

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

        The timeout counts from one event to the next. A busy server is not asked again: the wait would be timed as well.

        Raises:
            PotError: as :meth:`get`, or the server reports an error, or the stream ends early.
        """
        what = self._what("POST", path)
        try:
            yield from self._events(what, _Request("POST", path, _json(body)))
        except GeneratorExit:
            raise
        except BaseException as error:
            if not self._secrets:
                raise
            raise error.with_traceback(None) from None  # as for other requests

    def side_by_side(self, function: Callable[[Item], Result], items: Iterable[Item], most: int | None = None) -> list[Result]:
        """``function`` of each item, at most :attr:`concurrency` at a time, results in the order of ``items``.

        Args:
            most: a lower limit than :attr:`concurrency`.

        Raises:
            the first error that ``function`` raises; what has not begun by then is left out, requests under way are cut, and
            what has begun sends no more.
        """
        interruptions = self._interruptions

        def one(item: Item) -> Result:
            outer = getattr(self._begun, "interruptions", None)
            self._begun.interruptions = interruptions
            try:
                return function(item)
            finally:
                self._begun.interruptions = outer

        return side_by_side(one, items, self.concurrency if most is None else min(most, self.concurrency), self._interrupt)

    def close(self) -> None:
        """Close all connections. The next request makes a new one."""
        self._connections.close()

    def _what(self, method: str, path: str) -> str:
        """A request, as messages name it."""
        return f"{method} {self.url}{path}" + ("" if self._proxy is None else f" through the proxy {self._proxy.place}")

    def _answer(self, method: str, path: str, body: Mapping[str, Any] | None, allow: Sequence[int]) -> Answer:
        what = self._what(method, path)
        request = _Request(method, path, None if body is None else _json(body))
        try:
            return self._tried(what, request, allow)
        except BaseException as error:
            if not self._secrets:
                raise
            # A traceback with variables would show what was sent and answered.
            raise error.with_traceback(None) from None

    def _tried(self, what: str, request: _Request, allow: Sequence[int]) -> Answer:
        """The answer to a request, which is sent again where the class says so."""
        tries = Tries(self.timeout)
        stopped = self._stopped(what)
        while True:
            try:
                with self._opened(request, stopped) as (response, exchange):
                    content = self._read(what, response, exchange)
                    status, headers = response.status_code, response.headers
                if status not in BUSY or status in allow:
                    return self._parsed(what, status, headers, content, allow)
                pause = tries.pause_when_busy(headers.get("retry-after"))
                if pause is None:
                    raise self._wrong_status(what, status, headers, content, tries.told)
            except Failed as failure:
                pause = tries.pause_after(failure)
                if pause is None or stopped():
                    raise self._error(what, failure.why) from None
            with self._wake:
                if self._wake.wait_for(stopped, pause):
                    raise self._error(what, "was interrupted")

    def _stopped(self, what: str) -> Callable[[], bool]:
        """Tells whether there was an interruption since now, or since what this thread does side by side with others began.

        Raises:
            PotError: there was one already, and the request ``what`` is not sent.
        """
        begun = getattr(self._begun, "interruptions", None)
        interruptions = self._interruptions if begun is None else begun
        if interruptions != self._interruptions:
            raise self._error(what, _NOT_SENT)
        return lambda: interruptions != self._interruptions

    def _events(self, what: str, request: _Request) -> Iterator[Any]:
        tries = Tries(self.timeout)
        stopped = self._stopped(what)
        while True:
            try:
                with self._opened(request, stopped) as (response, exchange):
                    streams = "text/event-stream" in response.headers.get("content-type", "")
                    if not (response.is_success and streams):
                        content = self._read(what, response, exchange)
                        self._parsed(what, response.status_code, response.headers, content, ())
                        raise self._error(what, f"did not stream, but answered {self._start_of(content)}")
                    yield from self._parsed_events(what, response, exchange)
                    return
            except Failed as failure:
                if not failure.dropped or tries.pause_after(failure) is None or stopped():
                    raise self._error(what, failure.why) from None

    def _parsed_events(self, what: str, response: httpx2.Response, exchange: Exchange) -> Iterator[Any]:
        from pytest_pot.engines.server.connections import ERRORS

        event = None
        chunks = response.iter_bytes()
        try:
            for data in data_of(chunks):
                if data == DONE:
                    # What is left is the end of the answer: read it, and the connection can be used again.
                    exchange.deadline = min(exchange.deadline, time.monotonic() + 1.0)
                    with suppress(*ERRORS):
                        for _ in chunks:
                            pass
                    return
                event = self._json_of(what, data, "an event")
                if isinstance(event, dict) and event.get("error") is not None:
                    raise self._error(what, f"reported an error in its stream: {self._start_of(data)}")
                yield event
                exchange.extend()
        except ERRORS as error:
            raise self._error(what, why_cut(error, exchange, self.timeout, self._hide)) from None
        except ValueError as error:
            raise self._error(what, str(error)) from None
        if not is_last(event):
            raise self._error(what, "ended its stream before its last event")

    @contextmanager
    def _opened(self, request: _Request, stopped: Callable[[], bool]) -> Iterator[tuple[httpx2.Response, Exchange]]:
        """The answer to ``request``, not read yet. ``stopped``: whether it may not be sent any more.

        Raises:
            Failed: none has begun.
        """
        from pytest_pot.engines.server.connections import ERRORS, Exchange

        exchange = Exchange(self.timeout, stopped, self._proxy)
        try:
            response = self._connections.send(self._sendable(request), exchange)
        except ERRORS as error:
            raise failure_of(error, exchange, self.timeout, self._hide) from None
        try:
            yield response, exchange
        finally:
            response.close()

    def _sendable(self, request: _Request) -> httpx2.Request:
        import httpx2

        headers = [("accept", "*/*"), ("accept-encoding", "identity"), ("user-agent", f"pytest-pot/{__version__}")]
        if request.content is not None:
            headers.append(("content-type", "application/json"))
        waits = {"connect": min(self.timeout, CONNECT_S), "read": self.timeout, "write": self.timeout, "pool": self.timeout}
        return httpx2.Request(
            request.method,
            self.url + request.path,
            headers=headers if self._key is None else [*headers, self._key.header()],
            content=request.content,
            extensions={"timeout": waits},
        )

    def _read(self, what: str, response: httpx2.Response, exchange: Exchange) -> bytes:
        """All of an answer, decompressed."""
        from pytest_pot.engines.server.connections import ERRORS

        content = bytearray()
        try:
            for part in response.iter_bytes():
                content += part
                if len(content) > _MOST_BYTES:
                    raise self._error(
                        what,
                        f"answered {response.status_code} with more than {_MOST_BYTES >> 20} MiB, and no more is read: compare "
                        "fewer ids (top_k), or fewer and shorter prompts (max_length)",
                    )
        except ERRORS as error:
            raise self._error(
                what, f"answered {response.status_code}, but {why_cut(error, exchange, self.timeout, self._hide)}"
            ) from None
        return bytes(content)

    def _parsed(self, what: str, status: int, headers: Mapping[str, str], content: bytes, allow: Sequence[int]) -> Answer:
        if not (200 <= status < 300 or status in allow):
            raise self._wrong_status(what, status, headers, content)
        names = {name.lower(): self._hide(value) for name, value in headers.items()}
        if not 200 <= status < 300:
            try:
                return Answer(status, names, self._hidden_in(content, strict_json.parse(content, self._hide)))
            except ValueError:
                return Answer(status, names, self._start_of(content))
        kind = headers.get("content-type", "no type").partition(";")[0]
        return Answer(status, names, self._json_of(what, content, f"{status} with {kind}"))

    def _json_of(self, what: str, content: bytes, as_what: str) -> Any:
        try:
            value = strict_json.parse(content, self._hide)
        except ValueError as error:
            raise self._error(
                what, f"answered {as_what}, which cannot be read as JSON ({error}): {self._start_of(content)}"
            ) from None
        return self._hidden_in(content, value)

    def _wrong_status(self, what: str, status: int, headers: Mapping[str, str], content: bytes, also: str = "") -> PotError:
        if 300 <= status < 400:
            place = addresses.shown(self._hide(headers.get("location", "nowhere")))
            return self._error(
                what,
                f"answered {status}, which sends to {shorten(place, _SHOWN)}. No redirect is followed: give the address "
                "that it leads to",
            )
        hint = ""
        if status in (401, 403):
            hint = (
                f". If it asks for a key, give it as the environment variable {VARIABLE}"
                if self._key is None
                else f". The key is that of the environment variable {VARIABLE}"
            )
        elif status == 407 and self._proxy is not None:
            hint = self._proxy.hint
        return self._error(what, f"answered {status}{also}: {self._start_of(content)}{hint}")

    def _error(self, what: str, why: str) -> PotError:
        return PotError(self._hide(f"{self.name}: {what} {why}"))

    def _start_of(self, content: bytes) -> str:
        """The start of an answer on one line. What is secret is hidden before it is cut: a part of it is no match."""
        margin = max((secret.longest for secret in self._secrets), default=0)
        text = self._hide(content[: 8 * _SHOWN + margin].decode("utf-8", "replace"))
        if len(content) > 8 * _SHOWN and margin:
            text = text[:-margin]  # where the first half of a secret may be
        return shorten(" ".join(text.split()), _SHOWN) or "nothing"

    def _hide(self, text: str) -> str:
        for secret in self._secrets:
            text = secret.hide(text)
        return text

    def _hidden_in(self, content: bytes, value: Any) -> Any:
        for secret in self._secrets:
            value = secret.hide_in(value) if secret.is_in(content) else value
        return value

    def _interrupt(self) -> None:
        """Let all requests fail, and those that wait to be sent again."""
        with self._wake:
            self._interruptions += 1
            self._wake.notify_all()
        self._connections.interrupt()


@dataclass(frozen=True)
class _Request:
    method: str
    path: str
    content: bytes | None = field(repr=False)


def _json(body: Mapping[str, Any]) -> bytes:
    return json.dumps(body, allow_nan=False, separators=(",", ":")).encode()


def _end(connections: Connections, log_filters: Iterable[LogFilter]) -> None:
    connections.close()
    for log_filter in log_filters:
        log_filter.remove()
