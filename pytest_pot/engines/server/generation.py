"""Greedy generation by a server, streamed and timed token by token, for gates on latency."""

from __future__ import annotations

import random
import time
from collections import deque
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field, replace
from threading import Condition, Thread
from typing import Any, Protocol

from pytest_pot.core.config import ScoringConfig
from pytest_pot.core.errors import PotError
from pytest_pot.engines.base import RequestTimes, in_own_process
from pytest_pot.engines.server.address import Address
from pytest_pot.engines.server.events import is_last
from pytest_pot.engines.server.http import Client
from pytest_pot.engines.tokens import Tokens

__all__ = ["StreamedGeneration", "unread"]

_VARIED = 4
"""How many tokens of each prompt differ from run to run."""
_TOGETHER_S = 1e-4
"""Events that follow each other this fast came together: no server makes a token so fast, but a buffer, in a proxy or in this
machine, gives out many of them."""
_READING = 0.1
"""Reading what came at once takes less than this share of the time that it took to come."""
_RUNS = 3
"""If in half of the requests of so many runs, or more, all tokens came together, that is no accident."""


class _Model(Protocol):
    @property
    def address(self) -> Address: ...


class _Server(Protocol):
    """What generation needs from the engine."""

    client: Client
    role: str
    config: ScoringConfig

    @property
    def model(self) -> _Model: ...

    def generation(self, ids: Sequence[int], n_tokens: int) -> tuple[str, dict[str, Any]]: ...

    def tokens_in(self, event: Any) -> int: ...


def unread(batch: Sequence[Tokens]) -> list[Tokens]:
    """``batch`` with a few other tokens after the first one of each prompt, drawn anew by each call from the batch's own.

    Servers keep what they have read: a prompt that is sent twice has its first token far sooner the second time than a user
    waits for a prompt of his own. All caches of prompts begin at the first token, so that nothing of the rest is found in them.
    The first token itself stays, because it may be a BOS token, and the lengths stay.
    """
    drawn = random.Random()  # not the global one, which may be seeded: a server remembers what an earlier session sent
    pool = sorted({token for tokens in batch for token in tokens.ids[: tokens.prompt_len]})
    return [_varied(tokens, drawn.choices(pool, k=_VARIED)) for tokens in batch]


def _varied(tokens: Tokens, others: Sequence[int]) -> Tokens:
    stop = min(1 + _VARIED, tokens.prompt_len)
    return replace(tokens, ids=(*tokens.ids[:1], *others[: stop - 1], *tokens.ids[stop:]))


class StreamedGeneration:
    """Greedy generation for a batch, a :class:`~pytest_pot.engines.base.Streamed`.

    Each prompt is a request of its own; at most as many as the client's concurrency run side by side, and the others follow.
    Every run sends prompts that the server has not read (:func:`unread`).
    """

    def __init__(self, engine: _Server, batch: Sequence[Tokens]) -> None:
        """``batch``: prompts with one position for each token to generate."""
        self._engine, self._batch = engine, batch
        self._run = _Run(engine, ())
        self._runs = self._n_requests = self._at_once = 0
        self._requests: tuple[RequestTimes, ...] = ()

    @property
    def requests(self) -> Sequence[RequestTimes]:
        return self._requests

    def forget(self) -> None:
        self._run.stop()
        self._requests = ()

    def first_token(self) -> None:
        """Send the prompts, and wait for the first token of any of them.

        Raises:
            PotError: a request failed, or nothing came for as long as the timeout allows.
        """
        self.forget()
        self._run = _Run(self._engine, [_Request(tokens) for tokens in unread(self._batch)])
        self._run.start()
        self._run.wait(lambda request: bool(request.arrivals), any)

    def other_tokens(self) -> None:
        """Wait until every stream has ended.

        Raises:
            PotError: as :meth:`first_token`; or the server sent fewer or more tokens than it was asked for, or all at once.
        """
        self._run.wait(lambda request: request.ended, all)
        start = min(request.sent for request in self._run.requests)
        self._requests = tuple(request.times(start) for request in self._run.requests)
        self._runs += 1
        self._n_requests += len(self._requests)
        self._at_once += sum(request.all_at_once for request in self._requests)
        if self._runs >= _RUNS and 2 * self._at_once >= self._n_requests:
            proxy = "Something between may collect them (a proxy with buffering: proxy_buffering off for nginx), or they"
            raise self._run.error(
                f"sent all {self._batch[0].n_positions} tokens at once in {self._at_once} of {self._n_requests} streams, so "
                f"that the time per token cannot be measured. {'They' if in_own_process(self._engine) else proxy} are too few "
                "for a server so fast (new_tokens=64)"
            )


@dataclass(eq=False)
class _Request:
    """One prompt's stream."""

    tokens: Tokens
    sent: float = 0.0
    arrivals: list[tuple[float, int]] = field(default_factory=list)
    """When tokens came, by ``time.perf_counter``, and how many; what came together is one arrival."""
    n_tokens: int = 0
    last_event: float = 0.0
    n_uncounted: int = 0
    """Events in which no token was found, before the one that says that generation has ended."""
    closing: bool = False
    ended: bool = False

    def add(self, now: float, n_tokens: int) -> None:
        if self.arrivals and now - self.last_event < _TOGETHER_S:
            first, earlier = self.arrivals[-1]
            self.arrivals[-1] = (first, earlier + n_tokens)
        else:
            self.arrivals.append((now, n_tokens))
        self.last_event = now
        self.n_tokens += n_tokens

    def times(self, start: float) -> RequestTimes:
        """``start``: when the first request of the run was sent."""
        (first, together), (last, _) = self.arrivals[0], self.arrivals[-1]
        after = self.n_tokens - together
        # What came at once may be read with short breaks, while other threads run.
        span = min(_TOGETHER_S * self.n_tokens, _READING * (first - self.sent))
        if not after or self.last_event - first < span:
            # An upper bound: what a reader waited per token at most.
            upper = (self.last_event - self.sent) / self.n_tokens
            return RequestTimes(first - self.sent, upper, self.n_tokens, self.sent - start, all_at_once=True)
        return RequestTimes(first - self.sent, (last - first) / after, after, self.sent - start)


class _Run:
    """The requests of one run, and the threads that read their streams."""

    def __init__(self, engine: _Server, requests: Sequence[_Request]) -> None:
        self.requests = requests
        self._engine = engine
        self._waiting = deque(requests)
        self._changed = Condition()
        self._failure: BaseException | None = None
        self._stopped = False

    def start(self) -> None:
        # Daemons: a stream that hangs must not keep the process from ending.
        for _ in range(min(self._engine.client.concurrency, len(self.requests))):
            Thread(target=self._work, daemon=True, name="pytest-pot stream").start()

    def stop(self) -> None:
        """Have the threads close their streams at the next event."""
        self._stopped = True

    def wait(self, state: Callable[[_Request], bool], quantifier: Callable[[Sequence[bool]], bool]) -> None:
        """Until the requests are in ``state``: ``any`` of them or ``all``.

        Raises:
            PotError: a request failed, or no token came for longer than the timeout.
        """
        timeout = self._engine.config.server_timeout
        with self._changed:
            seen, since = self._n_tokens(), time.perf_counter()
            while not quantifier([state(request) for request in self.requests]):
                if self._failure is not None:
                    self.stop()
                    raise self._failure
                self._changed.wait(timeout / 4)
                if self._n_tokens() != seen:
                    seen, since = self._n_tokens(), time.perf_counter()
                elif time.perf_counter() - since > 1.25 * timeout:  # the client's own timeout comes first, and says more
                    self.stop()
                    ended = sum(request.ended for request in self.requests)
                    raise self.error(
                        f"sent no token for more than {timeout:g} s; {ended} of {len(self.requests)} streams had ended. If it "
                        "may take so long, raise pot_server_timeout"
                    )

    def error(self, what: str) -> PotError:
        if in_own_process(self._engine):
            return PotError(f"{self._engine.client.name} {what}")
        return PotError(f"the {self._engine.role}'s server, {self._engine.model.address.url}, {what}")

    def _n_tokens(self) -> int:
        return sum(request.n_tokens for request in self.requests)

    def _work(self) -> None:
        try:
            while not self._stopped and (request := self._next()) is not None:
                self._read(request)
        except BaseException as error:  # raised again by the thread that waits
            with self._changed:
                self._failure = self._failure or error
                self._changed.notify_all()

    def _next(self) -> _Request | None:
        with self._changed:
            return self._waiting.popleft() if self._waiting else None

    def _read(self, request: _Request) -> None:
        wanted = request.tokens.n_positions
        path, body = self._engine.generation(request.tokens.ids[: request.tokens.prompt_len], wanted)
        request.sent = time.perf_counter()
        events = self._engine.client.stream(path, body)
        try:
            for event in events:
                now = time.perf_counter()
                if self._stopped:
                    return
                if n_tokens := self._engine.tokens_in(event):
                    is_first = not request.arrivals
                    request.add(now, n_tokens)
                    if is_first:
                        self._notify()
                elif is_last(event):
                    request.closing = True
                elif not request.closing:
                    request.n_uncounted += 1
                if request.n_tokens > wanted:
                    raise self.error(f"streamed more than the {wanted} tokens that it was asked for, so they cannot be timed")
        finally:
            if isinstance(events, Generator):  # an error that is kept would keep it open, and the server busy
                events.close()
        if request.n_tokens < wanted:
            raise self.error(_too_few(request, wanted))
        request.ended = True
        self._notify()

    def _notify(self) -> None:
        with self._changed:
            self._changed.notify_all()


def _too_few(request: _Request, wanted: int) -> str:
    """Why a stream that has ended cannot be timed."""
    if request.n_uncounted > 1:  # one may close a stream in a way of its own
        return (
            f"streamed {request.n_uncounted} events in which no token could be counted (they had neither text nor token ids), "
            f"and {request.n_tokens} of {wanted} tokens in others, so the time per token cannot be measured. Time what='score' "
            "instead"
        )
    return (
        f"ended a stream after {request.n_tokens} of {wanted} tokens, so the time per token cannot be measured. An end of "
        "text, a stop string or a limit of its own ended it: generate fewer tokens (new_tokens=...), or time what='score'"
    )
