"""How far an engine's answer is from the model's own distributions."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pytest_pot.engines.distributions import Flags, Floats, Ints, TopK

__all__ = ["Prediction", "at_ids", "distances", "gathered", "ids_of", "tail_of"]

_HIGHEST = 60.0
"""Where numbers are no log-probabilities, their ``exp`` may overflow."""


@dataclass(frozen=True, eq=False)
class Prediction:
    """What an answer's cells would be if something was so."""

    cells: Floats
    """[n, m]"""
    tail: Floats | None
    """[n], as logarithm; None: it says nothing of the tail, and only the cells are compared."""
    rows: Flags | None = None
    """[n]: which rows it says something about; None for all."""


def ids_of(top: TopK) -> Ints:
    """[n, m]"""
    if top.ids is None:
        return np.broadcast_to(np.arange(top.log_probs.shape[1]), top.log_probs.shape)
    return top.ids.astype(np.int64)


def gathered(rows: Floats, ids: Ints) -> Floats:
    """[n, m]: of ``rows`` [n, vocab] what stands at ``ids``."""
    values: Floats = np.take_along_axis(rows, ids, axis=1)
    return values


def tail_of(log_probs: Floats, ids: Ints) -> Floats:
    """[n]: the log of the probability of all other ids; the log of the smallest number where it is 0."""
    rest = np.exp(log_probs)
    np.put_along_axis(rest, ids, 0.0, axis=1)
    tail: Floats = np.log(np.maximum(rest.sum(axis=1), np.finfo(np.float64).tiny))
    return tail


def at_ids(log_probs: Floats, ids: Ints, rows: Flags | None = None) -> Prediction:
    """What an engine with the distributions ``log_probs`` [n, vocab] says of ``ids``."""
    return Prediction(gathered(log_probs, ids), tail_of(log_probs, ids), rows)


def distances(top: TopK, prediction: Prediction) -> Floats:
    """[rows]: the total variation between an answer and a prediction, over its cells and, where both have one, the tail."""
    known, expected = _exp(top.log_probs), _exp(prediction.cells)
    apart = np.abs(known - expected).sum(axis=1)
    if top.log_tail is not None and prediction.tail is not None:
        apart = apart + np.abs(_exp(top.log_tail) - _exp(prediction.tail))
    halves: Floats = apart / 2
    return halves if prediction.rows is None else halves[prediction.rows]


def _exp(values: Floats) -> Floats:
    exps: Floats = np.exp(np.minimum(values, _HIGHEST))
    return exps
