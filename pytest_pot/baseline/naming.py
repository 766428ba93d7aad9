"""The names of recorded references."""

from __future__ import annotations

from pathlib import Path

from pytest_pot.core.names import RECORDED_SUFFIX

__all__ = ["is_baseline"]


def is_baseline(spec: object) -> bool:
    """Whether ``spec`` names a recorded file."""
    return isinstance(spec, str | Path) and str(spec).endswith(RECORDED_SUFFIX)
