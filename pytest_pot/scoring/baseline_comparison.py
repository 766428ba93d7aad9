"""Two recordings against each other, with no model at all: where their tokens match, on the ids that both know."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from pytest_pot.baseline.baseline import Baseline
from pytest_pot.core.config import METRICS
from pytest_pot.core.errors import PotError
from pytest_pot.engines.distributions import Flags, Floats, Ints, TopK
from pytest_pot.scoring.metrics import position_divergences

__all__ = ["Overlap", "compare"]

_NOWHERE = -700.0
"""The log-probability, for both, of a cell that only one of them knows: equal cells add nothing to any metric."""


@dataclass(frozen=True)
class Overlap:
    """How far one recording is from another, in the reference's and the candidate's order."""

    metrics: dict[str, float]
    """Every metric by name, averaged over each prompt's positions and then over prompts, as a report does it. Lower bounds:
    the ids that only one recording knows are in one cell with all others."""
    scores: dict[int, float]
    """``tv`` by the index of the first recording's prompt."""
    n_positions: int
    unseen: tuple[float, float]
    """The probability, of either, that is not seen id by id; averaged like a metric."""

    @property
    def n_prompts(self) -> int:
        return len(self.scores)


def compare(reference: Baseline, candidate: Baseline) -> Overlap:
    """Score the recording ``candidate`` against the recording ``reference``.

    Prompts are matched by the ids of their context. Of continuations that part ways, the positions before that count.

    Raises:
        PotError: not one position has the same tokens in both, or the two were recorded at different temperatures.
    """
    if reference.config.temperature != candidate.config.temperature:
        raise PotError(
            f"{reference.source} was recorded at temperature {reference.config.temperature} and {candidate.source} at "
            f"{candidate.config.temperature}: such distributions cannot be compared"
        )
    metrics: dict[str, list[float]] = {name: [] for name in METRICS}
    unseen: list[tuple[float, float]] = []
    scores: dict[int, float] = {}
    n_positions = 0
    for index, other, n in _matches(reference, candidate):
        start, other_start = reference.starts[index], candidate.starts[other]
        p, q = reference.over_all(start, start + n), candidate.over_all(other_start, other_start + n)
        p, q = on_common_ids(p, q)
        found = position_divergences(p, q, "bucket")
        for name, values in found.items():
            metrics[name].append(float(values.mean()))
        scores[index] = metrics["tv"][-1]
        unseen.append((float(p.tail_mass.mean()), float(q.tail_mass.mean())))
        n_positions += n
    if not scores:
        raise PotError(
            f"{reference.source} and {candidate.source} have no position with the same tokens before it: they were recorded "
            "with other prompts, or with tokenizers that cut them differently"
        )
    sides = np.mean(unseen, axis=0)
    return Overlap(
        metrics={name: float(np.mean(values)) for name, values in metrics.items()},
        scores=scores,
        n_positions=n_positions,
        unseen=(float(sides[0]), float(sides[1])),
    )


def _matches(reference: Baseline, candidate: Baseline) -> list[tuple[int, int, int]]:
    """(index here, index there, positions in common) of the prompts with the same context."""
    by_context: dict[tuple[int, ...], list[int]] = {}
    for index, tokens in enumerate(candidate.tokens):
        by_context.setdefault(tokens.ids[: tokens.prompt_len], []).append(index)
    found = []
    for index, tokens in enumerate(reference.tokens):
        others = by_context.get(tokens.ids[: tokens.prompt_len])
        if not others:
            continue
        other = others.pop(0)
        n = _common_prefix(tokens.targets, candidate.tokens[other].targets)
        if n:
            found.append((index, other, n))
    return found


def _common_prefix(first: Sequence[int], second: Sequence[int]) -> int:
    for n, (a, b) in enumerate(zip(first, second, strict=False)):
        if a != b:
            return n
    return min(len(first), len(second))


def on_common_ids(p: TopK, q: TopK) -> tuple[TopK, TopK]:
    """Both distributions over the ids that both know, and one cell for all others."""
    if p.ids is None and q.ids is None:
        m = min(p.log_probs.shape[1], q.log_probs.shape[1])
        known = np.ones((len(p), m), dtype=np.bool_)
        return _cells(p, p.log_probs[:, :m], known, p.log_probs[:, m:]), _cells(
            q, q.log_probs[:, :m], known, q.log_probs[:, m:]
        )
    if p.ids is None:
        q, p = on_common_ids(q, p)
        return p, q
    theirs, known, rest = _at(q, p.ids)
    ours = np.where(known, _NOWHERE, p.log_probs)
    return _cells(p, p.log_probs, known, ours), _cells(q, theirs, known, rest)


def _at(top: TopK, ids: Ints) -> tuple[Floats, Flags, Floats]:
    """``top`` at other ids: log-probabilities [n, m], which of them it knows, and those of its other ids."""
    if top.ids is None:
        known = ids < top.log_probs.shape[1]
        place = np.where(known, ids, 0)
    else:
        # One search for all rows: row r's ids, sorted, are moved into an interval of their own.
        order = np.argsort(top.ids, axis=1)
        width = int(max(top.ids.max(), ids.max())) + 1
        shift = width * np.arange(len(ids))[:, None]
        flat = (np.take_along_axis(top.ids, order, axis=1) + shift).ravel()
        found = np.minimum(np.searchsorted(flat, ids + shift), flat.size - 1)
        known = flat[found] == ids + shift
        place = np.where(known, order.ravel()[found], 0)
    seen = np.zeros(top.log_probs.shape, dtype=np.bool_)
    rows = np.broadcast_to(np.arange(len(ids))[:, None], ids.shape)
    seen[rows[known], place[known]] = True
    return np.take_along_axis(top.log_probs, place, axis=1), known, np.where(seen, _NOWHERE, top.log_probs)


def _cells(top: TopK, log_probs: Floats, known: Flags, rest: Floats) -> TopK:
    """The known cells, and ``rest`` [n, any] together with the tail as the last one."""
    mass = np.exp(rest).sum(axis=1) + top.tail_mass
    log_tail = np.log(np.maximum(mass, np.finfo(np.float64).tiny))
    return replace(top, ids=None, log_probs=np.where(known, log_probs, _NOWHERE), log_tail=log_tail)
