"""Secrets, taken out of what is shown: of messages, of what a server answers, and of the HTTP library's logs."""

from __future__ import annotations

import base64
import html
import json
import logging
import re
from typing import Any
from urllib.parse import quote

__all__ = ["LogFilter", "Secret"]

_HIDDEN = "***"
_LEAST = 8
"""Characters. Shorter secrets are hidden in messages, but not in what answers hold: they may be parts of words, as ``EMPTY`` or
``test``, and the name of a model has to stay what it is."""
_LOGGERS = ("httpx2", "httpcore2.connection", "httpcore2.http11", "httpcore2.proxy", "httpcore2.socks")


class Secret:
    """Texts that no ``repr`` shows. Tracebacks print the variables of frames: keep the texts themselves in none."""

    __slots__ = ("_in_answers", "_parts", "_pattern", "_values", "longest")

    longest: int
    """Characters of the longest form that :meth:`hide` hides."""

    def __init__(self, *values: str) -> None:
        self._values = values
        long = [value for value in values if len(value) >= _LEAST]
        # Escapes within escapes change no letter: the longest word of a secret is there in any form but Base64.
        words = [max(re.findall(r"[A-Za-z0-9_-]+", value) or [value], key=len) for value in long]
        self._parts = [*words, *(form for value in long for form in _in_base64(value))]
        forms = {form for value in values for form in _forms(value)}
        self.longest = max(map(len, forms))
        self._pattern = _any_of(forms)
        self._in_answers = _any_of({form for value in long for form in _forms(value)})

    def hide(self, text: str) -> str:
        """``text`` without the secret, also where it was encoded for a URL, HTML, JSON or in Base64. Shorten a text afterwards:
        a part of a secret is not found."""
        return self._pattern.sub(_HIDDEN, text)

    def is_in(self, content: bytes) -> bool:
        """Whether an answer holds the secret."""
        return any(part.encode() in content for part in self._parts)

    def hide_in(self, value: Any) -> Any:
        """Parsed JSON with the secret hidden in every text."""
        if isinstance(value, str):
            return self._in_answers.sub(_HIDDEN, value)
        if isinstance(value, list):
            return [self.hide_in(each) for each in value]
        if isinstance(value, dict):  # ids of tokens are names in some answers, and no text
            return {
                name if name.isdecimal() else self._in_answers.sub(_HIDDEN, name): self.hide_in(each)
                for name, each in value.items()
            }
        return value

    def hide_in_logs(self) -> LogFilter:
        """Hide it in the records of the HTTP library, which logs what a server answers: a server may send a secret back."""
        hidden = LogFilter(self)
        for name in _LOGGERS:
            logging.getLogger(name).addFilter(hidden)
        return hidden

    def __repr__(self) -> str:
        return f"{type(self).__name__}({_HIDDEN})"

    def __reduce__(self) -> str | tuple[Any, ...]:
        raise TypeError("a secret is not pickled")


class LogFilter(logging.Filter):
    """Takes a secret out of log records."""

    def __init__(self, secret: Secret) -> None:
        super().__init__()
        self._secret = secret

    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = self._secret.hide(record.getMessage()), ()
        return True

    def remove(self) -> None:
        """Stop."""
        for name in _LOGGERS:
            logging.getLogger(name).removeFilter(self)


def _any_of(forms: set[str]) -> re.Pattern[str]:
    return re.compile("|".join(map(re.escape, sorted(forms, key=len, reverse=True))) or r"(?!)")


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
