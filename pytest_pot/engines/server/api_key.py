"""The key that a server asks for: read from the environment, sent in one header, and shown nowhere."""

from __future__ import annotations

import os
import re

from pytest_pot.core.errors import PotError
from pytest_pot.engines.server.hiding import Secret

__all__ = ["VARIABLE", "ApiKey"]

VARIABLE = "POT_API_KEY"


class ApiKey(Secret):
    """A key, which no ``repr`` shows."""

    __slots__ = ()

    def __init__(self, value: str) -> None:
        super().__init__(value)

    @classmethod
    def from_environment(cls) -> ApiKey | None:
        """The key in the variable ``POT_API_KEY``; None where it is not set.

        Raises:
            PotError: it cannot be a key. The message does not show it.
        """
        if VARIABLE not in os.environ:
            return None
        if not os.environ[VARIABLE]:
            raise PotError(f"the environment variable {VARIABLE} is empty: give it a value, or unset it")
        if not re.fullmatch(r"[!-~]+", os.environ[VARIABLE]):
            raise PotError(
                f"the environment variable {VARIABLE} holds a space, a line break or a character that is not ASCII, which no "
                "key can have: look for what was copied with it"
            )
        return cls(os.environ[VARIABLE])

    def header(self) -> tuple[str, str]:
        """The header that carries the key."""
        return "authorization", f"Bearer {self._values[0]}"
