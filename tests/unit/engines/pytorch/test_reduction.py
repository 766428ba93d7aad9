"""Cells are as exact as float64 over the whole vocabulary, wherever the probability mass is."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pytest_pot.engines.distributions import Floats, TopK
from pytest_pot.engines.pytorch.output_layer import Logits
from pytest_pot.engines.pytorch.reduction import Softmax, _likeliest, reduce_rows, whole_vocabulary
from pytest_pot.scoring.metrics import position_divergences

VOCAB = 10_000  # large enough that the tail is summed in float32
EPS = torch.finfo(torch.float32).eps


def top_k_of(
    logits: torch.Tensor, select: int | torch.Tensor | None, first: int | None = None, temperature: float = 1.0
) -> TopK:
    """What an engine returns; the tail in float64 where float32 underflows."""
    targets = torch.arange(len(logits)) * 7
    if select is None:
        assert first is not None
        [block] = whole_vocabulary(Logits(logits), targets, first, len(logits), Softmax(temperature, EPS))
        return block.to_host()
    top = reduce_rows(Logits(logits), targets, select, Softmax(temperature, EPS))
    if top.tail_underflows is not None and top.tail_underflows.any():
        top = reduce_rows(Logits(logits), targets, select, Softmax(temperature, EPS, wide_tail=True))
    return top.to_host()


def float64_cells(logits: torch.Tensor, ids: torch.Tensor, temperature: float = 1.0) -> tuple[Floats, Floats]:
    """Log-probabilities at ``ids`` and of all other ids together, in float64."""
    wide = logits.double() / temperature
    log_probs = wide.log_softmax(-1)
    others = log_probs.scatter(-1, ids, -torch.inf)
    return log_probs.gather(-1, ids).numpy(), others.logsumexp(-1).numpy()


def logits_of_kind(kind: str) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(6, VOCAB, generator=generator) * 3
    if kind == "peaked":
        logits[:, 5] += 25
    if kind == "all but certain":  # the tail is far below what float32 can hold
        logits[:, :50] += 300
    return logits


@pytest.mark.parametrize("temperature", [1.0, 0.6])
@pytest.mark.parametrize("kind", ["as models speak", "peaked", "all but certain"])
def test_cells_equal_those_of_float64(kind: str, temperature: float) -> None:
    logits = logits_of_kind(kind)
    top = top_k_of(logits, 50, temperature=temperature)
    log_probs, log_tail = float64_cells(logits, torch.from_numpy(top.ids), temperature)
    assert top.log_tail is not None
    np.testing.assert_allclose(top.log_probs, log_probs, atol=2e-7, rtol=1e-12)
    np.testing.assert_allclose(top.log_tail, log_tail, atol=2e-6)
    np.testing.assert_allclose(np.exp(top.log_probs).sum(axis=1) + top.tail_mass, 1.0, rtol=1e-12)


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_divergences_are_exact_if_the_candidates_mass_is_elsewhere(temperature: float) -> None:
    reference = logits_of_kind("as models speak")
    p = top_k_of(reference, 50, temperature=temperature)
    ids = torch.from_numpy(p.ids)
    for candidate in (reference.flip(-1), reference.scatter_add(-1, ids, torch.full(ids.shape, -12.0)), reference + 1e-4):
        q = top_k_of(candidate, ids, temperature=temperature)
        divergences = position_divergences(p, q, "bucket")
        exact_p, exact_q = (
            np.concatenate([cells, tail[:, None]], axis=1)
            for cells, tail in (float64_cells(logits, ids, temperature) for logits in (reference, candidate))
        )
        kl = (np.exp(exact_p) * (exact_p - exact_q)).sum(axis=1)
        np.testing.assert_allclose(divergences["kl"], np.maximum(kl, 0), atol=1e-6, rtol=1e-6)
        np.testing.assert_allclose(divergences["tv"], 0.5 * np.abs(np.exp(exact_p) - np.exp(exact_q)).sum(axis=1), atol=1e-6)
        assert all((divergences[name] >= 0).all() for name in ("tv", "jsd", "kl", "kl_reverse"))


def test_equal_logits_give_bit_identical_results_in_any_batch() -> None:
    logits = logits_of_kind("as models speak")
    p = top_k_of(logits, 50)
    assert p.ids is not None
    assert p.log_tail is not None
    together = top_k_of(logits, torch.from_numpy(p.ids))
    assert all(not values.any() for values in position_divergences(p, together, "bucket").values())
    for row in range(len(logits)):
        alone = top_k_of(logits[row : row + 1], torch.from_numpy(p.ids[row : row + 1]))
        np.testing.assert_array_equal(alone.log_probs[0], p.log_probs[row])
        assert alone.log_tail is not None
        assert alone.log_tail[0] == p.log_tail[row]


def test_the_whole_vocabulary_is_reduced_in_float64() -> None:
    logits = logits_of_kind("peaked")
    top = top_k_of(logits, None, first=VOCAB)
    np.testing.assert_allclose(top.log_probs, logits.double().log_softmax(-1).numpy(), rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("vocab", [40, 5_000, 10_000, 10_007])
@pytest.mark.parametrize("k", [1, 2, 37, 200])
def test_the_likeliest_ids_are_found_wherever_they_are(vocab: int, k: int) -> None:
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(8, vocab, generator=generator)
    logits[1, -5:] += 9  # beyond the last whole strip
    logits[2] = logits[2].sort().values
    logits[3] = logits[3].sort(descending=True).values
    logits[4] = torch.arange(vocab) % 5  # ties
    logits[5] = logits[5].bfloat16()
    ids = _likeliest(logits, k)
    expected = logits.topk(min(k, vocab), dim=-1).values
    assert torch.equal(logits.gather(-1, ids), expected)
    assert all(len(set(row)) == len(row) for row in ids.tolist())
