"""What ``pytest --markers`` shows of a marker: the usual arguments with their defaults, and where all of them are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pytest_pot.core.config import ScoringConfig
from pytest_pot.core.names import DEFAULT_PRESET
from pytest_pot.core.text import wrapped
from pytest_pot.gates.latency.limits import WHATS
from pytest_pot.gates.latency.settings import LatencySettings
from pytest_pot.gates.verdict.limits import DEFAULT_TOLERANCE
from pytest_pot.plugin.markers import Marker

__all__ = ["USUAL", "marker_help"]

_WIDTH = 79
_MODELS: Mapping[str, Any] = {"reference": ..., "candidate": ..., "prompts": ...}
_SCORE = {"tolerance": DEFAULT_TOLERANCE, "metric": ScoringConfig().metric, "preset": DEFAULT_PRESET}

USUAL: Mapping[str, Mapping[str, Any]] = {
    "pot_identity": {**_MODELS, **_SCORE},
    "pot_distinct": {**_MODELS, **_SCORE},
    "pot_latency": {
        **_MODELS,
        "max_slowdown": ...,
        "budget_ms": ...,
        "what": WHATS[0],
        "max_seconds": LatencySettings.max_seconds,
    },
}
"""The usual arguments by marker, each with the value that it has where neither marker nor options give one; ``...``: none."""


def marker_help(name: str, marker: Marker) -> str:
    """A line of the ini key ``markers``; pytest shows it after ``@pytest.mark.``, so its first line is shorter."""
    usual = USUAL.get(name, dict.fromkeys(marker.gate.arguments, ...))
    arguments = ", ".join(f"{argument}={'...' if value is ... else repr(value)}" for argument, value in usual.items())
    text = f"{name}({arguments}): {marker.summary}"
    if name in USUAL:
        helper = f"pytest_pot.markers.{name.removeprefix('pot_')}"
        text += (
            ". What is left out comes from the options --pot-* and the fixtures pot_*. For all arguments: "
            f"python -m pydoc {helper}"
        )
    return wrapped(f"@pytest.mark.{text}", _WIDTH).removeprefix("@pytest.mark.")
