"""Server-sent events: what a server says while it generates."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

__all__ = ["DONE", "data_of", "is_last"]

DONE = b"[DONE]"
"""The data of the event after the last one, in OpenAI's protocol."""

_LONGEST = 1 << 24
"""Bytes of the longest line that is read."""


def data_of(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """The data of each event of a stream, as soon as it is complete. Comments, which keep a connection alive, are left out.

    llama-server may report an error as a field of its own; it comes back as data, ``{"error": ...}``.

    Raises:
        ValueError: a line has no end.
    """
    buffer = bytearray()
    lines: list[bytes] = []
    for chunk in chunks:
        buffer += chunk
        while (end := buffer.find(b"\n")) >= 0:
            line = bytes(buffer[:end]).rstrip(b"\r")
            del buffer[: end + 1]
            if line.startswith(b"data:"):
                lines.append(line[5:].removeprefix(b" "))
            elif line.startswith(b"error:"):
                yield b'{"error":' + line[6:] + b"}"
            elif not line and lines:
                yield b"\n".join(lines)
                lines = []
        if len(buffer) > _LONGEST:
            raise ValueError(f"a line of its stream is longer than {_LONGEST} bytes")
    if lines:
        yield b"\n".join(lines)


def is_last(event: Any) -> bool:
    """Whether an event says that generation has ended, as llama-server, OpenAI's protocol and SGLang do."""
    if not isinstance(event, dict):
        return False
    choices = event.get("choices")
    parts = [event.get("meta_info"), *(choices if isinstance(choices, list) else [])]
    return event.get("stop") is True or any(isinstance(part, dict) and part.get("finish_reason") for part in parts)
