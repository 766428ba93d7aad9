"""The backend for servers: what the registry asks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from typing import Any

from pytest_pot.core.config import ScoringConfig
from pytest_pot.core.errors import PotError
from pytest_pot.engines.base import LoadedModel
from pytest_pot.engines.server.address import is_server, parse
from pytest_pot.engines.server.engine import ServerEngine, ServerModel
from pytest_pot.engines.server.http import Client

__all__ = ["ServerBackend"]

_ENGINES = {
    "vllm": ("vllm_given_ids", "engine"),
    "sglang": ("sglang", "SglangEngine"),
    "llamacpp": ("llama_server", "LlamaServerEngine"),
    "openai": ("openai", "OpenAiEngine"),
}
"""By kind, the module beside this one and what makes an engine: its class, or a function that chooses one."""


class ServerBackend:
    """A :class:`~pytest_pot.engines.base.Backend`."""

    def loads(self, spec: str) -> bool:
        return is_server(spec)

    def load(self, spec: str, role: str, config: ScoringConfig) -> LoadedModel:  # noqa: ARG002
        address = parse(spec)
        client = Client(address.url, timeout=config.server_timeout, concurrency=config.server_concurrency)
        kind = address.kind or detect(client)
        return LoadedModel(ServerModel(address, kind, address.model or only_model(client), client))

    def runs(self, model: object) -> bool:
        return isinstance(model, ServerModel)

    @contextmanager
    def opened(self, model: Any, role: str, config: ScoringConfig) -> Iterator[ServerEngine]:
        """Raises :class:`PotError` at the end if the server runs another model than at the beginning."""
        module, name = _ENGINES[model.kind]
        engine: ServerEngine = getattr(import_module(f"pytest_pot.engines.server.{module}"), name)(model, role, config)
        before = engine.identity()
        yield engine
        after = engine.identity()
        if before != after:
            raise PotError(f"the {role}'s server, {model.address.url}, changed its model while it was asked: {before}, {after}")

    def max_positions(self, model: Any) -> int | None:  # noqa: ARG002 - asked when the model is opened
        return None

    def device(self, model: Any) -> str | None:  # noqa: ARG002
        return None

    def pinned(self, model: Any) -> bool:  # noqa: ARG002
        return False

    def weights_digest(self, model: Any) -> str | None:  # noqa: ARG002
        return None

    def content(self, model: Any) -> Mapping[str, Any] | None:  # noqa: ARG002
        return None

    def why_no_content(self, model: Any) -> str:  # noqa: ARG002
        return "a server does not tell what weights it runs"

    def files_tell_all(self, spec: str) -> bool:  # noqa: ARG002
        return False


def detect(client: Client) -> str:
    """Which kind of server answers, one of :data:`~pytest_pot.engines.server.address.KINDS`."""
    models = client.get("/v1/models")
    if models.headers.get("server") == "llama.cpp":
        return "llamacpp"
    owners = [entry.get("owned_by") for entry in models.body["data"]]
    return next((kind for kind in ("vllm", "sglang", "llamacpp") if kind in owners), "openai")


def only_model(client: Client) -> str:
    """The name of the server's only model."""
    return str(client.get("/v1/models").body["data"][0]["id"])
