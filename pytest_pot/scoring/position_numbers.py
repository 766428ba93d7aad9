"""What a comparison tells of each position: a few numbers, packed where the models run and read on the host."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pytest_pot.core.brief import Brief
from pytest_pot.core.names import METRICS
from pytest_pot.engines.distributions import Floats, TopK
from pytest_pot.engines.tensors import Distributions

__all__ = ["PositionNumbers", "PromptResult", "packed"]

_PER_MODEL = ("log_tail", "targets", "top_ids", "top_log_probs", "clear", "magnitude", "tail_underflows")
"""What is copied to the host of each model, beside the metrics: one number per position."""
_N_METRICS, _N_PER_MODEL = len(METRICS), len(_PER_MODEL)


@dataclass(frozen=True, repr=False)
class PromptResult(Brief):
    """The results of one prompt: each metric [n_positions] by name, and what a report shows of both models."""

    divergences: dict[str, Floats]
    reference: TopK
    candidate: TopK
    tail_mass: Floats
    """[n_positions]: the reference's probability outside its likeliest ids."""
    unseen: tuple[Floats, Floats] | None = None
    """[n_positions] each: the probability, of reference and candidate, outside the ids that both know; None where the candidate
    knows all ids of the reference."""


@dataclass(frozen=True, repr=False)
class PositionNumbers(Brief):
    """The numbers of one batch on the host, each [positions]."""

    metrics: Floats
    """[metrics, positions]"""
    reference: Mapping[str, Floats]
    candidate: Mapping[str, Floats]
    own_tail: Floats | None
    """The log of the reference's own tail, if the cells have another one."""

    @staticmethod
    def of(array: npt.NDArray[np.generic]) -> PositionNumbers:
        """From what :func:`packed` made, on the host."""
        values: Floats = array.astype(np.float64, copy=False)
        models = [values[start : start + _N_PER_MODEL] for start in (_N_METRICS, _N_METRICS + _N_PER_MODEL)]
        reference, candidate = (dict(zip(_PER_MODEL, rows, strict=True)) for rows in models)
        n = _N_METRICS + 2 * _N_PER_MODEL
        return PositionNumbers(values[:_N_METRICS], reference, candidate, values[n] if len(values) > n else None)

    @property
    def underflow(self) -> bool:
        """Whether a tail was too small for the precision that it was summed in."""
        return any(bool(model["tail_underflows"].any()) for model in (self.reference, self.candidate))

    def results(self, lengths: Iterable[int]) -> list[PromptResult]:
        """The results of each prompt of the batch. ``lengths``: the number of positions of each."""
        tail_mass = np.exp(self.reference["log_tail"] if self.own_tail is None else self.own_tail)
        unseen = None if self.own_tail is None else [np.exp(model["log_tail"]) for model in (self.reference, self.candidate)]
        results, start = [], 0
        for length in lengths:
            part = slice(start, start + length)
            results.append(
                PromptResult(
                    divergences={name: row[part] for name, row in zip(METRICS, self.metrics, strict=True)},
                    reference=_without_cells(self.reference, part),
                    candidate=_without_cells(self.candidate, part),
                    tail_mass=tail_mass[part],
                    unseen=None if unseen is None else (unseen[0][part], unseen[1][part]),
                )
            )
            start = part.stop
        return results


def packed(metrics: Tensor, reference: Distributions, candidate: Distributions, own_tail: Tensor | None = None) -> Tensor:
    """[numbers, positions] float64: ``metrics``, then :data:`_PER_MODEL` of each model, then ``own_tail``.

    ``own_tail``: the log of the reference's tail, if it is not that of the cells.
    """
    rows = [metrics, _shown(reference), _shown(candidate)]
    return torch.cat(rows if own_tail is None else [*rows, own_tail.to(torch.float64)[None]])


def _shown(distributions: Distributions) -> Tensor:
    """[numbers, positions] float64: :data:`_PER_MODEL`."""
    d = distributions
    zeros = torch.zeros_like(d.targets, dtype=torch.float64)
    tail = zeros - torch.inf if d.log_tail is None else d.log_tail
    underflows = zeros if d.tail_underflows is None else d.tail_underflows
    rows = (tail, d.targets, d.top_ids, d.top_log_probs, d.clear, d.magnitude(), underflows)
    return torch.stack([row.to(torch.float64) for row in rows])


def _without_cells(model: Mapping[str, Floats], part: slice) -> TopK:
    """What a report shows of the positions ``part``."""
    targets = model["targets"][part]
    return TopK(
        ids=None,
        log_probs=_NO_CELLS[: len(targets)] if len(targets) <= len(_NO_CELLS) else np.empty((len(targets), 0)),
        log_tail=None,
        targets=targets,
        top_ids=model["top_ids"][part].astype(np.int64),
        top_log_probs=model["top_log_probs"][part],
        clear=model["clear"][part] != 0.0,
        log_normalisers=np.zeros(len(targets)),
        vocab_size=0,
    )


_NO_CELLS = np.empty((1 << 10, 0))
