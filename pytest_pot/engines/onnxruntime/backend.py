"""The backend for ONNX graphs: what the registry asks. Nothing here imports torch or ONNX Runtime before a graph is loaded."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import AbstractContextManager
from importlib import metadata
from typing import Any

from pytest_pot.core.config import ScoringConfig
from pytest_pot.core.errors import PotError
from pytest_pot.engines.base import Engine, LoadedModel
from pytest_pot.engines.onnxruntime.files import chosen_graph, names_graph
from pytest_pot.engines.onnxruntime.model import OnnxModel

__all__ = ["OnnxBackend"]

_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json", "spiece.model")
_PACKAGES = ("onnxruntime", "onnxruntime-gpu")


class OnnxBackend:
    """A :class:`~pytest_pot.engines.base.Backend`."""

    def loads(self, spec: str) -> bool:
        """ONNX files, and folders with ONNX graphs that transformers does not load."""
        return names_graph(spec)

    def load(self, spec: str, role: str, config: ScoringConfig) -> LoadedModel:
        what = f"the {role} {spec!r}"
        model = OnnxModel(chosen_graph(spec, what), what)
        from pytest_pot.engines.onnxruntime.engine import OnnxEngine

        model.session(config.device, what)
        with OnnxEngine.opened(model, role, config) as engine:
            engine.examine(what)
        return LoadedModel(model, _tokenizer_beside(model, role), movable=True)

    def runs(self, model: object) -> bool:
        return isinstance(model, OnnxModel)

    def opened(self, model: Any, role: str, config: ScoringConfig) -> AbstractContextManager[Engine]:
        from pytest_pot.engines.onnxruntime.engine import OnnxEngine

        return OnnxEngine.opened(model, role, config)

    def max_positions(self, model: Any) -> int | None:
        limit: int | None = model.max_positions
        return limit

    def device(self, model: Any) -> str | None:
        device: str = model.device
        return device

    def pinned(self, model: Any) -> bool:  # noqa: ARG002
        from pytest_pot.engines.onnxruntime.session import has_cuda

        return not has_cuda()

    def weights_digest(self, model: Any) -> str | None:
        digest: str | None = model.weights_digest()
        return digest

    def content(self, model: Any) -> Mapping[str, Any] | None:
        if not model.is_as_loaded:
            return None
        return {"onnx": model.digests(), "device": model.device, "libraries": _versions()}

    def why_no_content(self, model: Any) -> str:
        return "" if model.is_as_loaded else f"{model.path} was written since it was loaded"

    def embedding_rows(self, model: Any) -> int | None:
        rows: int | None = model.embedding_rows
        return rows

    def files_tell_all(self, spec: str) -> bool:  # noqa: ARG002
        """False: the version of ONNX Runtime counts too, and only :meth:`content` has it."""
        return False


def _tokenizer_beside(model: OnnxModel, role: str) -> Any:
    if not any(os.path.isfile(model.home / name) for name in _TOKENIZER_FILES):
        return None
    from pytest_pot.engines.loading import load_tokenizer

    try:
        return load_tokenizer(str(model.home))
    except PotError as error:
        raise PotError(f"the {role}'s graph was loaded, but not its tokenizer: {error}") from error


def _versions() -> list[str]:
    versions = []
    for name in _PACKAGES:
        try:
            versions.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            continue
    return versions
