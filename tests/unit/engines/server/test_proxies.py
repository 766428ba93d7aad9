"""Servers behind a proxy that the environment names. The proxies are real sockets that speak HTTP."""

from __future__ import annotations

import base64
import logging
import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from pytest_pot.core.errors import PotError
from pytest_pot.engines.server import retries
from pytest_pot.engines.server.address import Address
from pytest_pot.engines.server.http import Client
from pytest_pot.engines.server.proxies import proxy_for

from .local_server import Reply, running
from .test_api_key import variables

PASSWORD = "sesame:4711/@x"
LOGIN = "user:sesame%3A4711%2F%40x"
BASIC = base64.b64encode(f"user:{PASSWORD}".encode()).decode()
REMOTE = "http://models.example:81"


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    monkeypatch.delenv("POT_API_KEY", raising=False)
    monkeypatch.setattr(retries, "_FIRST_PAUSE_S", 0.02)


@contextmanager
def refusing(answer: Callable[[str], str]) -> Iterator[tuple[str, list[str]]]:
    """A proxy that gives ``answer`` (of a request's head) to everything; its place, and the heads that came."""
    heads: list[str] = []

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                head = b""
                while b"\r\n\r\n" not in head and (part := connection.recv(4096)):
                    head += part
                heads.append(head.decode())
                connection.sendall(answer(heads[-1]).encode())

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"127.0.0.1:{listener.getsockname()[1]}", heads
        listener.shutdown(socket.SHUT_RDWR)
    thread.join(60)


def told(url: str) -> str:
    with pytest.raises(PotError) as error:
        Client(url, timeout=60).get("/x")
    shown = str(error.value) + variables(error.value)
    assert "sesame" not in shown
    assert BASIC not in shown
    assert "\n" not in str(error.value)
    return str(error.value)


def test_user_and_password_are_sent_to_the_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    with running(lambda sent: Reply({"path": sent.path})) as proxy:
        monkeypatch.setenv("http_proxy", proxy.url.replace("://", f"://{LOGIN}@"))
        assert Client(REMOTE, timeout=60).get("/x").body == {"path": f"{REMOTE}/x"}
        assert proxy.requests[0].headers["proxy-authorization"] == f"Basic {BASIC}"


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_proxy_that_asks_for_a_password_is_named(scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asking = "HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 2\r\n\r\nno"
    with refusing(lambda head: asking) as (place, heads):
        monkeypatch.setenv("ALL_PROXY", f"http://{place}")
        start = f"the server: GET {scheme}://models.example:81/x through the proxy {place} "
        message = told(f"{scheme}://models.example:81")
        assert message.startswith(start)
        assert "answered 407" in message
        assert message.endswith(
            "The proxy asks for a user and a password: give them in the environment variable ALL_PROXY as "
            "http://USER:PASSWORD@HOST:PORT"
        )
        monkeypatch.setenv("ALL_PROXY", f"http://{LOGIN}@{place}")
        message = told(f"{scheme}://models.example:81")
        assert message.startswith(start)
        assert message.endswith("The user and the password for the proxy are those of the environment variable ALL_PROXY")
        assert [f"Proxy-Authorization: Basic {BASIC}" in head for head in heads] == [False, True]


FORMS = [PASSWORD, LOGIN, BASIC]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_password_that_the_proxy_sends_back_is_hidden(
    form: str, scheme: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    answer = f"HTTP/1.1 403 {form}\r\nX-Echo: {form}\r\nContent-Length: {len(form)}\r\n\r\n{form}"
    with refusing(lambda head: answer) as (place, _):
        monkeypatch.setenv(f"{scheme}_proxy", f"http://{LOGIN}@{place}")
        message = told(f"{scheme}://models.example:81")
    assert "403" in message
    assert "***" in message
    assert not any(text in message + caplog.text for text in FORMS)
    assert "X-Echo" in caplog.text, "what the library logs of an answer"


def test_a_proxy_that_does_not_run_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        place = f"127.0.0.1:{closed.getsockname()[1]}"
    monkeypatch.setenv("http_proxy", f"http://{LOGIN}@{place}")
    assert told(REMOTE) == (
        f"the server: GET {REMOTE}/x through the proxy {place} cannot connect: nobody listens there, or not yet (connection "
        "refused). Does the proxy run, and is the environment variable http_proxy right?"
    )


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ("socks5://user:sesame@127.0.0.1:1", "it begins with socks5://, and only proxies with http:// or https:// are used"),
        ("ftp://user:sesame@127.0.0.1:1", "it begins with ftp://, and only proxies with http:// or https:// are used"),
        ("http://user:sesame@127.0.0.1:99999", "its port is no number from 1 to 65535"),
        ("http://user:sesame@127.0.0.1:port", "its port is no number from 1 to 65535"),
        ("ht!tp://user:sesame@[bad:1", "it has no name of a host, or one that no host can have"),
        ("http://user:sesame@[::1:1", "it has no name of a host, or one that no host can have"),
        ("http://user:sesame@", "it has no name of a host, or one that no host can have"),
        ("http://user:sesame@a..b:80", "each part of its host's name, between dots, has to have 1 to 63 characters"),
        ("http://user:sesame@127.0.0.1:1/path", "it is no address"),
        ("http://user:ses\tame@127.0.0.1:1", "it has a space, a control character or one that is not ASCII"),
        ("http://user:sesäme@127.0.0.1:1", "it has a space, a control character or one that is not ASCII"),
        ("http://user:sesame%ff@127.0.0.1:1", "its user or password is not UTF-8"),
    ],
)
@pytest.mark.parametrize("variable", ["http_proxy", "ALL_PROXY"])
def test_a_proxy_that_cannot_be_used_is_said(value: str, why: str, variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(variable, value)
    message = told(REMOTE)
    start = f"{REMOTE} would be asked through a proxy, but the environment variable {variable} names none that can be used: "
    assert message.startswith(start + why)
    assert "no_proxy=models.example" in message
    assert Client("http://127.0.0.1:1").url, "this machine is not reached through it"


@pytest.mark.parametrize(
    ("value", "url", "auth"),
    [
        ("proxy.example", "http://proxy.example:80", None),
        ("http://@proxy.example:1", "http://proxy.example:1", None),
        ("http://:@proxy.example:1", "http://proxy.example:1", None),
        ("https://proxy.example/", "https://proxy.example:443", None),
        ("user:pass@proxy.example:3128", "http://proxy.example:3128", (b"user", b"pass")),
        ("HTTP://token@[::1]:3128", "http://[::1]:3128", (b"token", b"")),
        ("http://u:p/a#s?s@w@proxy.example:3128", "http://proxy.example:3128", (b"u", b"p/a#s?s@w")),
        ("http://%C3%A4:a%20b@proxy.example:3128", "http://proxy.example:3128", ("ä".encode(), b"a b")),
    ],
)
def test_how_a_proxy_is_read(value: str, url: str, auth: tuple[bytes, bytes] | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", value)
    proxy = proxy_for(Address(REMOTE))
    assert proxy is not None
    assert (proxy.url, proxy.auth) == (url, auth)
    assert proxy.place == url.partition("://")[2]
    assert "auth" not in repr(proxy)
    monkeypatch.setenv("no_proxy", "models.example")
    assert proxy_for(Address(REMOTE)) is None
