"""The models of a test session: loaded by spec through the hook, once, and kept with their tokenizers."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pytest_pot.baseline.naming import is_baseline
from pytest_pot.core.errors import PotError
from pytest_pot.core.files import Kept
from pytest_pot.core.gc_pause import gc_paused
from pytest_pot.core.user_code import raised_in
from pytest_pot.engines.base import LoadedModel
from pytest_pot.plugin.options import option, option_config
from pytest_pot.plugin.paths import files_state, option_bases, option_path, places_named

__all__ = ["ModelStore", "load_by_spec", "model_store", "no_model", "no_tokenizer"]


_TOKENIZERS = 4
"""Tokenizers of references that are kept, which the cache of live references needs in place of the models."""

_KeptModel = tuple[tuple[str, str | None, Any], LoadedModel]
"""A model, and what it was loaded from: its spec, the precision that it was to run in, and the state of its files."""


class ModelStore:
    """Loads models for gates and fixtures.

    Of the models that markers name, the last one in each role is kept: tests that follow each other with the same reference
    share it, and a suite over twenty candidates does not end with twenty models in memory. A model or tokenizer whose files
    were written since is loaded again: a suite may export one candidate after the other into the same folder.
    """

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._latest: dict[str, _KeptModel] = {}
        self._from_options: dict[str, _KeptModel] = {}
        self._tokenizer: tuple[Any, Any] | None = None
        self._beside: Kept[tuple[Any, Any]] = Kept(_TOKENIZERS)
        self.wanted_dtype: str | None = None
        """The precision that the model which is being loaded will run in, where the options do not say it."""

    def load(self, spec: str, role: str, dtype: str | None = None) -> LoadedModel:
        """The model that ``spec`` names; from memory where it is the last one loaded in that role.

        ``dtype``: the precision it will run in, where that is not what the options say: weights that were rounded while loading
        would stay rounded.

        Raises:
            PotError: nothing can be loaded by that name.
        """
        dtype = self._dtype(role, dtype)
        key = spec, dtype, files_state(spec)
        latest = self._latest.get(role)
        if latest is not None and latest[0] == key:
            return latest[1]
        _let_go(self._latest, role)  # before loading: two models in one role need not fit into memory
        loaded = self._load(spec, role, dtype)
        self._latest[role] = key, loaded
        return loaded

    def from_options(self, role: str, dtype: str | None = None) -> LoadedModel | None:
        """The model that ``--pot-reference`` or ``--pot-candidate`` (or the ini key) names; None where neither does.

        ``dtype``: as for :meth:`load`.
        """
        spec = option_path(self._config, role)
        if spec is None:
            return None
        dtype = self._dtype(role, dtype)
        key = spec, dtype, files_state(spec)
        kept = self._from_options.get(role)
        if kept is None or kept[0] != key:
            _let_go(self._from_options, role)
            with places_named(option_bases(self._config, role)):
                loaded = _recording(spec) if is_baseline(spec) else self._load(spec, role, dtype)
            kept = self._from_options[role] = key, loaded
        return kept[1]

    def resolve(self, value: Any, role: str, dtype: str | None = None) -> LoadedModel:
        """What a fixture returned as a model: a spec, (model, tokenizer), or a model."""
        if isinstance(value, str | Path):
            return self.load(str(value), role, dtype)
        loaded = LoadedModel.of(value)
        if loaded.tokenizer is None:
            for _, known in self._from_options.values():
                if known.model is loaded.model:
                    return known
        return loaded

    def tokenizer(self) -> Any | None:
        """The one that ``--pot-tokenizer`` or the ini key names; None where neither does."""
        spec = option_path(self._config, "tokenizer")
        if spec is None:
            return None
        key = spec, files_state(spec)
        if self._tokenizer is None or self._tokenizer[0] != key:
            with places_named(option_bases(self._config, "tokenizer")):
                self._tokenizer = key, _load_tokenizer(spec)
        return self._tokenizer[1]

    def tokenizer_beside(self, spec: str) -> Any | None:
        """The tokenizer beside a model's files; None where there is none."""
        state = files_state(spec)
        kept = self._beside.get(spec)
        if kept is None or kept[0] != state:
            try:
                kept = state, _load_tokenizer(spec)
            except PotError:
                return None
            self._beside.keep(spec, kept, 0)
        return kept[1]

    def tokenizer_of(self, loaded: LoadedModel) -> Any | None:
        """The tokenizer that came with a model, or the one in the folder that the model says it was loaded from."""
        if loaded.tokenizer is not None:
            return loaded.tokenizer
        home = getattr(loaded.model, "name_or_path", None)
        if not home or not os.path.isdir(home):
            return None
        return self.tokenizer_beside(home)

    def close(self) -> None:
        """Let go of all models, and end what was started for them."""
        for kept in (self._latest, self._from_options):
            for role in list(kept):
                _let_go(kept, role)

    def _dtype(self, role: str, dtype: str | None) -> str | None:
        return option(self._config, "candidate_dtype") if dtype is None and role == "candidate" else dtype

    def _load(self, spec: str, role: str, dtype: str | None) -> LoadedModel:
        self.wanted_dtype = dtype
        try:
            with raised_in(f"the hook pytest_pot_load_model, asked for the {role} {spec!r},"):
                return LoadedModel.of(self._config.hook.pytest_pot_load_model(spec=spec, role=role, config=self._config))
        finally:
            self.wanted_dtype = None  # of this model only: a project may call the hook itself


def _let_go(kept: dict[str, _KeptModel], role: str) -> None:
    """Drop what is kept for ``role``, and end what was started for it: a gate that uses it once more starts it again."""
    entry = kept.pop(role, None)
    if entry is not None and entry[1].close is not None:
        entry[1].close()


_STORE = pytest.StashKey[ModelStore]()


def model_store(config: pytest.Config) -> ModelStore:
    """The session's store."""
    if _STORE not in config.stash:
        store = config.stash[_STORE] = ModelStore(config)
        config.add_cleanup(store.close)
    return config.stash[_STORE]


def load_by_spec(spec: str, role: str, config: pytest.Config) -> LoadedModel:
    """pytest-pot's own implementation of the hook ``pytest_pot_load_model``."""
    from pytest_pot.engines.registry import load_model

    scoring = option_config(config)[1]
    dtype = model_store(config).wanted_dtype
    return load_model(spec, role, scoring if dtype is None else replace(scoring, dtype=dtype))


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
