"""The settings of one gate on latency: limits, what is timed, and for how long. Made while tests are collected."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pytest_pot.core.errors import InvalidArgument
from pytest_pot.core.validation import one_of, positive
from pytest_pot.gates.base import GateSettings, RunOptions, only
from pytest_pot.gates.latency.limits import LIMITS, WHATS, LatencyLimits

__all__ = ["ARGUMENTS", "LatencySettings", "latency_settings"]

_LIMITED = (*LIMITS, "per", "stat")
_MEASURING = ("what", "new_tokens", "max_seconds")
ARGUMENTS = (*_LIMITED, *_MEASURING)
"""The marker's arguments, apart from those that all markers share."""

_AUTO_BATCH = 4
"""Prompts in the timed batch if the batch size is ``"auto"``, as with the preset ``balanced``. A fixed number keeps a budget
comparable between machines, where the batches that cost least differ."""


@dataclass(frozen=True, kw_only=True)
class LatencySettings(GateSettings):
    """All settings of one gate on latency."""

    limits: LatencyLimits
    what: str = WHATS[0]
    new_tokens: int = 8
    """With ``what="decode"``: tokens generated per prompt."""
    max_seconds: float = 120.0
    """The most seconds for measuring; a timing that has begun is completed."""
    gates: bool = True
    """Whether a violated limit fails the test; otherwise it is only shown."""
    inconclusive_fails: bool = False

    @property
    def batch_size(self) -> int:
        """Prompts in the timed batch."""
        return _AUTO_BATCH if self.config.batch_size == "auto" else self.config.batch_size


def latency_settings(settings: GateSettings, arguments: Mapping[str, Any], options: RunOptions) -> LatencySettings:
    """The settings from a marker's arguments.

    Raises:
        InvalidArgument: an argument has a value that is not allowed, or has no effect without another one.
    """
    limits = LatencyLimits(**only(arguments, _LIMITED))
    without_budget = [name for name in ("per", "stat") if name in arguments]
    if limits.budget_ms is None and without_budget:
        name = without_budget[0]
        raise InvalidArgument(f"{name}={arguments[name]!r} applies to a budget only; add budget_ms=...")
    one_of("what", arguments.get("what", WHATS[0]), WHATS)
    if "new_tokens" in arguments and arguments.get("what") != "decode":
        raise InvalidArgument(f"new_tokens={arguments['new_tokens']!r} applies to decoding only; add what='decode'")
    latency = LatencySettings(
        **vars(settings),
        limits=limits,
        **only(arguments, _MEASURING),
        gates=options.values.get("latency") != "report",
        inconclusive_fails=options.values.get("latency_inconclusive") == "fail",
    )
    _check_amounts(latency)
    return latency


def _check_amounts(settings: LatencySettings) -> None:
    tokens = settings.new_tokens
    if isinstance(tokens, bool) or not isinstance(tokens, int) or tokens < 2:
        raise InvalidArgument(
            f"new_tokens={tokens!r} must be a whole number of at least 2: the first token is timed separately"
        )
    if settings.what == "decode" and tokens >= settings.config.max_length:
        raise InvalidArgument(
            f"new_tokens={tokens} leaves no room for a prompt in the {settings.config.max_length} tokens of the preset "
            f"{settings.preset}"
        )
    positive("max_seconds", settings.max_seconds)
