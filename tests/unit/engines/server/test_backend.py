"""Which kind of server answers, which of its models is meant, and whether it stays the same."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest

from pytest_pot.core.config import ScoringConfig
from pytest_pot.core.errors import PotError
from pytest_pot.engines.server import backend
from pytest_pot.engines.server.backend import ServerBackend
from pytest_pot.engines.server.engine import ServerModel

from ....unit.models import tiny
from .local_server import LlamaApp, Reply, Sent, VllmApp, real, running
from .small_engine import SmallEngine

CONFIG = ScoringConfig(server_timeout=60)


@pytest.fixture(autouse=True)
def no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("POT_API_KEY", raising=False)


def load(spec: str) -> ServerModel:
    model: ServerModel = ServerBackend().load(spec, "candidate", CONFIG).model
    return model


def replies(**by_path: Any) -> Callable[[Sent], Reply]:
    """A server that has these paths, with ``_`` for ``/``, and 404 for all others."""

    def app(sent: Sent) -> Reply:
        found = by_path.get(sent.path.strip("/").replace("/", "_"), Reply({"detail": "Not Found"}, 404))
        return found if isinstance(found, Reply) else Reply(found)

    return app


def models(*names: str, **fields: object) -> Any:
    return {"object": "list", "data": [{"id": name, "object": "model", "owned_by": "me", **fields} for name in names]}


KINDS: dict[str, tuple[Any, str, str]] = {
    "vLLM": (VllmApp(tiny()), "vllm", "tiny"),
    "llama-server": (LlamaApp(tiny()), "llamacpp", "tiny"),
    "SGLang": (replies(v1_models=models("m", owned_by="sglang")), "sglang", "m"),
    "an older SGLang": (replies(v1_models=models("m"), get_model_info={"model_path": "x"}), "sglang", "m"),
    "SGLang without a list": (replies(get_server_info={"model_path": "x"}), "sglang", "default"),
    "a gateway to vLLM": (replies(v1_models=models("m"), version=real("vllm_version")), "vllm", "m"),
    "an older llama-server": (replies(props=real("llama_props")), "llamacpp", "default"),
    "llama.cpp by its header": (
        lambda sent: Reply(models("m") if sent.path == "/v1/models" else {}, headers={"server": "llama.cpp"}),
        "llamacpp",
        "m",
    ),
    "another": (replies(v1_models=models("m")), "openai", "m"),
    "another that answers with errors": (
        lambda sent: Reply(models("m")) if sent.path == "/v1/models" else Reply(b"<html>", 500),
        "openai",
        "m",
    ),
    "another with other answers": (
        replies(v1_models=models("m"), version=["1"], props={"x": 1}, get_model_info=None),
        "openai",
        "m",
    ),
}


@pytest.mark.parametrize("name", KINDS)
def test_a_server_is_asked_which_kind_it_is(name: str) -> None:
    app, kind, model_name = KINDS[name]
    with running(app) as server:
        model = load(server.url)
        assert (model.kind, model.name, model.address.url) == (kind, model_name, server.url)
        assert ServerBackend().runs(model)


def test_a_prefix_says_the_kind_and_a_path_is_kept() -> None:
    def app(sent: Sent) -> Reply:
        return Reply(models("m")) if sent.path == "/team/v1/models" else Reply({}, 404)

    with running(app) as server:
        for kind in ("vllm", "sglang", "llamacpp", "openai"):
            assert load(f"{kind}+{server.url}/team/v1").kind == kind


@pytest.mark.parametrize("app", [LlamaApp(tiny()), VllmApp(tiny())], ids=["llama-server", "vLLM"])
@pytest.mark.parametrize("kind", ["", "vllm+", "sglang+", "llamacpp+", "openai+"])
def test_a_wrong_path_is_told_when_the_model_is_loaded(app: Any, kind: str) -> None:
    with running(app) as server, pytest.raises(PotError) as error:
        load(f"{kind}{server.url}/foo")
    assert str(error.value) == (
        f"the candidate's server, {server.url}/foo, answers, but not as a server of models: it has no /v1/models, and nothing "
        "else by which a kind is known. Is the address right? Its path may be wrong, or missing: http://HOST:PORT/PREFIX"
    )


def test_a_prefix_that_says_another_kind_is_told() -> None:
    with running(LlamaApp(tiny())) as server:
        with pytest.raises(PotError) as error:
            load(f"vllm+{server.url}")
        assert str(error.value) == (
            f"the candidate's server, {server.url}, is llama-server and not vLLM, as vllm+ says: leave it out, or write "
            f"llamacpp+{server.url}"
        )
        assert load(f"openai+{server.url}").kind == "openai"  # which it speaks as well


@pytest.mark.parametrize(
    ("app", "message"),
    [
        (replies(), "the candidate's server, {url}, answers, but not as a server of models: it has no /v1/models"),
        (
            lambda sent: Reply(b"<html>Hello", headers={"content-type": "text/html"}),
            "the candidate's server: GET {url}/v1/models answered 200 with text/html, which cannot be read as JSON",
        ),
        (lambda sent: Reply({"error": "key"}, 401), 'answered 401: {"error": "key"}. If it asks for a key, give it as'),
        (lambda sent: Reply({}, 500), "the candidate's server: GET {url}/v1/models answered 500: {}"),
        (replies(v1_models={"data": []}), "does not serve one model, but 0: it serves none"),
        (replies(v1_models={"data": [{"name": "x"}, 3, {"id": None}]}), "does not serve one model, but 0: it serves none"),
        (replies(v1_models={"data": "x"}), "does not serve one model, but 0: it serves none"),
        (replies(v1_models=[1]), "does not serve one model, but 0: it serves none"),
        (
            replies(v1_models=models("a", "b")),
            "the candidate's server, {url}, does not serve one model, but 2: it serves 'a', 'b'. Name the one that is meant, "
            "{url}#a",
        ),
    ],
)
def test_a_server_of_no_model_or_of_several_is_an_error(app: Any, message: str) -> None:
    with running(app) as server:
        with pytest.raises(PotError) as error:
            load(server.url)
        assert message.replace("{url}", server.url) in str(error.value)


def test_one_of_several_models_is_named() -> None:
    with running(replies(v1_models=models("a", "b", aliases=["first"]))) as server:
        assert load(f"{server.url}#b").name == "b"
        assert load(f"{server.url}#first").name == "first"
        with pytest.raises(PotError) as error:
            load(f"{server.url}#c")
        assert str(error.value) == f"the candidate's server, {server.url}, does not serve 'c': it serves 'a', 'b'"


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend, "import_module", lambda name: type("Module", (), {"Small": SmallEngine}))
    monkeypatch.setitem(backend._ENGINES, "vllm", ("small", "Small"))


@pytest.mark.usefixtures("small")
def test_a_server_that_changes_its_model_meanwhile_is_refused() -> None:
    said: dict[str, Any] = {}

    def lie(sent: Sent, body: Any) -> Any:
        if sent.path == "/v1/models":
            body["data"][0].update(said)
        return body

    with running(VllmApp(tiny(), lie)) as server:
        model = load(server.url)
        with ServerBackend().opened(model, "candidate", CONFIG) as engine:
            assert isinstance(engine, SmallEngine)
        with pytest.raises(PotError) as error, ServerBackend().opened(model, "candidate", CONFIG):
            said.update(root="models/other", max_model_len=7)
        assert str(error.value) == (
            f"the candidate's server, {server.url}, runs another model than when the comparison began: root was 'models/tiny' "
            "and is 'models/other'; max_model_len was 1024 and is 7. A part of the answers may be from either: compare again "
            "once it stays as it is"
        )


@pytest.mark.usefixtures("small")
def test_an_error_is_not_hidden_by_what_the_server_says_afterwards() -> None:
    with running(VllmApp(tiny())) as server:
        model = load(server.url)
        n = 0

        def break_off() -> None:
            nonlocal n
            with ServerBackend().opened(model, "candidate", CONFIG):
                n = len(server.requests)
                server.app = lambda sent: Reply({}, 500)
                raise KeyError("mine")

        with pytest.raises(KeyError, match="mine"):
            break_off()
        assert len(server.requests) == n
        with pytest.raises(PotError, match=r"GET .* answered 500"), ServerBackend().opened(model, "candidate", CONFIG):
            pass


@pytest.mark.usefixtures("small")
def test_no_connection_stays_open_between_gates() -> None:
    with running(VllmApp(tiny())) as server:
        model = load(server.url)
        for _ in range(2):
            with ServerBackend().opened(model, "candidate", CONFIG):
                pass
        assert len({sent.connection for sent in server.requests}) == 3


def test_what_a_backend_says_of_a_server() -> None:
    with running(VllmApp(tiny())) as server:
        model, asked = load(server.url), ServerBackend()
        facts: Mapping[str, Any] = {
            "content": asked.content(model),
            "device": asked.device(model),
            "digest": asked.weights_digest(model),
            "pinned": asked.pinned(model),
            "files": asked.files_tell_all(server.url),
        }
        assert facts == {"content": None, "device": None, "digest": None, "pinned": False, "files": False}
        assert asked.loads(server.url)
        assert not asked.loads("gpt2")
