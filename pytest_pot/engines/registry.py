"""Which engine runs a model: the one place where this is decided, for specs and for objects in memory.

A new engine is one module with a :class:`~pytest_pot.engines.base.Backend`, and one line in :func:`_builtin`. A project may
:func:`register` one of its own, from a conftest or a plugin.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import chain
from typing import TYPE_CHECKING, Any

from pytest_pot.core.errors import PotError
from pytest_pot.core.gc_pause import gc_paused
from pytest_pot.core.validation import device_name
from pytest_pot.engines.base import Backend, Engine, LoadedModel
from pytest_pot.engines.loading import MODEL_FORMS, call_factory

if TYPE_CHECKING:
    from pytest_pot.core.config import ScoringConfig
    from pytest_pot.engines.weights import Weights

__all__ = [
    "common_device",
    "content",
    "device_of",
    "embedding_rows",
    "files_tell_all",
    "load_model",
    "max_positions",
    "not_loaded",
    "opened",
    "refuse_other_than_model",
    "register",
    "unregister",
    "weights",
    "weights_digest",
    "why_no_content",
]

_FACTORY = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")

_registered: list[Backend] = []


def _builtin() -> Iterator[Backend]:
    """pytest-pot's own backends. The import of each waits until those before it have declined, because it may be slow."""
    from pytest_pot.engines.server.backend import ServerBackend

    yield ServerBackend()
    from pytest_pot.engines.llamacpp.backend import LlamaCppBackend

    yield LlamaCppBackend()
    from pytest_pot.engines.onnxruntime.backend import OnnxBackend

    yield OnnxBackend()
    with gc_paused():  # nothing of torch and transformers is garbage, and looking through them takes long
        from pytest_pot.engines.pytorch.backend import PyTorchBackend

    yield PyTorchBackend()


def register(backend: Backend) -> None:
    """Ask ``backend`` before those that are there, for this process."""
    _registered.insert(0, backend)


def unregister(backend: Backend) -> None:
    """Take back :func:`register`."""
    _registered.remove(backend)


def load_model(spec: str, role: str, config: ScoringConfig) -> LoadedModel:
    """The model that ``spec`` names, and its tokenizer if it has one.

    A factory's model is taken as it comes: its device and dtype are up to the factory.

    Raises:
        PotError: nothing can be loaded by that name; the message carries the reason and the forms of a spec.
    """
    for backend in _registered:
        if backend.loads(spec):
            return backend.load(spec, role, config)
    if _FACTORY.fullmatch(spec) and not os.path.exists(spec):
        return LoadedModel.of(call_factory(spec, role))
    for backend in _builtin():
        if backend.loads(spec):
            return backend.load(spec, role, config)
    raise PotError(f"the {role} {spec!r} is a file that is no model. {MODEL_FORMS}")


def opened(model: Any, role: str, config: ScoringConfig) -> AbstractContextManager[Engine]:
    """``model`` ready to be run; when the context ends, it is as it was.

    Raises:
        PotError: no engine runs such an object.
    """
    if isinstance(model, Engine):
        return nullcontext(model)
    refuse_other_than_model(model, role)
    backend = _backend_of(model)
    assert backend is not None
    return backend.opened(model, role, config)


def refuse_other_than_model(model: object, role: str) -> None:
    """Raise :class:`PotError` if no engine runs such an object."""
    if not isinstance(model, Engine) and _backend_of(model) is None:
        raise PotError(
            f"the {role} is {type(model).__name__}, not a model: give a torch.nn.Module whose forward returns logits "
            "[batch, length, vocab], such as a transformers causal LM"
        )


def max_positions(model: Any) -> int | None:
    """The longest sequence that ``model`` takes; None where it has no limit or does not say."""
    if isinstance(model, Engine):
        return model.max_positions
    backend = _backend_of(model)
    return None if backend is None else backend.max_positions(model)


def embedding_rows(model: object) -> int | None:
    """How many ids ``model`` has a row of its input embeddings for; None where its engine does not know."""
    rows: Callable[[object], int | None] | None = getattr(_backend_of(model), "embedding_rows", None)
    return None if rows is None else rows(model)


def weights(model: object) -> Weights | None:
    """The weights of ``model`` by name; None where its engine has none to show, as for a server."""
    named: Callable[[object], Weights | None] | None = getattr(_backend_of(model), "weights", None)
    return None if named is None else named(model)


def weights_digest(model: Any) -> str | None:
    """SHA-256 over all weights of ``model``; None where they cannot be read."""
    backend = _backend_of(model)
    return None if backend is None else backend.weights_digest(model)


def content(model: Any) -> Mapping[str, Any] | None:
    """What identifies ``model``: equal content means equal results. None where content does not tell all of it."""
    backend = _backend_of(model)
    return None if backend is None else backend.content(model)


def not_loaded(model: object) -> Sequence[str]:
    """The weights of ``model`` that its checkpoint lacked, by name, as far as its engine knows."""
    names: Callable[[object], Sequence[str]] | None = getattr(_backend_of(model), "not_loaded", None)
    return () if names is None else names(model)


def why_no_content(model: object) -> str:
    """Why :func:`content` of ``model`` is None, as a clause for people."""
    why: Callable[[object], str] | None = getattr(_backend_of(model), "why_no_content", None)
    return "its engine does not tell what identifies it" if why is None else why(model)


def files_tell_all(spec: str) -> bool:
    """Whether the files that ``spec`` names identify the model that is loaded from them."""
    backend = next((backend for backend in chain(_registered, _builtin()) if backend.loads(spec)), None)
    return backend is not None and backend.files_tell_all(spec)


def common_device(wanted: str, models: Sequence[LoadedModel]) -> str:
    """The device on which ``models``, the reference first, are compared: ``wanted``, unless that is ``"auto"``.

    With ``"auto"`` models are scored where they are, and two devices round differently. Where the models are on different
    devices, all of them run on that of the first one that pytest-pot may not move: one that a fixture or factory made, or one
    that cannot run anywhere else. ``"auto"`` comes back where nothing has to move, or where two of them cannot.
    """
    if wanted != "auto":
        return wanted
    places = [(loaded, device_of(loaded.model)) for loaded in models]
    devices = {device for _, device in places if device is not None}
    if len(devices) < 2:
        return wanted
    pinned = {device for loaded, device in places if device is not None and _is_pinned(loaded.model)}
    if pinned:
        return pinned.pop() if len(pinned) == 1 else wanted
    return next((device for loaded, device in places if device is not None and not loaded.movable), wanted)


def _backend_of(model: object) -> Backend | None:
    if isinstance(model, Engine):
        return None
    return next((backend for backend in chain(_registered, _builtin()) if backend.runs(model)), None)


def device_of(model: object) -> str | None:
    """Where ``model`` is; None where devices mean nothing to its engine."""
    backend = _backend_of(model)
    try:
        device = None if backend is None else backend.device(model)
        if device is not None:
            device_name("device", device)
    except Exception:  # a device that a configuration cannot name, or a model that fails here and will fail when it is opened
        return None
    return device


def _is_pinned(model: object) -> bool:
    backend = _backend_of(model)
    return backend is not None and backend.pinned(model)
