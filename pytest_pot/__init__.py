"""pytest-pot: is a candidate language model still the *same model* as its reference?

All public names come from here. They are resolved at their first use: importing this package imports neither torch,
transformers nor numpy, because a pytest plugin is imported by every run of every suite in its environment, also by those that
never use it."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from pytest_pot.core.version import __version__

if TYPE_CHECKING:
    from pytest_pot.baseline.baseline import Baseline
    from pytest_pot.core.config import PRESETS, ScoringConfig
    from pytest_pot.core.errors import PotError
    from pytest_pot.gates.latency.latency_report import LatencyReport
    from pytest_pot.gates.verdict.limits import Verdict, distinct_limit, identity_limits
    from pytest_pot.plugin.gates import PotResult
    from pytest_pot.prompts.added_tokens import ADDED_TOKENS, added_token_prompts
    from pytest_pot.prompts.builtin import builtin_prompts
    from pytest_pot.prompts.challenges import challenge_prompts
    from pytest_pot.prompts.jsonl import load_prompts
    from pytest_pot.prompts.prompt import Prompt
    from pytest_pot.scoring.score_report import ScoreReport
    from pytest_pot.scoring.scorer import TeacherForcedScorer

__all__ = [
    "ADDED_TOKENS",
    "PRESETS",
    "Baseline",
    "LatencyReport",
    "PotError",
    "PotResult",
    "Prompt",
    "ScoreReport",
    "ScoringConfig",
    "TeacherForcedScorer",
    "Verdict",
    "__version__",
    "added_token_prompts",
    "builtin_prompts",
    "challenge_prompts",
    "distinct_limit",
    "identity_limits",
    "load_prompts",
]

_MODULES = {
    "ADDED_TOKENS": "prompts.added_tokens",
    "Baseline": "baseline.baseline",
    "LatencyReport": "gates.latency.latency_report",
    "PRESETS": "core.config",
    "PotError": "core.errors",
    "PotResult": "plugin.gates",
    "Prompt": "prompts.prompt",
    "ScoreReport": "scoring.score_report",
    "ScoringConfig": "core.config",
    "TeacherForcedScorer": "scoring.scorer",
    "Verdict": "gates.verdict.limits",
    "added_token_prompts": "prompts.added_tokens",
    "builtin_prompts": "prompts.builtin",
    "challenge_prompts": "prompts.challenges",
    "distinct_limit": "gates.verdict.limits",
    "identity_limits": "gates.verdict.limits",
    "load_prompts": "prompts.jsonl",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
