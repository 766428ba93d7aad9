"""The specs of servers."""

from __future__ import annotations

import pytest

from pytest_pot.core.errors import PotError
from pytest_pot.engines.server.address import Address, is_server, parse, shown


@pytest.mark.parametrize(
    ("spec", "address"),
    [
        ("http://localhost:8000", Address("http://localhost:8000")),
        ("https://Models.Example", Address("https://models.example")),
        ("HTTP://10.0.0.7:80/", Address("http://10.0.0.7:80")),
        ("http://host:8000/v1", Address("http://host:8000")),
        ("http://host:8000/v1/", Address("http://host:8000")),
        ("https://host/team/llm/v1#org/model", Address("https://host/team/llm", None, "org/model")),
        ("https://host/api-v1", Address("https://host/api-v1")),
        ("vllm+http://host:8000", Address("http://host:8000", "vllm")),
        ("llamacpp+https://host#models/x.gguf", Address("https://host", "llamacpp", "models/x.gguf")),
        ("SGLang+http://host", Address("http://host", "sglang")),
        ("openai+http://[::1]:8000#m@rev?1#2", Address("http://[::1]:8000", "openai", "m@rev?1#2")),
        ("http://[2001:DB8::1]", Address("http://[2001:db8::1]")),
    ],
)
def test_an_address_is_read(spec: str, address: Address) -> None:
    assert is_server(spec)
    assert parse(spec) == address
    assert parse(address.url) == Address(address.url)


@pytest.mark.parametrize(
    "spec", ["models/gpt2", "org/name", "x.gguf", "package.module:factory", "http:/x", "llamacpp://x.gguf", ""]
)
def test_other_specs_are_no_servers(spec: str) -> None:
    assert not is_server(spec)


@pytest.mark.parametrize(
    ("spec", "why"),
    [
        ("foo+http://host", "'foo' is no kind of server that can be gated; the kinds are vllm, sglang, llamacpp, openai"),
        ("http://", "it has no name of a host"),
        ("http://#model", "it has no name of a host"),
        ("http://host:", "its port is no number from 1 to 65535"),
        ("http://host:eighty", "its port is no number from 1 to 65535"),
        ("http://host:0", "its port is no number from 1 to 65535"),
        ("http://host:65536", "its port is no number from 1 to 65535"),
        ("http://host:8000 #m", "it has a space or a control character"),
        ("http://host:8000/\x1b[0m", "it has a space or a control character"),
        ("http://ho st", "it has a space or a control character"),
        ("http://::1:8000", "an IPv6 address is written in brackets"),
        ("http://[::g]:8000", "it has no name of a host"),
        ("http://[1:2]:8000", "what is in brackets is no IPv6 address"),
        ("http://a..b:80", "each part of its host's name, between dots, has to have 1 to 63 characters"),
        (f"http://{'a' * 64}.example", "each part of its host's name, between dots, has to have 1 to 63 characters"),
        (f"http://{'a.' * 126}ab", "the whole name at most 253"),
        ("http://host//v1", "its path has an empty part"),
        ("http://höst", "it has no name of a host"),
        ("http://host#", "no model is named after the #"),
    ],
)
def test_what_is_wrong_is_said(spec: str, why: str) -> None:
    with pytest.raises(PotError) as error:
        parse(spec)
    assert why in str(error.value)
    assert "Write http://HOST:PORT" in str(error.value)


@pytest.mark.parametrize(
    "spec",
    [
        "http://user:sesame@host:8000",
        "http://sesame@host",
        "vllm+https://user:ses:sesame@host:8000/v1#model",
        "http://user:sesame/x@host",
        "http://user:sesame#x@host",
        "http://user:12#sesame@host:x",
        "http://host:8000?api_key=sesame",
        "http://host:8000/v1?api_key=sesame#model",
        "http://host?x=1&key=sesame@x",
        "foo+http://user:sesame@host",
    ],
)
def test_a_secret_is_refused_and_not_shown(spec: str) -> None:
    if spec == "http://user:12#sesame@host:x":  # a model may be called so
        assert parse(spec).model == "sesame@host:x"
        return
    with pytest.raises(PotError) as error:
        parse(spec)
    assert "sesame" not in str(error.value)
    assert "sesame" not in shown(spec)
    assert "***" in str(error.value)


def test_the_message_about_a_password_says_where_a_key_goes() -> None:
    with pytest.raises(PotError) as error:
        parse("http://user:sesame@host:8000#model")
    assert str(error.value) == (
        "'http://***@host:8000#model' is no address of a server: user and password do not belong into it, because it is shown; "
        "a key comes from the variable POT_API_KEY. Write http://HOST:PORT, http://HOST:PORT#MODEL where the server has "
        "several models, or vllm+http://HOST:PORT to say which kind of server it is"
    )


@pytest.mark.parametrize(
    ("url", "loopback"),
    [
        ("http://localhost:1", True),
        ("http://a.localhost", True),
        ("http://127.0.0.2:1", True),
        ("http://[::1]:1", True),
        ("http://10.0.0.1", False),
        ("http://localhost.example", False),
        ("http://[2001:db8::1]", False),
    ],
)
def test_which_servers_are_on_this_machine(url: str, loopback: bool) -> None:
    assert parse(url).is_loopback is loopback
