"""The metrics over a large vocabulary: against plain NumPy, in any chunks, and how much memory they take."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from pytest_pot.core.names import METRICS
from pytest_pot.engines.distributions import Floats
from pytest_pot.engines.pytorch.output_layer import Logits
from pytest_pot.engines.pytorch.reduction import Softmax, whole_vocabulary
from pytest_pot.engines.tensors import Distributions
from pytest_pot.scoring import metrics
from pytest_pot.scoring.metrics import divergences

from ..dispatch import LiveBytes
from ..oracle import log_softmax_rows, metrics_of_rows

N, VOCAB = 64, 262_144
CHUNKS = [20, 601, 1000, 1 << 22]

Pair = tuple[Tensor, Tensor]


def drawn(n: int, vocab: int) -> Pair:
    """Logits [n, vocab] of two models, of another kind from row to row."""
    random = torch.Generator().manual_seed(0)
    p = 2 * torch.randn(n, vocab, generator=random)
    q = p + 0.1 * torch.randn(n, vocab, generator=random)
    unlike = 8 * torch.randn(n, vocab, generator=random)
    for row in range(n):
        match row % 8:
            case 0:  # near
                q[row] = p[row] + 0.01 * (q[row] - p[row])
            case 1:  # as far as two models can be
                q[row] = unlike[row]
            case 2:  # peaked alike: most of the mass on one id
                p[row, row] = q[row, row] = 30.0
            case 3:  # peaked on different ids: hundreds of nats apart there
                p[row, row] = q[row, row + 1] = 400.0
            case 4:  # many cells of probability 0 in both
                p[row, ::3] -= 900.0
                q[row, ::3] -= 850.0
            case 5:  # in one
                p[row, ::2] -= 900.0
            case 6:  # equal
                q[row] = p[row]
            case _:  # near, but for one id
                q[row, row] = p[row, row] + 300.0
    return p, q


def whole(logits: Tensor, first: int | None = None) -> Distributions:
    """All logits, or the ``first`` and the others as the tail."""
    targets = torch.arange(len(logits))
    size = logits.shape[1] if first is None else first
    softmax = Softmax(1.0, torch.finfo(torch.float32).eps)
    return Distributions.concatenate(list(whole_vocabulary(Logits(logits), targets, size, len(logits), softmax)))


def cells(logits: Tensor, first: int | None = None) -> Floats:
    log_probs = log_softmax_rows(logits.numpy())
    if first is None:
        return log_probs
    rest = np.log(np.exp(log_probs[:, first:]).sum(axis=1, keepdims=True))
    return np.hstack([log_probs[:, :first], rest])


def by_name(reference: Distributions, candidate: Distributions) -> dict[str, Floats]:
    return dict(zip(METRICS, divergences(reference, candidate, "bucket").numpy(), strict=True))


@pytest.fixture(scope="module")
def large() -> Pair:
    return drawn(N, VOCAB)


@pytest.fixture(scope="module")
def small() -> Pair:
    return drawn(16, 601)


@pytest.mark.parametrize("first", [None, VOCAB - 100_000])
def test_a_large_vocabulary_gives_the_figures_of_plain_numpy(large: Pair, first: int | None) -> None:
    p, q = large
    found = by_name(whole(p, first), whole(q, first))
    for start in range(0, N, 4):  # all at once would take gigabytes
        rows = slice(start, start + 4)
        expected = metrics_of_rows(cells(p[rows], first), cells(q[rows], first))
        for name in ("tv", "jsd"):
            np.testing.assert_allclose(found[name][rows], expected[name], rtol=0, atol=1e-12, err_msg=name)
        for name in ("kl", "kl_reverse"):
            # 2e-16: the rounding of plain q - p where almost all mass is on one id
            np.testing.assert_allclose(found[name][rows], expected[name], rtol=1e-10, atol=2e-16, err_msg=name)
        log_p, log_q = log_softmax_rows(p[rows].numpy()), log_softmax_rows(q[rows].numpy())
        targets = np.arange(start, start + 4)
        change = np.abs(log_p[np.arange(4), targets] - log_q[np.arange(4), targets])
        np.testing.assert_allclose(found["delta_ce"][rows], change, rtol=1e-10, atol=1e-12)
        flips = log_p.argmax(axis=1) != log_q.argmax(axis=1)
        assert found["top1_flip"][rows].tolist() == flips.tolist()
    assert found["kl"].max() > 100
    assert all((values[6::8] == 0).all() for values in found.values())


@pytest.mark.parametrize("device", ["cpu", "another"])
def test_a_large_vocabulary_takes_little_memory_above_the_logits(
    large: Pair, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if device == "another":
        monkeypatch.setattr(metrics, "_CELLS_PER_CHUNK", {})
    p, q = large
    for first in (None, VOCAB - 1):
        with LiveBytes(p, q) as memory:
            divergences(whole(p, first), whole(q, first), "bucket")
        assert memory.peak < 100e6


def test_equal_inputs_give_exactly_zero_in_any_chunks(small: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    for cells_per_chunk in CHUNKS:
        monkeypatch.setattr(metrics, "_CELLS_PER_CHUNK", {"cpu": cells_per_chunk})
        for logits in small:
            for first in (None, 400):
                p = whole(logits, first)
                for start in (0, 5):
                    part, copy = p.rows(start, len(p)), whole(logits.clone(), first).rows(start, len(p))
                    assert divergences(part, copy, "bucket").eq(0).all()
                    assert not divergences(part, copy, "bucket").signbit().any()


@pytest.mark.parametrize("first", [None, 400])
def test_chunks_change_no_figure(small: Pair, first: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    p, q = (whole(logits, first) for logits in small)
    expected = metrics_of_rows(*(cells(logits, first) for logits in small))
    before = by_name(p, q)
    for cells_per_chunk in CHUNKS:
        monkeypatch.setattr(metrics, "_CELLS_PER_CHUNK", {"cpu": cells_per_chunk})
        for name, values in by_name(p, q).items():
            np.testing.assert_allclose(values, before[name], rtol=1e-12, atol=1e-15, err_msg=f"{name}, {cells_per_chunk}")
            if name in expected:
                np.testing.assert_allclose(values, expected[name], rtol=1e-10, atol=1e-12, err_msg=name)


@pytest.mark.parametrize("cells_per_chunk", [100, 601, 2000])
def test_a_position_has_the_same_figures_wherever_it_is(
    small: Pair, cells_per_chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To the last bit: live, a position's batch is another than in a recording that is read in parts."""
    monkeypatch.setattr(metrics, "_CELLS_PER_CHUNK", {"cpu": cells_per_chunk})
    p, q = (whole(logits, 400) for logits in small)
    together = divergences(p, q, "bucket")
    for start, stop in ((0, 1), (1, 2), (1, 6), (5, 16)):
        alone = divergences(p.rows(start, stop), q.rows(start, stop), "bucket")
        assert torch.equal(alone, together[:, start:stop])


@pytest.mark.parametrize("cells_per_chunk", [50, 1 << 22])
def test_inputs_are_not_overwritten(small: Pair, cells_per_chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The sums work in place: on copies, also where the values are float64 log-probabilities already."""
    monkeypatch.setattr(metrics, "_CELLS_PER_CHUNK", {"cpu": cells_per_chunk})
    narrow = [whole(logits) for logits in small]
    zeros = torch.zeros(16, dtype=torch.float64)
    wide = [replace(each, values=each.log_probs(), scale=1.0, log_normalisers=zeros) for each in narrow]
    for p, q in (narrow, wide):
        before = p.values.clone(), q.values.clone()
        first = divergences(p, q, "bucket")
        assert torch.equal(p.values, before[0])
        assert torch.equal(q.values, before[1])
        assert torch.equal(divergences(p, q, "bucket"), first)


def test_swapping_the_models_swaps_kl_and_its_reverse_exactly(small: Pair) -> None:
    p, q = (whole(logits) for logits in small)
    there, back = by_name(p, q), by_name(q, p)
    for name, mirrored in (("tv", "tv"), ("jsd", "jsd"), ("kl", "kl_reverse"), ("kl_reverse", "kl")):
        assert there[name].tolist() == back[mirrored].tolist()
