"""What a candidate's time and memory may be."""

from __future__ import annotations

from dataclasses import dataclass

from pytest_pot.core.errors import InvalidArgument
from pytest_pot.core.validation import one_of, positive

__all__ = ["CONFIDENCE", "LIMITS", "PER", "REFERENCE_LIMITS", "STATS", "WHATS", "LatencyLimits"]

CONFIDENCE = 0.95

WHATS = ("score", "prefill", "decode")
"""What can be timed: the scoring forward of a batch, the bare forward, tokens generated one by one."""

LIMITS = ("budget_ms", "max_slowdown", "min_tokens_per_s", "max_memory_mb", "max_memory_ratio")
"""What can be limited."""

REFERENCE_LIMITS = ("max_slowdown", "max_memory_ratio")
"""The limits on what the candidate takes over what the reference takes."""

PER = ("prompt", "batch", "token")

STATS = ("median", "p95")

_SHARES = {"median": 0.5, "p95": 0.95}


@dataclass(frozen=True)
class LatencyLimits:
    """What a candidate's time and memory may be; None is no limit, and all that are given must hold."""

    budget_ms: float | None = None
    """Milliseconds of the candidate alone, ``per`` and ``stat`` say of what."""
    max_slowdown: float | None = None
    """The candidate's time over the reference's, side by side."""
    min_tokens_per_s: float | None = None
    """Of the candidate alone: tokens read, or tokens generated with ``what="decode"``."""
    max_memory_mb: float | None = None
    """Peak of the candidate's run with its weights, in megabytes of 10^6 bytes."""
    max_memory_ratio: float | None = None
    """The candidate's peak over the reference's."""
    per: str = "prompt"
    stat: str = "median"

    def __post_init__(self) -> None:
        for name, value in self.given.items():
            positive(name, value)
        if not self.given:
            raise InvalidArgument(f"there is no limit to hold; give at least one of {', '.join(LIMITS)}")
        one_of("per", self.per, PER)
        one_of("stat", self.stat, STATS)

    @property
    def given(self) -> dict[str, float]:
        """The limits that there are, by name."""
        return {name: getattr(self, name) for name in LIMITS if getattr(self, name) is not None}

    @property
    def need_reference(self) -> bool:
        """Whether a reference has to be run beside the candidate."""
        return any(name in self.given for name in REFERENCE_LIMITS)

    @property
    def need_memory(self) -> bool:
        """Whether peak memory has to be measured, which resets the process's, or the device's, own record of it."""
        return self.max_memory_mb is not None or self.max_memory_ratio is not None

    @property
    def relative(self) -> bool:
        """Whether times are only compared with each other, and none is held against a clock."""
        return self.max_slowdown is not None and self.budget_ms is None and self.min_tokens_per_s is None

    @property
    def share(self) -> float:
        """The quantile of the candidate's own times that the budget is for, from 0 to 1."""
        return _SHARES[self.stat]

    @property
    def looks(self) -> tuple[int, int]:
        """How many timings (of pairs, where there is a reference) the first and the last look are made at.

        Fifty-nine are the fewest that can show a 95th percentile to be below anything (0.95^59 < 0.05).
        """
        return (20, 60) if self.budget_ms is not None and self.stat == "p95" else (10, 40)
