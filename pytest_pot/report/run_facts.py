"""When and with what a run was made: facts for the head of a report."""

from __future__ import annotations

import platform
from datetime import UTC, datetime
from importlib import metadata

__all__ = ["PACKAGES", "run_facts"]

PACKAGES = ("pytest", "torch", "transformers", "numpy", "safetensors")
"""The packages whose versions a report tells."""


def run_facts(started: float) -> dict[str, str | None]:
    """The facts by name, as JSON types.

    Args:
        started: when the run began, in seconds since the epoch.

    Versions are read from the packages' metadata, since to import torch takes seconds; None for one that has none.
    """
    return {
        "started": datetime.fromtimestamp(started, UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "platform": platform.platform(),
        **{name: _version(name) for name in PACKAGES},
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
