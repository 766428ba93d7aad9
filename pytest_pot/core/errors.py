"""The errors that pytest-pot raises on purpose.

Everything derives from :class:`PotError`, so one ``except`` catches what the library has to say. Messages are written for
someone who has never seen this code: what was wrong, where, what to do.
"""

from __future__ import annotations

__all__ = ["InvalidArgument", "PotError"]


class PotError(Exception):
    """Base of every error that pytest-pot raises on purpose."""


class InvalidArgument(PotError, ValueError):
    """An argument with a value, a type or a combination that has no meaning; the message names it and what is allowed."""
