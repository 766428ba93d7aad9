"""The specs of servers: ``http://host:port#model``, ``vllm+https://host``."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass

from pytest_pot.core.errors import PotError

__all__ = ["KINDS", "Address", "host_and_port", "is_server", "parse", "shown"]

KINDS = ("vllm", "sglang", "llamacpp", "openai")
"""The kinds of server that a spec may name."""

_START = re.compile(r"([a-z][a-z0-9_.-]*\+)?https?://", re.IGNORECASE)
_SPEC = re.compile(r"(?:(?P<kind>[^+:/]+)\+)?(?P<scheme>https?)://(?P<host>[^/?#]*)(?P<path>[^?#]*)(?:#(?P<model>.*))?", re.I)
_HOST = re.compile(r"(?P<name>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9_](?:[A-Za-z0-9_.-]*[A-Za-z0-9_.])?)(?::(?P<port>.*))?", re.ASCII)
_LONGEST_PART, _LONGEST_NAME = 63, 253
"""Characters of a host's name, by the rules of the domain name system."""
_PATH = re.compile(r"(/[A-Za-z0-9._~!$&'()*+,;=:%-]+)*/*", re.ASCII)


@dataclass(frozen=True)
class Address:
    """Where a server is, and which of its models is meant."""

    url: str
    """The base URL, without a slash or ``/v1`` at its end, and without user and password."""
    kind: str | None = None
    """One of :data:`KINDS`; None: the server is asked."""
    model: str | None = None
    """One of the server's models; None: its only one."""

    @property
    def host(self) -> str:
        """The host's name or number, an IPv6 address without brackets."""
        return host_and_port(self.url.partition("://")[2].partition("/")[0])[0].strip("[]")

    @property
    def is_loopback(self) -> bool:
        """Whether the server is on this machine, so that nobody else can read what is sent."""
        host = self.host
        if host == "localhost" or host.endswith(".localhost"):
            return True
        try:
            return ipaddress.ip_address(host).is_loopback
        except ValueError:
            return False

    @property
    def is_encrypted(self) -> bool:
        return self.url.startswith("https:")


def is_server(spec: str) -> bool:
    """Whether ``spec`` names a server."""
    return _START.match(spec) is not None


def shown(spec: str) -> str:
    """``spec`` without what may be a secret: user and password, and a query."""
    start = _START.match(spec)
    if start is None:
        return spec
    rest = spec[start.end() :]
    rest = f"***@{rest.rpartition('@')[2]}" if "@" in rest else rest
    before, query, after = rest.partition("?")
    model = after.rpartition("#")
    return start.group() + (before + (f"?***{model[1]}{model[2] if model[1] else ''}" if query else ""))


def parse(spec: str) -> Address:
    """The address that ``spec`` names.

    A ``/v1`` at its end is left out: it belongs to the base URL that clients of OpenAI's protocol are given.

    Raises:
        PotError: it is no address, names an unknown kind of server, or holds a secret. The message holds none.
    """

    def refused(why: str) -> PotError:
        return PotError(
            f"{shown(spec)!r} is no address of a server: {why}. Write http://HOST:PORT, http://HOST:PORT#MODEL where the "
            f"server has several models, or {KINDS[0]}+http://HOST:PORT to say which kind of server it is"
        )

    before_model = spec.partition("#")[0]
    if "@" in before_model:
        raise refused("user and password do not belong into it, because it is shown; a key comes from the variable POT_API_KEY")
    if "?" in before_model:
        raise refused("it has a query, which may hold a key and would be shown; a key comes from the variable POT_API_KEY")
    if any(not character.isprintable() or character.isspace() for character in spec):
        raise refused("it has a space or a control character")
    match = _SPEC.fullmatch(spec)
    if match is None:
        raise refused("it does not begin with http:// or https://")
    kind = match["kind"].lower() if match["kind"] is not None else None
    if kind is not None and kind not in KINDS:
        raise refused(f"{kind!r} is no kind of server that can be gated; the kinds are {', '.join(KINDS)}")
    try:
        host, port = host_and_port(match["host"])
    except ValueError as error:
        raise refused(str(error)) from None
    if _PATH.fullmatch(match["path"]) is None:
        raise refused("its path has an empty part, or a character that a path cannot have")
    if match["model"] == "":
        raise refused("no model is named after the #")
    path = match["path"].rstrip("/")
    path = path[: -len("/v1")] if path.endswith("/v1") else path
    url = f"{match['scheme'].lower()}://{host}{'' if port is None else f':{port}'}{path.rstrip('/')}"
    return Address(url, kind, match["model"])


def host_and_port(text: str) -> tuple[str, int | None]:
    """The host in lower case, with the brackets of an IPv6 address, and the port.

    Raises:
        ValueError: with what is wrong, as a clause.
    """
    match = _HOST.fullmatch(text)
    if match is None:
        if text.count(":") > 1 and not text.startswith("["):
            raise ValueError("an IPv6 address is written in brackets, http://[::1]:8000")
        raise ValueError("it has no name of a host, or one that no host can have")
    name = match["name"].lower()
    if name.startswith("["):
        try:
            ipaddress.IPv6Address(name[1:-1])
        except ValueError:
            raise ValueError("what is in brackets is no IPv6 address") from None
    elif len(name) > _LONGEST_NAME or not all(0 < len(part) <= _LONGEST_PART for part in name.removesuffix(".").split(".")):
        raise ValueError(
            f"each part of its host's name, between dots, has to have 1 to {_LONGEST_PART} characters, and the whole name at "
            f"most {_LONGEST_NAME}"
        )
    if match["port"] is None:
        return name, None
    port = match["port"]
    if not (port.isascii() and port.isdecimal() and len(port) < 6 and 0 < int(port) < 1 << 16):
        raise ValueError("its port is no number from 1 to 65535")
    return name, int(port)
