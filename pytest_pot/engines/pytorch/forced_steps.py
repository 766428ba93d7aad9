"""Choose each token that a model generates, and keep the distributions that it had."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn

from pytest_pot.engines.pytorch.output_layer import Logits, Rows
from pytest_pot.engines.tensors import Distributions
from pytest_pot.engines.tokens import Tokens

__all__ = ["Reduce", "Steps", "tokens_counted"]

_LOGITS_PER_REDUCTION = {"cpu": 1 << 20}
_LOGITS_PER_REDUCTION_ELSEWHERE = 1 << 26
"""Logits of several steps that are kept to be reduced together, by device type."""

Reduce = Callable[[Rows, Tensor, "Tensor | int"], Distributions]
"""The distributions at n positions from their logits, the continuation's tokens [n], and the ids of the cells: [n, m], or the
first m of the vocabulary."""


class Steps:
    """A logits processor that keeps the distributions of every step, and leaves only the given token possible."""

    def __init__(self, reduce: Reduce, batch: Sequence[Tokens], ids: Tensor | int, device: torch.device) -> None:
        """``ids``: of the cells of all positions, prompt after prompt, [n, m]; or the first m of the vocabulary."""
        self.count = max(tokens.n_positions for tokens in batch)
        self.done = 0
        self._reduce = reduce
        self._ids = ids
        self._lengths = [tokens.n_positions for tokens in batch]
        self._starts = [0, *accumulate(self._lengths)]
        # A prompt whose continuation is shorter goes on with its last token; those steps are not looked at.
        targets = [[*tokens.targets, *[tokens.targets[-1]] * (self.count - tokens.n_positions)] for tokens in batch]
        self._targets = torch.tensor(targets, device=device)
        self._logits: list[Tensor] = []
        self._positions: list[list[tuple[int, int]]] = []
        self._parts: list[Distributions] = []
        self._order: list[tuple[int, int]] = []
        self._tokens_read = 0
        self._read_per_step: list[int] = []

    def __call__(self, _ids: Tensor, scores: Tensor) -> Tensor:
        """Scores [batch, vocab] with 0 for the given token of each prompt, and minus infinity for all others."""
        self._read_per_step.append(self._tokens_read)
        self._tokens_read = 0
        if self.done == self.count:  # transformers may look one step ahead
            return scores
        rows = [row for row, length in enumerate(self._lengths) if self.done < length]
        self._logits.append(scores if len(rows) == len(scores) else scores[rows])
        self._positions.append([(row, self.done) for row in rows])
        chosen = self._targets[:, self.done : self.done + 1].to(scores.device)
        self.done += 1
        most = _LOGITS_PER_REDUCTION.get(scores.device.type, _LOGITS_PER_REDUCTION_ELSEWHERE)
        if sum(map(Tensor.numel, self._logits)) >= most or self.done == self.count:
            self._flush()
        return torch.full_like(scores, -torch.inf).scatter_(-1, chosen, 0.0)

    def count_tokens(self, n: int) -> None:
        """Note that a forward pass read ``n`` tokens of each sequence."""
        self._tokens_read += n

    @property
    def has_no_cache(self) -> bool:
        """Whether most steps read more than their own token."""
        later = self._read_per_step[1 : self.count]
        return sum(read != 1 for read in later) > len(later) / 2

    def results(self) -> Distributions:
        """The distributions of all positions, prompt after prompt."""
        place = {position: i for i, position in enumerate(self._order)}
        order = [place[row, step] for row, length in enumerate(self._lengths) for step in range(length)]
        return Distributions.concatenate(self._parts).take(order)

    def _flush(self) -> None:
        """Reduce the logits kept so far."""
        logits = torch.cat(self._logits)
        positions = [position for step in self._positions for position in step]
        rows, steps = (torch.tensor(part, device=self._targets.device) for part in zip(*positions, strict=True))
        ids = self._ids
        if isinstance(ids, Tensor):
            ids = ids[torch.tensor([self._starts[row] + step for row, step in positions], device=ids.device)]
        self._parts.append(self._reduce(Logits(logits), self._targets[rows, steps].to(logits.device), ids))
        self._order += positions
        self._logits, self._positions = [], []


@contextmanager
def tokens_counted(generator: nn.Module, steps: Steps) -> Iterator[None]:
    """Tell ``steps`` how many tokens each forward pass of ``generator`` reads."""

    def count(_: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
        ids = named.get("input_ids", arguments[0] if arguments else None)
        if isinstance(ids, Tensor):
            steps.count_tokens(ids.shape[1])

    handle = generator.register_forward_pre_hook(count, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()
