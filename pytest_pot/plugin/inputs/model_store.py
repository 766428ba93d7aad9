"""The models of a test session: loaded by spec through the hook, once, and kept with their tokenizers."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from pytest_pot.baseline.naming import is_baseline
from pytest_pot.core.errors import PotError
from pytest_pot.core.gc_pause import gc_paused
from pytest_pot.core.user_code import raised_in
from pytest_pot.engines.base import LoadedModel
from pytest_pot.plugin.options import option_config
from pytest_pot.plugin.paths import option_bases, option_path, places_named

__all__ = ["ModelStore", "load_by_spec", "model_store", "no_model", "no_tokenizer"]


class ModelStore:
    """Loads models for gates and fixtures.

    Of the models that markers name, the last one in each role is kept: tests that follow each other with the same reference
    share it, and a suite over twenty candidates does not end with twenty models in memory.
    """

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._latest: dict[str, tuple[str, LoadedModel]] = {}
        self._from_options: dict[str, LoadedModel] = {}
        self._tokenizer: Any = None
        self._beside: tuple[str, Any] | None = None

    def load(self, spec: str, role: str) -> LoadedModel:
        """The model that ``spec`` names; from memory where it is the last one loaded in that role.

        Raises:
            PotError: nothing can be loaded by that name.
        """
        latest = self._latest.get(role)
        if latest is not None and latest[0] == spec:
            return latest[1]
        self._latest.pop(role, None)  # before loading: two models in one role need not fit into memory
        loaded = self._load(spec, role)
        self._latest[role] = spec, loaded
        return loaded

    def from_options(self, role: str) -> LoadedModel | None:
        """The model that ``--pot-reference`` or ``--pot-candidate`` (or the ini key) names; None where neither does."""
        spec = option_path(self._config, role)
        if spec is None:
            return None
        if role not in self._from_options:
            with places_named(option_bases(self._config, role)):
                self._from_options[role] = _recording(spec) if is_baseline(spec) else self._load(spec, role)
        return self._from_options[role]

    def resolve(self, value: Any, role: str) -> LoadedModel:
        """What a fixture returned as a model: a spec, (model, tokenizer), or a model."""
        if isinstance(value, str | Path):
            return self.load(str(value), role)
        loaded = LoadedModel.of(value)
        if loaded.tokenizer is None:
            for known in self._from_options.values():
                if known.model is loaded.model:
                    return known
        return loaded

    def tokenizer(self) -> Any | None:
        """The one that ``--pot-tokenizer`` or the ini key names; None where neither does."""
        spec = option_path(self._config, "tokenizer")
        if spec is not None and self._tokenizer is None:
            with places_named(option_bases(self._config, "tokenizer")):
                self._tokenizer = _load_tokenizer(spec)
        return self._tokenizer

    def tokenizer_beside(self, spec: str) -> Any | None:
        """The tokenizer beside a model's files; None where there is none."""
        if self._beside is None or self._beside[0] != spec:
            try:
                self._beside = spec, _load_tokenizer(spec)
            except PotError:
                return None
        return self._beside[1]

    def tokenizer_of(self, loaded: LoadedModel) -> Any | None:
        """The tokenizer that came with a model, or the one in the folder that the model says it was loaded from."""
        if loaded.tokenizer is not None:
            return loaded.tokenizer
        home = getattr(loaded.model, "name_or_path", None)
        if not home or not os.path.isdir(home):
            return None
        return self.tokenizer_beside(home)

    def _load(self, spec: str, role: str) -> LoadedModel:
        with raised_in(f"the hook pytest_pot_load_model, asked for the {role} {spec!r},"):
            return LoadedModel.of(self._config.hook.pytest_pot_load_model(spec=spec, role=role, config=self._config))


_STORE = pytest.StashKey[ModelStore]()


def model_store(config: pytest.Config) -> ModelStore:
    """The session's store."""
    if _STORE not in config.stash:
        config.stash[_STORE] = ModelStore(config)
    return config.stash[_STORE]


def load_by_spec(spec: str, role: str, config: pytest.Config) -> LoadedModel:
    """pytest-pot's own implementation of the hook ``pytest_pot_load_model``."""
    from pytest_pot.engines.registry import load_model

    return load_model(spec, role, option_config(config)[1])


def _recording(spec: str) -> LoadedModel:
    from pytest_pot.baseline.baseline import Baseline

    return LoadedModel(Baseline.load(spec))


def _load_tokenizer(spec: str) -> Any:
    with gc_paused():  # this imports transformers
        from pytest_pot.engines.loading import load_tokenizer

        return load_tokenizer(spec)


def no_model(role: str) -> PotError:
    """The error of a role that nothing names a model for."""
    return PotError(
        f"no {role} model is configured. Name one in the marker, {role}=...; with the option --pot-{role}; in the ini "
        f"file, pot_{role} = ...; or override the fixture pot_{role} in a conftest.py"
    )


def no_tokenizer(role: str = "reference") -> PotError:
    """The error of a model that no tokenizer comes with: the reference, or the candidate where the reference is recorded."""
    return PotError(
        f"the {role} comes without a tokenizer. Name one with the option --pot-tokenizer; in the ini file, "
        f"pot_tokenizer = ...; override the fixture pot_tokenizer in a conftest.py; or let pot_{role} return "
        "(model, tokenizer)"
    )
