"""An engine of one's own: logits from a function, everything else in NumPy."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

import numpy as np

from pytest_pot.core.errors import PotError
from pytest_pot.engines.distributions import Floats, Ints, TopK
from pytest_pot.engines.tokens import Tokens


class NumpyEngine:
    label = "NumPy on cpu"

    def __init__(self, logits_of: Callable[[Sequence[int]], Floats], max_positions: int | None) -> None:
        """``logits_of`` runs your model: token ids in, logits [length, vocab] out."""
        self.logits_of, self.max_positions = logits_of, max_positions

    def top_k(self, batch: Sequence[Tokens], k: int | None) -> TopK:
        rows = self._log_probs(batch)
        whole = k is None or k >= rows.shape[1]
        return self._cells(batch, rows, None if whole else np.argsort(-rows, axis=1, kind="stable")[:, :k])

    def at(self, batch: Sequence[Tokens], ids: Ints | int) -> TopK:
        rows = self._log_probs(batch)
        if isinstance(ids, int):  # the first ones
            ids = np.tile(np.arange(min(ids, rows.shape[1])), (len(rows), 1))
        if ids.min() < 0 or ids.max() >= rows.shape[1]:
            raise PotError(f"id {ids.max()} is not in the vocabulary of {rows.shape[1]}")
        return self._cells(batch, rows, ids)

    def sample(self, contexts: Sequence[Sequence[int]], n_tokens: int, seed: int) -> list[list[int]]:
        return [self._continued(list(context), n_tokens, seed) for context in contexts]

    def _log_probs(self, batch: Sequence[Tokens]) -> Floats:
        """[positions, vocab]: the logits at index prompt_len - 1 + j predict token j of the continuation."""
        logits = np.concatenate([self.logits_of(tokens.ids)[tokens.prompt_len - 1 : -1] for tokens in batch]).astype(np.float64)
        logits -= logits.max(axis=1, keepdims=True)
        return np.asarray(logits - np.log(np.exp(logits).sum(axis=1, keepdims=True)))

    def _cells(self, batch: Sequence[Tokens], rows: Floats, ids: Ints | None) -> TopK:
        n, best = np.arange(len(rows)), rows.argmax(axis=1)
        cells, tail = rows, None
        if ids is not None:
            cells, rest = np.take_along_axis(rows, ids, axis=1), np.exp(rows)
            np.put_along_axis(rest, ids, 0.0, axis=1)
            tail = np.log(rest.sum(axis=1)) if ids.shape[1] < rows.shape[1] else None
        targets = rows[n, [target for tokens in batch for target in tokens.targets]]
        clear = rows[n, best] - np.partition(rows, -2, axis=1)[:, -2] > 1e-4
        return TopK(ids, cells, tail, targets, best, rows[n, best], clear, np.zeros(len(n)), rows.shape[1])

    def _continued(self, ids: list[int], n_tokens: int, seed: int) -> list[int]:
        digest = hashlib.sha256(f"{seed}:{ids}".encode()).digest()  # the same for a context whatever its neighbours
        generator, start = np.random.default_rng(list(digest)), len(ids)
        for _ in range(n_tokens):
            logits = self.logits_of(ids)[-1].astype(np.float64)
            ids.append(int(np.argmax(logits + generator.gumbel(size=len(logits)))))  # one sample of the softmax
        return ids[start:]
