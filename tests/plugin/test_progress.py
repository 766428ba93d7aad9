"""The progress line: on a terminal, for gates that take long, and wiped when they end."""

from __future__ import annotations

import re

import pytest

from pytest_pot.plugin.session import progress

from .conftest import Project

TERMINAL = """
import pytest

@pytest.hookimpl(trylast=True)
def pytest_configure(config):
    reporter = config.pluginmanager.getplugin("terminalreporter")
    reporter.isatty = type(reporter.isatty)(True)
"""
MARKED = """
import pytest

@pytest.mark.pot_identity(preset="single")
def test_it():
    pass

@pytest.mark.pot_identity(preset="single", candidate={nan})
def test_nan():
    pass
"""


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every gate takes long, and every prompt is worth a line."""
    monkeypatch.setattr(progress, "_QUIET_S", 0.0)
    monkeypatch.setattr(progress, "_REDRAW_S", 0.0)


def drawn(result: pytest.RunResult) -> list[str]:
    return [line for line in result.outlines if "prompts, " in line and "s left" in line]


def screen(written: str) -> list[str]:
    """What a terminal shows of it: after a carriage return, the line is written over."""
    lines = []
    for line in written.split("\n"):
        shown = ""
        for part in line.split("\r"):
            shown = part + shown[len(part) :]
        lines.append(shown.rstrip())
    return lines


@pytest.mark.usefixtures("impatient")
def test_drawn_on_a_terminal_and_wiped(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    project.write(conftest=TERMINAL)
    result = project.run_tests(MARKED)
    result.assert_outcomes(passed=1, failed=1)
    lines = drawn(result)
    assert len(lines) == 3
    for done, line in enumerate(lines, 1):
        assert re.fullmatch(rf"pot: test_it: {done}/3 prompts, \d+ s left *", line), line
    written = capsys.readouterr().out
    assert "s left" in written
    assert not any("s left" in line for line in screen(written))


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize(
    ("arguments", "wrote"), [([], "test_it.py "), (["-v"], "test_it.py::test_it ")], ids=["plain", "verbose"]
)
def test_what_pytest_wrote_before_is_still_there(
    project: Project, capsys: pytest.CaptureFixture[str], arguments: list[str], wrote: str
) -> None:
    """Drawn over ``test_it.py ``, and wiped, it would leave the dots of the tests without their file."""
    project.write(conftest=TERMINAL)
    project.run_tests(MARKED, *arguments)
    shown = screen(capsys.readouterr().out)
    failures = next(index for index, line in enumerate(shown) if " FAILURES " in line)
    assert any(line.startswith(wrote) or line == wrote.rstrip() for line in shown[:failures])


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("arguments", [[], ["-v"], ["-s"]], ids=["plain", "verbose", "no capture"])
def test_nothing_where_there_is_no_terminal(project: Project, arguments: list[str]) -> None:
    result = project.run_tests(MARKED, *arguments)
    result.assert_outcomes(passed=1, failed=1)
    assert drawn(result) == []


@pytest.mark.usefixtures("impatient")
def test_nothing_in_quiet_runs_and_in_ci(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    project.write(conftest=TERMINAL)
    assert drawn(project.run_tests(MARKED, "-q")) == []
    monkeypatch.setenv("CI", "true")
    assert drawn(project.run_tests(MARKED)) == []


@pytest.mark.usefixtures("impatient")
def test_never_in_captured_output(project: Project) -> None:
    project.write(conftest=TERMINAL)
    result = project.run_tests(
        """
        import pytest

        @pytest.mark.pot_identity(preset="single")
        def test_it(capsys):
            print("from the body")
            captured = capsys.readouterr()
            assert captured.out == "from the body\\n"
            assert captured.err == ""
        """
    )
    result.assert_outcomes(passed=1)
    assert len(drawn(result)) == 3


def test_nothing_for_gates_that_are_quick(project: Project) -> None:
    project.write(conftest=TERMINAL)
    assert drawn(project.run_tests(MARKED)) == []
