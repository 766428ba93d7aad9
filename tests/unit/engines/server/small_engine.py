"""The least engine for a server: what all engines for servers have in common, and vLLM's shape of log-probabilities."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pytest_pot.core.config import ScoringConfig
from pytest_pot.engines.server.address import parse
from pytest_pot.engines.server.answers import Row
from pytest_pot.engines.server.engine import ServerEngine, ServerModel
from pytest_pot.engines.server.http import Client
from pytest_pot.engines.tokens import Tokens

__all__ = ["SmallEngine", "model_at"]


class SmallEngine(ServerEngine):
    title = "Small"
    vocab_size = 97
    most_ids = 97
    max_positions = None
    version = None

    def identity(self) -> Mapping[str, Any]:
        return dict(self.client.get("/v1/models").body["data"][0], created=None)

    def read(self, tokens: Tokens, k: int) -> list[Row]:
        body = {"model": self.model.name, "prompt": list(tokens.ids), "max_tokens": 1, "prompt_logprobs": k}
        entries = self.client.post("/v1/completions", body).body["choices"][0]["prompt_logprobs"]
        rows = []
        for entry, target in zip(entries[tokens.prompt_len :], tokens.targets, strict=True):
            told = {int(name): value["logprob"] for name, value in entry.items()}
            rows.append(Row(list(told), list(told.values()), told[target]))
        return rows

    def sample(self, contexts: Sequence[Sequence[int]], n_tokens: int, seed: int) -> list[list[int]]:
        raise NotImplementedError

    def generation(self, ids: Sequence[int], n_tokens: int) -> tuple[str, dict[str, Any]]:
        raise NotImplementedError

    def tokens_in(self, event: Any) -> int:
        raise NotImplementedError


def model_at(url: str, config: ScoringConfig | None = None) -> ServerModel:
    config = config or ScoringConfig()
    client = Client(url, timeout=config.server_timeout, concurrency=config.server_concurrency, name="the candidate's server")
    return ServerModel(parse(url), "vllm", "tiny", client)
