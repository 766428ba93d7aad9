"""pytest-pot: is a candidate language model still the *same model* as its reference?

Public names are resolved on first use: importing this package imports neither torch, transformers nor numpy, because a
pytest plugin is imported by every run of every suite in its environment, also by those that never use it.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pytest_pot.baseline import Baseline
    from pytest_pot.config import PRESETS, ScoringConfig
    from pytest_pot.errors import PotError
    from pytest_pot.latency import LatencyReport
    from pytest_pot.prompts import Prompt
    from pytest_pot.scorer import TeacherForcedScorer
    from pytest_pot.scores import ScoreReport
    from pytest_pot.verdict import Verdict

__all__ = [
    "PRESETS",
    "Baseline",
    "LatencyReport",
    "PotError",
    "Prompt",
    "ScoreReport",
    "ScoringConfig",
    "TeacherForcedScorer",
    "Verdict",
]

__version__ = "0.1.0"

_HOMES = {
    "Baseline": "baseline",
    "LatencyReport": "latency",
    "PRESETS": "config",
    "PotError": "errors",
    "Prompt": "prompts",
    "ScoreReport": "scores",
    "ScoringConfig": "config",
    "TeacherForcedScorer": "scorer",
    "Verdict": "verdict",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
