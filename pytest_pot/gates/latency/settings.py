"""The marker ``pot_latency`` -> one frozen :class:`LatencySettings`, or a usage error while tests are collected."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pytest_pot.baseline.naming import is_baseline
from pytest_pot.core.config import one_of
from pytest_pot.core.errors import InvalidArgument
from pytest_pot.gates.latency.statistics import LIMITS, WHATS, LatencyLimits
from pytest_pot.plugin.inputs.model_store import is_overridden
from pytest_pot.plugin.options import GateSettings, common, option, option_path

__all__ = ["LATENCY_ARGUMENTS", "LatencySettings", "latency_settings", "not_gated"]

_LIMITED = (*LIMITS, "per", "stat")
_MEASURING = ("what", "new_tokens", "max_seconds")
LATENCY_ARGUMENTS = (*_LIMITED, *_MEASURING, "preset", "reference", "candidate", "prompts", "key")
"""What the marker takes."""


_AUTO_BATCH = 16
"""Prompts that are timed where the batch size is ``"auto"``: what is timed has to have one size."""


@dataclass(frozen=True)
class LatencySettings(GateSettings):
    """All that one gate on latency was asked to do."""

    limits: LatencyLimits
    what: str = WHATS[0]
    new_tokens: int = 8
    """With ``what="decode"``: tokens generated per prompt."""
    max_seconds: float = 120.0
    """Of measuring, at most; a timing that has begun is completed."""
    gates: bool = True
    """Whether a miss fails the test; else it is only shown."""
    inconclusive_fails: bool = False

    @property
    def asked(self) -> tuple[str, float]:
        return next(iter(self.limits.given.items()))

    @property
    def counted(self) -> str:
        return "pairs" if self.limits.need_reference else "timings"

    @property
    def batch_size(self) -> int:
        """Prompts in the batch that is timed."""
        return _AUTO_BATCH if self.config.batch_size == "auto" else self.config.batch_size


def not_gated(config: pytest.Config) -> str | None:
    """Why latency is not measured at all in this run; None where it is."""
    if option(config, "latency") == "off":
        return "latency is off (--pot-latency=off or the ini key pot_latency)"
    if hasattr(config, "workerinput"):
        return "latency is not gated under -n, where workers disturb each other; run these tests without it"
    return None


def latency_settings(item: pytest.Item, gate: str, given: Mapping[str, Any]) -> LatencySettings:
    """The settings of a gate on latency from its marker's arguments.

    Raises:
        InvalidArgument: one of them has no meaning, or a recording stands where a live reference is needed.
    """
    limits = LatencyLimits(**{name: given[name] for name in _LIMITED if name in given})
    lost = [name for name in ("per", "stat") if name in given]
    if limits.budget_ms is None and lost:
        raise InvalidArgument(f"{lost[0]}={given[lost[0]]!r} says what a budget is of; give that too, budget_ms=...")
    one_of("what", given.get("what", WHATS[0]), WHATS)
    if "new_tokens" in given and given.get("what") != "decode":
        raise InvalidArgument(f"new_tokens={given['new_tokens']!r} is how many are generated; say what='decode' too")
    settings = LatencySettings(
        **common(item, gate, given),
        limits=limits,
        **{name: given[name] for name in _MEASURING if name in given},
        gates=option(item.config, "latency") != "report",
        inconclusive_fails=item.config.getini("pot_latency_inconclusive") == "fail",
    )
    _check_amounts(settings)
    if limits.need_reference:
        _check_reference(item, settings)
    elif settings.baseline is not None:
        raise InvalidArgument(
            f"reference={given['reference']!r} is a recording, which has no clock, and no limit here needs a reference; leave "
            "it out"
        )
    return settings


def _check_amounts(settings: LatencySettings) -> None:
    tokens, seconds = settings.new_tokens, settings.max_seconds
    if isinstance(tokens, bool) or not isinstance(tokens, int) or tokens < 2:
        raise InvalidArgument(
            f"new_tokens={tokens!r} must be a whole number of at least 2: the first is timed apart from the others"
        )
    if settings.what == "decode" and tokens >= settings.config.max_length:
        raise InvalidArgument(
            f"new_tokens={tokens} leaves no room for a prompt in the {settings.config.max_length} tokens of the preset "
            f"{settings.preset}"
        )
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 < seconds < math.inf:
        raise InvalidArgument(f"max_seconds={seconds!r} must be a finite number above 0")


def _check_reference(item: pytest.Item, settings: LatencySettings) -> None:
    """A recording has said all that it will ever say, and it was on another clock."""
    recorded: str | Path | None = settings.baseline
    if settings.reference is None and recorded is None and not is_overridden(item, "pot_reference"):
        named = option_path(item.config, "reference") or option_path(item.config, "baseline")
        recorded = named if is_baseline(named) else None
    if recorded is not None:
        limit = "max_slowdown" if settings.limits.max_slowdown is not None else "max_memory_ratio"
        alone = "budget_ms" if limit == "max_slowdown" else "max_memory_mb"
        raise InvalidArgument(
            f"{limit}={settings.limits.given[limit]!r} needs a live reference to run beside the candidate, and "
            f"{Path(recorded).name} is a recording, which has no clock. Name a model, reference=..., or limit the candidate "
            f"alone, {alone}=..."
        )
