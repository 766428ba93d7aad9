"""The proxy that requests to a server go through, as the environment names it."""

from __future__ import annotations

import os
import re
import urllib.request
from dataclasses import dataclass, field
from urllib.parse import unquote

from pytest_pot.core.errors import PotError
from pytest_pot.engines.server.address import Address, host_and_port
from pytest_pot.engines.server.hiding import Secret

__all__ = ["Proxy", "proxy_for"]

_PORTS = {"http": 80, "https": 443}
_PARTS = re.compile(r"(?:(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://)?(?:(?P<user>[^@]*(?:@[^@]*)*)@)?(?P<place>[^/?#@]*)/*")


@dataclass(frozen=True)
class Proxy:
    """A proxy for HTTP."""

    url: str
    """Without user and password."""
    place: str
    """``HOST:PORT``, as messages show it."""
    setting: str
    """What names it, as messages show it: ``the environment variable http_proxy``."""
    auth: tuple[bytes, bytes] | None = field(default=None, repr=False)
    """User and password."""
    secret: Secret | None = None
    """What no message shows."""

    @property
    def is_encrypted(self) -> bool:
        return self.url.startswith("https:")

    @property
    def hint(self) -> str:
        """What to do when the proxy asks who we are."""
        if self.auth is not None:
            return f". The user and the password for the proxy are those of {self.setting}"
        return f". The proxy asks for a user and a password: give them in {self.setting} as http://USER:PASSWORD@HOST:PORT"


def proxy_for(address: Address) -> Proxy | None:
    """The proxy that the environment names for this server; None on this machine, which no proxy can reach.

    Raises:
        PotError: it names none that can be used. The message does not show it, because it may hold a password.
    """
    if address.is_loopback or urllib.request.proxy_bypass(address.host):
        return None
    own = "https" if address.is_encrypted else "http"
    kind = next((each for each in (own, "all") if urllib.request.getproxies().get(each)), None)
    if kind is None:
        return None
    setting = _setting(kind)
    try:  # a traceback with variables would show what was read: keep it in none of them
        return _read(urllib.request.getproxies()[kind].strip(), setting)
    except ValueError as error:
        raise PotError(
            f"{address.url} would be asked through a proxy, but {setting} names none that can be used: {error}. Write "
            f"http://HOST:PORT or http://USER:PASSWORD@HOST:PORT, or set no_proxy={address.host} to ask without a proxy"
        ) from None


def _setting(kind: str) -> str:
    """What names the proxy for ``kind`` of address."""
    wanted = f"{kind}_proxy"
    names = [name for name in os.environ if name.lower() == wanted and os.environ[name]]
    names.sort(key=lambda name: name != wanted)  # as urllib prefers them
    return f"the environment variable {names[0]}" if names else "the proxy in the settings of this system"


def _read(value: str, setting: str) -> Proxy:
    """The proxy that ``value`` describes.

    Raises:
        ValueError: with what is wrong, as a clause that shows no password.
    """
    if not re.fullmatch(r"[!-~]+", value):
        raise ValueError("it has a space, a control character or one that is not ASCII")
    match = _PARTS.fullmatch(value)
    if match is None:
        raise ValueError("it is no address")
    scheme = (match["scheme"] or "http").lower()
    if scheme not in _PORTS:
        raise ValueError(f"it begins with {scheme}://, and only proxies with http:// or https:// are used")
    host, port = host_and_port(match["place"])
    port = port or _PORTS[scheme]
    url, place = f"{scheme}://{host}:{port}", f"{host}:{port}"
    if match["user"] is None:
        return Proxy(url, place, setting)
    raw_user, _, raw_password = match["user"].partition(":")
    try:
        user, password = unquote(raw_user, errors="strict"), unquote(raw_password, errors="strict")
    except UnicodeDecodeError:
        raise ValueError("its user or password is not UTF-8") from None
    if not user + password:
        return Proxy(url, place, setting)
    # A token may be written as the user, and no password.
    texts = {password, raw_password} if password else {user, raw_user}
    secret = Secret(*sorted(texts | {f"{user}:{password}"}))
    return Proxy(url, place, setting, (user.encode(), password.encode()), secret)
