"""Next-token distributions as tensors on the device that computed them, and what an engine reads them from.

:class:`~pytest_pot.engines.distributions.TopK` is the same on the host, in float64. Copying a whole vocabulary there and
converting it takes far longer than comparing it where it is, so engines in this process also offer a :class:`Reading`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple, Protocol, TypeGuard

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pytest_pot.engines.base import Engine
from pytest_pot.engines.distributions import EMPTY_CELL, Floats, TopK
from pytest_pot.engines.tokens import Tokens

__all__ = [
    "Distributions",
    "Reading",
    "Reads",
    "ReadsAside",
    "ReadsSteps",
    "ReferenceReading",
    "as_distributions",
    "block_height",
    "blocks_of",
    "device_for_cells",
    "reads",
    "reads_aside",
    "reads_steps",
    "wide_dtype",
]

_LOGITS_PER_BLOCK = {"cpu": 6 << 20}
_LOGITS_PER_BLOCK_ELSEWHERE = 1 << 27
"""Logits that are computed at a time, by device type. On a CPU this is 24 MiB in float32: the C library maps a larger block
anew at each allocation."""

_MIN_POSITIONS_PER_BLOCK = 64
"""Positions per block, however large the vocabulary: with fewer, reading the weights takes longer than multiplying by them."""

_PER_POSITION = ("log_normalisers", "targets", "top_ids", "top_log_probs", "clear")
_OPTIONAL = ("ids", "log_tail", "tail_underflows")


@dataclass(frozen=True, eq=False)
class Distributions:
    """The distributions at n positions, with m ids per position; fields as in
    :class:`~pytest_pot.engines.distributions.TopK`, but for the log-probabilities, which are
    ``values * scale - log_normalisers`` in float64. So a whole vocabulary stays in the model's own precision until it is
    compared, a part at a time.
    """

    ids: Tensor | None
    """[n, m] int64; None if the ids are 0 .. m-1 at every position."""
    values: Tensor
    """[n, m], any floating dtype: logits, or log-probabilities where ``log_normalisers`` is 0."""
    scale: float | Tensor
    """1 / temperature, or 1 for log-probabilities; as a tensor [n, 1] where it is not the same at every position."""
    log_normalisers: Tensor
    """[n] float64, or float32 where the device has no float64."""
    log_tail: Tensor | None
    """[n]"""
    targets: Tensor
    top_ids: Tensor
    top_log_probs: Tensor
    clear: Tensor
    vocab_size: int
    tail_underflows: Tensor | None = None
    """[n]: whether the tail is too small for the precision that it was summed in; None if that cannot be."""

    def __len__(self) -> int:
        return len(self.targets)

    @property
    def device(self) -> torch.device:
        return self.values.device

    def log_probs(self, columns: slice = slice(None)) -> Tensor:
        """[n, m] float64, or those of some columns: log-probability of each id."""
        wide = self.values[:, columns].to(self.log_normalisers.dtype, copy=True)
        # As an engine divides by the temperature, so that the bits are the same.
        wide = wide if isinstance(self.scale, float) and self.scale == 1.0 else wide.mul_(self.scale)
        return wide.sub_(self.log_normalisers[:, None])

    def rows(self, start: int, stop: int) -> Distributions:
        """The positions ``start`` to ``stop`` - 1, as views."""
        return self._each(lambda tensor: tensor[start:stop])

    def copy(self) -> Distributions:
        """A copy with tensors of its own, so that the tensors it is a view of can be freed."""
        return self._each(Tensor.clone)

    def take(self, positions: Sequence[int]) -> Distributions:
        """Copies of these positions, in this order."""
        index = torch.tensor(positions, device=self.device)
        return self._each(lambda tensor: tensor[index])

    def to(self, device: torch.device) -> Distributions:
        """The same on ``device``; in float64 what is wide there, but for the values."""
        if device == self.device:
            return self
        moved = self._each(lambda tensor: tensor.to(device))
        names = ("log_normalisers", "log_tail", "targets", "top_log_probs")
        wide = {name: tensor.to(wide_dtype(device)) for name in names if (tensor := getattr(moved, name)) is not None}
        return replace(moved, **wide)

    def with_empty_tail(self) -> Distributions:
        """Add a tail of probability 0 to a whole vocabulary, to compare it with a model that has more ids."""
        return replace(self, log_tail=torch.full_like(self.log_normalisers, EMPTY_CELL))

    def most_likely_first(self) -> Distributions:
        """The same cells sorted by decreasing probability at each position."""
        order = self.values.argsort(dim=1, descending=True, stable=True)
        ids = None if self.ids is None else self.ids.gather(1, order)
        return replace(self, ids=ids, values=self.values.gather(1, order))

    def in_order(self) -> Distributions:
        """The cells of a whole vocabulary sorted by id, so that ``ids`` is None."""
        if self.ids is None:
            return self
        return replace(self, ids=None, values=self.values.gather(1, self.ids.argsort(dim=1)))

    def first(self, m: int) -> Distributions:
        """The ids 0 .. m-1 of a whole vocabulary, sorted by id, and all others merged into the tail."""
        if m >= self.vocab_size:
            return self
        # By the operations of an engine that merges them, so that the bits are the same.
        wide = self.values.to(self.log_normalisers.dtype) * self.scale
        peak = wide.amax(1, keepdim=True)
        rest = (wide - peak).exp_()[:, m:].sum(1, keepdim=True).clamp_min(torch.finfo(wide.dtype).tiny)
        return replace(self, values=self.values[:, :m], log_tail=(rest.log() + peak - self.log_normalisers[:, None])[:, 0])

    def to_host(self) -> TopK:
        """The same as arrays; waits for the device."""
        return TopK(
            ids=None if self.ids is None else _array(self.ids),
            log_probs=_array(self.log_probs()),
            log_tail=None if self.log_tail is None else _array(self.log_tail),
            vocab_size=self.vocab_size,
            **{name: _array(getattr(self, name)) for name in _PER_POSITION},
        )

    def whole_arrays(self) -> WholeArrays:
        """A whole vocabulary as arrays, its values in float32 unless that would lose digits; waits for the device."""
        values = self.values
        if values.dtype != torch.float32 and (
            values.dtype != torch.float64 or torch.equal(values.to(torch.float32).to(torch.float64), values)
        ):
            values = values.to(torch.float32)
        two = self.values.topk(min(2, self.values.shape[1]), dim=1).values.to(self.log_normalisers.dtype)
        first, second = (two * self.scale - self.log_normalisers[:, None])[:, [0, -1]].unbind(1)
        return WholeArrays(
            values=values.cpu().numpy(),
            log_normalisers=_array(self.log_normalisers),
            clear=_array(self.clear),
            first=_array(first),
            second=_array(second),
            magnitude=_array(self.magnitude()),
        )

    def magnitude(self) -> Tensor:
        """[n]: a number that is NaN where any of the position is NaN, and infinite where any is infinite."""
        largest = torch.maximum(self.values.amax(1).abs(), self.values.amin(1).abs())  # on a CPU far faster than a norm
        total = largest.to(self.targets.dtype) + self.targets.abs() + self.log_normalisers.abs()
        return total if self.log_tail is None else total + self.log_tail.abs()

    @staticmethod
    def concatenate(parts: Sequence[Distributions]) -> Distributions:
        """Join ``parts``, all with the same number of ids, along the positions."""
        if len(parts) == 1:
            return parts[0]

        def joined(name: str) -> Tensor | None:
            tensors = [getattr(part, name) for part in parts]
            return None if tensors[0] is None else torch.cat(tensors)

        names = ["values", *_PER_POSITION, *_OPTIONAL, *(["scale"] if isinstance(parts[0].scale, Tensor) else [])]
        tensors: dict[str, Any] = {name: joined(name) for name in names}
        return replace(parts[0], **tensors)

    def _each(self, change: Callable[[Tensor], Tensor]) -> Distributions:
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        changed: dict[str, Any] = {name: change(value) for name, value in values.items() if isinstance(value, Tensor)}
        return replace(self, **changed)


class WholeArrays(NamedTuple):
    """A whole vocabulary at n positions as arrays."""

    values: npt.NDArray[Any]
    """[n, vocab] float32 or float64: logits."""
    log_normalisers: Floats
    clear: npt.NDArray[np.bool_]
    first: Floats
    """[n]: the log-probability of the likeliest id."""
    second: Floats
    """[n]: that of the second."""
    magnitude: Floats


class Reading(Protocol):
    """What a model said of one batch: the distributions at its positions, reduced to cells on demand."""

    def __len__(self) -> int:
        """How many positions there are."""

    def at(self, ids: Tensor, size: int) -> Distributions:
        """The distributions at ``ids`` [n, m], all of which are below ``size``.

        Raises:
            PotError: an id is outside the vocabulary.
        """

    def n_shared(self, size: int) -> int:
        """How many of the ids 0 .. ``size`` - 1 the vocabulary has."""

    def blocks(self, first: int, height: int) -> Iterator[Distributions]:
        """The ids 0 .. ``first`` - 1 at all positions, at most ``height`` positions at a time; all other ids as the tail."""


class ReferenceReading(Reading, Protocol):
    """The same of a reference, which says which ids are compared."""

    @property
    def vocab_size(self) -> int: ...

    @property
    def partial(self) -> bool:
        """Whether it knows no ids but those that :meth:`top_k` returns, so that it has no :meth:`blocks` of the vocabulary."""

    def top_k(self, k: int) -> Distributions:
        """The ``k`` likeliest ids, fewer than the vocabulary has, most likely first, and all else as the tail."""


class Reads(Protocol):
    """An engine whose distributions can be compared on a device, before they are copied to the host."""

    def reading(self, batch: Sequence[Tokens], device: torch.device, *, wide_tail: bool = False) -> ReferenceReading:
        """Start to read ``batch``. An asynchronous device goes on while the host prepares the next batch.

        Args:
            device: where the distributions will be compared.
            wide_tail: sum the tails in float64, because float32 underflowed.

        Raises:
            OutOfMemory: the batch does not fit; the caller may try a smaller one.
        """


class ReadsAside(Protocol):
    """The same for an engine that measures what batches cost, to plan the next ones."""

    def reading_aside(self, batch: Sequence[Tokens], device: torch.device, *, wide_tail: bool = False) -> ReferenceReading:
        """As :meth:`Reads.reading`, but what this batch costs changes no plan."""


class ReadsSteps(Protocol):
    """The same for an engine that reads token by token: :class:`~pytest_pot.engines.base.Decoding`."""

    def decoding(self, batch: Sequence[Tokens], device: torch.device, *, wide_tail: bool = False) -> Reading:
        """As :meth:`Reads.reading`, but as :meth:`~pytest_pot.engines.base.Decoding.decode` reads."""


def reads(engine: object) -> TypeGuard[Reads]:
    """Whether ``engine`` is a :class:`Reads`.

    Not where a subclass or a wrapper has a ``top_k`` or ``at`` of its own, but the other's ``reading``: its own count.
    """
    return _defines_together(type(engine), "reading", ("top_k", "at"))


def reads_aside(engine: object) -> TypeGuard[ReadsAside]:
    """Whether ``engine`` is a :class:`ReadsAside`; see :func:`reads`."""
    return _defines_together(type(engine), "reading_aside", ("top_k", "at"))


def reads_steps(engine: object) -> TypeGuard[ReadsSteps]:
    """Whether ``engine`` is a :class:`ReadsSteps`; see :func:`reads`."""
    return _defines_together(type(engine), "decoding", ("decode",))


def _defines_together(kind: type, name: str, others: Sequence[str]) -> bool:
    """Whether the first class of ``kind`` that defines any of ``others`` defines ``name`` too."""
    definer = next((each for each in kind.__mro__ if any(other in vars(each) for other in others)), None)
    return definer is not None and name in vars(definer)


def as_distributions(top: TopK, device: torch.device) -> Distributions:
    """``top`` as tensors on ``device``."""

    def tensor(array: Any) -> Tensor:
        return torch.from_numpy(np.require(array, requirements=["C", "W"])).to(device)

    return Distributions(
        ids=None if top.ids is None else tensor(top.ids.astype(np.int64, copy=False)),  # an engine may have unsigned ones
        values=tensor(top.log_probs),
        scale=1.0,
        log_normalisers=torch.zeros(len(top), dtype=torch.float64, device=device),
        log_tail=None if top.log_tail is None else tensor(top.log_tail),
        targets=tensor(top.targets),
        top_ids=tensor(top.top_ids.astype(np.int64, copy=False)),
        top_log_probs=tensor(top.top_log_probs),
        clear=tensor(top.clear),
        vocab_size=top.vocab_size,
    )


def blocks_of(distributions: Distributions, height: int) -> Iterator[Distributions]:
    """``distributions``, at most ``height`` positions at a time."""
    for start in range(0, len(distributions), height):
        yield distributions.rows(start, min(start + height, len(distributions)))


def wide_dtype(device: torch.device) -> torch.dtype:
    """float64, but float32 on MPS, which has no float64."""
    return torch.float32 if device.type == "mps" else torch.float64


def device_for_cells(engines: Sequence[Engine]) -> torch.device:
    """Where distributions of ``engines`` are compared: on the device of the last one that has one, if it has float64."""
    devices = [device for engine in engines if isinstance(device := getattr(engine, "device", None), torch.device)]
    return devices[-1] if devices and wide_dtype(devices[-1]) == torch.float64 else torch.device("cpu")


def block_height(n: int, width: int, device: torch.device) -> int:
    """Positions per block of ``n`` positions with ``width`` logits each; all blocks get about the same size."""
    most = max(_MIN_POSITIONS_PER_BLOCK, _LOGITS_PER_BLOCK.get(device.type, _LOGITS_PER_BLOCK_ELSEWHERE) // width)
    n_blocks = max(1, -(-n // most))
    return max(1, -(-n // n_blocks))


def _array(tensor: Tensor) -> Any:
    array = tensor.cpu().numpy()
    return array.astype(np.float64) if array.dtype == np.float32 else array
