"""The fixtures ``pot_*``. A conftest.py may override each of the first four."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from pytest_pot.plugin.gates import PotResult
    from pytest_pot.prompts.prompt import Prompt
    from pytest_pot.scoring.scorer import TeacherForcedScorer

__all__ = [
    "_pot_inputs",
    "pot_candidate",
    "pot_prompts",
    "pot_reference",
    "pot_result",
    "pot_scorer",
    "pot_tokenizer",
    "refuse_other_tokenizer",
]

_TOKENIZER_OF = pytest.StashKey[tuple[str, object]]()
"""The role of the model, and its fixture, that the session's pot_tokenizer came from."""


@pytest.fixture(scope="session")
def pot_reference(request: pytest.FixtureRequest) -> Any:
    """The trusted model, named by --pot-reference or the ini key pot_reference; a Baseline if the name is a recorded file.

    Override it in a conftest.py to return a model, (model, tokenizer), or a spec.
    """
    return _model_from_options(request.config, "reference")


@pytest.fixture(scope="session")
def pot_candidate(request: pytest.FixtureRequest) -> Any:
    """The model under test, named by --pot-candidate or the ini key pot_candidate; override it like pot_reference."""
    return _model_from_options(request.config, "candidate")


@pytest.fixture(scope="session")
def pot_tokenizer(request: pytest.FixtureRequest) -> Any:
    """The tokenizer for both models: --pot-tokenizer, else the reference's; if that is a recording, the candidate's.

    Override it if reference and candidate have different tokenizers and one of them is meant for both. It is made once per
    session: if a part of a suite overrides pot_reference, override pot_tokenizer there too.
    """
    from pytest_pot.plugin.gates import failures_reported
    from pytest_pot.plugin.inputs.fixture_values import fixture_bases, named_by_fixture
    from pytest_pot.plugin.inputs.model_store import model_store, no_tokenizer
    from pytest_pot.plugin.paths import places_named, recorded_reference
    from pytest_pot.plugin.pytest_internals import nearest_fixture, requesting_item

    store = model_store(request.config)
    with failures_reported(request.config):
        tokenizer = store.tokenizer()
        if tokenizer is None:
            role = "candidate" if recorded_reference(request.config) else "reference"
            name, item = f"pot_{role}", requesting_item(request)
            model = named_by_fixture(item, name, request.getfixturevalue(name))
            with places_named(fixture_bases(item, name)):
                tokenizer = store.tokenizer_of(store.resolve(model, role))
            request.config.stash[_TOKENIZER_OF] = role, nearest_fixture(item, name)
        if tokenizer is None:
            raise no_tokenizer(role)
    return tokenizer


@pytest.fixture(scope="session")
def pot_prompts(request: pytest.FixtureRequest) -> Sequence[str | Prompt]:
    """The prompts to compare models on: --pot-prompts, else the hook pytest_pot_prompts, else the built-in suite."""
    from pytest_pot.plugin.gates import failures_reported
    from pytest_pot.plugin.inputs.prompt_source import default_prompts

    with failures_reported(request.config):
        return default_prompts(request.config)


@pytest.fixture
def pot_scorer(request: pytest.FixtureRequest) -> TeacherForcedScorer:
    """A scorer configured by this test's marker or, if it has none, by the options and the default preset.

    A scorer runs all models alike: ``candidate_dtype`` is a matter of the gate.
    """
    from pytest_pot.plugin.collection import gates_on
    from pytest_pot.plugin.options import option_config
    from pytest_pot.scoring.scorer import TeacherForcedScorer

    gates = gates_on(request.node)
    return TeacherForcedScorer(gates[0].settings.config if gates else option_config(request.config)[1])


@pytest.fixture
def pot_result(request: pytest.FixtureRequest) -> PotResult:
    """The results of this test's gates: ``.verdict``, ``.report``, ``.latency``, and ``.gates`` with one result per gate."""
    from pytest_pot.plugin.gates import result_of

    return result_of(request)


@pytest.fixture
def _pot_inputs(request: pytest.FixtureRequest) -> Generator[None]:
    """Resolve the inputs of this test's gates, at set-up."""
    from pytest_pot.plugin.gates import resolved_inputs

    with resolved_inputs(request):
        yield


def refuse_other_tokenizer(item: pytest.Item) -> None:
    """Fail if ``pot_tokenizer`` came from another test's model: it is made once, for the first test that requests it."""
    from pytest_pot.plugin.gates import failure
    from pytest_pot.plugin.pytest_internals import is_overridden, nearest_fixture

    role, fixture = item.config.stash.get(_TOKENIZER_OF, ("", None))
    if role and not is_overridden(item, "pot_tokenizer") and nearest_fixture(item, f"pot_{role}") is not fixture:
        raise failure(
            item.config,
            f"pot_tokenizer is made once per session, and it came from another pot_{role} than this test's. Override "
            f"pot_tokenizer where pot_{role} is overridden, or name one tokenizer for all with --pot-tokenizer",
        )


def _model_from_options(config: pytest.Config, role: str) -> Any:
    from pytest_pot.plugin.gates import failures_reported
    from pytest_pot.plugin.inputs.model_store import model_store, no_model

    with failures_reported(config):
        loaded = model_store(config).from_options(role)
        if loaded is None:
            raise no_model(role)
    return loaded.model
