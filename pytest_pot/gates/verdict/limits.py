"""Verdicts: limits, the named tolerances, and what a suite's scores say about them. Pure Python, no arrays."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType

from pytest_pot.core.errors import InvalidArgument
from pytest_pot.core.validation import one_of

__all__ = [
    "DEFAULT_MAX_OUTLIERS",
    "DEFAULT_TOLERANCE",
    "TOLERANCES",
    "TOLERANCE_METRIC",
    "IdentityLimits",
    "Verdict",
    "default_prompt_limit",
    "distinct_limit",
    "identity_limits",
]


class Verdict(StrEnum):
    """What the evidence says of a candidate."""

    SAME = "SAME"
    DIFFERENT = "DIFFERENT"
    UNDECIDED = "UNDECIDED"


TOLERANCE_METRIC = "tv"
TOLERANCES: Mapping[str, float] = MappingProxyType(
    {"identical": 0.0, "numeric": 1e-4, "half": 0.01, "int8": 0.08, "int4": 0.45}
)
"""Limits by name, on the metric ``tv``: same weights and kernels; same weights in another batch shape, kernel or library
version; rounded to bf16 or fp16; eight-bit weights; four-bit weights."""

DEFAULT_TOLERANCE = "half"
DEFAULT_MAX_OUTLIERS = 0.05
"""The share of prompts that may score above the clip where a verdict with a confidence is SAME."""
PROMPT_FACTOR = 10.0
PROMPT_SHARE = 0.25
_UP_TO_1 = ("tv", "jsd", "top1_flip")
"""The metrics that cannot exceed 1."""


@dataclass(frozen=True)
class IdentityLimits:
    """SAME is a mean score of at most ``max_score``, and no prompt's score above ``max_prompt_score``."""

    max_score: float
    max_prompt_score: float

    @property
    def score(self) -> float:
        """The limit on the suite's score."""
        return self.max_score

    def verdict(self, mean: float, worst_prompt: float) -> Verdict:
        """The verdict on a suite scored whole, from its mean and its worst prompt's score."""
        same = mean <= self.max_score and worst_prompt <= self.max_prompt_score
        return Verdict.SAME if same else Verdict.DIFFERENT


@dataclass(frozen=True)
class DistinctLimit:
    """DIFFERENT is a mean score above ``min_score``."""

    min_score: float

    @property
    def score(self) -> float:
        """The limit on the suite's score."""
        return self.min_score

    def verdict(self, mean: float, worst_prompt: float) -> Verdict:  # noqa: ARG002 - the same question as above
        """The verdict on a suite scored whole; one broken prompt does not make a model distinct."""
        return Verdict.DIFFERENT if mean > self.min_score else Verdict.SAME


def identity_limits(
    metric: str,
    max_score: float | None = None,
    max_prompt_score: float | None = None,
    tolerance: str | None = None,
) -> IdentityLimits:
    """The limits that the arguments of ``pot_identity`` mean; with none given, the tolerance ``half``.

    Raises:
        InvalidArgument: a limit that is not a number of at least 0, two limits at once, an unknown tolerance, or a
            tolerance with a metric that it was not measured for.
    """
    _check_limits(max_score=max_score, max_prompt_score=max_prompt_score)
    if max_score is None and max_prompt_score is not None and tolerance is None:
        # No prompt above the limit means that their mean is not above it either.
        return IdentityLimits(max_prompt_score, max_prompt_score)
    limit = _limit("max_score", max_score, tolerance, metric)
    return IdentityLimits(limit, default_prompt_limit(metric, limit) if max_prompt_score is None else max_prompt_score)


def default_prompt_limit(metric: str, limit: float) -> float:
    """How far a single prompt may be where the suite's limit is ``limit``, unless the user says.

    A mean alone hides one broken prompt, hence a limit for each: ten times the suite's. Of a metric that ends at 1 that is
    no limit any more where the suite's is 0.1, so there it is at most a quarter of the way from the suite's limit to 1. (On
    SmolLM2, no way to eight or four bits had a prompt above that; one kind of prompt that was broken had nearly all.)
    """
    if metric in _UP_TO_1 and limit < 1.0:
        return min(PROMPT_FACTOR * limit, limit + PROMPT_SHARE * (1.0 - limit))
    return PROMPT_FACTOR * limit


def distinct_limit(metric: str, min_score: float | None = None, tolerance: str | None = None) -> DistinctLimit:
    """The limit that the arguments of ``pot_distinct`` mean; with none given, the tolerance ``half``.

    Raises:
        InvalidArgument: as :func:`identity_limits`.
    """
    _check_limits(min_score=min_score)
    return DistinctLimit(_limit("min_score", min_score, tolerance, metric))


def _limit(name: str, number: float | None, tolerance: str | None, metric: str) -> float:
    if number is not None:
        if tolerance is not None:
            raise InvalidArgument(f"{name}={number!r} and tolerance={tolerance!r} are two limits; give one")
        return float(number)
    if tolerance is not None:
        one_of("tolerance", tolerance, tuple(TOLERANCES))
    if metric != TOLERANCE_METRIC:
        given = f"tolerance={tolerance!r}" if tolerance is not None else f"the default tolerance {DEFAULT_TOLERANCE!r}"
        raise InvalidArgument(
            f"{given} is a limit on {TOLERANCE_METRIC!r}; with metric={metric!r} give the limit as a number: {name}=..."
        )
    return TOLERANCES[DEFAULT_TOLERANCE if tolerance is None else tolerance]


def _check_limits(**limits: float | None) -> None:
    for name, value in limits.items():
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
            raise InvalidArgument(f"{name}={value!r} must be a finite number of at least 0")
