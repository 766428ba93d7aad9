"""The distributions of a recording as a file stores them, and their conversion from and to an engine's ``TopK``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from pytest_pot.core.brief import Brief
from pytest_pot.core.errors import PotError
from pytest_pot.engines.distributions import Flags, Floats, Ints, StoredArrays, TopK, leads
from pytest_pot.engines.tokens import Tokens

if TYPE_CHECKING:  # this imports torch
    from pytest_pot.engines.tensors import Distributions

__all__ = ["Recorded", "RecordedSuite", "position_starts"]


@dataclass(frozen=True, eq=False, repr=False)
class Recorded(Brief):
    """The distributions at n positions, as a file stores them; :meth:`top_k` converts them back."""

    ids: npt.NDArray[Any] | None
    """[n, k], unsigned: the reference's likeliest ids, most likely first; None for the whole vocabulary in id order."""
    values: npt.NDArray[Any]
    """[n, k]: the logits at ``ids``, not yet divided by the temperature; log-probabilities where ``log_normalisers`` is 0."""
    target_values: npt.NDArray[Any]
    """[n]: the same for the continuation's token."""
    log_normalisers: Floats
    """[n]: log-sum-exp of logits / temperature over the whole vocabulary, or over ``ids`` only if the tail is renormalised;
    0 where ``values`` are log-probabilities."""
    log_tail: Floats | None
    """[n]: log of the probability of all other ids together; None if there are none."""
    clear: Flags
    """[n]: see :class:`~pytest_pot.engines.distributions.TopK`."""

    def __len__(self) -> int:
        return len(self.values)

    @staticmethod
    def of(top: TopK, temperature: float) -> Recorded:
        """The most compact form from which ``top`` can be restored exactly."""

        def encode(values: Floats, targets: Floats, normalisers: Floats, dtype: type) -> Recorded:
            return Recorded(
                ids=None if top.ids is None else top.ids.astype(np.uint16 if top.vocab_size <= 1 << 16 else np.uint32),
                values=values.astype(dtype),
                target_values=targets.astype(dtype),
                log_normalisers=normalisers,
                log_tail=top.log_tail,
                clear=top.clear,
            )

        normalisers, zeros = top.log_normalisers, np.zeros(len(top))
        as_logits = (top.log_probs + normalisers[:, None]) * temperature, (top.targets + normalisers) * temperature
        for values, targets, subtracted in ((*as_logits, normalisers), (top.log_probs, top.targets, zeros)):
            compact = encode(values, targets, subtracted, np.float32)
            if np.array_equal(compact.log_probs(temperature), top.log_probs) and np.array_equal(
                compact.targets(temperature), top.targets
            ):
                return compact
        return encode(top.log_probs, top.targets, zeros, np.float64)

    @staticmethod
    def whole(block: Distributions, targets: Ints) -> tuple[Recorded, Floats]:
        """A block of a whole vocabulary in id order, in the model's own precision, at least float32; nothing is converted to
        float64 here. ``targets``: [n], the continuation's token at each position.

        Also the largest magnitude of the numbers at each position, [n]: NaN or infinite where one of them is.
        """
        arrays = block.whole_arrays()
        rows = np.arange(len(block))
        clear = arrays.clear | leads(arrays.first, arrays.second, arrays.log_normalisers)
        recorded = Recorded(
            ids=None,
            values=arrays.values,
            target_values=arrays.values[rows, targets],
            log_normalisers=arrays.log_normalisers,
            log_tail=None,
            clear=clear,
        )
        return recorded, arrays.magnitude

    def rows(self, start: int, stop: int) -> Recorded:
        """The positions ``start`` to ``stop`` - 1, as views."""
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
        """A copy with arrays of its own, so that the arrays it is a view of can be freed."""
        copies: dict[str, Any] = {name: None if array is None else array.copy() for name, array in self.arrays().items()}
        return Recorded(**copies)

    @staticmethod
    def concatenate(parts: Sequence[Recorded]) -> Recorded:
        """The positions of ``parts``, one part after the other."""
        if len(parts) == 1:
            return parts[0]
        arrays = [part.arrays() for part in parts]
        names = [name for name, array in arrays[0].items() if array is not None]
        joined: dict[str, Any] = {name: np.concatenate([each[name] for each in arrays]) for name in names}
        return Recorded(**{**arrays[0], **joined})

    def arrays(self) -> dict[str, Any]:
        """The fields by name: an array each, or None."""
        return {name: getattr(self, name) for name in Recorded.__dataclass_fields__}

    def log_probs(self, temperature: float) -> Floats:
        """[n, k] float64; applies the engine's operations, so that the bits are the same."""
        return self.values.astype(np.float64) * self._scale(temperature)[:, None] - self.log_normalisers[:, None]

    def targets(self, temperature: float) -> Floats:
        """[n] float64: log-probability of the continuation's token."""
        return self.target_values.astype(np.float64) * self._scale(temperature) - self.log_normalisers

    def _scale(self, temperature: float) -> Floats:
        return np.where(self.log_normalisers == 0.0, 1.0, 1.0 / temperature)

    def stored(self, temperature: float, vocab_size: int) -> StoredArrays:
        """The same arrays, with what makes log-probabilities of them."""
        return StoredArrays(
            ids=self.ids,
            values=self.values,
            target_values=self.target_values,
            log_normalisers=self.log_normalisers,
            log_tail=self.log_tail,
            clear=self.clear,
            scale=1.0 if temperature == 1.0 else self._scale(temperature),
            vocab_size=vocab_size,
        )

    def top_k(self, temperature: float, vocab_size: int) -> TopK:
        """What the reference's engine returned for these positions."""
        log_probs = self.log_probs(temperature)
        rows = np.arange(len(self))
        columns = np.zeros(len(self), dtype=np.int64) if self.ids is not None else log_probs.argmax(axis=1)
        return TopK(
            ids=None if self.ids is None else self.ids.astype(np.int64),
            log_probs=log_probs,
            log_tail=self.log_tail,
            targets=self.targets(temperature),
            top_ids=columns if self.ids is None else self.ids[:, 0].astype(np.int64),
            top_log_probs=log_probs[rows, columns],
            clear=self.clear,
            log_normalisers=self.log_normalisers,
            vocab_size=vocab_size,
        )


class RecordedSuite:
    """Collects the distributions of a suite, prompt by prompt, in arrays of their final size: for a whole vocabulary they take
    gigabytes, and to join parts would take twice that."""

    def __init__(self, tokens: Sequence[Tokens]) -> None:
        self._starts = position_starts(tokens)
        self._arrays: dict[str, Any] = {}
        self._missing = set(range(len(tokens)))

    def put(self, index: int, part: Recorded) -> None:
        """Copy the distributions of the prompt ``index``; prompts may come in any order.

        Raises:
            PotError: the engine returned another number of positions or ids than for a prompt before.
        """
        start, stop = self._starts[index], self._starts[index + 1]
        for name, array in part.arrays().items():
            whole = self._arrays.get(name)
            if name not in self._arrays:
                # Not np.empty: what is in its memory may warn when it is converted. Untouched zeros take no memory either.
                whole = None if array is None else np.zeros((self._starts[-1], *array.shape[1:]), array.dtype)
            shape, expected = (None if a is None else a.shape for a in (array, None if whole is None else whole[start:stop]))
            if shape != expected:
                raise PotError(f"the reference returned {name} of shape {shape} for prompt {index}, but must return {expected}")
            if array is not None and whole is not None:
                # Logits fit into float32, but the same engine may also return log-probabilities that do not.
                whole = whole.astype(np.result_type(whole, array), copy=False)
                whole[start:stop] = array
            self._arrays[name] = whole
        self._missing.discard(index)

    def recorded(self) -> Recorded:
        """The positions of all prompts, one prompt after the other."""
        assert not self._missing, f"nothing was recorded for the prompts {sorted(self._missing)}"
        return Recorded(**self._arrays)


def position_starts(tokens: Sequence[Tokens]) -> list[int]:
    """The index of each prompt's first position among all positions, then the total number of positions."""
    ends = np.cumsum([0, *(prompt.n_positions for prompt in tokens)])
    return [int(end) for end in ends]
