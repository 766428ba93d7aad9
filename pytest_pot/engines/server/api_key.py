"""The key that a server asks for: read from the environment, sent in one header, and shown nowhere."""

from __future__ import annotations

import base64
import html
import json
import logging
import os
import re
from typing import Any
from urllib.parse import quote

from pytest_pot.core.errors import PotError

__all__ = ["VARIABLE", "ApiKey", "LogFilter"]

VARIABLE = "POT_API_KEY"

_HIDDEN = "***"
_LEAST = 8
"""Shorter keys are hidden in messages, but not in what answers hold: they may be parts of words, as ``EMPTY`` or ``test``, and
the name of a model has to stay what it is."""
_LOGGERS = ("httpx2", "httpcore2.connection", "httpcore2.http11", "httpcore2.proxy", "httpcore2.socks")


class ApiKey:
    """A key, which no ``repr`` shows. Tracebacks print the variables of frames: keep the key itself in none."""

    __slots__ = ("_parts", "_pattern", "_value")

    def __init__(self, value: str) -> None:
        self._value = value
        # Escapes within escapes change no letter: the longest word of the key is there in any form but Base64.
        self._parts = [max(re.findall(r"[A-Za-z0-9_-]+", value) or [value], key=len), *_in_base64(value)]
        self._pattern = re.compile("|".join(map(re.escape, sorted(_forms(value), key=len, reverse=True))))

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
        return "authorization", f"Bearer {self._value}"

    def hide(self, text: str) -> str:
        """``text`` without the key, also where it was encoded for a URL, HTML, JSON or in Base64."""
        return self._pattern.sub(_HIDDEN, text)

    def is_in(self, content: bytes) -> bool:
        """Whether an answer holds the key."""
        return len(self._value) >= _LEAST and any(part.encode() in content for part in self._parts)

    def hide_in(self, value: Any) -> Any:
        """Parsed JSON with the key hidden in every text."""
        if isinstance(value, str):
            return self.hide(value)
        if isinstance(value, list):
            return [self.hide_in(each) for each in value]
        if isinstance(value, dict):  # ids of tokens are names in some answers, and no text
            return {name if name.isdecimal() else self.hide(name): self.hide_in(each) for name, each in value.items()}
        return value

    def hide_in_logs(self) -> LogFilter:
        """Hide the key in the records of the HTTP library, which logs what a server answers: a server may send the key back."""
        hidden = LogFilter(self)
        for name in _LOGGERS:
            logging.getLogger(name).addFilter(hidden)
        return hidden

    def __repr__(self) -> str:
        return f"ApiKey({_HIDDEN})"

    def __reduce__(self) -> str | tuple[Any, ...]:
        raise TypeError("a key is not pickled")


class LogFilter(logging.Filter):
    """Takes a key out of log records."""

    def __init__(self, key: ApiKey) -> None:
        super().__init__()
        self._key = key

    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = self._key.hide(record.getMessage()), ()
        return True

    def remove(self) -> None:
        """Stop."""
        for name in _LOGGERS:
            logging.getLogger(name).removeFilter(self)


def _forms(value: str) -> set[str]:
    """How a server may send the key back."""
    in_json = json.dumps(value)[1:-1]
    forms = {
        value,
        quote(value, safe=""),
        quote(value),
        html.escape(value),
        in_json,
        in_json.replace("/", "\\/"),
        repr(value)[1:-1],
    }
    return forms | _in_base64(value)


def _in_base64(value: str) -> set[str]:
    encoders = base64.b64encode, base64.urlsafe_b64encode
    texts = value, f"Bearer {value}"
    return {encode(text.encode()).decode().rstrip("=") for encode in encoders for text in texts}
