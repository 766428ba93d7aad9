"""Run two engines on the same token ids, and compute the divergences of each prompt over the same cells."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pytest_pot.core.config import ScoringConfig
from pytest_pot.core.errors import PotError
from pytest_pot.core.text import shorten
from pytest_pot.engines.base import Decoding, Engine
from pytest_pot.engines.distributions import Floats, Ints, TopK
from pytest_pot.engines.tokens import Tokens
from pytest_pot.prompts.prompt import Prompt
from pytest_pot.scoring.metrics import position_divergences, renormalised

__all__ = ["Comparison", "PromptResult", "check_finite"]


@dataclass(frozen=True)
class PromptResult:
    """The results of one prompt: each metric [n_positions] by name, and what a report shows of both models."""

    divergences: dict[str, Floats]
    reference: TopK
    candidate: TopK
    tail_mass: Floats


class Comparison:
    """Runs two engines on the same prompts, one batch at a time."""

    def __init__(
        self,
        config: ScoringConfig,
        reference: Engine,
        candidate: Engine,
        prompts: Sequence[Prompt],
        tokens: Sequence[Tokens] | Mapping[int, Tokens],
    ) -> None:
        """``config.path`` says how ``candidate`` reads; ``reference`` reads each prompt and its continuation in one pass.

        Raises:
            PotError: ``candidate`` cannot read token by token, as the path ``"decode"`` needs.
        """
        self._config = config
        self._reference = reference
        self._candidate = candidate
        self._candidate_at = _reading(candidate, config)
        self.prompts = prompts
        self.tokens = tokens

    @property
    def engines(self) -> tuple[Engine, Engine]:
        return self._reference, self._candidate

    def __call__(self, batch: Sequence[int]) -> list[PromptResult]:
        """The results of one batch of prompt indices. Both models run the batch in the same shape, even if it was halved.

        Raises:
            OutOfMemory: the batch does not fit; the caller may try a smaller one.
            PotError: a log-probability of a model is NaN or infinite.
        """
        reference, candidate = self._distributions(batch)
        if self._config.tail == "renormalise":
            reference, candidate = renormalised(reference), renormalised(candidate)
        metrics = position_divergences(reference, candidate, self._config.tail)
        tail_mass = reference.tail_mass
        results, start = [], 0
        for index in batch:
            stop = start + self.tokens[index].n_positions
            results.append(
                PromptResult(
                    divergences={name: values[start:stop].copy() for name, values in metrics.items()},
                    reference=reference.rows(start, stop).without_cells(),
                    candidate=candidate.rows(start, stop).without_cells(),
                    tail_mass=tail_mass[start:stop].copy(),
                )
            )
            start = stop
        return results

    def _distributions(self, batch: Sequence[int]) -> tuple[TopK, TopK]:
        """Both models' distributions over the same cells.

        If we compare whole vocabularies of different size, the cells are the ids that both models have. The tail is the ids
        that only one model has; it is empty in the other.
        """
        tokens = [self.tokens[index] for index in batch]
        reference = self._reference.top_k(tokens, self._config.top_k)
        self._check_finite(reference, "reference", batch)
        if reference.log_tail is None:
            reference = reference.in_order()
        candidate = self._candidate_at(tokens, reference.vocab_size if reference.ids is None else reference.ids)
        self._check_finite(candidate, "candidate", batch)
        if reference.log_tail is None:
            reference = reference.first(candidate.vocab_size)
        if reference.log_tail is None and candidate.log_tail is not None:
            reference = reference.with_empty_tail()
        if candidate.log_tail is None and reference.log_tail is not None:
            candidate = candidate.with_empty_tail()
        return reference, candidate

    def _check_finite(self, top: TopK, role: str, batch: Sequence[int]) -> None:
        check_finite(top, role, self.prompts, self.tokens, batch)


def _reading(candidate: Engine, config: ScoringConfig) -> Callable[[Sequence[Tokens], Ints | int], TopK]:
    """The method of ``candidate`` that reads on the path of ``config``."""
    if config.path == "prefill":
        return candidate.at
    if not isinstance(candidate, Decoding):
        raise PotError(
            f"path='decode' cannot read the candidate token by token: its engine, {type(candidate).__name__}, has no method "
            "decode (see pytest_pot.engines.base.Decoding). Use path='prefill', which reads each continuation in one pass"
        )
    return candidate.decode


def check_finite(
    top: TopK,
    role: str,
    prompts: Sequence[Prompt],
    tokens: Sequence[Tokens] | Mapping[int, Tokens],
    batch: Sequence[int],
) -> None:
    """Raise :class:`PotError`, with prompt and position, if any log-probability of a batch is NaN or infinite."""
    finite = np.isfinite(top.targets) & np.isfinite(top.log_probs).all(axis=1)
    if top.log_tail is not None:
        finite &= np.isfinite(top.log_tail)
    if finite.all():
        return
    row = int(np.argmin(finite))
    index, position = [(i, j) for i in batch for j in range(tokens[i].n_positions)][row]
    problem = "NaN" if np.isnan(top.targets[row]) or np.isnan(top.log_probs[row]).any() else "infinite"
    raise PotError(
        f"the {role}'s log-probabilities are {problem} at prompt {index} "
        f"({shorten(prompts[index].text, 40)!r}), position {position}, and at {int((~finite).sum())} of the "
        f"{len(finite)} positions of its batch. Such a model has no score; look for an overflow (float16?) or for "
        "weights that are not finite"
    )
