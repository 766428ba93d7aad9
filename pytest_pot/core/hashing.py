"""Digests of content."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable

__all__ = ["digest", "digest_of_json", "json_bytes"]


def digest(parts: Iterable[bytes]) -> str:
    """SHA-256 over ``parts``, each with its length in front, so that no two different lists of parts have the same digest."""
    sha256 = hashlib.sha256()
    for part in parts:
        sha256.update(len(part).to_bytes(8, "little"))
        sha256.update(part)
    return sha256.hexdigest()


def digest_of_json(value: object) -> str:
    """The digest of ``value`` as :func:`json_bytes` writes it."""
    return digest([json_bytes(value)])


def json_bytes(value: object) -> bytes:
    """``value`` as JSON, without spaces."""
    return json.dumps(value, separators=(",", ":")).encode()
