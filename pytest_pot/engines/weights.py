"""What an engine can tell of a model's weights and configuration, and how those of two models differ.

A model's *weights* are its parameters and buffers by name, each tensor once: a tensor with several names (tied embeddings) is
under its first name, and the others are in ``ties``. A *print* is what a recording keeps of them: some 50 bytes per tensor,
from which later weights can be told from these, and how far they are away.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:  # numpy takes long to import
    from pytest_pot.engines.distributions import Floats

from pytest_pot.core.brief import Brief

__all__ = ["ChangeKind", "TensorChange", "TensorInfo", "TensorPrint", "Weights", "WeightsPrint"]


@dataclass(frozen=True)
class TensorInfo:
    """A tensor without its values."""

    shape: tuple[int, ...]
    dtype: str
    """``"float32"``; of a packed tensor (int4, NF4), the format that it is kept in. Values are dequantised."""
    saved: bool = True
    """Whether a checkpoint holds it. False for buffers that are computed, such as rotary frequencies."""


@dataclass(frozen=True, repr=False)
class TensorPrint(Brief):
    """What a recording keeps of a tensor."""

    info: TensorInfo
    digest: bytes
    """The first 8 bytes of a SHA-256 over the values; equal for equal values, whatever their precision."""
    norm: float
    """The Frobenius norm, in float32 precision; NaN where a value is NaN or infinite."""
    zeros: int
    """How many values are 0; of more than 2^32 - 1, so many."""
    projection: Floats
    """Random projections of the values, [16]; the difference of two prints estimates the norm of the tensors' difference.
    NaN where the norm is."""
    grid: str | None = None
    """The coarsest grid on which a sample of the values lies, ``"bfloat16"`` or ``"4 bits in groups of 32"``; None if there is
    none. A print of a vector tells precisions only."""


@dataclass(frozen=True, repr=False)
class WeightsPrint(Brief):
    """What a recording keeps of a model's weights and configuration."""

    model_class: str
    config: Mapping[str, Any] | None
    """The configuration in JSON types, without paths; None where the model has none."""
    tensors: Mapping[str, TensorPrint]
    """In the model's order."""
    ties: Mapping[str, str] = field(default_factory=dict)
    """Further names of tensors, each with the name in ``tensors``."""


class ChangeKind(StrEnum):
    """What happened to a tensor."""

    MISSING = "missing"
    EXTRA = "extra"
    SHAPE = "shape"
    """It has another shape."""
    UNTIED = "untied"
    """It shared its values with another tensor in the reference (tied embeddings), and no longer does."""
    NOT_FINITE = "not finite"
    ZERO = "zero"
    ROUNDED = "rounded"
    """To a grid: another precision, or the integers of a quantiser."""
    PRUNED = "pruned"
    SCALED = "scaled"
    PERMUTED = "permuted"
    """Its rows or columns are those of the reference in another order."""
    TRANSPOSED = "transposed"
    MOVED = "moved"
    """It holds the values of another tensor of the reference."""
    LOW_RANK = "low rank"
    """The difference is a matrix of low rank, as of an adapter that was merged."""
    REORDERED = "reordered"
    """It holds the same numbers in another order; a recording does not tell which."""
    CHANGED = "changed"
    """In none of these ways; or in any, where :attr:`TensorChange.searched` is False."""


@dataclass(frozen=True)
class TensorChange:
    """How a tensor of the candidate differs from the reference's."""

    name: str
    """The reference's name; of an EXTRA tensor, the candidate's."""
    kind: ChangeKind
    what: str = ""
    """What the kind leaves open: ``"bfloat16"`` or ``"8 bits per row"`` of ROUNDED, ``"rows"`` or ``"columns"`` of PERMUTED,
    the other tensor's name of MOVED, both shapes of SHAPE, what else happened of TRANSPOSED."""
    amount: float | None = None
    """Its size: the share of new zeros of PRUNED, the factor of SCALED, the rank of LOW_RANK."""
    relative: float | None = None
    """The norm of the difference over the norm of the reference's tensor; estimated where the reference is a print."""
    candidate_name: str | None = None
    """Where the candidate calls it otherwise."""
    searched: bool = True
    """Whether the kind was looked for; False where there was no time, and the tensor is only known to be CHANGED."""
    expected: float | None = None
    """Of ROUNDED, where the reference is a print: the relative size that rounding to nearest has on average."""
    detail: str = ""
    """More of it in words: which rows of PERMUTED moved, or to which order; the one value that all of a CHANGED tensor have."""


@runtime_checkable
class Weights(Protocol):
    """A live model's weights. Values are read one tensor at a time, and no second copy of the model is made."""

    @property
    def model_class(self) -> str: ...

    @property
    def config(self) -> Mapping[str, Any] | None:
        """The configuration in JSON types, without paths, as a print has it; None where the model has none."""

    @property
    def tensors(self) -> Mapping[str, TensorInfo]:
        """In the model's order."""

    @property
    def ties(self) -> Mapping[str, str]:
        """Further names of tensors, each with the name in ``tensors``."""

    @property
    def constants(self) -> Mapping[str, float | int | bool | str | None]:
        """Plain numbers and texts that modules keep beside their tensors, by module and attribute:
        ``"model.layers.0.self_attn.scaling"``. Those that change no result while the model is not trained are left out."""

    @property
    def unreadable(self) -> str | None:
        """Why no values can be read (weights on disk, or packed in an unknown format), as a clause for people; None if they
        can."""

    def digest(self, name: str) -> bytes:
        """As :attr:`TensorPrint.digest`. It is computed once."""

    def change(self, name: str, reference: Weights | WeightsPrint, reference_name: str) -> TensorChange | None:
        """How the tensor ``name`` differs from ``reference_name`` of the reference; None where all values are equal, whatever
        the two precisions.

        Both tensors have the same shape, or transposed ones.

        The kind is one that two tensors show: ROUNDED, PRUNED, SCALED, ZERO, NOT_FINITE, PERMUTED, TRANSPOSED, LOW_RANK,
        REORDERED or CHANGED.
        """

    def brief_change(self, name: str, reference: Weights | WeightsPrint, reference_name: str) -> TensorChange | None:
        """As :meth:`change`, in about the time that reading both tensors takes. The kind is one that shows at once: ZERO,
        NOT_FINITE, TRANSPOSED; or it is CHANGED, and was not looked for."""

    def print(self) -> WeightsPrint:
        """What a recording keeps."""
