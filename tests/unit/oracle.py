"""The simplest float64 implementation of the metrics, from a model's full logits: slow, but easy to check."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import torch

from pytest_pot.engines.distributions import Floats
from pytest_pot.engines.tokens import Tokens


def log_softmax(logits: list[float]) -> list[float]:
    peak = max(logits)
    log_sum = peak + math.log(sum(math.exp(x - peak) for x in logits))
    return [x - log_sum for x in logits]


def full_log_probs(model: torch.nn.Module, tokens: Tokens, temperature: float = 1.0) -> list[list[float]]:
    """The whole vocabulary's log-probabilities at each position, for one prompt without padding."""
    with torch.no_grad():
        output = model(torch.tensor([tokens.ids]))
    logits = output.logits if hasattr(output, "logits") else output
    places = range(tokens.prompt_len - 1, len(tokens.ids) - 1)
    return [log_softmax([x / temperature for x in logits[0, place].double().tolist()]) for place in places]


def cells(log_p: list[float], log_q: list[float], k: int | None) -> tuple[list[float], list[float]]:
    """Both distributions over the reference's k likeliest ids, with all other ids as one cell."""
    p, q = [math.exp(x) for x in log_p], [math.exp(x) for x in log_q]
    if k is None or k >= len(p):
        return p, q
    ids = sorted(range(len(p)), key=lambda i: -p[i])
    head, tail = ids[:k], ids[k:]
    return [p[i] for i in head] + [sum(p[i] for i in tail)], [q[i] for i in head] + [sum(q[i] for i in tail)]


def renormalised_cells(log_p: list[float], log_q: list[float], k: int) -> tuple[list[float], list[float]]:
    ids = sorted(range(len(log_p)), key=lambda i: -log_p[i])[:k]
    p, q = [math.exp(log_p[i]) for i in ids], [math.exp(log_q[i]) for i in ids]
    return [x / sum(p) for x in p], [x / sum(q) for x in q]


def tv(p: list[float], q: list[float]) -> float:
    return sum(abs(a - b) for a, b in zip(p, q, strict=True)) / 2


def kl(p: list[float], q: list[float]) -> float:
    return math.fsum(a * math.log(a / b) for a, b in zip(p, q, strict=True) if a > 0)


def jsd(p: list[float], q: list[float]) -> float:
    m = [(a + b) / 2 for a, b in zip(p, q, strict=True)]
    return (kl(p, m) + kl(q, m)) / 2 / math.log(2)


def metrics(p: list[float], q: list[float]) -> dict[str, float]:
    return {"tv": tv(p, q), "jsd": jsd(p, q), "kl": kl(p, q), "kl_reverse": kl(q, p)}


def top1_flip(log_p: list[float], log_q: list[float]) -> float:
    return float(log_p.index(max(log_p)) != log_q.index(max(log_q)))


def delta_ce(log_p: list[float], log_q: list[float], target: int) -> float:
    return abs(log_p[target] - log_q[target])


def log_softmax_rows(logits: npt.ArrayLike, temperature: float = 1.0) -> Floats:
    """[n, vocab] float64: log-probabilities from logits [n, vocab]."""
    rows: Floats = np.asarray(logits, dtype=np.float64) / temperature
    rows = rows - rows.max(axis=1, keepdims=True)
    normalised: Floats = rows - np.log(np.exp(rows).sum(axis=1, keepdims=True))
    return normalised


def cells_of_rows(log_probs: Floats, ids: npt.NDArray[np.int64]) -> Floats:
    """[n, m + 1]: the log-probabilities at ``ids`` [n, m], and that of all other ids together."""
    rest = np.exp(log_probs)
    np.put_along_axis(rest, ids, 0.0, axis=1)
    cells: Floats = np.hstack([np.take_along_axis(log_probs, ids, axis=1), np.log(rest.sum(axis=1, keepdims=True))])
    return cells


def metrics_of_rows(log_p: Floats, log_q: Floats) -> dict[str, Floats]:
    """:func:`metrics` at n positions, each [n], from log-probabilities [n, cells] in float64."""
    p, q = np.exp(log_p), np.exp(log_q)
    log_middle = np.logaddexp(log_p, log_q) - np.log(2)
    return {
        "tv": np.abs(p - q).sum(axis=1) / 2,
        "jsd": ((p * (log_p - log_middle)).sum(axis=1) + (q * (log_q - log_middle)).sum(axis=1)) / 2 / np.log(2),
        # q - p sums to 0; with it, the rounding error of a normaliser does not matter.
        "kl": (p * (log_p - log_q) + (q - p)).sum(axis=1),
        "kl_reverse": (q * (log_q - log_p) + (p - q)).sum(axis=1),
    }
