"""Record a reference: run it once over a suite of prompts, and keep its distributions as a file stores them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np

from pytest_pot.baseline.recorded import Recorded, certainly_clear
from pytest_pot.core.config import ScoringConfig
from pytest_pot.engines.base import Engine
from pytest_pot.engines.tokens import Tokens
from pytest_pot.prompts.prompt import Prompt
from pytest_pot.scoring.batching import Batches, Progress
from pytest_pot.scoring.comparison import check_finite
from pytest_pot.scoring.metrics import renormalised

__all__ = ["RecordedPass", "as_compared", "record"]


@dataclass(frozen=True)
class RecordedPass:
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
        PotError: a log-probability is NaN or infinite, or one prompt alone does not fit into memory.
    """
    vocab_size = 0

    def work(batch: Sequence[int]) -> list[Recorded]:
        nonlocal vocab_size
        top = reference.top_k([tokens[index] for index in batch], config.top_k)
        check_finite(top, "reference", prompts, tokens, batch)
        vocab_size = top.vocab_size
        if config.tail == "renormalise":
            top = renormalised(top)
        # An engine may leave the flags 0 where they are not; a recording with such flags would be refused.
        top = replace(top, clear=top.clear | certainly_clear(top))
        ends = np.cumsum([0, *(tokens[index].n_positions for index in batch)])
        return [Recorded.of(top.rows(start, stop), config.temperature).copy() for start, stop in pairwise(ends.tolist())]

    batches: Batches[Recorded] = Batches(config, tokens, progress, [reference])
    batches.settle(work)  # a recording is made once and scored often: its batches should be good ones
    positions = Recorded.concatenate(list(batches.run(work).values()))
    return RecordedPass(positions, vocab_size, batches.size, batches.ran)


def as_compared(prompt: Prompt, tokens: Tokens, tokenizer: Any) -> Prompt:
    """``prompt`` with its continuation cut to the part that is compared; still without one if the reference sampled it."""
    if prompt.continuation is None:
        return prompt
    return replace(prompt, continuation=tokenizer.decode(list(tokens.targets)))
