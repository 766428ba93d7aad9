"""The key for a server: sent in one header, and shown nowhere, not even where the server sends it back."""

from __future__ import annotations

import base64
import gc
import json
import logging
import pickle
import socket
import sys
import traceback
import warnings
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import pytest

from pytest_pot.core.errors import PotError
from pytest_pot.engines.server.api_key import ApiKey
from pytest_pot.engines.server.hiding import Secret
from pytest_pot.engines.server.http import Client

from .local_server import Reply, Sent, running

KEY = "sk-sesame/4711+\"a'b&c=="
FORMS = {
    "plain": KEY,
    "header": f"Bearer {KEY}",
    "URL": quote(KEY, safe=""),
    "JSON": json.dumps(KEY),
    "Base64": base64.b64encode(KEY.encode()).decode(),
    "Base64 of the header": base64.b64encode(f"Bearer {KEY}".encode()).decode(),
    "repr": repr(f"headers: {KEY}"),
}


@pytest.fixture
def key(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("POT_API_KEY", KEY)
    return KEY


def variables(error: BaseException | None) -> str:
    """What tracebacks of ``error``, and of those that led to it, show with the variables of all frames but the tests' own."""
    shown = ""
    while error is not None:
        for frame, _ in traceback.walk_tb(error.__traceback__):
            if frame.f_code.co_filename != __file__:
                shown += f"{frame.f_code.co_name}: {frame.f_locals!r}\n"
        shown += repr(error)
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return shown


def is_shown(text: str) -> bool:
    return "sesame" in text or any(form in text for form in FORMS.values())


def test_it_is_sent(key: str) -> None:
    with running(lambda sent: Reply({})) as server:
        Client(server.url).get("/x")
        assert server.requests[0].headers["authorization"] == f"Bearer {KEY}"


@pytest.mark.parametrize("form", FORMS)
def test_it_is_hidden_in_what_a_server_answers(form: str, key: str) -> None:
    told = f"you sent {FORMS[form]} to us"
    with running(lambda sent: Reply({"a": [told], told: 1, "12": None}, headers={"X-Echo": FORMS[form]})) as server:
        answer = Client(server.url).get("/x")
        assert str(answer.body).count("***") == 2
        assert not is_shown(str(answer.body))
        assert not is_shown(repr(answer) + repr(answer.headers))


BODIES: dict[str, Callable[[str], Reply]] = {
    "400": lambda told: Reply({"error": told}, 400),
    "401": lambda told: Reply(told.encode(), 401),
    "503": lambda told: Reply(told.encode(), 503, {"retry-after": "99"}),
    "HTML": lambda told: Reply(f"<p>{told}".encode(), headers={"content-type": "text/html"}),
    "type": lambda told: Reply(b"?", headers={"content-type": told}),
    "redirect": lambda told: Reply(b"", 302, {"location": f"/x/{told}"}),
    "twice": lambda told: Reply(f'{{"{told}": 1, "{told}": 2}}'.encode()),
    "cut": lambda told: Reply(told.encode() * 3, headers={"content-length": "9999"}, close=True),
    "cut in the middle": lambda told: Reply(b"x" * (300 - len(told) // 2) + told.encode() * 9, 400),
    "no HTTP": lambda told: Reply(raw=lambda connection: connection.sendall(f"HTTP/1.1 abc {told}\r\n\r\n".encode())),
    "reason": lambda told: Reply(raw=lambda connection: connection.sendall(f"HTTP/1.1 500 {told}\r\n\r\n".encode())),
}


@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize("form", ["plain", "URL", "Base64", "header"])
def test_no_error_shows_it_nor_a_traceback_with_variables(
    body: str, form: str, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running(lambda sent: BODIES[body](FORMS[form])) as server:
        client = Client(server.url, timeout=60)
        for ask in (
            lambda: client.post("/x", {"a": 1}),
            lambda: list(client.stream("/x", {"a": 1})),
            lambda: client.side_by_side(lambda i: client.post("/x", {"a": i}), range(3)),
        ):
            with pytest.raises(PotError) as error:
                ask()
            assert not is_shown(str(error.value))
            assert not is_shown(variables(error.value))


def test_nor_does_an_interruption_in_the_middle(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A time limit of pytest-timeout is raised wherever the thread is: here while the request is written."""

    class Limit(Exception):
        pass

    def interrupted(*arguments: Any) -> int:
        raise Limit

    with running(lambda sent: Reply({})) as server:
        client = Client(server.url)
        monkeypatch.setattr(socket.socket, "send", interrupted)
        with pytest.raises(Limit) as error:
            client.post("/x", {"a": 1})
        monkeypatch.undo()
    assert not is_shown(variables(error.value))


def test_logs_do_not_show_it(key: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    gc.collect()  # clients of tests before
    before = {name: list(logging.getLogger(name).filters) for name in ("httpx2", "httpcore2.http11", "httpcore2.connection")}
    with running(lambda sent: Reply({"a": KEY}, headers={"X-Echo": sent.headers["authorization"]})) as server:
        client = Client(server.url)
        client.get("/x")
        client.close()
    assert "receive_response_headers" in caplog.text
    assert not is_shown(caplog.text)
    del client
    assert {name: list(logging.getLogger(name).filters) for name in before} == before


def test_no_repr_shows_it(key: str) -> None:
    client = Client("http://127.0.0.1:1")
    found = ApiKey.from_environment()
    assert found is not None
    texts = [repr(each) for each in (client, found, *vars(client).values(), client._sendable)]
    for each in vars(client).values():
        texts += [repr(value) for value in getattr(each, "__dict__", {}).values()]
    assert not is_shown(" ".join(texts))
    with pytest.raises(TypeError):
        pickle.dumps(found)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("", "the environment variable POT_API_KEY is empty: give it a value, or unset it"),
        ("sesame\n", "the environment variable POT_API_KEY holds a space, a line break or a character that is not ASCII"),
        ("sesame x", "holds a space"),
        ("sesäme", "holds a space"),
    ],
)
def test_what_can_be_no_key_is_refused_and_not_shown(value: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POT_API_KEY", value)
    with pytest.raises(PotError) as error:
        Client("http://127.0.0.1:1")
    assert message in str(error.value)
    assert "ses" not in variables(error.value)


def test_a_short_key_does_not_change_what_answers_say(monkeypatch: pytest.MonkeyPatch) -> None:
    """It may be part of a model's name; messages hide it all the same."""
    monkeypatch.setenv("POT_API_KEY", "test")
    replies = iter([Reply({"id": "test-model"}), Reply({"no": "test"}, 400)])
    with running(lambda sent: next(replies)) as server:
        client = Client(server.url)
        assert client.get("/x").body == {"id": "test-model"}
        with pytest.raises(PotError, match=r'answered 400: {"no": "\*\*\*"}'):
            client.get("/x")


def test_over_a_network_it_needs_encryption(key: str) -> None:
    with pytest.warns(UserWarning, match=r"the key in POT_API_KEY is sent to http://10\.0\.0\.7:1 without") as record:
        Client("http://10.0.0.7:1")
    assert record[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Client("https://10.0.0.7:1")
        Client("http://[::1]:1")


def test_the_key_is_hidden_wherever_it_is_cut(key: str) -> None:
    """The start of a body is shown, and a part of the key would be no match."""
    for before in range(250, 310):

        def app(sent: Sent, before: int = before) -> Reply:
            return Reply(b"x" * before + KEY.encode(), 400)

        with running(app) as server, pytest.raises(PotError) as error:
            Client(server.url).get("/x")
        assert "sk-" not in str(error.value)
    assert sys.exc_info() == (None, None, None)


LONG = "sk-" + "sesame0123456789" * 3


CUT: dict[str, tuple[Callable[[str, int], Reply], range]] = {
    "Location": (
        lambda told, before: Reply(b"", 302, {"location": f"http://x/{'a' * before}/{told}"}),
        range(230, 300, 7),
    ),
    "a name twice": (
        lambda told, before: Reply(f'{{"{"n" * before}{told}": 1, "{"n" * before}{told}": 2}}'.encode()),
        range(0, 60, 7),
    ),
    "a place": (
        lambda told, before: Reply(f'{{"{"n" * before}{told}": {{"a": 1, "a": 2}}}}'.encode()),
        range(0, 40, 7),
    ),
    "the start of a body": (
        lambda told, before: Reply(b" " * before + told.encode() + b" x" * 500, 500),
        range(2200, 2410, 11),
    ),
    "no HTTP": (
        lambda told, before: Reply(raw=lambda peer: peer.sendall(b"?" * before + told.encode() + b"\r\n\r\n")),
        range(220, 310, 7),
    ),
}


@pytest.mark.parametrize("form", [LONG, base64.b64encode(f"Bearer {LONG}".encode()).decode()])
@pytest.mark.parametrize(("reply", "cuts"), CUT.values(), ids=CUT)
def test_no_part_of_it_is_shown_where_a_text_is_cut(
    form: str, reply: Callable[[str, int], Reply], cuts: range, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("POT_API_KEY", LONG)
    pieces = [form[start : start + 6] for start in range(len(form) - 6)]
    for before in cuts:

        def app(sent: Sent, before: int = before) -> Reply:
            return reply(form, before)

        with running(app) as server, pytest.raises(PotError) as error:
            Client(server.url, timeout=60).get("/x")
        assert not any(piece in str(error.value) for piece in pieces), before


def test_a_short_key_beside_a_long_one_changes_no_answer() -> None:
    secret = Secret("test", "user:test")
    assert secret.is_in(b'["user:test"]')
    assert secret.hide_in(["user:test", "tests"]) == ["***", "tests"]
    assert secret.hide("user:test tests") == "*** ***s"
