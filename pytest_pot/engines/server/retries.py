"""Why a request failed, and whether and when it is sent again."""

from __future__ import annotations

import random
import re
import time
from collections.abc import Callable, Iterator
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING

from pytest_pot.core.text import shorten

if TYPE_CHECKING:  # this needs the optional HTTP library
    from pytest_pot.engines.server.connections import Exchange

__all__ = ["BUSY", "CONNECT_S", "Failed", "Tries", "failure_of", "why_cut"]

BUSY = (429, 503)
"""What a server answers that is to be asked again later."""
CONNECT_S = 10.0
"""Seconds that making a connection may take."""
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.5, 8.0
_REFUSED_TRIES, _DROPPED_TRIES, _BUSY_TRIES = 4, 2, 10
_SHOWN = 300
"""Characters of another library's error that a message shows."""


class Failed(Exception):
    """A request failed before an answer began."""

    def __init__(self, why: str, *, refused: bool = False, dropped: bool = False) -> None:
        self.why = why
        self.refused = refused
        """Nobody listens there: nothing was sent."""
        self.dropped = dropped
        """The server had closed the connection while it was idle."""


class Tries:
    """How often a request was sent, and how long to wait before it is sent again."""

    def __init__(self, timeout: float) -> None:
        self._end = time.monotonic() + timeout
        self._began = time.monotonic()
        self._refused = self._dropped = self._busy = 0

    def pause_when_busy(self, retry_after: str | None) -> float | None:
        """Seconds until a busy server is asked again; None: not any more. What the server asks for counts."""
        self._busy += 1
        pause = max(_backoff(self._busy), _seconds(retry_after))
        return pause if self._busy < _BUSY_TRIES and time.monotonic() + pause < self._end else None

    def pause_after(self, failure: Failed) -> float | None:
        """Seconds until a request is sent again that failed before an answer began; None: not any more."""
        if failure.dropped:
            self._dropped += 1
            return 0.0 if self._dropped <= _DROPPED_TRIES else None
        if not failure.refused:
            return None
        self._refused += 1
        pause = _backoff(self._refused)
        return pause if self._refused < _REFUSED_TRIES and time.monotonic() + pause < self._end else None

    @property
    def told(self) -> str:
        """How often the server said that it is busy."""
        return f" to {self._busy} requests in {time.monotonic() - self._began:.1f} s, and is asked no more"


def _backoff(n: int) -> float:
    """Seconds before the try after ``n``: twice as many each time, and not the same for requests that failed together."""
    return min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2.0 ** (n - 1)) * random.uniform(0.5, 1.0)


def _seconds(retry_after: str | None) -> float:
    """What the header ``Retry-After`` asks for: a number of seconds, infinite where it has hundreds of digits, or a date."""
    if retry_after is None:
        return 0.0
    if re.fullmatch(r"\d+", retry_after.strip(), re.ASCII):
        return float(retry_after)
    try:
        return max(0.0, parsedate_to_datetime(retry_after).timestamp() - time.time())
    except (TypeError, ValueError, OverflowError):
        return 0.0


def failure_of(error: Exception, exchange: Exchange, timeout: float, hide: Callable[[str], str]) -> Failed:
    """Why no answer began. ``hide``: takes secrets out of a text."""
    import httpcore2
    import httpx2

    proxy = None if exchange.connected else exchange.proxy
    check = "Is the address right?" if proxy is None else f"Does the proxy run, and is {proxy.setting} right?"
    if isinstance(error, httpcore2.ConnectError | OSError):
        refused = any(isinstance(each, ConnectionRefusedError) for each in _chain(error))
        why = "nobody listens there, or not yet (connection refused)" if refused else _text(error, hide)
        check = "Is the server running, and is the address right?" if proxy is None else check
        return Failed(f"cannot connect: {why}. {check}", refused=refused)
    if isinstance(error, httpx2.InvalidURL | UnicodeError):  # of a host's name
        return Failed(f"cannot connect: {_text(error, hide)}. {check}")
    if isinstance(error, httpcore2.ConnectTimeout):
        return Failed(f"cannot connect: no answer within {min(timeout, CONNECT_S):g} s. {check}")
    if isinstance(error, httpcore2.TimeoutException):
        return Failed(_why_late(timeout))
    if isinstance(error, httpcore2.ProxyError):
        hint = exchange.proxy.hint if exchange.proxy is not None and str(error).startswith("407") else ""
        return Failed(f"got no answer: the proxy does not connect to the server, but answered {_text(error, hide)}{hint}")
    # Servers close connections that are idle for a while, and one may do so just when we send. It said nothing, so asking again
    # hides nothing.
    dropped = not exchange.connected and not exchange.received
    return Failed(f"got no answer: {_text(error, hide)}. Did the server stop?", dropped=dropped)


def why_cut(error: Exception, exchange: Exchange, timeout: float, hide: Callable[[str], str]) -> str:
    """Why an answer did not end. ``hide``: takes secrets out of a text."""
    import httpcore2
    import httpx2

    if isinstance(error, httpcore2.TimeoutException):
        return f"{_why_late(timeout)} ({exchange.received} bytes came)"
    if isinstance(error, httpx2.DecodingError):
        return f"what it compressed cannot be read: {_text(error, hide)}"
    return f"was cut off after {exchange.received} bytes: {_text(error, hide)}"


def _why_late(timeout: float) -> str:
    return f"did not answer completely within {timeout:g} s (--pot-server-timeout)"


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _text(error: Exception, hide: Callable[[str], str]) -> str:
    """What another library says, which may hold what the server answered."""
    return shorten(" ".join(hide(str(error)).split()).rstrip("."), _SHOWN) or type(error).__name__
