"""Two recordings against each other, with no model at all: where their tokens match, on the ids that both know."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pytest_pot.baseline.baseline import Baseline
from pytest_pot.baseline.provenance import config_differences, tokenizer_differences
from pytest_pot.baseline.staleness import prompt_differences
from pytest_pot.core.errors import PotError
from pytest_pot.core.names import METRICS
from pytest_pot.scoring.alignment import on_common_ids
from pytest_pot.scoring.metrics import position_divergences

__all__ = ["Changes", "Overlap", "changes", "compare"]


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

    Prompts are matched by the ids of their context. Where two continuations differ, the positions before the first difference
    count.

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
        divergences = position_divergences(p, q, "bucket")
        for name, values in divergences.items():
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
    """What a new recording changes of an old one."""

    differences: list[str]
    """A line for each part of configuration, tokenizer and prompts that differs."""
    overlap: Overlap | None
    """How far the old one is from the new one; None where they share no position."""

    def __str__(self) -> str:
        if self.overlap is None:
            text = "the old file has no position in common with it"
        else:
            text = f"tv of the old file against it {self.overlap.metrics['tv']:.3g}, {self.overlap.n_positions} positions"
        return "; ".join([text, *self.differences])


def changes(old: Baseline, new: Baseline) -> Changes:
    """What ``new`` changes of ``old``."""
    differences = config_differences(old.config, new.config)
    differences += tokenizer_differences(old.provenance.tokenizer, new.provenance.tokenizer)
    if old.provenance.prompts != new.provenance.prompts:
        differences += prompt_differences(old, new.prompts, None) or ["prompts: other continuations now"]
    try:
        return Changes(differences, compare(new, old))
    except PotError:
        return Changes(differences, None)
