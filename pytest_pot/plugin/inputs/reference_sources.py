"""Where the models of a gate come from: marker, options and fixtures, in this order; and what people call them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from pytest_pot.baseline.naming import is_baseline
from pytest_pot.core.errors import PotError
from pytest_pot.core.names import RECORDED_SUFFIX
from pytest_pot.engines.base import LoadedModel
from pytest_pot.engines.loading import NoSuchPath
from pytest_pot.gates.base import GateSettings
from pytest_pot.plugin.inputs.fixture_values import fixture_bases, fixture_value
from pytest_pot.plugin.inputs.model_store import model_store, no_model, no_tokenizer
from pytest_pot.plugin.options import option
from pytest_pot.plugin.paths import option_path, places_named, shown
from pytest_pot.plugin.pytest_internals import is_of_suite, is_overridden, nearest_fixture

__all__ = ["ModelSources"]


class ModelSources:
    """The models and tokenizers that one gate of one test names.

    A *source* is a spec, or what a fixture returned.
    """

    def __init__(self, request: pytest.FixtureRequest, settings: GateSettings) -> None:
        self._request = request
        self._settings = settings
        self._config = request.config
        self._store = model_store(request.config)

    def reference(self) -> Any:
        """The source of the reference, live or recorded.

        Raises:
            PotError: nothing names one.
        """
        if self._settings.reference is not None:
            return self._settings.reference
        if self._settings.baseline is not None:
            return self._settings.baseline
        if option(self._config, "baseline") is not None:
            return option_path(self._config, "baseline")
        source = self.live("reference")
        if source is None:
            raise no_model("reference")
        return source

    def live(self, role: str) -> Any:
        """The source of a live model beside the marker: a fixture of the suite, or the option; None where there is neither."""
        if is_overridden(self._request.node, f"pot_{role}"):
            return fixture_value(self._request, f"pot_{role}")
        return option_path(self._config, role)

    def candidate(self) -> tuple[Any, LoadedModel]:
        """The source of the candidate, and the model.

        Raises:
            PotError: nothing names one, or it cannot be loaded.
        """
        source = self._settings.candidate or self.live("candidate")
        if source is None:
            raise no_model("candidate")
        return source, self.load(source, "candidate")

    def load(self, source: Any, role: str) -> LoadedModel:
        """The model of a source.

        Raises:
            PotError: it cannot be loaded, or is a recording.
        """
        if is_baseline(source):
            raise PotError(f"the {role} {source} is a recording (*{RECORDED_SUFFIX}), and a model is needed here")
        if getattr(self._settings, role) is None and source == option_path(self._config, role):
            loaded = self._store.from_options(role, self._dtype(role))
            assert loaded is not None
            return loaded
        try:
            with places_named(self._bases(role)):
                return self._store.resolve(source, role, self._dtype(role))
        except NoSuchPath as error:
            hint = self._fixture_hint(role)
            if hint is None:
                raise
            raise PotError(f"{hint}. As a model: {error}") from error

    def _fixture_hint(self, role: str) -> str | None:
        """What to do where the marker names one of the suite's fixtures, which is what people try first."""
        name = getattr(self._settings, role)
        fixture = nearest_fixture(self._request.node, name) if isinstance(name, str) else None
        if fixture is None or not is_of_suite(fixture) or name.startswith("pot_"):
            return None
        return (
            f"no model is named {name!r}, but a fixture is, and a marker takes the names of models only. Leave {role}= out, "
            f"and write a fixture pot_{role} that asks for {name} and returns it"
        )

    def _dtype(self, role: str) -> str | None:
        """The candidate's precision, where the marker or an option gives it one of its own."""
        return self._settings.candidate_dtype if role == "candidate" else None

    def _bases(self, role: str) -> list[Path]:
        """The folders in which the path that the marker or the fixture names is looked for."""
        item = self._request.node
        if getattr(self._settings, role) is not None:
            return [item.path.parent, item.config.rootpath]
        return fixture_bases(item, f"pot_{role}")

    def chosen_tokenizer(self) -> Any:
        """The one tokenizer that the user chose for both models; None where each comes with its own.

        The fixture of that name has session scope, and cannot ask for a ``pot_reference`` of a narrower scope: it is only
        asked where the suite has its own.
        """
        if is_overridden(self._request.node, "pot_tokenizer"):
            return self._request.getfixturevalue("pot_tokenizer")
        return self._store.tokenizer()

    def tokenizer_beside(self, spec: str) -> Any:
        """The tokenizer for a reference that is not loaded yet; None where its files have none."""
        chosen = self.chosen_tokenizer()
        return self._store.tokenizer_beside(spec) if chosen is None else chosen

    def tokenizer_of(self, loaded: LoadedModel, role: str) -> Any:
        """The tokenizer for both models, where that of ``loaded`` counts unless the user chose one.

        Raises:
            PotError: there is none.
        """
        chosen = self.chosen_tokenizer()
        tokenizer = self._store.tokenizer_of(loaded) if chosen is None else chosen
        if tokenizer is None:
            raise no_tokenizer(role)
        return tokenizer

    def candidate_tokenizer(self, candidate: LoadedModel) -> Any:
        """The candidate's own tokenizer, where it has to agree with the gate's; None where the user chose one for both."""
        return candidate.tokenizer if self.chosen_tokenizer() is None else None

    def name(self, role: str, source: Any) -> str:
        """What people call a model: its spec as it was written, below pytest's root a relative path, or its fixture."""
        if isinstance(source, str | Path):
            written = option(self._config, role)
            if written is not None and str(source) == option_path(self._config, role):
                return written
            return shown(self._config, Path(source)) if os.path.isabs(source) else str(source)
        return f"{type(LoadedModel.of(source).model).__name__} from the fixture pot_{role}"
