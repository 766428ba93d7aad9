"""What one gate on a score was asked: limits, and a confidence if any. Made while tests are collected."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from pytest_pot.core.errors import InvalidArgument
from pytest_pot.gates.base import GateSettings, only
from pytest_pot.gates.verdict.limits import (
    DEFAULT_MAX_OUTLIERS,
    DEFAULT_MAX_TAIL,
    DEFAULT_TOLERANCE,
    DistinctLimit,
    IdentityLimits,
    default_prompt_limit,
    max_tail_of,
)

if TYPE_CHECKING:
    from pytest_pot.gates.verdict.sequential import SequentialTest

__all__ = ["Limits", "ScoreSettings", "score_settings"]

Limits: TypeAlias = IdentityLimits | DistinctLimit


@dataclass(frozen=True, kw_only=True)
class ScoreSettings(GateSettings):
    """All that one gate on a score was asked to do."""

    limits: Limits
    confidence: float | None = None
    """Decide as soon as it is safe to, at this confidence; None scores the suite whole."""
    max_tail: float = DEFAULT_MAX_TAIL
    """The largest mean probability of the reference outside the compared tokens at which the gate may pass."""
    max_outliers: float = DEFAULT_MAX_OUTLIERS
    """With ``confidence``: the share of prompts above the limit for one prompt that SAME claims not to be reached."""
    diagnosis: str = "short"
    """How much a failing gate says of what changed: one of :data:`~pytest_pot.core.names.DIAGNOSIS_MODES`."""

    @property
    def score_clip(self) -> float:
        """With ``confidence``: the limit for one prompt, at which scores are clipped; 0 where the limit is 0."""
        if self.limits.score == 0:
            return 0.0
        if isinstance(self.limits, IdentityLimits):
            return self.limits.max_prompt_score
        return default_prompt_limit(self.config.metric, self.limits.score)

    def sequential_test(self, pool: int | None) -> SequentialTest:
        """The test that decides this gate; ``pool`` is the number of prompts, None where they are drawn from more."""
        from pytest_pot.gates.verdict.sequential import SequentialTest

        assert self.confidence is not None
        return SequentialTest(
            self.limits.score,
            confidence=self.confidence,
            score_clip=self.score_clip or None,
            max_outliers=self.max_outliers,
            pool=pool,
        )


def score_settings(
    settings: GateSettings,
    arguments: Mapping[str, Any],
    options: Mapping[str, str],
    limit_names: Sequence[str],
    make_limits: Callable[..., Limits],
) -> ScoreSettings:
    """The settings from a marker's arguments and from ``options``.

    ``make_limits(metric, **limits)`` is given the limits named in ``limit_names``.

    Raises:
        InvalidArgument: an argument has no meaning, or the limit is 0 although the candidate decodes.
    """
    if "max_outliers" in arguments and "confidence" not in arguments:
        raise InvalidArgument("max_outliers is a part of what is claimed with a confidence; give that too, confidence=0.95")
    asked = only(arguments, (*limit_names, "tolerance"))
    limits = make_limits(settings.config.metric, **asked, default=options.get("tolerance", DEFAULT_TOLERANCE))
    tail = arguments.get("max_tail", options.get("max_tail", DEFAULT_MAX_TAIL))
    made = ScoreSettings(
        **vars(settings),
        limits=limits,
        max_tail=max_tail_of("max_tail", tail),
        **only(arguments, ("confidence", "max_outliers")),
        **only(options, ("diagnosis",)),
    )
    if settings.config.path == "decode" and limits.score == 0:
        raise InvalidArgument(
            "path='decode' cannot be held to a limit of 0: read token by token, the same weights round otherwise than in the "
            "one forward pass of the reference. tolerance='numeric' is meant for the same weights"
        )
    if made.confidence is not None:
        if isinstance(limits, IdentityLimits) and 0 < limits.max_score >= limits.max_prompt_score:
            alone = "" if {"max_score", "tolerance"} & asked.keys() else "; give max_score or tolerance beside it"
            raise InvalidArgument(
                f"with a confidence, max_prompt_score={limits.max_prompt_score!r} must be above the limit on the mean, "
                f"{limits.max_score!r}: it clips the scores{alone}"
            )
        made.sequential_test(None)  # an argument that has no meaning is an error now, not when the gate runs
    return made
