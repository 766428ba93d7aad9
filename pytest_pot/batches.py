"""Prompts in batches of like length, halved when memory runs out: one loop for scoring and for recording."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Generic, Literal, TypeVar

from pytest_pot.config import ScoringConfig
from pytest_pot.engines.base import OutOfMemory
from pytest_pot.errors import PotError
from pytest_pot.tokens import Tokens

__all__ = ["Batches", "Progress", "does_not_fit"]

_AUTO_BATCH = 16

Progress = Callable[[int, int], None]
"""Called with (prompts done, prompts in all)."""

Result = TypeVar("Result")


class Batches(Generic[Result]):
    """Does some work on every prompt, batch by batch.

    Which prompts share a batch follows from their lengths and the batch size alone: other shapes round differently, and a
    candidate that is compared with a recording must be at distance 0 from it where it is the same model.
    """

    def __init__(
        self, config: ScoringConfig, tokens: Sequence[Tokens] | Mapping[int, Tokens], progress: Progress | None = None
    ) -> None:
        """``tokens`` by prompt index; a mapping may be filled by the work itself, where an order is given to :meth:`run`."""
        self._config = config
        self._tokens = tokens
        self._progress = progress
        self.size: int = start_size(config.batch_size)
        """Prompts per forward; halved whenever a batch does not fit into memory."""

    def run(
        self,
        work: Callable[[Sequence[int]], list[Result]],
        order: Sequence[int] | None = None,
        enough: Callable[[list[Result]], bool] | None = None,
    ) -> dict[int, Result]:
        """``work(prompt indices)``, which returns a result per prompt; the results by prompt index, in the prompts' order.

        Args:
            order: the order to take prompts in, where it is not to be by length.
            enough: called with each batch's results; true ends the run there.

        Raises:
            PotError: one prompt alone does not fit into memory.
        """
        if order is None:
            # The longest first: neighbours are padded least, and if memory is short, it is known at once.
            order = sorted(range(len(self._tokens)), key=lambda index: -len(self._tokens[index].ids))
        todo, total = list(order), len(order)
        results: dict[int, Result] = {}
        while todo:
            batch = todo[: self.size]
            try:
                found = work(batch)
            except OutOfMemory as error:
                if len(batch) == 1:
                    tokens = self._tokens[batch[0]]
                    raise does_not_fit(self._config, batch[0], len(tokens.ids), tokens.n_positions, error) from error
                self.size = len(batch) // 2
                continue
            results.update(zip(batch, found, strict=True))
            todo = todo[len(batch) :]
            if self._progress is not None:
                self._progress(len(results), total)
            if enough is not None and enough(found):
                break
        return {index: results[index] for index in sorted(results)}


def does_not_fit(config: ScoringConfig, index: int, length: int, n_positions: int, error: OutOfMemory) -> PotError:
    """The error of one prompt, ``length`` tokens with its continuation, that alone is too much."""
    return PotError(
        f"out of memory with a single prompt: prompt {index} has {length} tokens and {n_positions} positions "
        f"(max_length={config.max_length}, top_k={config.top_k}). {error}. Lower max_length or positions_per_prompt, set a "
        "top_k, or use a smaller dtype or another device"
    )


def start_size(batch_size: int | Literal["auto"]) -> int:
    """Prompts in the first batch."""
    return _AUTO_BATCH if batch_size == "auto" else batch_size
