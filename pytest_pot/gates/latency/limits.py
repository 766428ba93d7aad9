"""Limits on a candidate's time and memory."""

from __future__ import annotations

from dataclasses import dataclass

from pytest_pot.core.errors import InvalidArgument
from pytest_pot.core.validation import one_of, positive

__all__ = ["CONFIDENCE", "LIMITS", "PER", "REFERENCE_LIMITS", "STATS", "WHATS", "LatencyLimits"]

CONFIDENCE = 0.95

WHATS = ("score", "prefill", "decode")
"""What can be timed: the scoring forward pass of a batch, the bare forward pass, greedy generation token by token."""

LIMITS = ("budget_ms", "max_slowdown", "min_tokens_per_s", "max_memory_mb", "max_memory_ratio")
"""The names of all limits."""

REFERENCE_LIMITS = ("max_slowdown", "max_memory_ratio")
"""The limits on candidate / reference."""

PER = ("prompt", "batch", "token")

STATS = ("median", "p95")

_SHARES = {"median": 0.5, "p95": 0.95}


@dataclass(frozen=True)
class LatencyLimits:
    """Limits on a candidate's time and memory; None means no limit, and all others must hold.

    Raises:
        InvalidArgument: there is no limit, or a value is not allowed.
    """

    budget_ms: float | None = None
    """Milliseconds of the candidate, per ``per``; ``stat`` says which statistic of the times."""
    max_slowdown: float | None = None
    """The candidate's time / the reference's, timed side by side."""
    min_tokens_per_s: float | None = None
    """Tokens that the candidate reads per second; with ``what="decode"``, that it generates."""
    max_memory_mb: float | None = None
    """Peak memory of the candidate's run including its weights, in megabytes of 10^6 bytes."""
    max_memory_ratio: float | None = None
    """The candidate's peak memory / the reference's."""
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
        """The limits that are not None, by name."""
        return {name: getattr(self, name) for name in LIMITS if getattr(self, name) is not None}

    @property
    def need_reference(self) -> bool:
        """Whether a reference must run beside the candidate."""
        return any(name in self.given for name in REFERENCE_LIMITS)

    @property
    def need_memory(self) -> bool:
        """Whether peak memory must be measured, which resets the peak that the process or the device has recorded."""
        return self.max_memory_mb is not None or self.max_memory_ratio is not None

    @property
    def relative(self) -> bool:
        """Whether times are only compared with the reference's, never with an absolute limit."""
        return self.max_slowdown is not None and self.budget_ms is None and self.min_tokens_per_s is None

    @property
    def share(self) -> float:
        """The quantile of the candidate's times that ``budget_ms`` limits, from 0 to 1."""
        return _SHARES[self.stat]

    @property
    def looks(self) -> tuple[int, int]:
        """The numbers of timings (with a reference, of pairs) after which limits are checked: first and last look.

        59 timings are the fewest that can bound a 95th percentile from above (0.95^59 < 0.05).
        """
        return (20, 60) if self.budget_ms is not None and self.stat == "p95" else (10, 40)
