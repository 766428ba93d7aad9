"""The specs ``llamacpp://path/to/model.gguf``."""

from __future__ import annotations

__all__ = ["PREFIX", "path_in"]

PREFIX = "llamacpp://"


def path_in(spec: str) -> str | None:
    """The path of the file that ``spec`` names; None if it is no such spec."""
    return spec.removeprefix(PREFIX) if spec.startswith(PREFIX) else None
