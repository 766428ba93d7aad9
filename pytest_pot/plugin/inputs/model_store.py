"""The models of a test session: loaded by spec through the hook, once, and remembered with their tokenizers."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from pytest_pot.baseline.naming import is_baseline
from pytest_pot.core.errors import PotError
from pytest_pot.core.gc_pause import no_garbage_collection
from pytest_pot.engines.base import LoadedModel
from pytest_pot.plugin.options import fixture_path, option_config, option_path

__all__ = [
    "STORE",
    "ModelStore",
    "is_overridden",
    "load_by_spec",
    "named_by_fixture",
    "nearest_fixture",
    "no_model",
    "no_tokenizer",
]


_FIXTURES = "pytest_pot.plugin.hooks"


class ModelStore:
    """Loads models for gates and fixtures.

    Of the models that markers name, one is kept in each role: tests that follow each other with the same reference share
    it, and a suite over twenty candidates does not end with twenty models in memory.
    """

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._latest: dict[str, tuple[str, LoadedModel]] = {}
        self._from_options: dict[str, LoadedModel] = {}
        self._tokenizer: Any = None
        self._at_home: tuple[str, Any] | None = None

    def load(self, spec: str, role: str) -> LoadedModel:
        """The model that ``spec`` names; from memory where it is the last one loaded in that role.

        Raises:
            PotError: nothing can be loaded by that name.
        """
        held = self._latest.get(role)
        if held is not None and held[0] == spec:
            return held[1]
        self._latest.pop(role, None)  # before loading: two models in one role need not fit into memory
        loaded = LoadedModel.of(self._config.hook.pytest_pot_load_model(spec=spec, role=role, config=self._config))
        self._latest[role] = spec, loaded
        return loaded

    def from_options(self, role: str) -> LoadedModel | None:
        """The model that ``--pot-reference`` or ``--pot-candidate`` (or the ini key) names; None where neither does."""
        spec = option_path(self._config, role)
        if spec is None:
            return None
        if role not in self._from_options and is_baseline(spec):
            from pytest_pot.baseline.baseline import Baseline

            self._from_options[role] = LoadedModel(Baseline.load(spec))
        if role not in self._from_options:
            self._from_options[role] = LoadedModel.of(
                self._config.hook.pytest_pot_load_model(spec=spec, role=role, config=self._config)
            )
        return self._from_options[role]

    def is_from_options(self, role: str, model: Any) -> bool:
        """Whether ``model`` is the one that :meth:`from_options` loaded in that role."""
        held = self._from_options.get(role)
        return held is not None and held.model is model

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
            self._tokenizer = _load_tokenizer(spec)
        return self._tokenizer

    def tokenizer_at(self, spec: str) -> Any | None:
        """The tokenizer that lies beside a model's files; None where there is none."""
        if self._at_home is None or self._at_home[0] != spec:
            try:
                self._at_home = spec, _load_tokenizer(spec)
            except PotError:
                return None
        return self._at_home[1]

    def tokenizer_of(self, loaded: LoadedModel) -> Any | None:
        """The tokenizer that came with a model, or that lies where the model says it was loaded from."""
        if loaded.tokenizer is not None:
            return loaded.tokenizer
        home = getattr(loaded.model, "name_or_path", None)
        if not home or not Path(home).is_dir():
            return None
        return self.tokenizer_at(home)


STORE = pytest.StashKey[ModelStore]()
"""Where a session's :class:`ModelStore` is kept in ``config.stash``."""


def load_by_spec(spec: str, role: str, config: pytest.Config) -> LoadedModel:
    """pytest-pot's own implementation of the hook ``pytest_pot_load_model``."""
    with no_garbage_collection():  # this imports torch, and nothing of it is garbage
        from pytest_pot.engines.loading import load_model

    return load_model(spec, role, option_config(config)[1])


def _load_tokenizer(spec: str) -> Any:
    with no_garbage_collection():  # this imports torch
        from pytest_pot.engines.loading import load_tokenizer

    return load_tokenizer(spec)


def is_overridden(node: pytest.Item | pytest.Collector, name: str) -> bool:
    """Whether the suite has a fixture, or a parametrisation, of that name besides pytest-pot's own.

    pytest has no public way to look a fixture up without running it.
    """
    parameters = getattr(getattr(node, "callspec", None), "params", {})
    return name in parameters or any(_is_the_suites(fixture) for fixture in _fixtures(node, name))


def nearest_fixture(node: pytest.Item | pytest.Collector, name: str) -> object:
    """The fixture of that name that ``node`` sees; the same object wherever it is the same fixture."""
    found = _fixtures(node, name)
    return found[-1] if found else None


def named_by_fixture(item: pytest.Item, name: str, value: Any) -> Any:
    """What the fixture ``name`` returned to ``item``: a name is looked up as one in a marker beside the fixture would be."""
    if not isinstance(value, str | Path) or not str(value):
        return value
    fixture = _fixtures(item, name)[-1:]
    # The value of a parametrisation stands in the test's own file.
    written = inspect.unwrap(fixture[0].func) if fixture and _is_the_suites(fixture[0]) else None
    code = getattr(written, "__code__", None)
    return fixture_path(value, Path(code.co_filename).parent if code else item.path.parent, item.config)


def _fixtures(node: pytest.Item | pytest.Collector, name: str) -> Sequence[pytest.FixtureDef[Any]]:
    """pytest-pot's own first, the nearest to ``node`` last."""
    return node.session._fixturemanager.getfixturedefs(name, node) or ()


def _is_the_suites(fixture: pytest.FixtureDef[Any]) -> bool:
    return getattr(fixture.func, "__module__", None) != _FIXTURES


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
