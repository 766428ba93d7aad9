"""A diagnosis in words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pytest_pot.scoring.diagnosis.diagnosis import Diagnosis

__all__ = ["what_changed", "where_it_starts"]


def what_changed(diagnosis: Diagnosis) -> Sequence[str]:
    """See :attr:`Diagnosis.what_changed`; of a diagnosis that has none yet."""
    raise NotImplementedError


def where_it_starts(diagnosis: Diagnosis) -> Sequence[str]:
    """See :attr:`Diagnosis.where_it_starts`."""
    raise NotImplementedError
