"""What a search for one kind of change found."""

from __future__ import annotations

from dataclasses import dataclass

from pytest_pot.engines.weights import ChangeKind

__all__ = ["Finding"]


@dataclass(frozen=True)
class Finding:
    """A kind of change, with :attr:`~pytest_pot.engines.weights.TensorChange.what`, ``amount`` and ``detail``."""

    kind: ChangeKind
    what: str = ""
    amount: float | None = None
    detail: str = ""
