"""The errors that pytest-pot raises on purpose.

Everything derives from :class:`PotError`, so one ``except`` catches what the library has to say. Messages are written for
someone who has never seen this code: what was wrong, where, what to do.
"""

from __future__ import annotations

from pytest_pot.core.text import printable_lines

__all__ = ["InvalidArgument", "PotError"]


class PotError(Exception):
    """Base of every error that pytest-pot raises on purpose.

    A message may quote files and other libraries; what a terminal would obey is escaped in it, and line feeds stay.
    """

    def __init__(self, message: str = "") -> None:
        super().__init__(printable_lines(message))


class InvalidArgument(PotError, ValueError):
    """An argument with a value, a type or a combination that has no meaning; the message names it and what is allowed."""
