"""What all engines for servers have in common: prompts side by side, rows checked, memory flat."""

from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import pytest
import torch

from pytest_pot.core.config import ScoringConfig
from pytest_pot.core.errors import PotError
from pytest_pot.engines.base import Level, PositionError, Room, level_of
from pytest_pot.engines.server.answers import Row
from pytest_pot.engines.tokens import Tokens
from pytest_pot.scoring.batch_plan import cheapest, cost_of, joint_room

from ....unit.models import tiny
from .local_server import LocalServer, Sent, VllmApp, running
from .small_engine import SmallEngine, model_at

MODEL = tiny("llama")


@pytest.fixture(autouse=True)
def no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("POT_API_KEY", raising=False)


def batch_of(n: int, seed: int = 0) -> list[Tokens]:
    generator = torch.Generator().manual_seed(seed)

    def ids(length: int) -> tuple[int, ...]:
        return tuple(torch.randint(97, (length,), generator=generator).tolist())

    return [Tokens(ids(10 + 7 * index % 23), 4 + index % 5) for index in range(n)]


def engine_at(server: LocalServer, **fields: Any) -> SmallEngine:
    config = ScoringConfig(**fields)
    return SmallEngine(model_at(server.url, config), "candidate", config)


def test_prompts_are_asked_side_by_side_the_longest_first_and_come_back_in_order() -> None:
    batch = batch_of(20)
    app = VllmApp(MODEL)
    with running(app) as server:
        engine = engine_at(server, server_concurrency=4)
        server.together = 4
        top = engine.top_k(batch, 30)
        assert server.most_at_once == 4
    with running(app) as server:
        engine_at(server, server_concurrency=1).top_k(batch[:6], 30)  # threads may overtake each other
        lengths = [len(sent.body["prompt"]) for sent in server.requests if sent.method == "POST"]
        assert lengths == sorted(lengths, reverse=True)
        assert len(lengths) == 6
    assert top.ids is not None
    start = 0
    for tokens in batch:
        truth = app.log_probs(tokens.ids)[tokens.prompt_len - 1 : -1].double().numpy()
        part = top.rows(start, start := start + tokens.n_positions)
        assert part.ids is not None
        np.testing.assert_array_equal(part.ids, np.argsort(-truth, axis=1, kind="stable")[:, :30])
        np.testing.assert_allclose(part.targets, truth[np.arange(len(part)), list(tokens.targets)], atol=1e-7)
        np.testing.assert_allclose(np.exp(part.log_probs).sum(axis=1) + part.tail_mass, 1.0, atol=1e-6)
    assert start == len(top)


def test_all_ids_are_the_whole_vocabulary() -> None:
    with running(VllmApp(MODEL)) as server:
        for k in (None, 97, 1000):
            top = engine_at(server).top_k(batch_of(2), k)
            assert top.ids is None
            assert top.log_tail is None
            assert top.log_probs.shape[1] == 97


def test_a_server_that_tells_fewer_ids_than_are_asked_for_gives_those() -> None:
    class Few(SmallEngine):
        most_ids = 5

    with running(VllmApp(MODEL, most=5)) as server:
        config = ScoringConfig()
        top = Few(model_at(server.url), "candidate", config).top_k(batch_of(3), 30)
        assert top.log_probs.shape[1] == 5
        assert top.log_tail is not None


def test_it_says_what_it_is() -> None:
    with running(VllmApp(MODEL)) as server:
        engine = engine_at(server)
        assert engine.label == f"Small at {server.url}"
        assert level_of(engine) is Level.OWN_TOP_K
        assert engine.description.device == server.url
        with pytest.raises(PotError, match=r"temperature=2\.0 cannot be compared: the candidate is a server"):
            engine_at(server, temperature=2.0)


def test_an_error_names_the_prompt_of_the_batch_and_the_position() -> None:
    batch = batch_of(9)

    def lie(sent: Sent, body: Any) -> Any:
        if sent.method == "POST" and sent.body["prompt"] == list(batch[6].ids):
            entry = body["choices"][0]["prompt_logprobs"][batch[6].prompt_len + 2]
            entry[next(iter(entry))]["logprob"] = None
        return body

    with running(VllmApp(MODEL, lie)) as server, pytest.raises(PositionError) as error:
        engine_at(server).top_k(batch, 20)
    assert (error.value.prompt, error.value.position) == (6, 2)
    assert str(error.value).startswith(f"the candidate, Small at {server.url}, told no log-probability of ")


def test_too_few_positions_are_refused() -> None:
    class Short(SmallEngine):
        def read(self, tokens: Tokens, k: int) -> list[Row]:
            return super().read(tokens, k)[1:]

    with running(VllmApp(MODEL)) as server, pytest.raises(PotError, match=r"told 9 positions of a prompt with 10 to compare"):
        Short(model_at(server.url), "candidate", ScoringConfig()).top_k([Tokens(tuple(range(14)), 4)], 20)


def test_memory_does_not_grow_with_the_json() -> None:
    """What is kept of an answer are two arrays; the JSON of a few prompts is in memory at a time."""
    batch = batch_of(24)

    def peak(n: int) -> int:
        tracemalloc.start()
        top = engine.top_k(batch[:n], 50)
        n_bytes = tracemalloc.get_traced_memory()[1] - top.log_probs.nbytes * 3
        tracemalloc.stop()
        return n_bytes

    with running(VllmApp(MODEL)) as server:
        engine = engine_at(server, server_concurrency=2)
        peak(4)
        assert peak(24) < 2 * peak(6)


# -- batches -------------------------------------------------------------------------------------------------------------


def test_a_batch_keeps_the_server_busy() -> None:
    with running(VllmApp(MODEL)) as server:
        room = engine_at(server).room
        lengths = sorted((20 + index % 100 for index in range(257)), reverse=True)
        sizes = cheapest(lengths, room)
        assert sum(sizes) == 257
        assert min(sizes[:-1]) >= 4 * 8
        assert max(sizes) <= 257 // 2  # progress shows
        assert engine_at(server, server_concurrency=16).room.most == 2 * room.most
        assert engine_at(server, top_k=None).room.most < room.most / 8


def test_batches_without_padding_are_the_fewest() -> None:
    with running(VllmApp(MODEL)) as server:
        room = engine_at(server).room
    lengths = [room.most // 2, room.most // 2, 5, room.most * 2, 1, 1]
    sizes = cheapest(lengths, room)
    assert sizes == [2, 1, 1, 2]
    assert cheapest([1] * 10, room, most=4) == [4, 4, 2]
    assert cost_of(sizes, lengths, room) == 4 * room.fixed + sum(lengths)
    assert not joint_room([room]).padded
    assert joint_room([room, Room(most=1024)]).padded
