"""pytest's face: options, markers, fixtures and hooks. It dispatches, and computes nothing.

Importing this module must stay cheap: it is imported by every pytest run in its environment. Everything that needs numpy,
torch or transformers is imported where a gate runs.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_pot import hookspec, settings
from pytest_pot.errors import InvalidArgument, PotError
from pytest_pot.models import ModelStore, load_by_spec
from pytest_pot.prompts import builtin_prompts, load_prompts
from pytest_pot.results import SessionResults
from pytest_pot.settings import MARKERS, OPTIONS, Settings

if TYPE_CHECKING:
    from pytest_pot.gates import GateInputs, PotResult
    from pytest_pot.prompts import Prompt
    from pytest_pot.scorer import TeacherForcedScorer

_STORE = pytest.StashKey[ModelStore]()
_GATES = pytest.StashKey[list[Settings]]()
_INPUTS: pytest.StashKey[list[GateInputs]] = pytest.StashKey()
_RESULT: pytest.StashKey[PotResult] = pytest.StashKey()


# -- set-up ------------------------------------------------------------------------------------------------------------


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("pot", "pytest-pot: is a language model still the same model?")
    for name, text in OPTIONS.items():
        group.addoption(f"--pot-{name}", dest=f"pot_{name}", default=None, metavar=name.upper(), help=text)
        parser.addini(f"pot_{name}", text, default="")


def pytest_addhooks(pluginmanager: pytest.PytestPluginManager) -> None:
    pluginmanager.add_hookspecs(hookspec)


def pytest_configure(config: pytest.Config) -> None:
    for name, marker in MARKERS.items():
        signature = ", ".join(f"{argument}=None" for argument in marker.arguments)
        config.addinivalue_line("markers", f"{name}({signature}): {marker.summary}")
    config.stash[_STORE] = ModelStore(config)
    settings.check_options(config)
    if not hasattr(config, "workerinput"):  # under xdist, results are shown and written where all of them arrive
        config.pluginmanager.register(SessionResults(config), "pot-results")


def pytest_report_header(config: pytest.Config) -> str | None:
    given = {name: settings.option(config, name) for name in OPTIONS if name != "report"}
    parts = [f"{name} {value}" for name, value in given.items() if value is not None]
    return f"pot: {', '.join(parts)}" if parts else None


# -- collection --------------------------------------------------------------------------------------------------------


@pytest.hookimpl(tryfirst=True)
def pytest_pycollect_makeitem(collector: pytest.Collector, name: str, obj: object) -> None:
    """Let a marked test use the fixtures of its gate, before pytest works out which fixtures parametrise it.

    An overridden ``pot_candidate`` with params then runs the test once per candidate.
    """
    own = [mark for mark in _marks_on(obj) if mark.name in MARKERS]
    inherited = [mark for marker in MARKERS for mark in collector.iter_markers(marker)]
    if not callable(obj) or isinstance(obj, type) or not (own or inherited):
        return
    needed = {fixture for mark in own or inherited for fixture in _fixtures_for(mark.kwargs)}
    asked = {argument for mark in _marks_on(obj) if mark.name == "usefixtures" for argument in mark.args}
    if needed - asked:
        try:
            pytest.mark.usefixtures(*sorted(needed - asked))(obj)
        except AttributeError:  # an object that takes no marks; the gate's own fixture asks for the rest
            return


def _marks_on(obj: object) -> list[pytest.Mark]:
    marks = getattr(obj, "pytestmark", [])
    return [mark for mark in marks if isinstance(mark, pytest.Mark)] if isinstance(marks, list) else []


def _fixtures_for(arguments: Mapping[str, Any]) -> list[str]:
    """The fixtures that supply what a marker's arguments leave open."""
    return [f"pot_{name}" for name in ("reference", "candidate", "prompts") if arguments.get(name) is None]


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    errors = []
    for item in items:
        try:
            gates = settings.gates_of(item)
        except InvalidArgument as error:
            errors.append(f"{item.nodeid}: {error}")
            continue
        if gates:
            item.stash[_GATES] = gates
            # Asked for like any fixture, so that what goes wrong in it is an ERROR at set-up, not a verdict.
            names = getattr(item, "fixturenames", None)
            if names is None:
                errors.append(f"{item.nodeid}: {gates[0].gate} works on test functions only, not on {type(item).__name__}")
            elif "_pot_inputs" not in names:
                # A new list: the one there is shared by all items made from the same function.
                item.fixturenames = [*names, "_pot_inputs"]  # type: ignore[attr-defined]
    if errors:
        raise pytest.UsageError(*errors)


# -- the gate ----------------------------------------------------------------------------------------------------------


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_call(item: pytest.Item) -> None:
    """Run the gates of ``item`` before its body: a miss is a failure of the test itself, and the body does not run."""
    gates = item.stash.get(_GATES, None)
    if gates is None:
        return
    from pytest_pot import report
    from pytest_pot.gates import run_gate
    from pytest_pot.progress import ProgressLine

    # Plugins that rerun a test call this again for the same item.
    item.user_properties[:] = [entry for entry in item.user_properties if not entry[0].startswith("pot_")]
    found = item.stash[_RESULT].gates
    found.clear()
    inputs_of_gates = item.stash[_INPUTS]
    for gate, inputs in zip(gates, inputs_of_gates, strict=True):
        line = ProgressLine(item.config, item.name)
        try:
            result = run_gate(gate, inputs, line)
        except PotError as error:
            pytest.fail(f"{gate.gate}: {error}", pytrace=False)
        finally:
            line.close()
        found.append(result)
        item.user_properties.extend(report.properties(result))
        item.config.hook.pytest_pot_gate(item=item, result=result)
        if not result.passed:
            pytest.fail(report.explain(result, item.config.get_verbosity()), pytrace=False)


@pytest.fixture
def _pot_inputs(request: pytest.FixtureRequest) -> Generator[None]:
    """Resolves what the gates of this test compare, at set-up."""
    from pytest_pot.gates import PotResult

    item = request.node
    item.stash[_RESULT] = PotResult()
    try:
        item.stash[_INPUTS] = [_resolve(request, gate) for gate in item.stash[_GATES]]
    except PotError as error:
        pytest.fail(str(error), pytrace=False)
    yield
    item.stash[_INPUTS] = []  # models are not to outlive the test with its item


def _resolve(request: pytest.FixtureRequest, gate: Settings) -> GateInputs:
    from pytest_pot.gates import GateInputs

    store = request.config.stash[_STORE]
    sources = {
        role: getattr(gate, role) or request.getfixturevalue(f"pot_{role}")  # a marker's spec, or what the fixture returned
        for role in ("reference", "candidate")
    }
    reference, candidate = (store.resolve(source, role) for role, source in sources.items())
    tokenizer = store.tokenizer()
    if tokenizer is None and gate.reference is not None:
        tokenizer = reference.tokenizer
    if tokenizer is None:
        tokenizer = request.getfixturevalue("pot_tokenizer")
    if isinstance(gate.prompts, Path):
        prompts: Sequence[str | Prompt] = load_prompts(gate.prompts)
    else:
        prompts = gate.prompts if gate.prompts is not None else request.getfixturevalue("pot_prompts")
    return GateInputs(
        reference=reference.model,
        candidate=candidate.model,
        tokenizer=tokenizer,
        candidate_tokenizer=candidate.tokenizer if tokenizer is reference.tokenizer else None,
        prompts=prompts,
        names=(_name(request.config, "reference", sources), _name(request.config, "candidate", sources)),
    )


def _name(config: pytest.Config, role: str, sources: Mapping[str, Any]) -> str:
    """What people call a model: its spec, or the fixture that it came from."""
    source = sources[role]
    if isinstance(source, str | Path):
        return str(source)
    if config.stash[_STORE].is_from_options(role, source):
        return str(settings.option(config, role))
    return f"{type(source).__name__} from the fixture pot_{role}"


# -- fixtures ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def pot_reference(request: pytest.FixtureRequest) -> Any:
    """The trusted model, named by --pot-reference or the ini key pot_reference.

    Override it in a conftest.py to return a model, (model, tokenizer), or a spec.
    """
    return _model_from_options(request.config, "reference")


@pytest.fixture(scope="session")
def pot_candidate(request: pytest.FixtureRequest) -> Any:
    """The model under test, named by --pot-candidate or the ini key pot_candidate; overridden like pot_reference."""
    return _model_from_options(request.config, "candidate")


def _model_from_options(config: pytest.Config, role: str) -> Any:
    try:
        loaded = config.stash[_STORE].from_options(role)
    except PotError as error:
        pytest.fail(str(error), pytrace=False)
    if loaded is None:
        pytest.fail(
            f"no {role} model is configured. Name one in the marker, {role}=...; with the option --pot-{role}; in the ini "
            f"file, pot_{role} = ...; or override the fixture pot_{role} in a conftest.py",
            pytrace=False,
        )
    return loaded.model


@pytest.fixture(scope="session")
def pot_tokenizer(request: pytest.FixtureRequest) -> Any:
    """The tokenizer for both models: --pot-tokenizer, or else the reference's own."""
    store = request.config.stash[_STORE]
    try:
        tokenizer = store.tokenizer()
        if tokenizer is None:
            tokenizer = store.tokenizer_of(store.resolve(request.getfixturevalue("pot_reference"), "reference"))
    except PotError as error:
        pytest.fail(str(error), pytrace=False)
    if tokenizer is None:
        pytest.fail(
            "the reference comes without a tokenizer. Name one with the option --pot-tokenizer; in the ini file, "
            "pot_tokenizer = ...; override the fixture pot_tokenizer in a conftest.py; or let pot_reference return "
            "(model, tokenizer)",
            pytrace=False,
        )
    return tokenizer


@pytest.fixture(scope="session")
def pot_prompts(request: pytest.FixtureRequest) -> Sequence[str | Prompt]:
    """The prompts to compare models on: --pot-prompts, else the hook pytest_pot_prompts, else the built-in suite."""
    path = settings.option_path(request.config, "prompts")
    try:
        if path is not None:
            return load_prompts(path)
        given = [prompts for prompts in request.config.hook.pytest_pot_prompts(config=request.config) if prompts is not None]
        return [prompt for prompts in given for prompt in prompts] if given else builtin_prompts()
    except PotError as error:
        pytest.fail(str(error), pytrace=False)


@pytest.fixture
def pot_scorer(request: pytest.FixtureRequest) -> TeacherForcedScorer:
    """A scorer set up like this test's marker, or, without one, by the options and the default preset."""
    from pytest_pot.scorer import TeacherForcedScorer

    gates = request.node.stash.get(_GATES, None)
    return TeacherForcedScorer(gates[0].config if gates else settings.option_config(request.config)[1])


@pytest.fixture
def pot_result(request: pytest.FixtureRequest) -> PotResult:
    """What this test's gates found: ``.verdict``, ``.report`` and, gate by gate, ``.gates``."""
    if _GATES not in request.node.stash:
        pytest.fail("pot_result needs a gate: mark the test, for example with @pytest.mark.pot_identity", pytrace=False)
    request.getfixturevalue("_pot_inputs")
    result: PotResult = request.node.stash[_RESULT]
    return result


# -- pytest-pot's own implementation of its hooks -----------------------------------------------------------------------


@pytest.hookimpl(trylast=True)
def pytest_pot_load_model(spec: str, role: str, config: pytest.Config) -> Any:
    return load_by_spec(spec, role, config)
