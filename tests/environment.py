"""The environment of what tests start, without what continuous integration or the outer run has set."""

from __future__ import annotations

import os

__all__ = ["is_of_outer_run", "without_git", "without_outer_run"]

_PREFIXES = ("GITHUB_", "POT_", "PYTEST_")
_NAMES = frozenset({"BUILD_NUMBER", "CI", "FORCE_COLOR", "NO_COLOR", "PY_COLORS"})
_KEPT = "PYTEST_DEBUG_TEMPROOT"
"""Where temporary folders are: pytester sets it."""


def is_of_outer_run(name: str) -> bool:
    """Whether a variable of this name changes what a run of pytest does or prints."""
    return name in _NAMES or (name.startswith(_PREFIXES) and name != _KEPT)


def without_outer_run() -> dict[str, str]:
    """The environment for a run of pytest that is like a user's first."""
    return {name: value for name, value in os.environ.items() if not is_of_outer_run(name)}


def without_git() -> dict[str, str]:
    """The environment for Git in a folder of its own: no other repository, and nobody's settings."""
    others = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    return {**others, "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull}
