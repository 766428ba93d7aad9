"""Convert two distributions that list different ids to common cells."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from pytest_pot.engines.distributions import Flags, Floats, Ints, TopK

__all__ = ["on_common_ids"]

_NOWHERE = -700.0
"""The log-probability, in both distributions, of a cell that only one of them lists: equal cells add nothing to any metric."""


def on_common_ids(p: TopK, q: TopK) -> tuple[TopK, TopK]:
    """Both distributions over the ids that both list, and one cell for all other ids."""
    if p.ids is None and q.ids is None:
        m = min(p.log_probs.shape[1], q.log_probs.shape[1])
        common = np.ones((len(p), m), dtype=np.bool_)
        return _cells(p, None, p.log_probs[:, :m], common, p.log_probs[:, m:]), _cells(
            q, None, q.log_probs[:, :m], common, q.log_probs[:, m:]
        )
    if p.ids is None:
        q, p = on_common_ids(q, p)
        return p, q
    q_log_probs, common, q_rest = _at(q, p.ids)
    p_rest = np.where(common, _NOWHERE, p.log_probs)
    return _cells(p, p.ids, p.log_probs, common, p_rest), _cells(q, p.ids, q_log_probs, common, q_rest)


def _at(top: TopK, ids: Ints) -> tuple[Floats, Flags, Floats]:
    """``top`` at ``ids`` [n, m]: log-probabilities [n, m], whether it lists each id [n, m], those of its other ids [n, k]."""
    if top.ids is None:
        common = ids < top.log_probs.shape[1]
        column = np.where(common, ids, 0)
    else:
        # One binary search for all rows: adding r * width to the sorted ids of row r keeps the rows apart.
        order = np.argsort(top.ids, axis=1)
        width = int(max(top.ids.max(), ids.max())) + 1
        shift = width * np.arange(len(ids))[:, None]
        flat = (np.take_along_axis(top.ids, order, axis=1) + shift).ravel()
        index = np.minimum(np.searchsorted(flat, ids + shift), flat.size - 1)
        common = flat[index] == ids + shift
        column = np.where(common, order.ravel()[index], 0)
    in_ids = np.zeros(top.log_probs.shape, dtype=np.bool_)
    rows = np.broadcast_to(np.arange(len(ids))[:, None], ids.shape)
    in_ids[rows[common], column[common]] = True
    return np.take_along_axis(top.log_probs, column, axis=1), common, np.where(in_ids, _NOWHERE, top.log_probs)


def _cells(top: TopK, ids: Ints | None, log_probs: Floats, common: Flags, rest: Floats) -> TopK:
    """The cells of those of ``ids`` that are ``common``, and ``rest`` [n, any] and the tail together as the last cell."""
    mass = np.exp(rest).sum(axis=1) + top.tail_mass
    log_tail = np.log(np.maximum(mass, np.finfo(np.float64).tiny))
    return replace(top, ids=ids, log_probs=np.where(common, log_probs, _NOWHERE), log_tail=log_tail)
