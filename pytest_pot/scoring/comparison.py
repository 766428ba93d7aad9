"""Run two engines on the same token ids, and compute the divergences of each prompt over the same cells.

A comparison runs where the models do: what leaves the device are a few numbers per position, in one copy per batch, and the
host does not wait for them before it starts the next batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pytest_pot.core.config import ScoringConfig
from pytest_pot.core.errors import PotError
from pytest_pot.core.names import METRICS
from pytest_pot.engines.base import Decoding, Engine, OutOfMemory
from pytest_pot.engines.host_reading import HostReading
from pytest_pot.engines.pytorch.memory import memory_errors
from pytest_pot.engines.pytorch.transfer import HostCopy
from pytest_pot.engines.tensors import (
    Distributions,
    Reading,
    ReferenceReading,
    block_height,
    device_for_cells,
    reads,
    reads_aside,
    reads_steps,
)
from pytest_pot.engines.tokens import Tokens
from pytest_pot.prompts.prompt import Prompt
from pytest_pot.scoring.metrics import divergences, renormalised, with_shared_choice
from pytest_pot.scoring.noise_floor import Probes
from pytest_pot.scoring.noise_probes import ProbedRows
from pytest_pot.scoring.own_top_k import (
    asked_for,
    check_level,
    on_common_cells,
    refuse_partial,
    targets_of,
    tells_given_ids,
)
from pytest_pot.scoring.position_numbers import PositionNumbers, PromptResult, packed
from pytest_pot.scoring.positions import named_prompts, not_finite

__all__ = ["Comparison"]


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
            PotError: ``candidate`` cannot read token by token, as the path ``"decode"`` needs; or cannot tell what
                ``config.tail`` asks for.
        """
        check_level(config, candidate)
        if config.path == "decode" and not isinstance(candidate, Decoding):
            raise PotError(
                "path='decode' reads the candidate token by token, as it generates, which is not possible with what runs it "
                f"({candidate.label}). Use path='prefill', which reads each continuation in one pass. An engine of one's own "
                "can offer it: see pytest_pot.engines.base.Decoding"
            )
        self._config = config
        self._reference = reference
        self._candidate = candidate
        self._device = device_for_cells([reference, candidate])
        self._given_ids = tells_given_ids(candidate)
        self.n_ids: int | None = None
        """The most ids per position that the reference listed in any batch; None where it listed the whole vocabulary."""
        self.prompts = prompts
        self.tokens = tokens
        self.probes = Probes((), ())
        """Prompts that also run alone, to see how far a model is from itself."""

    @property
    def engines(self) -> tuple[Engine, Engine]:
        return self._reference, self._candidate

    def __call__(self, batch: Sequence[int]) -> _Started:
        """Start to compare one batch of prompt indices. Both models run it in the same shape, even if it was halved.

        Returns:
            the results on their way from the device; see :class:`_Started`.

        Raises:
            OutOfMemory: the batch does not fit; the caller may try a smaller one.
            PotError: a log-probability of a model is NaN or infinite.
        """
        return _Started(self, batch, self._numbers(batch, wide_tail=False))

    def _numbers(self, batch: Sequence[int], *, wide_tail: bool) -> _Numbers:
        with named_prompts(self.prompts, batch):
            return self._compared_batch(batch, wide_tail=wide_tail)

    def _compared_batch(self, batch: Sequence[int], *, wide_tail: bool) -> _Numbers:
        """The metrics and what is shown of both models, and the distance of probes from themselves."""
        tokens = [self.tokens[index] for index in batch]
        kept = ProbedRows(self.probes, batch, tokens)
        with memory_errors("the comparison", self._device):
            reference = self._reference_reading(tokens, wide_tail)
            parts = []
            if self._given_ids:
                for p, q in self._pairs(reference, self._candidate_reading(tokens, wide_tail)):
                    parts.append(self._compared(p, q))
                    kept.add(reference=p, candidate=q)
            else:
                p, q = self._own_pair(reference, tokens)
                own_tail = torch.full_like(p.targets, -torch.inf) if p.log_tail is None else p.log_tail
                parts.append(self._compared(*on_common_cells(p, q, targets_of(tokens), self._device), own_tail))
                kept.add(reference=p, candidate=q)
            numbers = torch.cat(parts, dim=1)
        alone = self._alone(kept, wide_tail=wide_tail)
        return _Numbers(HostCopy([numbers, *alone.values()]), list(alone))

    def _alone(self, kept: ProbedRows, *, wide_tail: bool = False) -> dict[tuple[str, int], Tensor]:
        """By role and prompt index [metrics, positions]: how far each probe alone is from what its batch showed.

        Without those that do not fit into memory: a batch that fits is not halved for a probe.
        """
        alone = {}
        for (role, index), in_batch in kept.distributions.items():
            with suppress(OutOfMemory), memory_errors("a prompt alone", self._device), named_prompts(self.prompts, [index]):
                alone[role, index] = self._distance_alone(role, index, in_batch, wide_tail)
        return alone

    def _distance_alone(self, role: str, index: int, in_batch: Distributions, wide_tail: bool) -> Tensor:
        """[metrics, positions]: between what the batch showed of a prompt and a run on this prompt alone."""
        engine = self._reference if role == "reference" else self._candidate
        tokens = [self.tokens[index]]
        if not tells_given_ids(engine):
            k = in_batch.values.shape[1] if in_batch.log_tail is not None else None
            alone = HostReading(engine, tokens, self._device, k=k).top_k(0)
            cells = on_common_cells(in_batch, alone, targets_of(tokens), self._device)
            return divergences(*with_shared_choice(*cells), "bucket")
        if reads_aside(engine):
            reading: Reading = engine.reading_aside(tokens, self._device, wide_tail=wide_tail)
        elif reads(engine):
            reading = engine.reading(tokens, self._device, wide_tail=wide_tail)
        else:
            reading = HostReading(engine, tokens, self._device)
        if in_batch.ids is not None:
            alone = reading.at(in_batch.ids, in_batch.vocab_size)
        else:
            first = reading.n_shared(in_batch.values.shape[1])
            alone = Distributions.concatenate(list(reading.blocks(first, block_height(len(reading), first, self._device))))
        alone = alone.to(self._device)
        if alone.log_tail is None and in_batch.log_tail is not None:
            alone = alone.with_empty_tail()
        if self._config.tail == "renormalise":
            in_batch, alone = renormalised(in_batch), renormalised(alone)
        return divergences(*with_shared_choice(in_batch, alone), self._config.tail)

    def _reference_reading(self, tokens: Sequence[Tokens], wide_tail: bool) -> ReferenceReading:
        if reads(self._reference):
            return self._reference.reading(tokens, self._device, wide_tail=wide_tail)
        return HostReading(self._reference, tokens, self._device, k=self._config.top_k)

    def _candidate_reading(self, tokens: Sequence[Tokens], wide_tail: bool) -> Reading:
        decodes = self._config.path == "decode"
        if decodes and reads_steps(self._candidate):
            return self._candidate.decoding(tokens, self._device, wide_tail=wide_tail)
        if not decodes and reads(self._candidate):
            return self._candidate.reading(tokens, self._device, wide_tail=wide_tail)
        at = self._candidate.decode if decodes and isinstance(self._candidate, Decoding) else None
        return HostReading(self._candidate, tokens, self._device, at=at)

    def _pairs(self, reference: ReferenceReading, candidate: Reading) -> Iterator[tuple[Distributions, Distributions]]:
        """Both models' distributions over the same cells, part by part.

        If we compare whole vocabularies of different size, the cells are the ids that both models have. The tail is the ids
        that only one model has; it is empty in the other.
        """
        size = reference.vocab_size
        if self._lists_ids(reference):
            [p] = self._reference_cells(reference)
            assert p.ids is not None
            pairs = iter([(p, candidate.at(p.ids, size).to(self._device))])
        else:
            shared, height = candidate.n_shared(size), block_height(len(reference), size, self._device)
            blocks = zip(reference.blocks(shared, height), candidate.blocks(shared, height), strict=True)
            pairs = ((p.to(self._device), q.to(self._device)) for p, q in blocks)
        for p, q in pairs:
            if p.log_tail is None and q.log_tail is not None:
                p = p.with_empty_tail()
            if q.log_tail is None and p.log_tail is not None:
                q = q.with_empty_tail()
            yield p, q

    def _own_pair(self, reference: ReferenceReading, tokens: Sequence[Tokens]) -> tuple[Distributions, Distributions]:
        """The reference's likeliest ids, and the candidate's own; the whole vocabulary if it is compared."""
        k = self._config.top_k
        q = HostReading(self._candidate, tokens, self._device, k=asked_for(k, reference.vocab_size)).top_k(0)
        if k is None:
            refuse_partial(q, "candidate", self._candidate)
        return Distributions.concatenate(list(self._reference_cells(reference))), q

    def _lists_ids(self, reference: ReferenceReading) -> bool:
        """Whether ``reference`` shows its likeliest ids, and not its whole vocabulary."""
        k = self._config.top_k
        return reference.partial or (k is not None and k < reference.vocab_size)

    def _reference_cells(self, reference: ReferenceReading) -> Iterator[Distributions]:
        """What ``reference`` shows at all positions, part by part: its likeliest ids in one part, or its whole vocabulary."""
        k, size = self._config.top_k, reference.vocab_size
        if self._lists_ids(reference):
            p = reference.top_k(size if k is None else k).to(self._device)
            self.n_ids = max(self.n_ids or 0, p.values.shape[1])
            yield p
        else:
            for block in reference.blocks(size, block_height(len(reference), size, self._device)):
                yield block.to(self._device)

    def _compared(self, reference: Distributions, candidate: Distributions, own_tail: Tensor | None = None) -> Tensor:
        """The divergences of both models, renormalised where the settings say so, and what is shown of each.

        For the result see :func:`~pytest_pot.scoring.position_numbers.packed`.
        """
        if self._config.tail == "renormalise":
            reference, candidate = renormalised(reference), renormalised(candidate)
        reference, candidate = with_shared_choice(reference, candidate)
        return packed(divergences(reference, candidate, self._config.tail), reference, candidate, own_tail)

    def probe(self, batch: Sequence[int]) -> None:
        """Let the reference read ``batch``, and its probes alone as well; nothing else is computed.

        Raises:
            OutOfMemory: the batch does not fit.
        """
        tokens = [self.tokens[index] for index in batch]
        kept = ProbedRows(self.probes, batch, tokens)
        with memory_errors("the noise floor", self._device), named_prompts(self.prompts, batch):
            reading = self._reference_reading(tokens, wide_tail=False)
            for p in self._reference_cells(reading):
                kept.add(reference=p)
        alone = self._alone(kept)
        self._note_noise(batch, list(alone), HostCopy(list(alone.values())).arrays())

    def _note_noise(
        self, batch: Sequence[int], probes: Sequence[tuple[str, int]], alone: Sequence[npt.NDArray[np.generic]]
    ) -> None:
        metric = METRICS.index(self._config.metric)
        for (role, _), noise in zip(probes, alone, strict=True):
            self.probes.add(role, float(noise[metric].mean()), noise.shape[1], len(batch))

    def results(self, batch: Sequence[int], numbers: _Numbers) -> list[PromptResult]:
        """The results of one batch from what :meth:`_numbers` computed.

        Raises:
            PotError: a log-probability of a model is NaN or infinite.
        """
        array, *alone = numbers.copy.arrays()
        positions = PositionNumbers.of(array)
        if positions.underflow:
            numbers = self._numbers(batch, wide_tail=True)
            array, *alone = numbers.copy.arrays()
            positions = PositionNumbers.of(array)
        for role, model in (("reference", positions.reference), ("candidate", positions.candidate)):
            not_finite(model["magnitude"], role, self.prompts, self.tokens, batch)
        self._note_noise(batch, numbers.probes, alone)
        return positions.results(self.tokens[index].n_positions for index in batch)


@dataclass(frozen=True)
class _Numbers:
    """What is known of one batch, on its way to the host."""

    copy: HostCopy
    """Of the batch, see :func:`~pytest_pot.scoring.position_numbers.packed`; of each probe [metrics, its positions]."""
    probes: list[tuple[str, int]]
    """Role and prompt index of each probe."""


@dataclass(frozen=True)
class _Started:
    """A batch that is being compared."""

    comparison: Comparison
    batch: Sequence[int]
    numbers: _Numbers

    def results(self) -> list[PromptResult]:
        """The results of each prompt; waits for them.

        Raises:
            PotError: a log-probability of a model is NaN or infinite.
        """
        return self.comparison.results(self.batch, self.numbers)
