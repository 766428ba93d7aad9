"""Verdicts: limits, named tolerances, and how a suite's scores are judged by them. Pure Python, no arrays."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType

from pytest_pot.core.errors import InvalidArgument
from pytest_pot.core.names import METRICS
from pytest_pot.core.validation import finite_number, not_negative, one_of

__all__ = [
    "DEFAULT_MAX_OUTLIERS",
    "DEFAULT_MAX_TAIL",
    "DEFAULT_TOLERANCE",
    "TOLERANCES",
    "TOLERANCE_METRIC",
    "TOLERANCE_USES",
    "DistinctLimit",
    "IdentityLimits",
    "Verdict",
    "default_prompt_limit",
    "distinct_limit",
    "identity_limits",
    "max_tail_of",
]


class Verdict(StrEnum):
    """What the evidence says about a candidate."""

    SAME = "SAME"
    DIFFERENT = "DIFFERENT"
    UNDECIDED = "UNDECIDED"


TOLERANCE_METRIC = "tv"
TOLERANCES: Mapping[str, float] = MappingProxyType(
    {"identical": 0.0, "numeric": 1e-4, "half": 0.01, "int8": 0.08, "int4": 0.45}
)
"""Limits on the metric ``tv``, by name."""
TOLERANCE_USES: Mapping[str, str] = MappingProxyType(
    {
        "identical": "the same weights through the same code",
        "numeric": "the same weights, another batch shape, kernel or library version",
        "half": "weights rounded to bf16 or fp16",
        "int8": "8-bit weights",
        "int4": "4-bit weights",
    }
)
"""What each tolerance is meant to let pass."""

DEFAULT_TOLERANCE = "half"
DEFAULT_MAX_OUTLIERS = 0.05
"""With ``confidence``, SAME claims that fewer than this share of the prompts score above the clip."""
DEFAULT_MAX_TAIL = 0.25
"""A gate passes only where the reference's mean probability outside the compared tokens is at most this: what is merged into
one cell is not compared."""
PROMPT_FACTOR = 10.0
PROMPT_SHARE = 0.25
_BOUNDED_METRICS = ("tv", "jsd", "top1_flip")
"""The metrics that cannot exceed 1."""


@dataclass(frozen=True)
class IdentityLimits:
    """SAME if the mean score is at most ``max_score`` and no prompt scores above ``max_prompt_score``; else DIFFERENT."""

    max_score: float
    max_prompt_score: float
    metric: str = TOLERANCE_METRIC

    @property
    def score(self) -> float:
        """The limit on the suite's score."""
        return self.max_score

    def verdict(self, mean: float, worst_prompt: float) -> Verdict:
        """The verdict on a completely scored suite, from its mean score and its worst prompt's score."""
        same = mean <= self.max_score and worst_prompt <= self.max_prompt_score
        return Verdict.SAME if same else Verdict.DIFFERENT


@dataclass(frozen=True)
class DistinctLimit:
    """DIFFERENT if the mean score is above ``min_score``; else SAME."""

    min_score: float
    metric: str = TOLERANCE_METRIC

    @property
    def score(self) -> float:
        """The limit on the suite's score."""
        return self.min_score

    def verdict(self, mean: float, worst_prompt: float) -> Verdict:  # noqa: ARG002 - the same signature as above
        """The verdict on a completely scored suite. One broken prompt does not make a model distinct: the worst is ignored."""
        return Verdict.DIFFERENT if mean > self.min_score else Verdict.SAME


def identity_limits(
    metric: str = TOLERANCE_METRIC,
    max_score: float | None = None,
    max_prompt_score: float | None = None,
    tolerance: str | None = None,
    default: str = DEFAULT_TOLERANCE,
) -> IdentityLimits:
    """The limits for these arguments of ``pot_identity``; without any limit, those of the tolerance ``default``.

    Without pytest: ``report.verdict(identity_limits("tv", tolerance="int8"))``.

    Raises:
        InvalidArgument: there is no such metric, a limit is not a finite number of at least 0, ``max_score`` and a tolerance
            are both given, or the tolerance is unknown or was not measured for this metric.
    """
    one_of("metric", metric, METRICS)
    _check_limits(max_score=max_score, max_prompt_score=max_prompt_score)
    if max_score is None and max_prompt_score is not None and tolerance is None:
        # If no prompt is above the limit, their mean is not above it either.
        return IdentityLimits(max_prompt_score, max_prompt_score, metric)
    limit = _limit("max_score", max_score, tolerance, metric, default)
    of_prompt = default_prompt_limit(metric, limit) if max_prompt_score is None else max_prompt_score
    return IdentityLimits(limit, of_prompt, metric)


def default_prompt_limit(metric: str, limit: float) -> float:
    """The default limit on the score of a single prompt, where the limit on the suite's mean is ``limit``.

    A mean hides one broken prompt, so each prompt has a limit of its own: ten times the suite's. For a metric that cannot
    exceed 1, this would no longer limit anything once the suite's limit is 0.1. So there it is at most a quarter of the way
    from the suite's limit to 1. (On SmolLM2, no quantisation to eight or four bits had a prompt above that; when one kind of
    prompt was broken, nearly all prompts of that kind were above.)
    """
    if metric in _BOUNDED_METRICS and limit < 1.0:
        return min(PROMPT_FACTOR * limit, limit + PROMPT_SHARE * (1.0 - limit))
    return PROMPT_FACTOR * limit


def distinct_limit(
    metric: str = TOLERANCE_METRIC,
    min_score: float | None = None,
    tolerance: str | None = None,
    default: str = DEFAULT_TOLERANCE,
) -> DistinctLimit:
    """The limit for these arguments of ``pot_distinct``; without any, that of the tolerance ``default``.

    Raises:
        InvalidArgument: as :func:`identity_limits`.
    """
    one_of("metric", metric, METRICS)
    _check_limits(min_score=min_score)
    return DistinctLimit(_limit("min_score", min_score, tolerance, metric, default), metric)


def max_tail_of(name: str, value: object) -> float:
    """The value of ``max_tail``, from a marker or, as text, from an option; ``name``: what a message calls it.

    Raises:
        InvalidArgument: it is no number from 0 to 1.
    """
    if isinstance(value, str):
        with suppress(ValueError):
            value = float(value)
    finite_number(name, value, "a number from 0 to 1", lambda number: 0 <= number <= 1)
    assert isinstance(value, int | float)
    return float(value)


def _limit(name: str, number: float | None, tolerance: str | None, metric: str, default: str) -> float:
    if number is not None:
        if tolerance is not None:
            raise InvalidArgument(f"{name}={number!r} and tolerance={tolerance!r} are two limits; give one")
        return float(number)
    if tolerance is not None:
        one_of("tolerance", tolerance, tuple(TOLERANCES))
    if metric != TOLERANCE_METRIC:
        subject = f"tolerance={tolerance!r}" if tolerance is not None else f"the default tolerance {default!r}"
        raise InvalidArgument(
            f"{subject} is a limit on {TOLERANCE_METRIC!r}; with metric={metric!r} give the limit as a number: {name}=..."
        )
    return TOLERANCES[default if tolerance is None else tolerance]


def _check_limits(**limits: float | None) -> None:
    for name, value in limits.items():
        if value is not None:
            not_negative(name, value)
