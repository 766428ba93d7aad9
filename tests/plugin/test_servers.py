"""Gates on servers that tell the truth, and on servers that lie: never a pass, never a traceback."""

from __future__ import annotations

import gzip
import json
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForCausalLM

from pytest_pot.engines.server import http, retries

from ..unit.engines.server.local_server import HANGS_S, LlamaApp, LocalServer, Reply, Sent, VllmApp, running
from .conftest import WITH_CACHE, Project

GATE = """
import pytest

@pytest.mark.pot_identity(candidate="{candidate}", tolerance="numeric")
def test_it():
    pass
"""
KEY = "sk-sesame-4711-abcdef"

Lie = Callable[[Sent, Any], Any]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("POT_API_KEY", raising=False)
    monkeypatch.setattr(retries, "_FIRST_PAUSE_S", 0.001)
    monkeypatch.setattr(http, "_MOST_BYTES", 8 << 20)


def model(folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder).eval()


@pytest.fixture
def vllm(project: Project) -> Iterator[LocalServer]:
    with running(VllmApp(model(project.tiny.copy))) as server:
        yield server


@pytest.fixture
def llama(project: Project) -> Iterator[LocalServer]:
    with running(LlamaApp(model(project.tiny.copy))) as server:
        yield server


def gate(project: Project, server: LocalServer, *arguments: str) -> tuple[pytest.RunResult, str]:
    """Run the gate, and its output on one line."""
    result = project.run_tests(GATE.replace("{candidate}", server.url), *arguments)
    return result, " ".join(line.removeprefix("E").strip() for line in result.outlines)


@pytest.mark.parametrize("kind", ["vllm", "llama"])
def test_a_server_of_the_same_weights_passes(project: Project, kind: str, request: pytest.FixtureRequest) -> None:
    server: LocalServer = request.getfixturevalue(kind)
    [result] = project.run_gates(GATE.replace("{candidate}", server.url))
    assert result["verdict"] == "SAME"
    assert result["score"] < 1e-5
    assert result["candidate"] == server.url


@pytest.mark.parametrize("kind", ["vllm", "llama"])
def test_a_server_of_other_weights_does_not(project: Project, kind: str) -> None:
    app = (VllmApp if kind == "vllm" else LlamaApp)(model(project.tiny.perturbed))
    with running(app) as server:
        [result] = project.run_gates(GATE.replace("{candidate}", server.url))
    assert result["verdict"] == "DIFFERENT"


def test_a_server_is_recorded_and_compared_with_itself(project: Project, vllm: LocalServer) -> None:
    project.ini(
        pot_reference=vllm.url,
        pot_candidate=vllm.url,
        pot_tokenizer=project.tiny.reference,
        pot_prompts="prompts.jsonl",
        pot_server_concurrency=2,
    )
    text = """
    import pytest

    @pytest.mark.pot_identity(reference="r.pot.safetensors", max_score=0)
    def test_it(pot_result):
        assert pot_result.report.mean == 0
    """
    project.run_tests(text, "--pot-update", f"--pot-reference={vllm.url}").assert_outcomes(passed=1)
    n = len(vllm.requests)
    project.run_tests(text).assert_outcomes(passed=1)
    assert len(vllm.requests) > n
    assert vllm.most_at_once == 2
    # No file decides which server is asked: it would be sent the key.
    project.ini(pot_candidate=vllm.url, pot_tokenizer=project.tiny.reference, pot_prompts="prompts.jsonl")
    result = project.run_tests(text, "--pot-update")
    result.assert_outcomes(errors=1)
    assert f"It was recorded from the server {vllm.url}, and no file decides which server is asked" in result.stdout.str()


# -- servers that lie ----------------------------------------------------------------------------------------------------


def is_scoring(sent: Sent) -> bool:
    return sent.method == "POST" and sent.path in ("/v1/completions", "/completion") and len(sent.body["prompt"]) > 4


def at_a_position(change: Callable[[dict[str, Any], list[int]], Any]) -> Lie:
    """Change what vLLM tells of the last position of each prompt: gets the entry, and the ids of the prompt."""

    def lie(sent: Sent, body: Any) -> Any:
        entries = body["choices"][0]["prompt_logprobs"]
        changed = change(entries[-1], sent.body["prompt"])
        entries[-1] = entries[-1] if changed is None else changed
        return body

    return lie


def with_log_prob(value: Any, *, of_target: bool = False) -> Lie:
    def change(entry: dict[str, Any], ids: list[int]) -> None:
        name = str(ids[-1]) if of_target else max(entry, key=lambda each: float(entry[each]["logprob"]))
        entry[name]["logprob"] = value

    return at_a_position(change)


def twice(sent: Sent, body: Any) -> Any:
    text = json.dumps(body)
    entry = json.dumps(body["choices"][0]["prompt_logprobs"][-1])
    first = entry[1 : entry.index("}") + 1]
    return Reply(text.replace(entry, f"{{{first}, {entry[1:]}").encode())


def in_front(sent: Sent, body: Any) -> Any:
    choice = body["choices"][0]
    choice["prompt_token_ids"] = [0, *choice["prompt_token_ids"]]
    choice["prompt_logprobs"].insert(1, choice["prompt_logprobs"][1])
    return body


def missing(sent: Sent, body: Any) -> Any:
    del body["choices"][0]["prompt_logprobs"][-2]
    return body


def cut(sent: Sent, body: Any) -> Any:
    def write(connection: socket.socket) -> None:
        connection.sendall(b'HTTP/1.1 200 OK\r\ncontent-length: 5000\r\n\r\n{"choices": [')
        connection.shutdown(socket.SHUT_RDWR)

    return Reply(raw=write)


def fewer(entry: dict[str, Any], ids: list[int]) -> dict[str, Any]:
    return dict(list(entry.items())[:-3])


def elsewhere(entry: dict[str, Any], ids: list[int]) -> dict[str, Any]:
    return {name if name == str(ids[-1]) else str(int(name) + 150_000): value for name, value in entry.items()}


LIES: dict[str, tuple[Lie, str]] = {
    "a BOS in front": (in_front, "[0, "),
    "a position missing": (missing, "one per token"),
    "null for a position": (at_a_position(lambda entry, ids: False), "position "),
    "null": (with_log_prob(None), "position "),
    "NaN": (with_log_prob(float("nan")), "position "),
    "infinity": (with_log_prob(float("inf")), "position "),
    "-9999": (with_log_prob(-9999.0), "position "),
    "-9999 for the token that came": (with_log_prob(-9999.0, of_target=True), "position "),
    "0 for the token that came": (with_log_prob(0.0, of_target=True), "position "),
    "a text": (with_log_prob("-1.5"), "position "),
    "an id twice": (twice, "is there twice in choices[0].prompt_logprobs["),
    "fewer than asked for": (at_a_position(fewer), "position "),
    "ids of another vocabulary": (at_a_position(elsewhere), "outside the vocabulary of 280 tokens, at prompt "),
    "texts for ids": (
        at_a_position(lambda entry, ids: {f" {name}": value for name, value in entry.items()}),
        "position ",
    ),
    "no log-probabilities": (at_a_position(lambda entry, ids: {}), "position "),
    "another model's": (lambda sent, body: {**body, "choices": []}, "choices"),
    "503 for ever": (lambda sent, body: Reply({"error": "loading"}, 503), "answered 503 to "),
    "500": (lambda sent, body: Reply({"error": "boom"}, 500), 'answered 500: {"error": "boom"}'),
    "hangs": (lambda sent, body: Reply(body, pause=HANGS_S), "did not answer completely within 2 s"),
    "cut": (cut, "but was cut off after "),
    "HTML": (
        lambda sent, body: Reply(b"<html>Sign in", headers={"content-type": "text/html"}),
        "answered 200 with text/html, which cannot be read as JSON (Expecting value at character 0): <html>Sign in",
    ),
    "a gzip bomb": (
        lambda sent, body: Reply(gzip.compress(b" " * (32 << 20), 1), headers={"content-encoding": "gzip"}),
        "answered 200 with more than 8 MiB, and no more is read",
    ),
    "a redirect": (
        lambda sent, body: Reply(b"", 307, {"location": "https://elsewhere.example/v1/completions"}),
        "answered 307, which sends to https://elsewhere.example/v1/completions. No redirect is followed",
    ),
    "megabytes of other JSON": (lambda sent, body: {"x": "y" * (7 << 20)}, "choices"),
    "10 MB of JSON": (lambda sent, body: {"x": "y" * (10 << 20)}, "answered 200 with more than 8 MiB"),
    "JSON in JSON": (lambda sent, body: Reply(b'{"a":' * 200_000), "nested too deep"),
}


@pytest.mark.parametrize("name", LIES)
def test_a_server_that_lies_does_not_pass(project: Project, vllm: LocalServer, name: str) -> None:
    lie, message = LIES[name]
    app = vllm.app
    assert isinstance(app, VllmApp)
    app.lie = lambda sent, body: lie(sent, body) if is_scoring(sent) else body
    result, output = gate(project, vllm, *(["--pot-server-timeout=2"] if name == "hangs" else []))
    result.assert_outcomes(failed=1)
    assert "the candidate" in output
    assert vllm.url in output
    assert message in output
    assert "Traceback" not in output
    assert "pytest_pot/engines" not in output


@pytest.mark.parametrize("name", ["NaN", "null", "fewer than asked for", "503 for ever"])
def test_nor_is_it_recorded(project: Project, vllm: LocalServer, name: str) -> None:
    lie, message = LIES[name]
    assert isinstance(vllm.app, VllmApp)
    vllm.app.lie = lambda sent, body: lie(sent, body) if is_scoring(sent) else body
    project.ini(pot_reference=vllm.url, pot_candidate=project.tiny.copy, pot_tokenizer=project.tiny.reference)
    project.write(
        test_it="""
        import pytest

        @pytest.mark.pot_identity(reference="r.pot.safetensors")
        def test_it():
            pass
        """
    )
    result = project.run("--pot-update", "--pot-prompts=prompts.jsonl")
    result.assert_outcomes(failed=1)
    assert message in result.stdout.str()
    assert "the reference" in result.stdout.str()
    assert not (project.path / "r.pot.safetensors").exists()


@pytest.mark.parametrize("by", ["prompt", "time"])
def test_half_of_the_prompts_answered_by_another_model(project: Project, by: str) -> None:
    """Behind a URL may be several servers. The probes that run a second time may tell as well."""
    same, other = VllmApp(model(project.tiny.copy)), VllmApp(model(project.tiny.perturbed))
    project.prompts("prompts.jsonl", *({"text": f"The river {i}", "continuation": " ran past the old mill."} for i in range(8)))
    asked: list[Any] = []

    def app(sent: Sent) -> Reply:
        if not is_scoring(sent):
            return same(sent)
        if by == "time" or sent.body["prompt"] not in asked:
            asked.append(sent.body["prompt"])
        at = asked.index(sent.body["prompt"]) if by == "prompt" else len(asked) - 1
        return (same if at < 4 else other)(sent)

    with running(app) as server:
        [result] = project.run_gates(GATE.replace("{candidate}", server.url), "--pot-server-concurrency=1")
    assert not result["passed"]
    assert result["verdict"] == ("DIFFERENT" if by == "prompt" else "ERROR")


def test_a_server_that_is_busy_for_a_moment_passes(project: Project, vllm: LocalServer) -> None:
    app, n = vllm.app, 0

    def busy(sent: Sent) -> Reply:
        nonlocal n
        n += is_scoring(sent)
        return Reply({"error": "busy"}, 429, {"retry-after": "0"}) if is_scoring(sent) and n <= 2 else app(sent)

    vllm.app = busy
    result, _ = gate(project, vllm)
    result.assert_outcomes(passed=1)


def test_a_server_that_is_not_there_is_an_error(project: Project, vllm: LocalServer) -> None:
    vllm.stop()
    result, output = gate(project, vllm)
    result.assert_outcomes(errors=1)
    assert f"the candidate's server: GET {vllm.url}/v1/models cannot connect: nobody listens there" in output


LLAMA_LIES: dict[str, tuple[Lie, str]] = {
    "a BOS in front": (lambda sent, body: {**body, "tokens_evaluated": body["tokens_evaluated"] + 1}, "BOS"),
    "no probabilities": (lambda sent, body: {**body, "completion_probabilities": []}, "log-probabilities"),
    "-9999": (lambda sent, body: _first(body, logprob=-9999.0), "-9999"),
    "null": (lambda sent, body: _first(body, logprob=None), "position "),
    "an id twice": (
        lambda sent, body: _first(body, id=body["completion_probabilities"][0]["top_logprobs"][1]["id"]),
        "twice, at prompt ",
    ),
    "an id of another vocabulary": (lambda sent, body: _first(body, id=151_000), "outside the vocabulary of 280 tokens"),
}


def _first(body: Any, **fields: Any) -> Any:
    body["completion_probabilities"][0]["top_logprobs"][0].update(fields)
    return body


@pytest.mark.parametrize("name", LLAMA_LIES)
def test_a_llama_server_that_lies_does_not_pass(project: Project, llama: LocalServer, name: str) -> None:
    lie, message = LLAMA_LIES[name]
    assert isinstance(llama.app, LlamaApp)
    llama.app.lie = lambda sent, body: lie(sent, body) if is_scoring(sent) else body
    result, output = gate(project, llama)
    result.assert_outcomes(failed=1)
    assert message in output
    assert llama.url in output
    assert "Traceback" not in output


# -- addresses and keys --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["marker", "command line", "ini file"])
@pytest.mark.parametrize("spec", ["http://user:sesame@127.0.0.1:1", "http://127.0.0.1:1?api_key=sesame", "http://127.0.0.1:x"])
def test_an_address_with_a_secret_is_a_usage_error_that_does_not_show_it(project: Project, where: str, spec: str) -> None:
    arguments = []
    if where == "command line":
        arguments = [f"--pot-candidate={spec}"]
    elif where == "ini file":
        project.ini(pot_reference=project.tiny.reference, pot_candidate=spec)
    marker = f"(candidate={spec!r})" if where == "marker" else ""
    result = project.run_tests(f"import pytest\n\n@pytest.mark.pot_identity{marker}\ndef test_it():\n    pass\n", *arguments)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    output = result.stdout.str() + result.stderr.str()
    assert "sesame" not in output
    assert "is no address of a server: " in output


SECONDS = "must be a number of seconds above 0 and at most 86400 (a day)"


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--pot-server-concurrency=0", "--pot-server-concurrency=0 must be a whole number of at least 1"),
        ("--pot-server-concurrency=many", "--pot-server-concurrency='many' must be a whole number of at least 1"),
        ("--pot-server-timeout=0", f"--pot-server-timeout=0.0 {SECONDS}"),
        ("--pot-server-timeout=inf", f"--pot-server-timeout=inf {SECONDS}"),
        ("--pot-server-timeout=1e10", f"--pot-server-timeout=10000000000.0 {SECONDS}"),
        ("--pot-server-timeout=soon", f"--pot-server-timeout='soon' {SECONDS}"),
    ],
)
def test_wrong_options_are_usage_errors(project: Project, option: str, message: str) -> None:
    result = project.run_tests(GATE.replace("{candidate}", "gpt2"), option)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert [line for line in result.errlines if line] == [f"ERROR: {message}"]


def test_an_empty_key_is_a_usage_error(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POT_API_KEY", "")
    result = project.run()
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert "the environment variable POT_API_KEY is empty: give it a value, or unset it" in result.stderr.str()


def echo(sent: Sent, status: int = 400) -> Reply:
    told = f"{sent.headers.get('authorization')} is {KEY}"
    return Reply({"error": told}, status, {"X-Echo": told})


ECHOES: dict[str, Lie | None] = {
    "passes": None,
    "400": lambda sent, body: echo(sent),
    "503": lambda sent, body: echo(sent, 503),
    "HTML": lambda sent, body: Reply(f"<p>{KEY}".encode(), headers={"content-type": f"text/{KEY}"}),
    "in an answer": lambda sent, body: {**body, "choices": [], "why": KEY},
    "as an entry": at_a_position(lambda entry, ids: {**entry, KEY: {"logprob": KEY}}),
    "as a log-probability": with_log_prob(KEY),
    "cut": lambda sent, body: Reply(KEY.encode() * 4, headers={"content-length": "9999"}, close=True),
    "redirect": lambda sent, body: Reply(b"", 302, {"location": f"/{KEY}"}),
    "hangs": lambda sent, body: Reply({}, pause=HANGS_S),
}
_QUICK = ("passes", "400", "as an entry", "hangs")
"""One of each: no error, a status, a message of an engine, a timeout."""


@pytest.mark.parametrize("name", [name if name in _QUICK else pytest.param(name, marks=pytest.mark.slow) for name in ECHOES])
def test_the_key_is_in_no_output(project: Project, vllm: LocalServer, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not in what is printed with all variables of all frames, nor in any file, whatever the server answers."""
    monkeypatch.setenv("PYTEST_ADDOPTS", WITH_CACHE)
    monkeypatch.setenv("POT_API_KEY", KEY)
    monkeypatch.delenv("PYTEST_CURRENT_TEST", raising=False)
    lie, timeout = ECHOES[name], 1 if name == "hangs" else 60
    assert isinstance(vllm.app, VllmApp)
    vllm.app.lie = None if lie is None else lambda sent, body: lie(sent, body) if is_scoring(sent) else body
    project.ini(
        pot_reference=project.tiny.reference, pot_candidate=vllm.url, pot_prompts="prompts.jsonl", pot_server_timeout=timeout
    )
    project.write(
        test_it="""
        import pytest

        @pytest.mark.pot_identity
        def test_gate():
            pass

        @pytest.mark.pot_identity(confidence=0.95, reference="new.pot.safetensors")
        def test_recorded():
            pass

        @pytest.fixture
        def broken(pot_result, pot_candidate):
            raise RuntimeError(repr(pot_candidate) + repr(vars(pot_candidate.client)))

        @pytest.mark.pot_identity(max_score=1, max_prompt_score=1)
        def test_fixture(broken):
            pass

        def test_scorer(pot_scorer, pot_reference, pot_candidate, pot_tokenizer):
            import os
            model = pot_reference[0] if isinstance(pot_reference, tuple) else pot_reference
            pot_scorer.score_batch(model, pot_candidate, ["The old mill"], pot_tokenizer)
            pot_scorer.record(pot_candidate, ["The old mill"], pot_tokenizer)
        """
    )
    for report, more in (
        ("gates.json", ()),
        ("gates.md", ("--pot-update", f"--pot-reference={vllm.url}", f"--pot-tokenizer={project.tiny.reference}")),
    ):
        result = project.run(
            "-vv", "-l", "-ra", "--log-level=DEBUG", "--full-trace", "--junitxml=out.xml", f"--pot-report={report}", *more
        )
        output = result.stdout.str() + result.stderr.str()
        assert "sesame" not in output
        assert "test_gate" in output
    assert any(sent.headers.get("authorization") == f"Bearer {KEY}" for sent in vllm.requests)
    files = [path for path in project.path.rglob("*") if path.is_file()]
    assert {"gates.json", "gates.md", "out.xml"} <= {path.name for path in files}
    for path in files:
        assert b"sesame" not in path.read_bytes()
