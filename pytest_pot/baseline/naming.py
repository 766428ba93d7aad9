"""The names of recorded references. Imports nothing heavy: markers are read with it while tests are collected."""

from __future__ import annotations

from pathlib import Path

__all__ = ["SUFFIX", "is_baseline"]

SUFFIX = ".pot.safetensors"
"""How the name of a recorded file ends."""


def is_baseline(spec: object) -> bool:
    """Whether ``spec`` names a recorded file."""
    return isinstance(spec, str | Path) and str(spec).endswith(SUFFIX)
