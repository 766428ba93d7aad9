"""Find out what changed between two models, and where the difference starts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pytest_pot.core.config import ScoringConfig
from pytest_pot.engines.tokens import Tokens
from pytest_pot.engines.weights import WeightsPrint
from pytest_pot.scoring.diagnosis.diagnosis import Diagnosis

__all__ = ["ModelPair", "diagnose"]

Progress = Callable[[int, int], None]
"""Called with (steps done, steps in all); a step is a tensor, or one reading of the prompt."""


@dataclass(frozen=True)
class ModelPair:
    """What is compared."""

    candidate: Any
    """A live model, or an :class:`~pytest_pot.engines.base.Engine`."""
    candidate_config: ScoringConfig
    """How the candidate is opened."""
    config: ScoringConfig
    """How the reference is opened."""
    reference: Any = None
    """The same, or None where it is recorded."""
    recorded: WeightsPrint | None = None
    """What a recording knows of the reference; None where the reference is live, or the recording holds nothing of it."""
    tokens: Tokens | None = None
    """The prompt on which the models are compared module by module; None: they are not."""


def diagnose(pair: ModelPair, progress: Progress | None = None) -> Diagnosis:
    """Compare configurations, weights and, where both are live, modules."""
    raise NotImplementedError
