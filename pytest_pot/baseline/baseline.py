"""The recorded reference: a :class:`~pytest_pot.engines.distributions.TopK` for every position of a suite,
and where it came from.

A recording loses nothing. A model's logits are short numbers (float32 at most, but for float64 models), and only what is
made of them is long: so the logits at the compared ids are kept, with the float64 log-sum-exp of each position, and what is
computed from them again is the same to the last bit. A model is at distance 0 from its own recording.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pytest_pot.baseline.provenance import Provenance
from pytest_pot.core.config import ScoringConfig
from pytest_pot.engines.distributions import Flags, Floats, TopK
from pytest_pot.prompts.prompt import Prompt
from pytest_pot.prompts.tokenization import Tokens

__all__ = ["Baseline", "Recorded"]


@dataclass(frozen=True, eq=False)
class Recorded:
    """The distributions at n positions, in the form they have in a file; ``top_k()`` gives them back."""

    ids: npt.NDArray[Any] | None
    """[n, k] unsigned: the reference's likeliest ids, most likely first; None: all of the vocabulary, in order."""
    values: npt.NDArray[Any]
    """[n, k]: the logits at ``ids``, before the temperature; log-probabilities where ``log_normalisers`` is 0."""
    target_values: npt.NDArray[Any]
    """[n]: the same of the continuation's own token."""
    log_normalisers: Floats
    """[n]: log-sum-exp of all logits over the temperature, or of those at ``ids`` alone where the tail is renormalised; 0
    where ``values`` are log-probabilities."""
    log_tail: Floats | None
    """[n]: log of the mass of all other ids; None where there are none."""
    clear: Flags
    """[n]: see :class:`~pytest_pot.engines.distributions.TopK`."""

    def __len__(self) -> int:
        return len(self.values)

    @staticmethod
    def of(top: TopK, temperature: float) -> Recorded:
        """``top`` in the shortest form that gives it back exactly."""

        def form(values: Floats, targets: Floats, normalisers: Floats, dtype: type) -> Recorded:
            return Recorded(
                ids=None if top.ids is None else top.ids.astype(np.uint16 if top.vocab_size <= 1 << 16 else np.uint32),
                values=values.astype(dtype),
                target_values=targets.astype(dtype),
                log_normalisers=normalisers,
                log_tail=top.log_tail,
                clear=top.clear,
            )

        normalisers, none = top.log_normalisers, np.zeros(len(top))
        as_logits = (top.log_probs + normalisers[:, None]) * temperature, (top.targets + normalisers) * temperature
        for values, targets, subtracted in ((*as_logits, normalisers), (top.log_probs, top.targets, none)):
            short = form(values, targets, subtracted, np.float32)
            if np.array_equal(short.log_probs(temperature), top.log_probs) and np.array_equal(
                short.targets(temperature), top.targets
            ):
                return short
        return form(top.log_probs, top.targets, none, np.float64)

    def rows(self, start: int, stop: int) -> Recorded:
        """The positions ``start`` to ``stop``; views, no copies."""
        part = slice(start, stop)
        return Recorded(
            ids=None if self.ids is None else self.ids[part],
            values=self.values[part],
            target_values=self.target_values[part],
            log_normalisers=self.log_normalisers[part],
            log_tail=None if self.log_tail is None else self.log_tail[part],
            clear=self.clear[part],
        )

    def copy(self) -> Recorded:
        """The same in arrays of its own, so that what it was cut from can go."""
        return Recorded.concatenate([self], always=True)

    @staticmethod
    def concatenate(parts: Sequence[Recorded], *, always: bool = False) -> Recorded:
        """The positions of all ``parts`` one after the other."""
        if len(parts) == 1 and not always:
            return parts[0]

        def joined(name: str) -> Any:
            arrays = [getattr(part, name) for part in parts]
            return None if arrays[0] is None else np.concatenate(arrays)

        return Recorded(**{name: joined(name) for name in Recorded.__dataclass_fields__})

    def log_probs(self, temperature: float) -> Floats:
        """[n, k] float64, by the same operations that an engine made them with."""
        return self.values.astype(np.float64) * self._scale(temperature)[:, None] - self.log_normalisers[:, None]

    def targets(self, temperature: float) -> Floats:
        """[n] float64: log-probability of the continuation's own token."""
        return self.target_values.astype(np.float64) * self._scale(temperature) - self.log_normalisers

    def _scale(self, temperature: float) -> Floats:
        return np.where(self.log_normalisers == 0.0, 1.0, 1.0 / temperature)

    def top_k(self, temperature: float, vocab_size: int) -> TopK:
        """What the reference's engine returned for these positions."""
        log_probs = self.log_probs(temperature)
        rows = np.arange(len(self))
        first = np.zeros(len(self), dtype=np.int64) if self.ids is not None else log_probs.argmax(axis=1)
        return TopK(
            ids=None if self.ids is None else self.ids.astype(np.int64),
            log_probs=log_probs,
            log_tail=self.log_tail,
            targets=self.targets(temperature),
            top_ids=first if self.ids is None else self.ids[:, 0].astype(np.int64),
            top_log_probs=log_probs[rows, first],
            clear=self.clear,
            log_normalisers=self.log_normalisers,
            vocab_size=vocab_size,
        )


@dataclass(frozen=True, eq=False)
class Baseline:
    """A reference that was run once: its distributions on a suite of prompts, to score candidates against without it."""

    config: ScoringConfig
    prompts: Sequence[Prompt]
    """The texts; of a continuation, the part that is compared, and None where the reference drew it."""
    tokens: Sequence[Tokens]
    """The ids that the reference read, prompt by prompt; a candidate reads the same."""
    recorded: Recorded = field(repr=False)
    """All positions, prompt by prompt."""
    vocab_size: int
    batch_size: int
    """Prompts per forward at the end of the recording; less than asked for where memory ran out."""
    provenance: Provenance
    source: str = "the baseline"
    """The file that it came from, for messages."""

    @property
    def n_prompts(self) -> int:
        return len(self.prompts)

    @property
    def n_positions(self) -> int:
        return len(self.recorded)

    @property
    def starts(self) -> list[int]:
        """Where each prompt's positions begin, and where the last one's end."""
        ends = np.cumsum([0, *(tokens.n_positions for tokens in self.tokens)])
        return [int(end) for end in ends]

    def top_k(self, start: int = 0, stop: int | None = None) -> TopK:
        """The distributions at the positions ``start`` to ``stop``, by default all."""
        part = self.recorded.rows(start, self.n_positions if stop is None else stop)
        return part.top_k(self.config.temperature, self.vocab_size)

    def over_all(self, start: int = 0, stop: int | None = None) -> TopK:
        """:meth:`top_k` normalised over the whole vocabulary, also where the tail was renormalised."""
        top = self.top_k(start, stop)
        if self.config.tail == "bucket" or top.log_tail is None:
            return top
        share = np.log1p(-np.minimum(top.tail_mass, 1.0 - np.finfo(np.float64).eps))
        return replace(
            top,
            log_probs=top.log_probs + share[:, None],
            targets=top.targets + share,
            top_log_probs=top.top_log_probs + share,
            log_normalisers=top.log_normalisers - share,
        )

    def save(self, path: str | Path) -> Path:
        """Write the file ``path``, whose name must end in ``.pot.safetensors``.

        The file is there whole or not at all: it is written beside its place and then moved there. The same recording
        always makes the same bytes.

        Raises:
            InvalidArgument: the name has another ending.
            PotError: the file cannot be written.
        """
        from pytest_pot.baseline.file_format import write

        return write(self, Path(path))

    @staticmethod
    def load(path: str | Path) -> Baseline:
        """The recording in the file ``path``, checked: it may come from anywhere.

        Raises:
            PotError: there is no such file, or it is damaged, or holds what no recording holds; the message says where.
        """
        from pytest_pot.baseline.file_format import read

        return read(Path(path))
