"""pytest's hooks. They dispatch and compute nothing.

Every pytest run of the environment imports this module and calls these hooks, so what a run without gates does not need is
imported where it is used, and a test without a marker costs one look at its markers."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import pytest

from pytest_pot.core.text import wrapped
from pytest_pot.plugin import hookspecs
from pytest_pot.plugin.markers import GATES, MARKERS, has_gate_marks, has_gates, items_with_gates
from pytest_pot.plugin.options import FLAGS, OPTIONS, add_options, check_options, flag, option
from pytest_pot.plugin.pytest_internals import fixture_names, note_terminal_width, terminal_width, use_headline
from pytest_pot.plugin.session.item_properties import give_details
from pytest_pot.plugin.session.notes import NOTES, SessionNotes
from pytest_pot.plugin.session.start import note_start
from pytest_pot.plugin.session.summary import SessionResults
from pytest_pot.plugin.session.unused_baselines import UNUSED_BASELINES, UnusedBaselines

__all__ = [
    "pytest_addhooks",
    "pytest_addoption",
    "pytest_after_the_body",
    "pytest_cmdline_main",
    "pytest_collection_modifyitems",
    "pytest_configure",
    "pytest_pot_load_model",
    "pytest_pycollect_makeitem",
    "pytest_report_header",
    "pytest_runtest_call",
    "pytest_runtest_makereport",
    "pytest_runtest_setup",
]


# -- set-up ------------------------------------------------------------------------------------------------------------


def pytest_addoption(parser: pytest.Parser) -> None:
    add_options(parser)


def pytest_addhooks(pluginmanager: pytest.PytestPluginManager) -> None:
    pluginmanager.add_hookspecs(hookspecs)


def pytest_configure(config: pytest.Config) -> None:
    note_terminal_width(config)
    listed = config.getoption("markers", False)
    for name, marker in MARKERS.items():
        line = f"{name}: {marker.summary}"
        if listed:  # what else there is to say takes imports
            from pytest_pot.plugin.marker_help import marker_help

            line = marker_help(name, marker)
        config.addinivalue_line("markers", line)
    check_options(config)
    note_start(config)
    if option(config, "report") is not None and not hasattr(config, "workerinput"):
        from pytest_pot.plugin.session.report_file import check_report_files

        check_report_files(config)
    if option(config, "prompts") is not None:
        from pytest_pot.plugin.paths import check_paths

        check_paths(config)
    config.stash[UNUSED_BASELINES] = UnusedBaselines(config)
    config.pluginmanager.register(config.stash[UNUSED_BASELINES], "pot-unused-baselines")
    config.stash[NOTES] = SessionNotes(config)
    config.pluginmanager.register(config.stash[NOTES], "pot-notes")
    if not hasattr(config, "workerinput"):  # under xdist, results are shown and written where all of them arrive
        config.pluginmanager.register(SessionResults(config), "pot-results")


def pytest_report_header(config: pytest.Config) -> list[str] | None:
    values = {name: option(config, name) for name in OPTIONS if name not in ("report", "key")}
    parts = [f"{name} {value}" for name, value in values.items() if value is not None]
    if option(config, "key") is not None:
        on_line = config.getoption("pot_key") is not None
        # It is a secret, and logs are read by many.
        parts.append("key given on the command line, where others can read it (better: POT_KEY)" if on_line else "key given")
    parts += [name for name in FLAGS if flag(config, name)]
    return wrapped(f"pot: {', '.join(parts)}", terminal_width(config)).split("\n") if parts else None


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> int | None:
    """``--pot-calibrate`` runs no tests, as ``--markers`` and ``--fixtures`` do not."""
    if not config.getoption("pot_calibrate") or hasattr(config, "workerinput"):
        return None
    from pytest_pot.plugin.calibrate_command import run

    return run(config)


# -- collection --------------------------------------------------------------------------------------------------------


@pytest.hookimpl(wrapper=True)
def pytest_pycollect_makeitem(collector: pytest.Collector, name: str, obj: object) -> Generator[None, object, object]:
    """Let a marked test use the fixtures of its gate, before pytest works out which fixtures parametrise it.

    An overridden ``pot_candidate`` with params then runs the test once per candidate. The collector carries the request
    only while this one test is made: the function may be shared with a class that has no marker.
    """
    if not (has_gate_marks(collector, obj) and _is_test_function(collector, name, obj)):
        return (yield)
    from pytest_pot.plugin.collection import needed_fixtures

    assert isinstance(collector, pytest.Module | pytest.Class)
    names = needed_fixtures(collector, obj)
    if not names:
        return (yield)
    request = pytest.mark.usefixtures(*sorted(names)).mark
    collector.own_markers.append(request)
    try:
        return (yield)
    finally:
        collector.own_markers.remove(request)


def _is_test_function(collector: pytest.Collector, name: str, obj: object) -> bool:
    return (
        isinstance(collector, pytest.Module | pytest.Class)
        and not isinstance(obj, type)
        and collector.istestfunction(obj, name)
    )


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> Generator[None]:
    """Attach the gates before and after all that others do here: they may select by what is wrong, and may add markers."""
    _attach_gates(config, items)
    yield
    _attach_gates(config, items)


def _attach_gates(config: pytest.Config, items: list[pytest.Item]) -> None:
    marked = items_with_gates(items)
    if not marked:
        return
    from pytest_pot.core.errors import InvalidArgument
    from pytest_pot.plugin.collection import attach_gates

    errors: dict[pytest.Item, str] = {}
    for item in marked:
        try:
            attach_gates(item)
        except InvalidArgument as error:
            errors[item] = f"{item.nodeid}: {error}"
    if not errors:
        return
    if not hasattr(config, "workerinput"):
        raise pytest.UsageError(*errors.values())
    # To the controller, a worker that stops here has crashed. A failed collection travels to it, and is shown once.
    for item, message in errors.items():
        config.hook.pytest_collectreport(report=pytest.CollectReport(item.nodeid, "failed", message, None))
    items[:] = [item for item in items if item not in errors]


# -- the gate ----------------------------------------------------------------------------------------------------------


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item: pytest.Item) -> Generator[None]:
    """Put the gates of a test whose set-up fails on record too."""
    if GATES in item.stash:
        from pytest_pot.plugin.unittest_cases import refuse_skipped

        refuse_skipped(item)
    try:
        yield
        if "pot_tokenizer" in (fixture_names(item) or ()):
            from pytest_pot.plugin.fixtures import refuse_other_tokenizer

            refuse_other_tokenizer(item)
    except (Exception, pytest.fail.Exception, SystemExit) as error:
        if not has_gates(item):
            raise
        from pytest_pot.plugin.gates import failed_setup
        from pytest_pot.plugin.unittest_cases import is_skip

        if is_skip(error):
            raise
        short = failed_setup(item, error)
        if short is error:
            raise
        raise short from None


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_call(item: pytest.Item) -> None:
    """Run the gates of ``item`` before its body: a miss is a failure of the test itself, and the body does not run."""
    if has_gates(item):
        from pytest_pot.plugin.gates import refuse_late_markers, run_gates

        refuse_late_markers(item)
        run_gates(item)


@pytest.hookimpl(trylast=True, specname="pytest_runtest_call")
def pytest_after_the_body(item: pytest.Item) -> None:
    """The body may have added a marker as well: last in line, this runs once the body has passed."""
    if has_gate_marks(item):
        from pytest_pot.plugin.gates import refuse_late_markers, report_gates_not_reached

        report_gates_not_reached(item)
        refuse_late_markers(item)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    give_details(item, report)
    if call.excinfo is not None:
        use_headline(report, call.excinfo.value)
    return report


# -- pytest-pot's own implementation of its hooks -----------------------------------------------------------------------


@pytest.hookimpl(trylast=True)
def pytest_pot_load_model(spec: str, role: str, config: pytest.Config) -> Any:
    from pytest_pot.plugin.inputs.model_store import load_by_spec

    return load_by_spec(spec, role, config)
