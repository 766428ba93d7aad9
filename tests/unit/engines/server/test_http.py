"""Requests to servers that answer, are busy, hang, break off or answer something else. No server is a mock: all speak HTTP."""

from __future__ import annotations

import gzip
import socket
import time
import tracemalloc
from collections.abc import Callable
from email.utils import formatdate
from typing import Any

import pytest

from pytest_pot.core.errors import PotError
from pytest_pot.engines.server import http, retries
from pytest_pot.engines.server.http import Client

from ...streaming import HANGS_S, ends_soon
from .clients import NAME, client_of, drip, drop, error_of
from .clients import short_pauses as short_pauses
from .local_server import Reply, Sent, running


def test_json_goes_out_and_comes_back() -> None:
    with running(lambda sent: Reply({"got": sent.body, "path": sent.path}, headers={"X-Name": "Value"})) as server:
        client = Client(f"{server.url}/prefix")
        answer = client.post("/v1/completions", {"prompt": [1, 2]})
        assert answer.body == {"got": {"prompt": [1, 2]}, "path": "/prefix/v1/completions"}
        assert answer.headers["x-name"] == "Value"
        assert client.get("/y").body["got"] is None
        assert [sent.method for sent in server.requests] == ["POST", "GET"]
        assert server.requests[0].headers["content-type"] == "application/json"
        assert "authorization" not in server.requests[0].headers
        assert len({sent.connection for sent in server.requests}) == 1
        client.close()


def test_allowed_statuses_are_answers() -> None:
    replies = iter([Reply({"detail": "Not Found"}, 404), Reply(b"<html>no</html>", 404), Reply({"busy": 1}, 503)])
    with running(lambda sent: next(replies)) as server:
        client = client_of(server)
        assert client.get("/x", allow=(404,)).body == {"detail": "Not Found"}
        assert client.get("/x", allow=(404,)).body == "<html>no</html>"
        assert client.get("/x", allow=(503,)).status == 503
        assert len(server.requests) == 3


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        (
            Reply({"error": {"message": "no\nsuch id"}}, 400),
            'POST {url}/x answered 400: {"error": {"message": "no\\nsuch id"}}',
        ),
        (Reply(b"", 500), "POST {url}/x answered 500: nothing"),
        (
            Reply({"error": "key"}, 401),
            '{"error": "key"}. If it asks for a key, give it as the environment variable POT_API_KEY',
        ),
        (
            Reply(b"<html>\n <body>Sign in</body>", headers={"content-type": "text/html; charset=utf-8"}),
            "POST {url}/x answered 200 with text/html, which cannot be read as JSON (Expecting value at character 0): "
            "<html> <body>Sign in</body>",
        ),
        (
            Reply(b""),
            "POST {url}/x answered 200 with application/json, which cannot be read as JSON (Expecting value at character",
        ),
        (Reply(b"\xff\xfe{"), "which cannot be read as JSON"),
        (Reply(b'{"a": "\xff"}'), "which cannot be read as JSON (it is not UTF-8)"),
        (Reply(b"[" * 100_000), "which cannot be read as JSON (its parts are nested too deep): [[["),
        (Reply(b"9" * 5000), "which cannot be read as JSON ("),
        (
            Reply(b'{"choices": [{"logprobs": [null, {"12": 1, "7": 2, "12": 3}]}]}'),
            "which cannot be read as JSON ('12' is there twice in choices[0].logprobs[1])",
        ),
        (
            Reply(b"", 307, {"location": "https://user:sesame@elsewhere.example/x?key=sesame"}),
            "POST {url}/x answered 307, which sends to https://***@elsewhere.example/x?***. No redirect is followed: give the "
            "address that it leads to",
        ),
        (Reply(b"", 302, {"location": "/login"}), "POST {url}/x answered 302, which sends to /login. No redirect is followed"),
        (Reply(gzip.compress(b'{"a": 1}')[:-12], headers={"content-encoding": "gzip"}), "cannot be read as JSON"),
        (
            Reply(b"no gzip", headers={"content-encoding": "gzip"}),
            "POST {url}/x answered 200, but what it compressed cannot be read",
        ),
    ],
)
def test_other_answers_are_errors_with_the_status_and_the_start_of_the_body(reply: Reply, message: str) -> None:
    with running(lambda sent: reply) as server:
        told = error_of(client_of(server))
        assert told.startswith(f"{NAME}: POST {server.url}/x answered ")
        assert message.replace("{url}", server.url) in told
        assert len(told) < 700
        assert "sesame" not in told
        assert len(server.requests) == 1


def test_an_honest_compressed_answer_is_read() -> None:
    with running(lambda sent: Reply(gzip.compress(b'{"a": [1, 2]}'), headers={"content-encoding": "gzip"})) as server:
        assert client_of(server).get("/x").body == {"a": [1, 2]}
        assert server.requests[0].headers["accept-encoding"] == "identity"


def test_a_gzip_bomb_is_not_unpacked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "_MOST_BYTES", 4 << 20)
    bomb = gzip.compress(b'"' + b" " * (200 << 20), 1)
    with running(lambda sent: Reply(bomb, headers={"content-encoding": "gzip"})) as server:
        tracemalloc.start()
        try:
            told = error_of(client_of(server))
            assert tracemalloc.get_traced_memory()[1] < 32 << 20, "the most bytes at a time"
        finally:
            tracemalloc.stop()
        assert f"POST {server.url}/x answered 200 with more than 4 MiB, and no more is read: compare fewer ids" in told


def test_long_answers_are_read() -> None:
    """11 MB are what vLLM says of 32 prompts."""
    entry = {str(index): {"logprob": -1.5, "rank": 7, "decoded_token": "abc"} for index in range(100)}
    with running(lambda sent: Reply({"choices": [{"prompt_logprobs": [entry] * 2000}]})) as server:
        body = client_of(server).get("/x").body
        assert len(body["choices"][0]["prompt_logprobs"]) == 2000
        assert http._MOST_BYTES > 20 * 11e6


def test_numbers_that_are_no_json_are_left_to_whoever_knows_their_place() -> None:
    with running(lambda sent: Reply(b'{"a": [NaN, Infinity, -Infinity]}')) as server:
        assert str(client_of(server).get("/x").body) == "{'a': [nan, inf, -inf]}"


# -- trying again --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [429, 503])
def test_a_busy_server_is_asked_again(status: int) -> None:
    replies = iter([Reply({}, status), Reply({}, status), Reply({"a": 1})])
    with running(lambda sent: next(replies)) as server:
        assert client_of(server).post("/x", {}).body == {"a": 1}
        assert len(server.requests) == 3


@pytest.mark.parametrize("after", [lambda: "1", lambda: formatdate(time.time() + 2, usegmt=True)])
def test_it_says_when(after: Callable[[], str]) -> None:
    def app(sent: Sent) -> Reply:
        return Reply({"a": 1}) if len(server.requests) > 1 else Reply({}, 429, {"retry-after": after()})

    with running(app) as server:
        start = time.perf_counter()
        client_of(server).post("/x", {})
        assert time.perf_counter() - start > 0.9


def test_a_server_that_stays_busy_is_asked_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retries, "_FIRST_PAUSE_S", 0.001)
    with running(lambda sent: Reply({"error": "loading model"}, 503)) as server:
        told = error_of(client_of(server))
        assert len(server.requests) == 10
        assert f"POST {server.url}/x answered 503 to 10 requests in " in told
        assert told.endswith(' s, and is asked no more: {"error": "loading model"}')


@pytest.mark.parametrize("after", ["2", "999999999999", "soon", "Fri, 99 Foo", "-5"])
def test_what_it_asks_for_is_bounded_by_the_timeout(after: str) -> None:
    with running(lambda sent: Reply({}, 503, {"retry-after": after})) as server:
        assert " s, and is asked no more: {}" in error_of(client_of(server, timeout=0.5))
        assert len(server.requests) == 1 or after not in ("2", "999999999999")


@pytest.mark.parametrize("status", [400, 404, 408, 500, 502, 504])
def test_no_other_status_is_tried_again(status: int) -> None:
    with running(lambda sent: Reply({}, status)) as server:
        assert f"answered {status}: {{}}" in error_of(client_of(server))
        assert len(server.requests) == 1


def test_a_server_that_starts_is_waited_for_a_little() -> None:
    with running(lambda sent: Reply({"a": 1})) as server:
        pass
    port = server.port
    client = Client(f"http://127.0.0.1:{port}", name=NAME)
    start = time.perf_counter()
    assert error_of(client) == (
        f"{NAME}: POST http://127.0.0.1:{port}/x cannot connect: nobody listens there, or not yet (connection refused). Is the "
        "server running, and is the address right?"
    )
    assert time.perf_counter() - start > 0.03


def test_an_unknown_host_is_said() -> None:
    told = error_of(Client("http://no-such-host.invalid:8000", name=NAME))
    assert told.startswith(f"{NAME}: POST http://no-such-host.invalid:8000/x cannot connect: ")
    assert told.endswith(". Is the server running, and is the address right?")


def test_a_connection_that_the_server_dropped_while_idle_is_made_anew() -> None:
    with running(lambda sent: Reply({"a": 1}, close=True)) as server:
        client = client_of(server)
        for _ in range(5):
            assert client.post("/x", {}).body == {"a": 1}
        assert len(server.requests) == 5


def test_one_that_it_drops_just_when_we_send_too() -> None:
    """The server has read the request, as far as it can tell, and says nothing: nothing was answered, so it is asked again."""
    replies = iter([Reply({"a": 1}), Reply(raw=drop), Reply({"a": 2})])
    with running(lambda sent: next(replies)) as server:
        client = client_of(server)
        assert [client.post("/x", {}).body["a"] for _ in range(2)] == [1, 2]
        assert len(server.requests) == 3


def test_a_new_connection_that_is_cut_is_an_error() -> None:
    with running(lambda sent: Reply(raw=drop)) as server:
        told = error_of(client_of(server))
        assert told == (
            f"{NAME}: POST {server.url}/x got no answer: Server disconnected without sending a response. Did the server stop?"
        )
        assert len(server.requests) == 1


def test_an_answer_that_breaks_off_is_an_error() -> None:
    def half(connection: socket.socket) -> None:
        connection.sendall(b'HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{"a": [1, 2')
        drop(connection)

    replies = iter([Reply({"a": 1}), Reply(raw=half)])
    with running(lambda sent: next(replies)) as server:
        client = client_of(server)
        client.post("/x", {})  # also where the connection had been idle
        assert f"POST {server.url}/x answered 200, but was cut off after 51 bytes: " in error_of(client)
        assert len(server.requests) == 2


@pytest.mark.parametrize("garbage", [b"SSH-2.0-OpenSSH\r\n\r\n", b"\x00" * 2000, b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 50_000])
def test_what_is_no_http_is_an_error(garbage: bytes) -> None:
    with running(lambda sent: Reply(raw=lambda connection: connection.sendall(garbage))) as server:
        assert " got no answer: " in error_of(client_of(server))
        assert len(server.requests) == 1


# -- timeouts ------------------------------------------------------------------------------------------------------------


@pytest.mark.wall_time
def test_a_server_that_hangs_times_out() -> None:
    with running(lambda sent: Reply(pause=HANGS_S)) as server, ends_soon():
        start = time.perf_counter()
        told = error_of(client_of(server, timeout=0.4))
        assert told == f"{NAME}: POST {server.url}/x did not answer completely within 0.4 s (--pot-server-timeout)"
        assert time.perf_counter() - start > 0.3
        assert len(server.requests) == 1


@pytest.mark.wall_time
@pytest.mark.parametrize("start", [b"HTTP/1.1 200 OK\r\ncontent-length: 10000\r\n\r\n", b"HTTP/1.1 200 OK\r\nx:"])
def test_so_does_one_that_sends_byte_after_byte(start: bytes) -> None:
    with running(lambda sent: Reply(raw=drip(start, b" "))) as server, ends_soon():
        told = error_of(client_of(server, timeout=0.5))
        assert "did not answer completely within 0.5 s (--pot-server-timeout)" in told


def test_no_cookie_is_kept_and_no_password_is_looked_up(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login user password sesame\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    with running(lambda sent: Reply({}, headers={"set-cookie": "a=b"})) as server:
        client = client_of(server)
        client.get("/x")
        client.get("/x")
        for sent in server.requests:
            assert not {"cookie", "authorization"} & set(sent.headers)


def test_a_proxy_is_not_asked_for_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    with running(lambda sent: Reply({"proxy": sent.path})) as proxy, running(lambda sent: Reply({"direct": True})) as server:
        monkeypatch.setenv("http_proxy", proxy.url)
        monkeypatch.delenv("no_proxy", raising=False)
        monkeypatch.delenv("NO_PROXY", raising=False)
        assert client_of(server).get("/x").body == {"direct": True}
        remote = Client("http://models.example:81", timeout=60)
        assert remote.get("/x").body == {"proxy": "http://models.example:81/x"}
        assert len(proxy.requests) == 1


@pytest.mark.parametrize("package", ["httpx2", "orjson"])
def test_without_a_library_one_line_says_what_to_install(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util

    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == package else found(name))
    with pytest.raises(PotError) as error:
        Client("http://127.0.0.1:1")
    assert str(error.value) == f"a server needs the package {package}: pip install 'pytest-pot[server]'"


@pytest.mark.parametrize("variable", ["SSL_CERT_FILE", "missing"])
def test_certificates_that_cannot_be_read_are_said(variable: str, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "certificates.pem"
    if variable != "missing":
        path.write_text("none")
    monkeypatch.setenv("SSL_CERT_FILE", str(path))
    with pytest.raises(PotError) as error:
        Client("https://127.0.0.1:1")
    start = (
        "https://127.0.0.1:1 is asked with encryption, and the certificates that this machine trusts cannot be read from "
        f"SSL_CERT_FILE={str(path)!r}, an environment variable: "
    )
    assert str(error.value).startswith(start)
    assert "\n" not in str(error.value)
    monkeypatch.setenv("https_proxy", "https://proxy.example:3128")
    monkeypatch.setenv("http_proxy", "https://proxy.example:3128")
    with pytest.raises(PotError, match=r"https://proxy\.example:3128 is asked with encryption"):
        Client("http://models.example")


@pytest.mark.parametrize("host", ["1.1.999.0", "9991xn--.", "z0_xn--255"])
def test_a_name_that_no_host_has_is_said(host: str) -> None:
    told = error_of(Client(f"http://{host}:80", timeout=60, name=NAME))
    assert told.startswith(f"{NAME}: POST http://{host}:80/x cannot connect: ")
    assert "is the address right?" in told.lower()
