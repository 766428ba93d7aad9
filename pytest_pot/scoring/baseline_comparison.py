"""Compare two recordings without a model: at positions with the same tokens, on the ids that both list."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pytest_pot.baseline.baseline import Baseline
from pytest_pot.baseline.provenance import config_differences, tokenizer_changes
from pytest_pot.baseline.staleness import prompt_differences
from pytest_pot.core.brief import Brief
from pytest_pot.core.errors import PotError
from pytest_pot.core.names import METRICS
from pytest_pot.scoring.alignment import on_common_ids
from pytest_pot.scoring.metrics import position_divergences

__all__ = ["Changes", "Overlap", "changes", "compare"]


@dataclass(frozen=True, repr=False)
class Overlap(Brief):
    """How far a candidate's recording is from a reference's."""

    metrics: dict[str, float]
    """Every metric by name, averaged over each prompt's positions and then over prompts, as in a report. Each is a lower
    bound: the ids that only one recording lists share one cell with all other ids."""
    scores: dict[int, float]
    """``tv`` by the prompt's index in the reference."""
    n_positions: int
    unseen: tuple[float, float]
    """The probability, of reference and candidate, outside the ids that both list; averaged like a metric."""

    @property
    def n_prompts(self) -> int:
        return len(self.scores)


def compare(reference: Baseline, candidate: Baseline) -> Overlap:
    """Score the recording ``candidate`` against the recording ``reference``.

    Prompts are matched by the ids of their context. Of two continuations that differ, only the positions before the first
    difference are compared.

    Raises:
        PotError: no position has the same tokens in both, or the temperatures differ.
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
        divergences = position_divergences(p, q, "bucket")
        for name, values in divergences.items():
            metrics[name].append(float(values.mean()))
        scores[index] = metrics["tv"][-1]
        unseen.append((float(p.tail_mass.mean()), float(q.tail_mass.mean())))
        n_positions += n
    if not scores:
        raise PotError(
            f"{reference.source} and {candidate.source} have no position with the same tokens before it: they were recorded "
            "with different prompts, or with tokenizers that encode them differently"
        )
    mean_unseen = np.mean(unseen, axis=0)
    return Overlap(
        metrics={name: float(np.mean(values)) for name, values in metrics.items()},
        scores=scores,
        n_positions=n_positions,
        unseen=(float(mean_unseen[0]), float(mean_unseen[1])),
    )


def _matches(reference: Baseline, candidate: Baseline) -> list[tuple[int, int, int]]:
    """(index in ``reference``, index in ``candidate``, common positions) of each prompt with the same context in both."""
    by_context: dict[tuple[int, ...], list[int]] = {}
    for index, tokens in enumerate(candidate.tokens):
        by_context.setdefault(tokens.ids[: tokens.prompt_len], []).append(index)
    matches = []
    for index, tokens in enumerate(reference.tokens):
        others = by_context.get(tokens.ids[: tokens.prompt_len])
        if not others:
            continue
        other = others.pop(0)
        n = _common_prefix(tokens.targets, candidate.tokens[other].targets)
        if n:
            matches.append((index, other, n))
    return matches


def _common_prefix(first: Sequence[int], second: Sequence[int]) -> int:
    for n, (a, b) in enumerate(zip(first, second, strict=False)):
        if a != b:
            return n
    return min(len(first), len(second))


@dataclass(frozen=True)
class Changes:
    """The differences between an old recording and a new one."""

    differences: list[str]
    """A line for each part of configuration, tokenizer and prompts that differs."""
    overlap: Overlap | None
    """How far the old one is from the new one; None if they have no position in common."""

    def __str__(self) -> str:
        if self.overlap is None:
            text = "the old and the new file have no position in common"
        else:
            text = f"tv between the old and the new file {self.overlap.metrics['tv']:.3g}, {self.overlap.n_positions} positions"
        return "; ".join([text, *self.differences])


def changes(old: Baseline, new: Baseline) -> Changes:
    """The differences between ``old`` and ``new``."""
    differences = config_differences(old.config, new.config)
    differences += tokenizer_changes(old.provenance, new.provenance)
    if old.provenance.prompts != new.provenance.prompts:
        differences += prompt_differences(old, new.prompts) or ["prompts: the continuations are different now"]
    try:
        return Changes(differences, compare(new, old))
    except PotError:
        return Changes(differences, None)
