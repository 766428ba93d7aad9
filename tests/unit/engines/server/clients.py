"""Clients of local servers, and servers that do not go on."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable

import pytest

from pytest_pot.core.errors import PotError
from pytest_pot.engines.server import retries
from pytest_pot.engines.server.http import Client

from ...streaming import HANGS_S
from .local_server import LocalServer

__all__ = ["NAME", "client_of", "drip", "drop", "error_of", "fall_silent", "short_pauses"]

NAME = "the candidate's server"


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retries, "_FIRST_PAUSE_S", 0.02)
    monkeypatch.delenv("POT_API_KEY", raising=False)


def client_of(server: LocalServer, timeout: float = 60.0, concurrency: int = 8) -> Client:
    return Client(server.url, timeout=timeout, concurrency=concurrency, name=NAME)


def error_of(client: Client, path: str = "/x") -> str:
    with pytest.raises(PotError) as error:
        client.post(path, {"a": 1})
    assert error.value.__cause__ is None
    return str(error.value)


def drop(connection: socket.socket) -> None:
    """Cut it without a word."""
    connection.shutdown(socket.SHUT_RDWR)


def drip(start: bytes, part: bytes) -> Callable[[socket.socket], None]:
    """Sends ``part`` until the client leaves, which it does long before it was sent a thousand times."""

    def write(connection: socket.socket) -> None:
        connection.sendall(start)
        for _ in range(1200):
            connection.sendall(part)
            time.sleep(0.1)

    return write


def fall_silent(start: bytes) -> Callable[[socket.socket], None]:
    """Sends nothing after ``start``, until the client leaves."""

    def write(connection: socket.socket) -> None:
        connection.sendall(start)
        connection.settimeout(HANGS_S)
        connection.recv(1)

    return write
