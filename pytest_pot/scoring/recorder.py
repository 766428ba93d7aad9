"""Record a reference: run it once over a suite of prompts, and keep its distributions as a file stores them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain, pairwise
from typing import Any

import numpy as np

from pytest_pot.baseline.recorded import Recorded, RecordedSuite, position_starts
from pytest_pot.core.brief import Brief
from pytest_pot.core.config import ScoringConfig
from pytest_pot.engines.base import Engine
from pytest_pot.engines.distributions import Floats, certainly_clear
from pytest_pot.engines.host_reading import refuse_foreign_ids
from pytest_pot.engines.pytorch.memory import memory_errors
from pytest_pot.engines.tensors import ReferenceReading, block_height, device_for_cells, reads
from pytest_pot.engines.tokens import Tokens
from pytest_pot.prompts.prompt import Prompt
from pytest_pot.scoring.batching import Batches, Progress
from pytest_pot.scoring.metrics import renormalised_top
from pytest_pot.scoring.own_top_k import refuse_partial
from pytest_pot.scoring.positions import check_finite, named_prompts, not_finite

__all__ = ["RecordedPass", "as_compared", "record"]


@dataclass(frozen=True, repr=False)
class RecordedPass(Brief):
    """The result of running the reference once over a suite."""

    positions: Recorded
    vocab_size: int
    batch_size: int
    """Prompts per forward pass at the end; less than configured if memory ran out."""
    batches: Sequence[Sequence[int]]
    """The prompts of each forward pass, in the order in which they ran."""


def record(
    config: ScoringConfig,
    reference: Engine,
    prompts: Sequence[Prompt],
    tokens: Sequence[Tokens],
    progress: Progress | None,
) -> RecordedPass:
    """Run ``reference`` on all ``prompts``, and return its distributions as a file stores them.

    Raises:
        PotError: a log-probability is NaN or infinite, an id is outside the vocabulary, or one prompt alone does not fit into
            memory.
    """
    vocab_size = 0
    device = device_for_cells([reference])

    def work(batch: Sequence[int]) -> _Done:
        nonlocal vocab_size
        batch_tokens = [tokens[index] for index in batch]
        parts = list(pairwise(position_starts(batch_tokens)))
        with memory_errors("the recording", device), named_prompts(prompts, batch):
            if config.top_k is None and reads(reference):
                reading = reference.reading(batch_tokens, device)
                vocab_size = int(reading.vocab_size)  # an engine may give a NumPy scalar, which JSON does not know
                height = block_height(len(reading), vocab_size, device)
                whole, magnitude = _whole_vocabulary(reading, batch_tokens, height)
                not_finite(magnitude, "reference", prompts, tokens, batch)
                for index, part in zip(batch, parts, strict=True):
                    suite.put(index, whole.rows(*part))
                return _Done(len(batch))
            top = reference.top_k(batch_tokens, config.top_k)
            vocab_size = int(top.vocab_size)
            refuse_foreign_ids(top, batch_tokens, reference)
            if config.top_k is None:
                refuse_partial(top, "reference", reference)
                top = top.in_order()
            check_finite(top, "reference", prompts, tokens, batch)
            if config.tail == "renormalise":
                top = renormalised_top(top)
            # An engine may leave the flags 0 where they are not; a recording with such flags would be refused.
            top = replace(top, clear=top.clear | certainly_clear(top))
            # At once, because an engine may reuse its arrays for the next batch.
            for index, part in zip(batch, parts, strict=True):
                suite.put(index, Recorded.of(top.rows(*part), config.temperature))
            return _Done(len(batch))

    suite = RecordedSuite(tokens)
    batches: Batches[None] = Batches(config, tokens, progress, [reference])
    batches.settle(work)  # a recording is made once and scored often: its batches should be good ones
    batches.run(work)
    return RecordedPass(suite.recorded(), vocab_size, batches.size, batches.ran)


@dataclass(frozen=True)
class _Done:
    """A batch whose distributions are in the suite; see :class:`~pytest_pot.scoring.batching.Started`."""

    n_prompts: int

    def results(self) -> list[None]:
        return [None] * self.n_prompts


def _whole_vocabulary(reading: ReferenceReading, batch: Sequence[Tokens], height: int) -> tuple[Recorded, Floats]:
    """All ids at the positions of ``batch``, and the magnitude of each position; a block at a time."""
    size, parts, magnitudes, start = reading.vocab_size, [], [], 0
    targets = np.fromiter(chain.from_iterable(tokens.targets for tokens in batch), dtype=np.int64)
    for block in reading.blocks(size, height):
        stop = start + len(block)
        part, magnitude = Recorded.whole(block, targets[start:stop])
        parts.append(part)
        magnitudes.append(magnitude)
        start = stop
    return Recorded.concatenate(parts), np.concatenate(magnitudes)


def as_compared(prompt: Prompt, tokens: Tokens, tokenizer: Any) -> Prompt:
    """``prompt`` with its continuation cut to the part that is compared; still without one if the reference sampled it."""
    if prompt.continuation is None:
        return prompt
    return replace(prompt, continuation=tokenizer.decode(list(tokens.targets)))
