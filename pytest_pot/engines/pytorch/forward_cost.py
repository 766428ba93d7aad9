"""How many tokens a forward pass should have on a device, and what it costs: measured while batches run.

On a GPU, the host starts the kernels of a forward pass one after the other while the device runs them, so that a pass takes the
longer of the two. The host's time hardly depends on the batch; the device's grows with the tokens. In tokens, what a pass costs
at least is therefore far more for a small model than for a large one on the same GPU, and has to be measured.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol
from weakref import WeakKeyDictionary

import torch
from torch import nn

from pytest_pot.engines.base import Room
from pytest_pot.engines.pytorch.device import is_spread

__all__ = ["Clock", "DeviceTimes", "Event", "Memory", "RoomForTokens", "room_for"]

_CPU_ROOM = Room(most=1024, fixed=32)
"""On a CPU, matrix products reach their full speed at some hundred tokens; in SmolLM2, reading the weights and calling 30
layers took as long as 35 tokens. These are constants, because a score that is recorded on a machine must come out there again,
to the last bit, and measured times vary from run to run; the ratio of calling to computing hardly differs between CPUs."""

_INITIAL_TOKENS, _MAX_TOKENS = 1 << 11, 1 << 16
_USABLE_MEMORY = 0.5
"""Initial and maximum tokens per batch on other devices; share of the free memory to use."""

_INITIAL_LAUNCH = 1 << 11
_LEAST_FIXED = 1 << 6
"""In tokens: what a pass costs at least before it has been measured; the least fixed cost, so that noise cannot change it."""

_FILLING = 512
"""Tokens from which we take a pass for the device's speed: fewer take about as long as reading the weights."""
_BOUND = 1.25
"""How many times the host's time a pass must take so that we see the device's speed in it."""
_ALIKE = 1.1
"""Up to this ratio, passes count as equally fast per token."""
_ENOUGH = 4
"""Smaller passes that we need to tell what a pass costs besides its tokens."""
_FURTHER = 4
"""How many times the largest batch we try next while the host is what the device waits for."""
_SAMPLES = 8
"""Passes that are timed of each size, a factor of the root of 2 wide; after that, nothing changes any more."""


class Event(Protocol):
    """A mark in the device's work, such as :class:`torch.cuda.Event`."""

    def query(self) -> bool:
        """Whether the device has come to it."""

    def elapsed_time(self, end_event: Any) -> float:
        """Milliseconds from this event to another one of the device."""


class Clock(Protocol):
    """Times of the host, and marks in the work of a device that runs beside it."""

    def now(self) -> float:
        """The host's time, in seconds."""

    def mark(self) -> Event:
        """A mark after the work that the device has got so far. Does not wait."""


class Memory(Protocol):
    """The memory of a device, in bytes."""

    def allocated(self) -> int:
        """What tensors take."""

    def reserved(self) -> int:
        """What tensors take, and what the allocator keeps for others."""

    def free(self) -> int:
        """What nobody has, or only the allocator."""


@dataclass(frozen=True)
class _Pass:
    batch: int
    tokens: int
    begin: Event
    end: Event


class DeviceTimes:
    """What forward passes cost on one device with one model, from the passes themselves; never waits for the device."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._batch = 0
        self._running: deque[_Pass] = deque()
        self._n_passes: dict[int, int] = {}
        self._hosts: list[tuple[int, float]] = []
        """Batch and the host's seconds of each pass."""
        self._points: list[tuple[int, float]] = []
        """Tokens and the device's seconds of each pass that fills the device."""

    def next_batch(self) -> None:
        """All passes from here on belong to another batch."""
        self._batch += 1

    @contextmanager
    def measured(self, n_tokens: int) -> Iterator[None]:
        """Run a forward pass over ``n_tokens``, with padding, inside this context. One that fails is not counted."""
        size = (n_tokens * n_tokens).bit_length()
        if self._n_passes.get(size, 0) >= _SAMPLES:
            yield
            return
        is_first = not self._n_passes
        begin, started = self._clock.mark(), self._clock.now()
        yield
        host_seconds = self._clock.now() - started
        self._n_passes[size] = self._n_passes.get(size, 0) + 1
        if is_first:  # it also loads kernels
            return
        self._hosts.append((self._batch, host_seconds))
        self._running.append(_Pass(self._batch, n_tokens, begin, self._clock.mark()))

    def figures(self) -> tuple[int, int, bool]:
        """The least and the fixed cost of a pass, in tokens, and whether both are known. Rounded, against noise.

        The last batch does not count, because its results may not have been read yet: whether the device has finished it would
        depend on the host's speed, and so would the next batch.
        """
        self._read()
        launch = min((seconds for batch, seconds in self._hosts if batch < self._batch), default=None)
        points = self._points
        if launch is None or not points:
            return _INITIAL_LAUNCH, _LEAST_FIXED, False
        # The largest pass that has reached full speed shows it best: smaller ones may have waited for the host.
        best = min(seconds / tokens for tokens, seconds in points)
        tokens, seconds = max(point for point in points if point[1] / point[0] <= _ALIKE * best)
        per_token = seconds / tokens
        if seconds <= _BOUND * launch:  # the device may be faster still
            return max(_INITIAL_LAUNCH, _rounded(_FURTHER * launch / per_token)), _LEAST_FIXED, False
        # What smaller passes take above their tokens' time, less what may be noise. The least, because noise makes them slower.
        above = [s / per_token - _ALIKE * n for n, s in points if s > _BOUND * launch and 2 * n <= tokens]
        fixed = min(above) if len(above) >= _ENOUGH else 0.0
        return _rounded(launch / per_token), max(_LEAST_FIXED, _rounded(fixed)), True

    def _read(self) -> None:
        while self._running and self._running[0].batch < self._batch and self._running[0].end.query():
            done = self._running.popleft()
            if done.tokens >= _FILLING:
                self._points.append((done.tokens, done.begin.elapsed_time(done.end) / 1000.0))


def _rounded(tokens: float) -> int:
    """The nearest power of four, in ratio; 0 below 2."""
    return 0 if tokens < 2 else min(_MAX_TOKENS, 4 ** round(math.log(tokens, 4)))


class RoomForTokens:
    """The room of one model on one device: the tokens that fit into the free memory, and what a forward pass costs.

    We round the memory's limit down to a power of two, so that batches stay the same while about as much memory is free.
    """

    def __init__(self, times: DeviceTimes | None, memory: Memory | None, *, on_cpu: bool = False) -> None:
        """``times``, ``memory``: None where the device does not tell them; then they are assumed."""
        self._times = times
        self._memory = memory
        self._on_cpu = on_cpu
        self._bytes_per_token: float | None = None
        self._paused = False

    @property
    def room(self) -> Room:
        if self._on_cpu:
            return _CPU_ROOM
        launch, fixed, settled = (_INITIAL_LAUNCH, _LEAST_FIXED, True) if self._times is None else self._times.figures()
        return Room(most=self._most(), fixed=fixed, launch=launch, settled=settled)

    def _most(self) -> int:
        if self._memory is None or self._bytes_per_token is None:
            return _INITIAL_TOKENS
        n_tokens = int(_USABLE_MEMORY * self._memory.free() / self._bytes_per_token)
        return max(_INITIAL_TOKENS, min(_MAX_TOKENS, 1 << max(0, n_tokens.bit_length() - 1)))

    @contextmanager
    def measured(self, n_tokens: int) -> Iterator[None]:
        """Run a batch of ``n_tokens``, with padding, inside this context; it shows the memory per token."""
        if self._paused:
            yield
            return
        if self._times is not None:
            self._times.next_batch()
        if self._memory is None:
            yield
            return
        before = self._memory.allocated()
        yield
        # The allocator reserves at least the peak of this forward pass. We do not use its peak statistics, because we would
        # have to reset them, and they belong to the user. Small batches reserve more than they need, so the least counts.
        per_token = max(1.0, (self._memory.reserved() - before) / n_tokens)
        self._bytes_per_token = min(per_token, self._bytes_per_token or per_token)

    @contextmanager
    def forward(self, n_tokens: int) -> Iterator[None]:
        """Run a forward pass over ``n_tokens``, with padding, inside this context; it is timed."""
        if self._times is None or self._paused:
            yield
            return
        with self._times.measured(n_tokens):
            yield

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Measure nothing inside this context, so that plans stay those that the other batches lead to."""
        self._paused = True
        try:
            yield
        finally:
            self._paused = False


class _TorchClock:
    """The host's clock, and the events of a CUDA device or of MPS."""

    def __init__(self, mark: Callable[[], Event]) -> None:
        self.mark = mark

    now = staticmethod(time.perf_counter)


class _CudaMemory:
    def __init__(self, device: torch.device) -> None:
        self._device = device

    def allocated(self) -> int:
        return torch.cuda.memory_allocated(self._device)

    def reserved(self) -> int:
        return torch.cuda.memory_reserved(self._device)

    def free(self) -> int:
        return torch.cuda.mem_get_info(self._device)[0] + self.reserved() - self.allocated()


_ROOMS: WeakKeyDictionary[nn.Module, dict[str, RoomForTokens]] = WeakKeyDictionary()


def room_for(model: nn.Module, device: torch.device, precision: str) -> RoomForTokens:
    """The room of ``model`` on ``device`` in ``precision``.

    What was measured is kept as long as ``model`` lives: the next engine for it plans well from its first batch, and no result
    depends on it but by rounding.
    """
    rooms = _ROOMS.setdefault(model, {})
    key = f"{precision} on {device}"
    if key not in rooms:
        # Marks on one device do not time a model that is spread over several.
        clock = None if device.type == "cpu" or is_spread(model) else _clock_of(device)
        memory = _CudaMemory(device) if device.type == "cuda" else None
        rooms[key] = RoomForTokens(None if clock is None else DeviceTimes(clock), memory, on_cpu=device.type == "cpu")
    return rooms[key]


def _clock_of(device: torch.device) -> Clock | None:
    """The clock of a device that works beside the host; None where torch has no marks for it."""

    def cuda_mark() -> torch.cuda.Event:
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(device))
        return event

    def mps_mark() -> Any:
        event: Any = torch.mps.event.Event(enable_timing=True)
        event.record()
        return event

    if device.type == "cuda":
        return _TorchClock(cuda_mark)
    return _TorchClock(mps_mark) if device.type == "mps" and hasattr(torch.mps, "event") else None
