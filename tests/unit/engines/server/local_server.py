"""Servers on this machine for tests: real HTTP, the shapes of real servers, the log-probabilities of a real model, and one
thing wrong where a test asks for it."""

from __future__ import annotations

import copy
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import torch

from ...streaming import HANGS_S
from .playing import values_and_ranks

__all__ = ["HANGS_S", "App", "LlamaApp", "LocalServer", "Reply", "Sent", "VllmApp", "no_threads_are_left", "real", "running"]

_DATA = Path(__file__).parents[3] / "data" / "servers"


def real(name: str) -> Any:
    """What a real server answered: the exchange ``name`` in ``tests/data/servers``."""
    return json.loads((_DATA / f"{name}.json").read_text(encoding="utf-8"))["response"]


@dataclass(frozen=True)
class Sent:
    """A request that came."""

    method: str
    path: str
    headers: Mapping[str, str]
    """With names in lower case."""
    body: Any
    connection: int
    """A number of the connection that it came over."""


@dataclass
class Reply:
    """What a server answers."""

    body: Any = None
    """Bytes as they are; anything else as JSON."""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    pause: float = 0.0
    """Seconds before it answers."""
    raw: Callable[[socket.socket], None] | None = None
    """Writes what it likes to the connection instead, which is closed then."""
    close: bool = False
    """Whether the connection is closed after the answer, without a word."""

    def content(self) -> bytes:
        return self.body if isinstance(self.body, bytes) else json.dumps(self.body).encode()


App = Callable[[Sent], Reply]


class LocalServer:
    """An HTTP server on a free port of 127.0.0.1, which answers what ``app`` returns."""

    def __init__(self, app: App) -> None:
        self.app = app
        self.requests: list[Sent] = []
        self.together = 1
        """Requests are answered once so many have been there at a time."""
        self.most_at_once = 0
        self._at_once = 0
        self._changed = threading.Condition()
        self.stopping = threading.Event()
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            wbufsize = -1
            disable_nagle_algorithm = True

            def log_message(self, *arguments: object) -> None:
                pass

            def do_GET(self) -> None:
                server.handle(self)

            def do_POST(self) -> None:
                server.handle(self)

        class Quiet(ThreadingHTTPServer):
            def handle_error(self, *arguments: object) -> None:
                """Whoever asked has gone."""

        self._http = Quiet(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        self._http.block_on_close = False
        self.port: int = self._http.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._thread = threading.Thread(target=lambda: self._http.serve_forever(poll_interval=0.01), daemon=True)
        self._thread.start()

    def handle(self, handler: BaseHTTPRequestHandler) -> None:
        length = int(handler.headers.get("content-length", "0"))
        content = handler.rfile.read(length)
        headers = {name.lower(): value for name, value in handler.headers.items()}
        sent = Sent(
            handler.command or "", handler.path, headers, json.loads(content) if content else None, handler.client_address[1]
        )
        with self._changed:
            self.requests.append(sent)
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)
            self._changed.notify_all()
            self._changed.wait_for(lambda: self.most_at_once >= self.together, HANGS_S)
        try:
            reply = self.app(sent)
            self.stopping.wait(reply.pause)
        finally:
            with self._changed:
                self._at_once -= 1
        try:
            self._write(handler, reply)
        except OSError:  # whoever asked has gone
            handler.close_connection = True

    def _write(self, handler: BaseHTTPRequestHandler, reply: Reply) -> None:
        if reply.raw is not None:
            reply.raw(handler.connection)
            handler.close_connection = True
            return
        content = reply.content()
        handler.send_response_only(reply.status)
        given = {name.lower() for name in reply.headers}
        defaults = {"content-type": "application/json", "content-length": str(len(content)), "server": "local"}
        for name, value in {**{n: v for n, v in defaults.items() if n not in given}, **reply.headers}.items():
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(content)
        handler.wfile.flush()
        if reply.close:
            handler.close_connection = True

    def hang(self) -> None:
        """Wait as a server that hangs, until the test is over."""
        self.stopping.wait(2 * HANGS_S)

    def stop(self) -> None:
        self.stopping.set()
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()


def no_threads_are_left() -> bool:
    """Whether the threads that send requests side by side end, while the server still hangs."""
    end = time.monotonic() + HANGS_S
    while any(thread.name.startswith("pot-server") for thread in threading.enumerate()):
        if time.monotonic() > end:
            return False
        time.sleep(0.005)
    return True


@contextmanager
def running(app: App) -> Iterator[LocalServer]:
    """A server that runs while the context lasts."""
    server = LocalServer(app)
    try:
        yield server
    finally:
        server.stop()


Lie = Callable[[Sent, Any], Any]
"""Gets a request and the true answer's body, its own copy, and returns a body or a :class:`Reply`."""


class ModelApp:
    """Computes the log-probabilities that a server tells, with a real model."""

    model_name = "tiny"

    def __init__(self, model: Any, lie: Lie | None = None, *, delay: float = 0.0) -> None:
        """``model``: a transformers causal LM. ``delay``: seconds that each answer takes."""
        self.model = model
        self.lie = lie
        self.delay = delay
        self._lock = threading.Lock()

    @property
    def vocab_size(self) -> int:
        return int(self.model.config.vocab_size)

    def log_probs(self, ids: Sequence[int]) -> torch.Tensor:
        """[length, vocabulary] float32; row i is about the token after ``ids[i]``."""
        with self._lock, torch.no_grad():
            return torch.log_softmax(self.model(torch.tensor([list(ids)])).logits[0].float(), dim=-1)

    def __call__(self, sent: Sent) -> Reply:
        reply = self.answer(sent)
        if self.lie is not None:
            told = self.lie(sent, copy.deepcopy(reply.body))
            reply = told if isinstance(told, Reply) else Reply(told, reply.status, reply.headers)
        reply.pause = reply.pause or (self.delay if sent.method == "POST" else 0.0)
        return reply

    def answer(self, sent: Sent) -> Reply:
        raise NotImplementedError


class VllmApp(ModelApp):
    """A vLLM with ``--max-logprobs most``."""

    def __init__(self, model: Any, lie: Lie | None = None, *, most: int = 1000, delay: float = 0.0) -> None:
        super().__init__(model, lie, delay=delay)
        self.most = most

    def answer(self, sent: Sent) -> Reply:
        match sent.method, sent.path:
            case "GET", "/v1/models":
                body = real("vllm_models")
                body["data"][0].update(id=self.model_name, root=f"models/{self.model_name}", created=int(time.time()))
                return Reply(body)
            case "GET", "/version":
                return Reply(real("vllm_version"))
            case "POST", "/v1/completions":
                return self._completion(sent.body)
        return Reply(real("vllm_props_404"), 404)

    def _completion(self, body: Any) -> Reply:
        if body["model"] != self.model_name:
            return Reply(real("vllm_error_wrong_model"), 404)
        k = body.get("prompt_logprobs")
        wanted = self.vocab_size if k == -1 else k
        if wanted is not None and wanted > self.most and not (k == -1 and self.most == -1):
            error = real("vllm_error_too_many_logprobs")
            error["error"]["message"] = (
                f"Requested prompt logprobs of {wanted}, which is greater than max allowed: {self.most} "
                f"(parameter=prompt_logprobs, value={wanted})"
            )
            return Reply(error, 400)
        answer = real("vllm_completions_two_prompts_return_token_ids")
        answer["model"] = self.model_name
        choice = answer["choices"][0]
        ids = list(body["prompt"])
        log_probs = self.log_probs(ids)
        entries: list[Any] = [None]
        for row, target in zip(log_probs[:-1], ids[1:], strict=True):
            entries.append(None if wanted is None else _entry(row, wanted, target))
        generated = [int(log_probs[-1].argmax())] * int(body["max_tokens"])
        choice.update(
            logprobs=None,
            prompt_logprobs=entries if wanted is not None else None,
            prompt_token_ids=ids if body.get("return_token_ids") else None,
            token_ids=generated if body.get("return_token_ids") else None,
        )
        answer["choices"] = [choice]
        return Reply(answer)


def _entry(row: torch.Tensor, k: int, target: int) -> dict[str, Any]:
    values, ids = row.topk(min(k, len(row)))
    told = {int(target): float(row[target])} | dict(zip(ids.tolist(), values.tolist(), strict=True))
    _, ranks = values_and_ranks(row)
    return {str(each): {"logprob": value, "rank": ranks[each], "decoded_token": f"t{each}"} for each, value in told.items()}


class LlamaApp(ModelApp):
    """A llama-server."""

    def answer(self, sent: Sent) -> Reply:
        headers = {"server": "llama.cpp"}
        match sent.method, sent.path:
            case "GET", "/v1/models":
                body = real("llama_models")
                body["data"][0]["id"] = self.model_name
                body["data"][0]["meta"].update(n_vocab=self.vocab_size, n_ctx=128, n_ctx_train=128)
                return Reply(body, headers=headers)
            case "GET", "/props":
                return Reply(real("llama_props"), headers=headers)
            case "GET", "/lora-adapters":
                return Reply([], headers=headers)
            case "POST", "/tokenize":
                return Reply({"tokens": [5]}, headers=headers)
            case "POST", "/completion":
                return Reply(self._completion(sent.body), headers=headers)
        return Reply(real("llama_version_404"), 404, headers)

    def _completion(self, body: Any) -> Any:
        answer = real("llama_completion_forced_by_logit_bias")
        row = self.log_probs(body["prompt"])[-1]
        [(forced, _)] = body["logit_bias"]
        values, ids = row.topk(min(body["n_probs"], len(row)))
        probability = answer["completion_probabilities"][0]
        shape = probability["top_logprobs"][0]
        probability.update(
            id=forced,
            logprob=float(row[forced]),
            top_logprobs=[
                {**shape, "id": each, "logprob": value} for each, value in zip(ids.tolist(), values.tolist(), strict=True)
            ],
        )
        whole = {**answer, "tokens": [forced], "tokens_evaluated": len(body["prompt"])}
        fields = body.get("response_fields")
        return whole if fields is None else {name: whole[name] for name in fields if name in whole}
