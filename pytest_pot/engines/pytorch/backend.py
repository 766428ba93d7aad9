"""The backend for transformers models and plain torch modules: what the registry asks."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from pytest_pot.core.config import ScoringConfig
from pytest_pot.engines.base import Engine, LoadedModel
from pytest_pot.engines.pytorch.absent_weights import not_loaded
from pytest_pot.engines.pytorch.checkpoint import load_checkpoint
from pytest_pot.engines.pytorch.device import device_of, is_spread
from pytest_pot.engines.pytorch.engine import TorchEngine
from pytest_pot.engines.pytorch.model_identity import content_of, loads_as_known, why_no_content
from pytest_pot.engines.pytorch.model_traits import embedding_rows, max_positions
from pytest_pot.engines.pytorch.quantised import is_quantised
from pytest_pot.engines.pytorch.weights_digest import weights_digest

if TYPE_CHECKING:
    from pytest_pot.engines.pytorch.weights.named import NamedWeights

__all__ = ["PyTorchBackend"]


class PyTorchBackend:
    """A :class:`~pytest_pot.engines.base.Backend`."""

    def loads(self, spec: str) -> bool:
        """Whatever is no single file, because a hub id may be any name; and ``.gguf`` files."""
        path = Path(spec)
        return path.suffix == ".gguf" or not os.path.isfile(path)

    def load(self, spec: str, role: str, config: ScoringConfig) -> LoadedModel:
        return load_checkpoint(spec, role, config)

    def runs(self, model: object) -> bool:
        return isinstance(model, nn.Module)

    def opened(self, model: Any, role: str, config: ScoringConfig) -> AbstractContextManager[Engine]:
        return TorchEngine.opened(model, role, config)

    def max_positions(self, model: Any) -> int | None:
        return max_positions(model)

    def device(self, model: Any) -> str | None:
        return str(device_of(model))

    def pinned(self, model: Any) -> bool:
        # A quantised model refuses to be converted, and its kernels are those of the device that it was loaded on.
        return is_spread(model) or is_quantised(model)

    def weights(self, model: Any) -> NamedWeights:
        from pytest_pot.engines.pytorch.weights.named import NamedWeights  # only recordings and gates that fail ask

        return NamedWeights(model)

    def weights_digest(self, model: Any) -> str | None:
        return weights_digest(model)

    def content(self, model: Any) -> Mapping[str, Any] | None:
        return content_of(model)

    def not_loaded(self, model: Any) -> list[str]:
        return not_loaded(model)

    def embedding_rows(self, model: Any) -> int | None:
        return embedding_rows(model)

    def why_no_content(self, model: Any) -> str:
        return why_no_content(model)

    def files_tell_all(self, spec: str) -> bool:
        return loads_as_known(spec)
