"""The connections to one server: kept open between requests, with a deadline for each request, and closed when told to.

The HTTP library limits how long it waits for the next bytes, and not how long a whole answer takes: a server that sends one
byte a minute would never time out. So the sockets below the library know the deadline of the request that they carry. They also
know whether any byte of an answer came: where none did, a request may be sent once more.
"""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import httpcore2
import httpx2

from pytest_pot.core.errors import PotError
from pytest_pot.engines.server.address import Address
from pytest_pot.engines.server.proxies import Proxy

__all__ = ["ERRORS", "Connections", "Exchange"]

ERRORS: tuple[type[Exception], ...] = (
    httpx2.HTTPError,
    httpx2.InvalidURL,
    httpx2.StreamError,
    httpcore2.TimeoutException,
    httpcore2.NetworkError,
    httpcore2.ProtocolError,
    httpcore2.ProxyError,
    httpcore2.UnsupportedProtocol,
    OSError,
    UnicodeError,  # of a host's name
)
"""What a request that failed raises."""


@dataclass
class Exchange:
    """One request and its answer, as the socket sees them."""

    timeout: float
    """Seconds from :meth:`extend` to the deadline."""
    stopped: Callable[[], bool]
    """Whether nothing may be sent any more. It says so before open connections are shut down: one that is made just then is
    on no list of them."""
    proxy: Proxy | None = None
    """What the request goes through."""
    deadline: float = 0.0
    """On the clock of ``time.monotonic``."""
    connected: bool = False
    """Whether a connection was made for it; False: it went over one that had been idle."""
    received: int = 0
    """Bytes of the answer."""

    def __post_init__(self) -> None:
        self.extend()

    def extend(self) -> None:
        """Begin to count the timeout anew."""
        self.deadline = time.monotonic() + self.timeout

    def remaining(self, limit: float | None) -> float:
        """Seconds that the socket may wait.

        Raises:
            httpcore2.ReadTimeout: none.
            httpcore2.ReadError: the request was interrupted.
        """
        if self.stopped():
            raise httpcore2.ReadError("it was interrupted")
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise httpcore2.ReadTimeout("the deadline has passed")
        return left if limit is None else min(left, limit)


class Connections(httpx2.BaseTransport):
    """A pool of connections, at most ``most``. No redirect is followed, no cookie kept, and no password read from a file."""

    def __init__(self, address: Address, proxy: Proxy | None, most: int) -> None:
        """Nothing is connected yet.

        Raises:
            PotError: encryption is needed, and the certificates that the environment names cannot be read.
        """
        self._sockets = _Sockets()
        self._pool = httpcore2.ConnectionPool(
            ssl_context=_tls(address.url) if address.is_encrypted else None,
            proxy=None if proxy is None else _proxy(proxy),
            max_connections=most,
            max_keepalive_connections=most,
            network_backend=self._sockets,
        )

    def send(self, request: httpx2.Request, exchange: Exchange) -> httpx2.Response:
        """The answer to ``request``, whose body is read later and then has to be closed.

        Raises:
            one of :data:`ERRORS`.
        """
        with self._sockets.carrying(exchange):
            return self.handle_request(request)

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        url = request.url
        answer = self._pool.handle_request(
            httpcore2.Request(
                request.method,
                httpcore2.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path),
                headers=request.headers.raw,
                content=request.stream,
                extensions=request.extensions,
            )
        )
        return httpx2.Response(answer.status, headers=answer.headers, stream=_Body(answer.stream))

    def close(self) -> None:
        """Close all connections. New ones are made when they are needed."""
        self._pool.close()

    def interrupt(self) -> None:
        """Let every request that is under way fail now."""
        self._sockets.shut_down()


class _Body(httpx2.SyncByteStream):
    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._stream)

    def close(self) -> None:
        self._stream.close()


class _Sockets(httpcore2.NetworkBackend):
    """Makes connections, and knows those that are open."""

    def __init__(self) -> None:
        self._system = httpcore2.SyncBackend()
        self._open: set[_Socket] = set()
        self._lock = threading.Lock()
        self._current = threading.local()

    @contextlib.contextmanager
    def carrying(self, exchange: Exchange) -> Iterator[None]:
        """What this thread sends belongs to ``exchange``."""
        self._current.exchange = exchange
        try:
            yield
        finally:
            del self._current.exchange

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore2.NetworkStream:
        exchange: Exchange = self._current.exchange
        timeout = exchange.remaining(timeout)
        stream = self._system.connect_tcp(host, port, timeout, local_address, socket_options)
        exchange.connected = True
        return _Socket(stream, self, exchange)

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)

    def carried(self) -> Exchange | None:
        """What this thread is sending."""
        return getattr(self._current, "exchange", None)

    def note(self, stream: _Socket, *, is_open: bool) -> None:
        with self._lock:
            self._open.add(stream) if is_open else self._open.discard(stream)

    def shut_down(self) -> None:
        with self._lock:
            streams = list(self._open)
        for stream in streams:
            # Unlike closing, this wakes the thread that waits for the socket.
            with contextlib.suppress(OSError):
                stream.get_extra_info("socket").shutdown(socket.SHUT_RDWR)


class _Socket(httpcore2.NetworkStream):
    """A connection. It carries one request after the other."""

    def __init__(self, stream: httpcore2.NetworkStream, sockets: _Sockets, exchange: Exchange) -> None:
        self._stream = stream
        self._sockets = sockets
        self._exchange = exchange
        sockets.note(self, is_open=True)

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        data = self._stream.read(max_bytes, self._exchange.remaining(timeout))
        self._exchange.received += len(data)
        return data

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._exchange = self._sockets.carried() or self._exchange
        self._stream.write(buffer, self._exchange.remaining(timeout))

    def close(self) -> None:
        self._sockets.note(self, is_open=False)
        self._stream.close()

    def start_tls(
        self, ssl_context: Any, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore2.NetworkStream:
        self._sockets.note(self, is_open=False)
        stream = self._stream.start_tls(ssl_context, server_hostname, self._exchange.remaining(timeout))
        return _Socket(stream, self._sockets, self._exchange)

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


def _proxy(proxy: Proxy) -> httpcore2.Proxy:
    return httpcore2.Proxy(proxy.url, proxy.auth, ssl_context=_tls(proxy.url) if proxy.is_encrypted else None)


def _tls(url: str) -> ssl.SSLContext:
    """How ``url`` is asked with encryption.

    Raises:
        PotError: the certificates that the environment names cannot be read.
    """
    try:
        return httpx2.create_ssl_context()
    except OSError as error:  # those of ssl are some
        names = [name for name in ("SSL_CERT_FILE", "SSL_CERT_DIR") if os.environ.get(name)]
        what = f"{names[0]}={os.environ[names[0]]!r}, an environment variable" if names else "the files of this system"
        raise PotError(
            f"{url} is asked with encryption, and the certificates that this machine trusts cannot be read from {what}: "
            f"{error.strerror or error}. Give SSL_CERT_FILE a file with certificates in the format PEM, or unset it"
        ) from None
