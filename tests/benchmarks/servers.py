"""What a gate on a server takes beyond the server's own time: ``python tests/benchmarks/servers.py``.

A process of its own answers in vLLM's shape after a realistic time: a part that requests take side by side (the model), and a
part that they take one after the other (writing the JSON, which a server in Python does in one process). The same 257 requests
are sent by a bare script, eight at a time over connections that stay open, and by a gate; the least of a few runs counts.
"""

from __future__ import annotations

import argparse
import http.client
import json
import math
import resource
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

VOCAB = 49_152
CONCURRENCY = 8
LOG_PROBS = [-0.5, *(-2.5 - math.log(1 + rank) * 1.3 for rank in range(VOCAB))]
"""By rank: the first of them leads, and all of them sum to nearly 1."""


def entries(ids: Sequence[int], k: int) -> str:
    """What vLLM tells of a prompt, with the same likeliest ids at each position and another token that comes."""
    likeliest = {rank * 37 % VOCAB: LOG_PROBS[rank] for rank in range(k)}
    shared = ", ".join(
        f'"{each}": {{"logprob": {value!r}, "rank": 1, "decoded_token": " abc"}}' for each, value in likeliest.items()
    )
    told = [
        f"{{{shared}}}"
        if target in likeliest
        else f'{{"{target}": {{"logprob": {LOG_PROBS[k + 99]!r}, "rank": 900, "decoded_token": "x"}}, {shared}}}'
        for target in ids[1:]
    ]
    return f"[null, {', '.join(told)}]"


def serve(model_s: float, json_s: float) -> None:
    """Answer until the process is ended; the port is the first line that is printed."""
    writing = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1

        def log_message(self, *arguments: object) -> None:
            pass

        def do_GET(self) -> None:
            known = {
                "/version": {"version": "0.32.0"},
                "/v1/models": {"data": [{"id": "m", "owned_by": "vllm", "root": "m", "parent": None, "max_model_len": 4096}]},
            }
            self.reply(200 if self.path in known else 404, json.dumps(known.get(self.path, {"detail": "Not Found"})))

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            if self.path != "/v1/completions":
                self.reply(404, "{}")
                return
            k = body.get("prompt_logprobs", 0)
            if k == -1:
                text = f"Requested prompt logprobs of {VOCAB}, which is greater than max allowed: 1000"
                self.reply(400, json.dumps({"error": {"message": text}}))
                return
            time.sleep(model_s)
            with writing:
                time.sleep(json_s)
                ids = body["prompt"]
                self.reply(
                    200,
                    f'{{"choices": [{{"index": 0, "text": "", "token_ids": [1], "prompt_token_ids": {ids}, '
                    f'"prompt_logprobs": {entries(ids, k)}}}]}}',
                )

        def reply(self, status: int, text: str) -> None:
            content = text.encode()
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    print(server.server_address[1], flush=True)
    server.serve_forever()


class Tokenizer:
    """A token for every four characters, as of English in a large vocabulary."""

    def __call__(self, text: str, add_special_tokens: bool = True, verbose: bool = True) -> dict[str, list[int]]:
        return {"input_ids": [zlib.crc32(text[i : i + 4].encode()) % VOCAB for i in range(0, len(text), 4)]}

    def decode(self, ids: Sequence[int]) -> str:
        return " ".join(map(str, ids))


def bare(port: int, prompts: Sequence[Sequence[int]], k: int) -> None:
    """The same requests, with nothing done with the answers but parsing them."""
    local = threading.local()

    def ask(ids: Sequence[int]) -> int:
        if not hasattr(local, "connection"):
            local.connection = http.client.HTTPConnection("127.0.0.1", port)
        body = {
            "model": "m",
            "prompt": list(ids),
            "max_tokens": 1,
            "temperature": 0.0,
            "prompt_logprobs": k,
            "return_token_ids": True,
        }
        local.connection.request("POST", "/v1/completions", json.dumps(body), {"content-type": "application/json"})
        return len(json.loads(local.connection.getresponse().read())["choices"])

    with ThreadPoolExecutor(CONCURRENCY) as pool:
        assert sum(pool.map(ask, sorted(prompts, key=len, reverse=True))) == len(prompts)


def seconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def megabytes() -> float:
    """The most memory that this process had so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model-ms", type=float, default=60.0, help="of each request, side by side")
    parser.add_argument("--json-ms", type=float, default=25.0, help="of each request, one after the other")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--serve", action="store_true")
    options = parser.parse_args()
    if options.serve:
        serve(options.model_ms / 1000, options.json_ms / 1000)
        return
    command = [sys.executable, __file__, "--serve", f"--model-ms={options.model_ms}", f"--json-ms={options.json_ms}"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            measure(int(process.stdout.readline()), options.rounds)
        finally:
            process.kill()


def measure(port: int, rounds: int) -> None:
    from pytest_pot import ScoringConfig, TeacherForcedScorer, builtin_prompts
    from pytest_pot.engines.registry import load_model

    config = ScoringConfig(server_concurrency=CONCURRENCY)
    scorer, tokenizer, prompts = TeacherForcedScorer(config), Tokenizer(), list(builtin_prompts(None))
    model: Any = load_model(f"http://127.0.0.1:{port}", "candidate", config).model
    longest = sorted(prompts, key=lambda prompt: -len(prompt.text))[:64]  # long prompts are answered by more JSON
    scorer.score_baseline(scorer.record(model, longest, tokenizer), model, tokenizer)
    before = megabytes()
    baseline = scorer.record(model, prompts, tokenizer)
    scorer.score_baseline(baseline, model, tokenizer)
    after = megabytes()
    ids = [tokens.ids for tokens in baseline.tokens]
    times: dict[str, list[float]] = {"bare": [], "gate": [], "record": [], "bare, 100 ids": []}
    for _ in range(rounds):
        times["bare"].append(seconds(lambda: bare(port, ids, 200)))
        times["gate"].append(seconds(lambda: scorer.score_baseline(baseline, model, tokenizer)))
        times["bare, 100 ids"].append(seconds(lambda: bare(port, ids, 100)))
        times["record"].append(seconds(lambda: scorer.record(model, prompts, tokenizer)))
    least = {name: min(values) for name, values in times.items()}
    print(f"{len(prompts)} prompts, {sum(map(len, ids))} tokens, {CONCURRENCY} requests at a time; seconds, least of {rounds}")
    for what, name, bare_name in (("gate against a recording", "gate", "bare"), ("recording", "record", "bare, 100 ids")):
        took, alone = least[name], least[bare_name]
        print(f"{what}: {took:.2f}, {bare_name} script {alone:.2f}: {took / alone:.2f} times")
    print(f"memory: at most {before:.0f} MB for the 64 longest prompts, recorded and gated, {after:.0f} MB for {len(prompts)}")


if __name__ == "__main__":
    main()
