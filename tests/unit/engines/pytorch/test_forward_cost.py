"""What a batch costs, measured on simulated devices: a host that starts kernels, and a device that runs them beside it."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import pytest
import torch
from torch import nn

from pytest_pot import ScoringConfig
from pytest_pot.core.errors import PotError
from pytest_pot.engines.base import OutOfMemory, Room
from pytest_pot.engines.pytorch.engine import TorchEngine
from pytest_pot.engines.pytorch.forward_cost import DeviceTimes, RoomForTokens, room_for
from pytest_pot.engines.tokens import Tokens
from pytest_pot.scoring.batching import Batches

from ...models import tiny


@dataclass
class Mark:
    device: Device
    time: float

    def query(self) -> bool:
        return self.device.host >= self.time

    def elapsed_time(self, end: Mark) -> float:
        assert end.query(), "the device has not come to this mark yet"
        return 1000.0 * (end.time - self.time)


class Device:
    """A device, and its model; a :class:`Clock`, a :class:`Memory`, and an engine that has nothing but its room."""

    def __init__(self, launch: float, per_token: float, fixed: float = 0.0, memory: float = 100e9) -> None:
        """All in seconds; ``memory`` in bytes."""
        self.launch, self.per_token, self.fixed, self.memory = launch, per_token, fixed, memory
        self.noise = self.first = 0.0
        """How much slower a pass is on average, as a share; how many seconds the first one takes to load kernels."""
        self.random = random.Random(0)
        self.host = self.ready = 0.0
        self.passes: list[int] = []
        self.kept = 0
        self.costs = RoomForTokens(DeviceTimes(self), self)

    def now(self) -> float:
        return self.host

    def mark(self) -> Mark:
        return Mark(self, max(self.host, self.ready))

    def allocated(self) -> int:
        return 10**9

    def reserved(self) -> int:
        return 10**9 + self.kept

    def free(self) -> int:
        return int(self.memory)

    @property
    def room(self) -> Room:
        return self.costs.room

    def slower(self) -> float:
        return 1.0 + self.noise * self.random.expovariate(1.0)

    def submit(self, n_tokens: int) -> float:
        """Start a forward pass over ``n_tokens``; when it ends."""
        with self.costs.measured(n_tokens), self.costs.forward(n_tokens):
            begin = max(self.host, self.ready)
            self.host += self.launch * self.slower() + (0.0 if self.passes else self.first)
            self.ready = max(self.host, begin + (self.fixed + self.per_token * n_tokens) * self.slower())
            self.kept = max(self.kept, 20_000_000, 300_000 * n_tokens)
        self.passes.append(n_tokens)
        return self.ready

    def read(self, end: float) -> None:
        self.host = max(self.host, end)


def h200(seconds_per_token: float, **others: float) -> Device:
    return Device(launch=10e-3, per_token=seconds_per_token, **others)


def small() -> Device:
    """135M parameters."""
    return h200(0.5e-6)


def large() -> Device:
    """7B parameters: reading them takes 3 ms."""
    return h200(28e-6, fixed=3e-3)


def suite(n: int = 257) -> list[Tokens]:
    generator = random.Random(1)
    return [Tokens(tuple(generator.randint(1, 999) for _ in range(generator.randint(40, 120))), 5) for _ in range(n)]


@dataclass
class Submitted:
    """A batch that a device works on until ``end``."""

    device: Device
    batch: Sequence[int]
    end: float

    def results(self) -> list[int]:
        self.device.read(self.end)
        return list(self.batch)


def run(device: Device, tokens: Sequence[Tokens], *, settle: bool = False) -> list[int]:
    """The sizes of the batches of one run over ``tokens``."""

    def work(batch: Sequence[int]) -> Submitted:
        return Submitted(device, batch, device.submit(len(batch) * max(len(tokens[i].ids) for i in batch)))

    batches: Batches[int] = Batches(ScoringConfig(batch_size="auto"), tokens, engines=[device])  # type: ignore[list-item]
    if settle:
        batches.settle(work)
    assert list(batches.run(work)) == list(range(len(tokens)))
    return [len(batch) for batch in batches.ran]


def padding(device: Device, tokens: Sequence[Tokens], n_batches: int) -> float:
    """Share of the tokens of the last ``n_batches`` passes that are padding."""
    return 1.0 - sum(len(prompt.ids) for prompt in tokens) / sum(device.passes[-n_batches:])


def test_a_small_model_gets_few_large_batches_and_a_large_model_little_padding() -> None:
    tokens, few, many = suite(), small(), large()
    assert len(run(few, tokens)) <= 7  # while it measures
    assert len(run(few, tokens)) <= 2
    run(many, tokens)
    sizes = run(many, tokens)
    assert 8 <= len(sizes) <= 40
    assert padding(many, tokens, len(sizes)) < 0.06


@pytest.mark.parametrize("make", [small, large])
def test_measured_batches_are_faster_than_assumed_ones(make: Callable[[], Device]) -> None:
    tokens, device = suite(), make()
    took = []
    for _ in range(3):
        started = device.host
        run(device, tokens)
        took.append(device.host - started)
    assert took[2] <= took[1] * 1.001
    assert took[1] < took[0]
    bare = max(device.launch, device.per_token * sum(len(prompt.ids) for prompt in tokens))
    assert took[1] <= (1.1 if make is large else 1.6) * bare  # the small model reads all prompts at once, with much padding


def test_a_smaller_gpu_gets_smaller_batches() -> None:
    tokens = suite()
    slow = Device(launch=10e-3, per_token=5e-6, memory=4e9)
    fast = small()
    for device in (slow, fast):
        run(device, tokens)
    assert (slow.room.launch, slow.room.most) == (1024, 4096)  # half of the 4 GB, at 0.3 MB per token
    assert fast.room.most == 1 << 16
    assert len(run(slow, tokens)) > 2 * len(run(fast, tokens))
    assert max(slow.passes) <= 4096


def between() -> Device:
    """1.5B parameters: batches of 2,000 tokens take the device as long as the host."""
    return h200(6e-6)


@pytest.mark.parametrize(
    ("make", "noise", "alike"),
    [(small, 0.05, 20), (large, 0.05, 20), (between, 0.05, 20), (small, 0.2, 19), (large, 0.2, 19), (between, 0.2, 10)],
)
def test_plans_are_the_same_from_run_to_run_under_noise(make: Callable[[], Device], noise: float, alike: int) -> None:
    tokens, quiet = suite(), make()
    plans = [(run(quiet, tokens, settle=True), run(quiet, tokens))]
    for seed in range(20):
        device = make()
        device.random, device.noise, device.first = random.Random(seed), noise, 2.0
        plans.append((run(device, tokens, settle=True), run(device, tokens)))
    assert plans[1:].count(plans[0]) >= alike


def test_a_slow_first_forward_counts_neither_for_the_host_nor_for_the_device() -> None:
    usual, late = large(), large()
    late.first = 5.0
    for device in (usual, late):
        run(device, suite())
    assert usual.room == late.room
    assert usual.room.settled


def test_only_batches_whose_results_were_read_count() -> None:
    """Else the plan would depend on whether the device happens to have finished."""
    rooms = []
    for waits in (False, True):
        device = h200(28e-6, fixed=100e-3)
        ends = [device.submit(1000)]
        for n_tokens in (1000, 1000, 8000, 8000):
            ends.append(device.submit(n_tokens))
            device.read(ends[-1 if waits else -2])
            rooms.append(device.room)
    assert rooms[:4] == rooms[4:]
    assert [room.launch for room in rooms[:4]] == [2048, 64, 64, 256]


def test_before_anything_is_measured_figures_are_assumed() -> None:
    device = large()
    assert device.room == Room(most=2048, launch=2048, fixed=64, settled=False)
    device.read(device.submit(48))
    assert device.room.launch == 2048


def test_small_batches_show_no_speed() -> None:
    """They take the time of reading the weights: on a very large model even longer than the host needs."""
    device = h200(200e-6, fixed=30e-3)
    for _ in range(6):
        device.read(device.submit(48))
    assert not device.room.settled
    for _ in range(3):
        device.read(device.submit(2000))
    assert (device.room.launch, device.room.settled) == (64, True)


def test_what_passes_cost_besides_their_tokens_is_measured() -> None:
    device = h200(28e-6, fixed=28e-3)
    for n_tokens in (1000, 1000, 1000, 1000, 1000, 8000, 8000):
        device.read(device.submit(n_tokens))
    assert device.room.fixed == 1024
    assert large().room.fixed == 64


def test_each_size_is_timed_a_few_times_only() -> None:
    device = large()
    for _ in range(12):
        device.read(device.submit(2000))
    before = device.room
    device.launch = device.per_token = 1e-9
    for _ in range(12):
        device.read(device.submit(2000))
    assert device.room == before


def test_a_pass_that_fails_is_not_counted() -> None:
    device = large()
    for _ in range(4):
        device.read(device.submit(2000))
    before = device.room
    for _ in range(3):
        with pytest.raises(OutOfMemory), device.costs.measured(60_000), device.costs.forward(60_000):
            raise OutOfMemory("no")
    device.read(device.submit(2000))
    assert device.room == before


def test_a_small_batch_does_not_make_later_ones_small() -> None:
    """The allocator reserves whole blocks, which look like much memory per token in a small batch."""
    device = Device(launch=10e-3, per_token=5e-6, memory=12e9)
    device.read(device.submit(48))
    assert device.room.most == 8192
    device.read(device.submit(2000))
    assert device.room.most == 16384


def test_recording_measures_first() -> None:
    tokens, device = suite(), small()
    assert run(device, tokens, settle=True) == run(device, tokens, settle=True)
    n = len(device.passes)
    run(few := small(), tokens[:3], settle=True)
    assert len(few.passes) == 2  # the three prompts fit into one batch: nothing larger can be tried
    assert n < 16


def test_what_was_measured_is_kept_per_model_device_and_precision() -> None:
    model, other = tiny("llama"), tiny("llama")
    cpu = torch.device("cpu")
    assert room_for(model, cpu, "float32") is room_for(model, cpu, "float32")
    assert room_for(model, cpu, "float32") is not room_for(model, cpu, "bfloat16")
    assert room_for(model, cpu, "float32") is not room_for(other, cpu, "float32")
    with TorchEngine.opened(model, "candidate", ScoringConfig()) as engine:
        before = engine._room
        engine.restart()
        assert engine._room is before
        assert engine._room is room_for(model, cpu, "float32")
    with TorchEngine.opened(model, "candidate", ScoringConfig(dtype="bfloat16")) as engine:
        assert engine._room is room_for(model, cpu, "bfloat16")  # by the caller's model, not the copy that runs


def test_a_cpu_has_constants() -> None:
    room = room_for(nn.Linear(2, 2), torch.device("cpu"), "float32")
    for _ in range(3):
        with room.measured(512), room.forward(512):
            pass
    assert room.room == Room(most=1024, fixed=32, launch=0, settled=True)


def test_an_engine_times_each_forward(monkeypatch: pytest.MonkeyPatch) -> None:
    with TorchEngine.opened(tiny("llama"), "candidate", ScoringConfig()) as engine:
        calls: list[tuple[str, int]] = []

        @contextmanager
        def noting(kind: str, n_tokens: int) -> Iterator[None]:
            calls.append((kind, n_tokens))
            yield

        monkeypatch.setattr(engine._room, "measured", lambda n: noting("batch", n))
        monkeypatch.setattr(engine._room, "forward", lambda n: noting("forward", n))
        engine.top_k([Tokens((1, 2, 3, 4), 2), Tokens((1, 2, 3), 2)], 5)
        assert calls == [("batch", 8), ("forward", 6)]  # the last token predicts nothing and is not read
        with pytest.raises(PotError):
            engine.top_k([Tokens((1, 10**6), 1)], 5)
