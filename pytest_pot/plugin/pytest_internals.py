"""Every use of pytest's private interfaces, each with the reason why there is no public way.

Nothing else in pytest-pot touches a name of pytest that begins with an underscore, or an attribute that is not documented.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest

__all__ = [
    "capture_suspended",
    "failure_of",
    "fixture_definitions",
    "fixture_names",
    "fixtures_without_tests",
    "is_of_suite",
    "is_overridden",
    "is_test_case",
    "message_of",
    "nearest_fixture",
    "note_terminal_width",
    "requesting_item",
    "selects_tests",
    "skipped_test",
    "terminal_width",
    "unittest_error",
    "unknown_ini_keys",
    "use_fixture",
    "use_headline",
]

WIDTH = "pot_width"
"""What the controller of workers calls the width of its terminal."""
_LOG_WIDTH = 80
_NARROWEST = 40
"""Columns below which no terminal is taken to have so few."""
_TERMINAL_WIDTH = pytest.StashKey[int]()
_ON_TERMINAL = pytest.StashKey[bool]()
_OWN_FIXTURES = "pytest_pot.plugin.fixtures"


def fixture_definitions(node: pytest.Item | pytest.Collector, name: str) -> Sequence[pytest.FixtureDef[Any]]:
    """The fixtures of that name that ``node`` sees, the nearest to it last.

    pytest has no public way to look a fixture up without running it.
    """
    return node.session._fixturemanager.getfixturedefs(name, node) or ()


def nearest_fixture(node: pytest.Item | pytest.Collector, name: str) -> pytest.FixtureDef[Any] | None:
    """The fixture of that name that ``node`` sees; the same object wherever it is the same fixture."""
    definitions = fixture_definitions(node, name)
    return definitions[-1] if definitions else None


def is_overridden(node: pytest.Item | pytest.Collector, name: str) -> bool:
    """Whether the suite has a fixture, or a parametrisation, of that name besides pytest-pot's own."""
    parameters = getattr(getattr(node, "callspec", None), "params", {})
    return name in parameters or any(is_of_suite(fixture) for fixture in fixture_definitions(node, name))


def is_of_suite(fixture: pytest.FixtureDef[Any]) -> bool:
    """Whether ``fixture`` is the suite's, and not pytest-pot's own."""
    return getattr(fixture.func, "__module__", None) != _OWN_FIXTURES


def fixture_names(item: pytest.Item) -> Sequence[str] | None:
    """The fixtures that ``item`` asks for; None where it is no test function. ``fixturenames`` is not documented."""
    names: Sequence[str] | None = getattr(item, "fixturenames", None)
    return names


def use_fixture(item: pytest.Item, name: str, *, used: bool) -> None:
    """Make ``item`` ask for the fixture ``name``, or no longer.

    ``usefixtures`` markers are read while an item is made; a marker that a conftest adds later needs its fixture all the same.
    """
    others = [other for other in fixture_names(item) or () if other != name]
    # A new list: the one that is there is shared by all items made from the same function.
    item.fixturenames = [*others, name] if used else others  # type: ignore[attr-defined]


def is_test_case(item: pytest.Item) -> bool:
    """Whether ``item`` is a method of a ``unittest.TestCase``; pytest's own class for them is private."""
    import sys

    unittest = sys.modules.get("unittest")  # where nothing has imported it, there is no test case
    test_class = getattr(item, "cls", None)
    return unittest is not None and isinstance(test_class, type) and issubclass(test_class, unittest.TestCase)


def unittest_error(item: pytest.Item) -> BaseException | None:
    """What unittest reported of ``item``, a method of a test case, that has been run; pytest raises it later."""
    errors = getattr(item, "_excinfo", None)
    return errors[0].value if errors else None


def requesting_item(request: pytest.FixtureRequest) -> pytest.Item:
    """The test for which a fixture of a wider scope is being made; ``request.node`` is the session there."""
    item: pytest.Item = request._pyfuncitem
    return item


def capture_suspended(config: pytest.Config) -> AbstractContextManager[None]:
    """Let through what is written to the terminal while a test's output is captured; pytest has no public way."""
    manager = config.pluginmanager.getplugin("capturemanager")
    return nullcontext() if manager is None else manager.global_and_fixture_disabled()


def note_terminal_width(config: pytest.Config) -> None:
    """Read the columns of the terminal, for :func:`terminal_width`, as pytest reads them.

    Later than while the session is set up, pytest's capture has to be suspended: it has a file in the place of the terminal.
    A worker of pytest-xdist cannot see the terminal: its controller sends the width (``SessionResults``).
    """
    worker_input = getattr(config, "workerinput", None)
    if worker_input is None:
        width = shutil.get_terminal_size((_LOG_WIDTH, 24)).columns
    else:
        width = int(worker_input.get(WIDTH, _LOG_WIDTH))
    config.stash[_TERMINAL_WIDTH] = width if width >= _NARROWEST else _LOG_WIDTH
    config.stash[_ON_TERMINAL] = worker_input is None and sys.__stdout__ is not None and sys.__stdout__.isatty()


def terminal_width(config: pytest.Config) -> int:
    """The columns of the terminal as it is now, or of a log: 80 where nothing says how wide it is."""
    if config.stash.get(_ON_TERMINAL, False):  # people change the size of its window
        with capture_suspended(config):
            note_terminal_width(config)
    return config.stash.get(_TERMINAL_WIDTH, _LOG_WIDTH)


def unknown_ini_keys(config: pytest.Config) -> set[str]:
    """The keys in the ini file, and of ``-o``, that nothing has declared; ``getini`` knows only those that are declared."""
    overrides: list[str] = config.getoption("override_ini", None) or []
    given = {override.partition("=")[0] for override in overrides}  # older versions of pytest do not look at them
    return {*config._get_unknown_ini_keys(), *given.difference(config._parser._inidict)}


def skipped_test(reason: str) -> BaseException:
    """What to raise to skip a test; shown at the test's own place, and not at the line here that raises it."""
    return pytest.skip.Exception(reason, _use_item_location=True)


def selects_tests(config: pytest.Config) -> bool:
    """Whether options of pytest's own leave tests out; there is no public accessor for them."""
    return any(config.getoption(name, None) for name in ("lf", "ignore", "ignore_glob", "deselect"))


@contextmanager
def fixtures_without_tests(config: pytest.Config, folder: Path) -> Iterator[Callable[[str], tuple[pytest.Item, Any]]]:
    """A session that runs no test, and a function that gives the value of a fixture, and the item that asked for it.

    A command such as ``--pot-calibrate`` needs what a test in ``folder`` would get. pytest makes fixtures for tests only, so
    this makes an item that is never run. The terminal does not hear of the session."""
    config._do_configure()
    try:
        session = pytest.Session.from_config(config)
        # The terminal would print a header, and xdist would start workers.
        plugins = [config.pluginmanager.getplugin(name) for name in ("terminalreporter", "dsession")]
        silent = [plugin for plugin in plugins if plugin is not None]
        config.pluginmanager.subset_hook_caller("pytest_sessionstart", silent)(session=session)

        def value_of(name: str) -> tuple[pytest.Item, Any]:
            item = _item_in(session, folder, name)
            session._setupstate.setup(item)
            return item, item.funcargs[name]

        try:
            yield value_of
        finally:
            session._setupstate.teardown_exact(None)
    finally:
        config._ensure_unconfigure()


def _item_in(session: pytest.Session, folder: Path, fixture: str) -> pytest.Function:
    """An item in ``folder`` that asks for ``fixture`` and sees what the conftests there and above define."""
    root = session.config.rootpath
    below = folder.relative_to(root).parts if folder.is_relative_to(root) else ()
    parent: pytest.Collector = session
    for depth in range(len(below) + 1):
        parent = pytest.Dir.from_parent(parent, path=root.joinpath(*below[:depth]))
        # As while tests are collected: pytest 9.1 and later read a conftest's fixtures when its folder is collected.
        session.config.hook.pytest_make_collect_report(collector=parent)

    @pytest.mark.usefixtures(fixture)
    def nothing() -> None:
        pass

    item: pytest.Function = pytest.Function.from_parent(parent, name="pot", callobj=nothing)
    return item


_MESSAGE = "pot_message"


def failure_of(message: str, shown: str) -> BaseException:
    """A failure that prints ``shown`` and no traceback. :func:`message_of` gives ``message``, which is not wrapped."""
    error = pytest.fail.Exception(shown, pytrace=False)
    setattr(error, _MESSAGE, message)
    return error


def message_of(error: BaseException) -> str:
    """What went wrong, in lines that are not wrapped."""
    return str(getattr(error, _MESSAGE, error))


def use_headline(report: pytest.TestReport, error: BaseException) -> None:
    """Show the first line of a :func:`failure_of` in pytest's short summary, and in the attribute of JUnit's XML.

    On a CI and with ``-vv``, pytest shows the whole text of a failure without a traceback there, however many lines it has, and
    has no public class for a failure that has both a short and a long text.
    """
    if not hasattr(error, _MESSAGE):
        return
    headline = message_of(error).partition("\n")[0]
    if (crash := getattr(report.longrepr, "reprcrash", None)) is not None:
        crash.message = headline
    elif isinstance(report.longrepr, str):
        from _pytest._code.code import ReprEntryNative, ReprExceptionInfo, ReprFileLocation, ReprTraceback

        path, line, _ = report.location
        text = ReprTraceback([ReprEntryNative([report.longrepr + "\n"])], None, style="native")
        report.longrepr = ReprExceptionInfo(reprtraceback=text, reprcrash=ReprFileLocation(path, (line or 0) + 1, headline))
