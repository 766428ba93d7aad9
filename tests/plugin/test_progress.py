"""The progress line: shown on a terminal during slow gates, and cleared at their end."""

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
    """Every gate counts as slow, and every prompt redraws the line."""
    monkeypatch.setattr(progress, "_QUIET_S", 0.0)
    monkeypatch.setattr(progress, "_REDRAW_S", 0.0)


def progress_lines(result: pytest.RunResult) -> list[str]:
    return [line for line in result.outlines if "prompts, " in line and "s left" in line]


def screen(output: str) -> list[str]:
    """The lines that a terminal shows: text after a carriage return overwrites the line."""
    lines = []
    for line in output.split("\n"):
        text = ""
        for part in line.split("\r"):
            text = part + text[len(part) :]
        lines.append(text.rstrip())
    return lines


@pytest.mark.usefixtures("impatient")
def test_the_line_is_drawn_on_a_terminal_and_cleared(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    project.write(conftest=TERMINAL)
    result = project.run_tests(MARKED)
    result.assert_outcomes(passed=1, failed=1)
    lines = progress_lines(result)
    assert len(lines) == 3
    for done, line in enumerate(lines, 1):
        assert re.fullmatch(rf"pot: test_it: {done}/3 prompts, \d+ s left *", line), line
    output = capsys.readouterr().out
    assert "s left" in output
    assert not any("s left" in line for line in screen(output))


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize(
    ("arguments", "prefix"), [([], "test_it.py "), (["-v"], "test_it.py::test_it ")], ids=["plain", "verbose"]
)
def test_the_line_does_not_overwrite_what_pytest_wrote(
    project: Project, capsys: pytest.CaptureFixture[str], arguments: list[str], prefix: str
) -> None:
    """If we drew over ``test_it.py `` and cleared it, the tests' dots would have no file name."""
    project.write(conftest=TERMINAL)
    project.run_tests(MARKED, *arguments)
    lines = screen(capsys.readouterr().out)
    failures = next(index for index, line in enumerate(lines) if " FAILURES " in line)
    assert any(line.startswith(prefix) or line == prefix.rstrip() for line in lines[:failures])


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("arguments", [[], ["-v"], ["-s"]], ids=["plain", "verbose", "no capture"])
def test_no_line_without_a_terminal(project: Project, arguments: list[str]) -> None:
    result = project.run_tests(MARKED, *arguments)
    result.assert_outcomes(passed=1, failed=1)
    assert progress_lines(result) == []


@pytest.mark.usefixtures("impatient")
def test_no_line_in_quiet_runs_or_in_ci(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    project.write(conftest=TERMINAL)
    assert progress_lines(project.run_tests(MARKED, "-q")) == []
    monkeypatch.setenv("CI", "true")
    assert progress_lines(project.run_tests(MARKED)) == []


@pytest.mark.usefixtures("impatient")
def test_captured_output_does_not_have_the_line(project: Project) -> None:
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
    assert len(progress_lines(result)) == 3


def test_no_line_for_quick_gates(project: Project) -> None:
    project.write(conftest=TERMINAL)
    assert progress_lines(project.run_tests(MARKED)) == []


@pytest.mark.usefixtures("impatient")
def test_the_diagnosis_of_a_failing_gate_is_shown(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    project.write(conftest=TERMINAL)
    text = MARKED.partition('@pytest.mark.pot_identity(preset="single", candidate={nan})')[0]
    result = project.run_tests(text, f"--pot-candidate={project.tiny.perturbed}")
    result.assert_outcomes(failed=1)
    lines = [line.rstrip() for line in result.outlines if line.startswith("pot: test_it: diagnosing")]
    assert lines[0] == "pot: test_it: diagnosing"  # a reference may be loaded here
    steps = [re.fullmatch(r"pot: test_it: diagnosing, (\d+) of (\d+) steps, \d+ s left", line) for line in lines[1:]]
    counts = [(int(step[1]), int(step[2])) for step in steps if step is not None]
    assert len(counts) == len(lines) - 1 > 1
    total = counts[0][1]
    assert [done for done, _ in counts] == sorted({done for done, _ in counts})
    assert counts[-1] == (total, total)
    assert not any("diagnosing" in line for line in screen(capsys.readouterr().out))
