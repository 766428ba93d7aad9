"""pytest's face: options, markers, fixtures and hooks. It dispatches, and computes nothing.

Importing this module must stay cheap: it is imported by every pytest run in its environment. Everything that needs numpy,
torch or transformers is imported where a gate runs.
"""

from __future__ import annotations

import warnings
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from pytest_pot.core.errors import InvalidArgument, PotError
from pytest_pot.gates.latency.settings import LatencySettings, not_gated
from pytest_pot.gates.latency.statistics import REFERENCE_LIMITS
from pytest_pot.plugin import hookspecs as hookspec
from pytest_pot.plugin import options as settings
from pytest_pot.plugin.collection import LEFTOVERS, attach, gates_on, late_marker
from pytest_pot.plugin.inputs.baseline_store import RECORDINGS, Recordings
from pytest_pot.plugin.inputs.model_store import (
    STORE,
    ModelStore,
    is_overridden,
    load_by_spec,
    named_by_fixture,
    nearest_fixture,
    no_model,
    no_tokenizer,
)
from pytest_pot.plugin.markers import MARKERS, marks_on, nearest
from pytest_pot.plugin.options import OPTIONS, GateSettings
from pytest_pot.plugin.session.item_properties import NOT_GATED, forget, tell
from pytest_pot.plugin.session.summary import SessionResults
from pytest_pot.plugin.session.unused_baselines import Leftovers
from pytest_pot.prompts.prompt import builtin_prompts, listed, load_prompts

if TYPE_CHECKING:
    from pytest_pot.gates.verdict.gate import GateInputs, PotResult
    from pytest_pot.prompts.prompt import Prompt
    from pytest_pot.scoring.scorer import TeacherForcedScorer

_INPUTS: pytest.StashKey[list[GateInputs]] = pytest.StashKey()
_TOKENIZER_OF = pytest.StashKey[tuple[str, object]]()
"""The role and the fixture that the session's pot_tokenizer was made from."""
_RESULT: pytest.StashKey[PotResult] = pytest.StashKey()


# -- set-up ------------------------------------------------------------------------------------------------------------


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("pot", "pytest-pot: is a language model still the same model?")
    for name, text in OPTIONS.items():
        group.addoption(f"--pot-{name}", dest=f"pot_{name}", default=None, metavar=name.upper(), help=text)
        parser.addini(f"pot_{name}", text, default="")
    for name, text in settings.FLAGS.items():
        group.addoption(f"--pot-{name}", dest=f"pot_{name}", action="store_true", default=None, help=text)
        parser.addini(f"pot_{name}", text, type="bool", default=False)
    group.addoption("--pot-calibrate", action="store_true", default=False, help=settings.CALIBRATE)
    for key, (kind, default, text) in settings.INI_KEYS.items():
        parser.addini(key, text, type=kind, default=default)


def pytest_addhooks(pluginmanager: pytest.PytestPluginManager) -> None:
    pluginmanager.add_hookspecs(hookspec)


def pytest_configure(config: pytest.Config) -> None:
    for name, marker in MARKERS.items():
        signature = ", ".join(f"{argument}=None" for argument in marker.arguments)
        config.addinivalue_line("markers", f"{name}({signature}): {marker.summary}")
    config.stash[STORE] = ModelStore(config)
    config.stash[RECORDINGS] = Recordings(config)
    settings.check_options(config)
    config.stash[LEFTOVERS] = Leftovers(config)
    config.pluginmanager.register(config.stash[LEFTOVERS], "pot-leftovers")
    if not hasattr(config, "workerinput"):  # under xdist, results are shown and written where all of them arrive
        config.pluginmanager.register(SessionResults(config), "pot-results")


def pytest_report_header(config: pytest.Config) -> str | None:
    given = {name: settings.option(config, name) for name in OPTIONS if name not in ("report", "key")}
    parts = [f"{name} {value}" for name, value in given.items() if value is not None]
    if settings.option(config, "key") is not None:
        parts.append("key given")  # it is a secret, and logs are read by many
    parts += [name for name in settings.FLAGS if settings.flag(config, name)]
    return f"pot: {', '.join(parts)}" if parts else None


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> int | None:
    """``--pot-calibrate`` runs no tests, as ``--markers`` and ``--fixtures`` do not."""
    if not config.getoption("pot_calibrate"):
        return None
    from pytest_pot.plugin import calibrate_command as calibration_report

    config._do_configure()
    try:
        return calibration_report.run(config)
    finally:
        config._ensure_unconfigure()


# -- collection --------------------------------------------------------------------------------------------------------


@pytest.hookimpl(wrapper=True)
def pytest_pycollect_makeitem(collector: pytest.Collector, name: str, obj: object) -> Generator[None, object, object]:
    """Let a marked test use the fixtures of its gate, before pytest works out which fixtures parametrise it.

    An overridden ``pot_candidate`` with params then runs the test once per candidate. The collector carries the request
    only while this one test is made: the function may be shared with a class that has no marker.
    """
    needed: set[str] = set()
    if isinstance(collector, pytest.Module | pytest.Class) and _is_test_function(collector, name, obj):
        for marker in MARKERS:
            here = [(None, mark) for mark in marks_on(obj) if mark.name == marker]
            for mark in nearest([*here, *collector.iter_markers_with_node(marker)]):
                needed.update(_fixtures_for(mark, collector, obj))
    if not needed:
        return (yield)
    asked = pytest.mark.usefixtures(*sorted(needed)).mark
    collector.own_markers.append(asked)
    try:
        return (yield)
    finally:
        collector.own_markers.remove(asked)


def _is_test_function(collector: pytest.Module | pytest.Class, name: str, obj: object) -> bool:
    return not isinstance(obj, type) and collector.istestfunction(obj, name)


def _fixtures_for(mark: pytest.Mark, collector: pytest.Module | pytest.Class, obj: object) -> Iterator[str]:
    """The fixtures that supply what a marker's arguments leave open, as far as its gate is going to need it."""
    timed = mark.name == "pot_latency"
    idle = timed and not_gated(collector.config) is not None
    if mark.kwargs.get("reference") is None and _wants_reference(mark, collector, obj):
        yield "pot_reference"
    for name in ("candidate", "prompts"):
        if mark.kwargs.get(name) is None and (not idle or _has_a_say(f"pot_{name}", collector, obj)):
            yield f"pot_{name}"


def _wants_reference(mark: pytest.Mark, collector: pytest.Module | pytest.Class, obj: object) -> bool:
    """Whether the suite has a say in ``pot_reference``. Where it has none, the fixture would only load the model, which a
    recording may make unnecessary; the gate finds it by its name."""
    if mark.name == "pot_latency":
        unused = all(mark.kwargs.get(name) is None for name in REFERENCE_LIMITS)
    else:
        unused = settings.recorded_reference(collector.config)
    return not unused and _has_a_say("pot_reference", collector, obj)


def _has_a_say(fixture: str, collector: pytest.Module | pytest.Class, obj: object) -> bool:
    """Whether the suite overrides ``fixture``, or parametrises it."""
    marks = [*marks_on(obj), *collector.iter_markers()]
    parametrised = any(fixture in str(mark.args[:1]) for mark in marks if mark.name == "parametrize")
    return parametrised or is_overridden(collector, fixture)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> Generator[None]:
    """Attach the gates before and after all that others do here: they may select by what is wrong, and may add markers."""
    _attach_gates(config, items)
    yield
    _attach_gates(config, items)


def _attach_gates(config: pytest.Config, items: list[pytest.Item]) -> None:
    errors: dict[pytest.Item, str] = {}
    for item in items:
        try:
            attach(item)
        except InvalidArgument as error:
            errors[item] = f"{item.nodeid}: {error}"
    if not errors:
        return
    if not hasattr(config, "workerinput"):
        raise pytest.UsageError(*errors.values())
    # To the controller, a worker that stops here has crashed. A failed collection travels to it, and is told once.
    for item, message in errors.items():
        config.hook.pytest_collectreport(report=pytest.CollectReport(item.nodeid, "failed", message, None))
    items[:] = [item for item in items if item not in errors]


# -- the gate ----------------------------------------------------------------------------------------------------------


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item: pytest.Item) -> Generator[None]:
    """Put the gates of a test whose set-up fails on record too: a report of passing gates alone would mislead."""
    try:
        yield
        _refuse_the_tokenizer_of_others(item)
    except (Exception, pytest.fail.Exception) as error:
        forget(item)
        gates, _ = _gates_to_run(item)
        if gates:
            from pytest_pot.report import table as report

            for gate in gates:
                tell(item, report.error_properties(gate, (gate.reference, gate.candidate), str(error)))
        raise


def _refuse_the_tokenizer_of_others(item: pytest.Item) -> None:
    """pot_tokenizer is made once, from the pot_reference that the first test which asks for it sees."""
    role, fixture = item.config.stash.get(_TOKENIZER_OF, ("", None))
    asks = "pot_tokenizer" in getattr(item, "fixturenames", ()) and not is_overridden(item, "pot_tokenizer")
    if asks and role and nearest_fixture(item, f"pot_{role}") is not fixture:
        raise _failure(
            f"pot_tokenizer is made once in a session, and this one comes with another pot_{role} than this test's. Override "
            f"pot_tokenizer where pot_{role} is overridden, or name one tokenizer for all with --pot-tokenizer"
        )


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_call(item: pytest.Item) -> None:
    """Run the gates of ``item`` before its body: a miss is a failure of the test itself, and the body does not run."""
    _refuse_late_markers(item)
    gates, reason = _gates_to_run(item)
    if not gates and reason is None:
        return
    from pytest_pot.gates.verdict.gate import run_gate
    from pytest_pot.plugin.session.progress import ProgressLine
    from pytest_pot.report import table as report

    forget(item)
    if reason is not None:
        tell(item, [(NOT_GATED, reason)])
    found = item.stash[_RESULT].gates
    found.clear()
    inputs_of_gates = item.stash[_INPUTS]
    for gate, inputs in zip(gates, inputs_of_gates, strict=True):
        try:
            with ProgressLine(item.config, item.name, gate.counted) as line:
                result = run_gate(gate, inputs, line)
        except PotError as error:
            tell(item, report.error_properties(gate, inputs.names, str(error)))
            raise _failure(f"{gate.gate}: {error}") from None
        found.append(result)
        tell(item, report.properties(result))
        item.ihook.pytest_pot_gate(item=item, result=result)
        if not result.passed:
            raise _failure(report.explain(result, item.config.get_verbosity()))
        if getattr(result, "doubtful", False):
            _warn(item, report.explain(result, -1))


def _gates_to_run(item: pytest.Item) -> tuple[list[GateSettings], str | None]:
    """The gates of ``item`` that are run, and why others are not; None where all are."""
    gates, reason = gates_on(item), not_gated(item.config)
    if reason is None:
        return gates, None
    left = [gate for gate in gates if not isinstance(gate, LatencySettings)]
    return left, reason if len(left) < len(gates) else None


def _warn(item: pytest.Item, message: str) -> None:
    """A warning even where a suite turns warnings into errors: what is inconclusive fails only by its own ini key."""
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        item.warn(pytest.PytestWarning(message))


@pytest.hookimpl(trylast=True, specname="pytest_runtest_call")
def pytest_after_the_body(item: pytest.Item) -> None:
    """The body may have added a marker as well: last in line, this runs once the body has passed."""
    _refuse_late_markers(item)


def _refuse_late_markers(item: pytest.Item) -> None:
    """Never a pass on missing evidence: a marker whose gate was not attached is a failure."""
    message = late_marker(item)
    if message is not None:
        raise _failure(message)


def _failure(message: str) -> BaseException:
    """A failure that prints its message and nothing else; raised ``from None``, lest pytest print the chain."""
    return pytest.fail.Exception(message, pytrace=False)


@contextmanager
def _failures_told() -> Iterator[None]:
    try:
        yield
    except PotError as error:
        raise _failure(str(error)) from None


@pytest.fixture
def _pot_inputs(request: pytest.FixtureRequest) -> Generator[None]:
    """Resolves what the gates of this test compare, at set-up."""
    from pytest_pot.gates.verdict.gate import PotResult
    from pytest_pot.plugin.inputs.resolver import resolve

    item = request.node
    item.stash[_RESULT] = PotResult()
    with _failures_told():
        item.stash[_INPUTS] = [resolve(request, gate) for gate in _gates_to_run(item)[0]]
    yield
    item.stash[_INPUTS] = []  # models are not to outlive the test with its item


# -- fixtures ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def pot_reference(request: pytest.FixtureRequest) -> Any:
    """The trusted model, named by --pot-reference or the ini key pot_reference; a Baseline where that is a recorded file.

    Override it in a conftest.py to return a model, (model, tokenizer), or a spec.
    """
    return _model_from_options(request.config, "reference")


@pytest.fixture(scope="session")
def pot_candidate(request: pytest.FixtureRequest) -> Any:
    """The model under test, named by --pot-candidate or the ini key pot_candidate; overridden like pot_reference."""
    return _model_from_options(request.config, "candidate")


def _model_from_options(config: pytest.Config, role: str) -> Any:
    with _failures_told():
        loaded = config.stash[STORE].from_options(role)
        if loaded is None:
            raise no_model(role)
    return loaded.model


@pytest.fixture(scope="session")
def pot_tokenizer(request: pytest.FixtureRequest) -> Any:
    """The tokenizer for both models: --pot-tokenizer, or else the reference's own; the candidate's beside a recording.

    Override it where reference and candidate come with tokenizers that differ, and one of them is meant for both. It is
    made once in a session: where pot_reference is overridden for a part of a suite, override pot_tokenizer beside it.
    """
    store = request.config.stash[STORE]
    with _failures_told():
        tokenizer = store.tokenizer()
        if tokenizer is None:
            role = "candidate" if settings.recorded_reference(request.config) else "reference"
            name, item = f"pot_{role}", request._pyfuncitem
            model = named_by_fixture(item, name, request.getfixturevalue(name))
            tokenizer = store.tokenizer_of(store.resolve(model, role))
            request.config.stash[_TOKENIZER_OF] = role, nearest_fixture(item, name)
        if tokenizer is None:
            raise no_tokenizer(role)
    return tokenizer


@pytest.fixture(scope="session")
def pot_prompts(request: pytest.FixtureRequest) -> Sequence[str | Prompt]:
    """The prompts to compare models on: --pot-prompts, else the hook pytest_pot_prompts, else the built-in suite."""
    path = settings.option_path(request.config, "prompts")
    if path is not None:
        with _failures_told():
            return load_prompts(path)
    given = [prompts for prompts in request.config.hook.pytest_pot_prompts(config=request.config) if prompts is not None]
    with _failures_told():
        try:
            return [prompt for prompts in given for prompt in listed(prompts)] if given else builtin_prompts()
        except InvalidArgument as error:
            raise PotError(f"the hook pytest_pot_prompts: {error}") from error


@pytest.fixture
def pot_scorer(request: pytest.FixtureRequest) -> TeacherForcedScorer:
    """A scorer set up like this test's marker, or, without one, by the options and the default preset."""
    from pytest_pot.scoring.scorer import TeacherForcedScorer

    gates = gates_on(request.node)
    return TeacherForcedScorer(gates[0].config if gates else settings.option_config(request.config)[1])


@pytest.fixture
def pot_result(request: pytest.FixtureRequest) -> PotResult:
    """What this test's gates found: ``.verdict``, ``.report``, ``.latency`` and, gate by gate, ``.gates``."""
    if not gates_on(request.node):
        pytest.fail("pot_result needs a gate: mark the test, for example with @pytest.mark.pot_identity", pytrace=False)
    request.getfixturevalue("_pot_inputs")
    result: PotResult = request.node.stash[_RESULT]
    return result


# -- pytest-pot's own implementation of its hooks -----------------------------------------------------------------------


@pytest.hookimpl(trylast=True)
def pytest_pot_load_model(spec: str, role: str, config: pytest.Config) -> Any:
    return load_by_spec(spec, role, config)
