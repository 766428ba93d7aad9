"""When a run over prompts may stop: the protocol of a stopping rule.

A rule sees the scores and says when no more are needed. Scoring knows nothing of limits, verdicts or statistics beyond this.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

__all__ = ["StoppingRule"]


class StoppingRule(Protocol):
    """Takes prompt scores in the order in which the prompts are drawn, and says when to stop."""

    @property
    def decided(self) -> bool:
        """Whether no more scores are needed."""

    @property
    def expected_further(self) -> int | None:
        """How many scores more would probably be enough; None where that cannot be said."""

    def update(self, scores: Iterable[float]) -> object:
        """Take the scores of the next prompts."""
