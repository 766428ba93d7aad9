"""Two distributions that know different ids, brought onto the cells that both know."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from pytest_pot.engines.distributions import Flags, Floats, Ints, TopK

__all__ = ["on_common_ids"]

_NOWHERE = -700.0
"""The log-probability, for both, of a cell that only one of them knows: equal cells add nothing to any metric."""


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
    q_log_probs, known, q_rest = _at(q, p.ids)
    p_rest = np.where(known, _NOWHERE, p.log_probs)
    return _cells(p, p.log_probs, known, p_rest), _cells(q, q_log_probs, known, q_rest)


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
        index = np.minimum(np.searchsorted(flat, ids + shift), flat.size - 1)
        known = flat[index] == ids + shift
        place = np.where(known, order.ravel()[index], 0)
    seen = np.zeros(top.log_probs.shape, dtype=np.bool_)
    rows = np.broadcast_to(np.arange(len(ids))[:, None], ids.shape)
    seen[rows[known], place[known]] = True
    return np.take_along_axis(top.log_probs, place, axis=1), known, np.where(seen, _NOWHERE, top.log_probs)


def _cells(top: TopK, log_probs: Floats, known: Flags, rest: Floats) -> TopK:
    """The known cells, and ``rest`` [n, any] together with the tail as the last one."""
    mass = np.exp(rest).sum(axis=1) + top.tail_mass
    log_tail = np.log(np.maximum(mass, np.finfo(np.float64).tiny))
    return replace(top, ids=None, log_probs=np.where(known, log_probs, _NOWHERE), log_tail=log_tail)
