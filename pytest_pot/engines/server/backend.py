"""The backend for servers: what the registry asks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from typing import Any

from pytest_pot.core.config import ScoringConfig
from pytest_pot.core.errors import PotError
from pytest_pot.core.text import some_of
from pytest_pot.engines.base import LoadedModel
from pytest_pot.engines.server.address import Address, is_server, parse
from pytest_pot.engines.server.engine import ServerEngine, ServerModel
from pytest_pot.engines.server.http import Answer, Client

__all__ = ["ServerBackend"]

_ENGINES = {
    "vllm": ("vllm_given_ids", "engine"),
    "sglang": ("sglang", "SglangEngine"),
    "llamacpp": ("llama_server", "LlamaServerEngine"),
    "openai": ("openai", "OpenAiEngine"),
}
"""By kind, the module beside this one and what makes an engine: its class, or a function that chooses one."""
_TITLES = {"vllm": "vLLM", "sglang": "SGLang", "llamacpp": "llama-server", "openai": "a server that speaks OpenAI's protocol"}

_ABSENT = (404, 405, 501)
"""What a server answers that has no such path."""
_ANY_FAILURE = tuple(range(400, 600))
_SIGNS = (
    ("/get_model_info", "model_path", "sglang"),
    ("/model_info", "model_path", "sglang"),
    ("/get_server_info", "model_path", "sglang"),
    ("/props", "default_generation_settings", "llamacpp"),
    ("/version", "version", "vllm"),
)
"""Paths that one kind of server has, and a name in the answer, from the surest to the least sure."""


class ServerBackend:
    """A :class:`~pytest_pot.engines.base.Backend`."""

    def loads(self, spec: str) -> bool:
        return is_server(spec)

    def load(self, spec: str, role: str, config: ScoringConfig) -> LoadedModel:
        address = parse(spec)
        name = f"the {role}'s server"
        client = Client(address.url, timeout=config.server_timeout, concurrency=config.server_concurrency, name=name)
        try:
            kind = kind_of(client, address)
            return LoadedModel(ServerModel(address, kind, model_name(client, address.model), client))
        finally:
            client.close()

    def runs(self, model: object) -> bool:
        return isinstance(model, ServerModel)

    @contextmanager
    def opened(self, model: Any, role: str, config: ScoringConfig) -> Iterator[ServerEngine]:
        """Raises :class:`PotError` at the end if the server runs another model than at the beginning."""
        module, name = _ENGINES[model.kind]
        engine: ServerEngine = getattr(import_module(f"pytest_pot.engines.server.{module}"), name)(model, role, config)
        try:
            before = engine.identity()
            yield engine
            after = engine.identity()
        finally:
            model.client.close()  # servers drop idle connections, and a gate may be long over before the next
        if before != after:
            changed = [name for name in {**before, **after} if before.get(name) != after.get(name)]
            raise PotError(
                f"the {role}'s server, {model.address.url}, runs another model than when the comparison began: "
                + "; ".join(f"{name} was {before.get(name)!r} and is {after.get(name)!r}" for name in changed)
                + ". A part of the answers may be from either: compare again once it stays as it is"
            )

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


def kind_of(client: Client, address: Address) -> str:
    """Which kind of server answers, one of :data:`~pytest_pot.engines.server.address.KINDS`: what the spec says, or what the
    server is seen to be.

    Raises:
        PotError: the two contradict each other, or nothing answers.
    """
    found = detect(client)
    if found is None:
        raise PotError(
            f"{client.name}, {client.url}, answers, but not as a server of models: it has no /v1/models, and nothing else "
            "by which a kind is known. Is the address right? Its path may be wrong, or missing: http://HOST:PORT/PREFIX"
        )
    if address.kind is None:
        return found
    # Other kinds may speak OpenAI's protocol as well.
    if address.kind != "openai" and found not in ("openai", address.kind):
        raise PotError(
            f"{client.name}, {client.url}, is {_TITLES[found]} and not {_TITLES[address.kind]}, as {address.kind}+ says: leave "
            f"it out, or write {found}+{address.url}"
        )
    return address.kind


def detect(client: Client) -> str | None:
    """The kind of the server that answers: ``"openai"`` if it lists models and is no kind that we know, None if it does not
    even list models."""
    models = client.get("/v1/models", allow=_ABSENT)
    # Its header comes with whatever it answers, also that there is no such path.
    if models.status < 300 and models.headers.get("server", "").lower().startswith("llama.cpp"):
        return "llamacpp"
    entries = _entries(models) if models.status < 300 else []
    owners = {entry.get("owned_by") for entry in entries}
    if owner := next((kind for kind in ("vllm", "sglang", "llamacpp") if kind in owners), None):
        return owner
    # A gateway may list the models in its own way, and pass on everything else.
    for path, name, kind in _SIGNS:
        answer = client.get(path, allow=_ANY_FAILURE)
        if answer.status < 300 and isinstance(answer.body, dict) and name in answer.body:
            return kind
    return "openai" if models.status < 300 else None


def model_name(client: Client, wanted: str | None) -> str:
    """What requests call the model that is meant.

    Raises:
        PotError: the server has several models and none is named, or none of that name.
    """
    models = client.get("/v1/models", allow=_ABSENT)
    if models.status >= 300:
        return wanted or "default"  # a server of one model, which it does not list
    entries = _entries(models)
    names = [entry["id"] for entry in entries]
    aliases = {alias: entry["id"] for entry in entries for alias in entry.get("aliases") or () if isinstance(alias, str)}
    listed = f"it serves {some_of([repr(name) for name in names], 20) if names else 'none'}"
    if wanted is None:
        if len(names) != 1:
            raise PotError(
                f"{client.name}, {client.url}, does not serve one model, but {len(names)}: {listed}. Name the one that is "
                f"meant, {client.url}#{names[0] if names else 'MODEL'}"
            )
        return str(names[0])
    if wanted not in names and wanted not in aliases:
        raise PotError(f"{client.name}, {client.url}, does not serve {wanted!r}: {listed}")
    return wanted


def _entries(models: Answer) -> list[dict[str, Any]]:
    """The entries of ``/v1/models`` that name a model."""
    data = models.body.get("data") if isinstance(models.body, dict) else models.body
    if not isinstance(data, list):
        data = []
    return [entry for entry in data if isinstance(entry, dict) and isinstance(entry.get("id"), str) and entry["id"]]
