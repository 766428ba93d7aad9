"""The specs of servers: ``http://host:port#model``, ``vllm+https://host``."""

from __future__ import annotations

import re
from dataclasses import dataclass

from pytest_pot.core.errors import PotError

__all__ = ["KINDS", "Address", "is_server", "parse"]

KINDS = ("vllm", "sglang", "llamacpp", "openai")
"""The kinds of server that a spec may name."""

_SPEC = re.compile(r"(?:(?P<kind>[a-z]+)\+)?(?P<url>https?://[^#]+)(?:#(?P<model>.+))?")


@dataclass(frozen=True)
class Address:
    """Where a server is, and which of its models is meant."""

    url: str
    """The base URL, without a slash at its end, and without user and password."""
    kind: str | None = None
    """One of :data:`KINDS`; None: the server is asked."""
    model: str | None = None
    """One of the server's models; None: its only one."""


def is_server(spec: str) -> bool:
    """Whether ``spec`` names a server."""
    return re.match(r"([a-z]+\+)?https?://", spec) is not None


def parse(spec: str) -> Address:
    """The address that ``spec`` names.

    Raises:
        PotError: it is no address, or names an unknown kind of server.
    """
    match = _SPEC.fullmatch(spec)
    if match is None or (match["kind"] is not None and match["kind"] not in KINDS):
        raise PotError(f"{spec!r} is no address of a server: write http://host:port#model, or {KINDS[0]}+http://host:port")
    return Address(match["url"].rstrip("/"), match["kind"], match["model"])
