"""The progress line: shown on a terminal during slow gates, below pytest's own line, and wiped at their end."""

from __future__ import annotations

import os
import re
import select
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pytest_pot.plugin.session import progress

from .conftest import WITHOUT_CACHE, Project
from .screens import screens

TERMINAL = """
import pytest

@pytest.hookimpl(trylast=True)
def pytest_configure(config):
    reporter = config.pluginmanager.getplugin("terminalreporter")
    reporter.isatty = type(reporter.isatty)(True)
"""
IMPATIENT = """
from pytest_pot.plugin.session import progress

progress._QUIET_S = progress._REDRAW_S = 0.0
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
ONE = MARKED.partition('@pytest.mark.pot_identity(preset="single", candidate={nan})')[0]


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every gate counts as slow, and every prompt redraws the line."""
    monkeypatch.setattr(progress, "_QUIET_S", 0.0)
    monkeypatch.setattr(progress, "_REDRAW_S", 0.0)


def drawn(output: str) -> list[str]:
    """The lines of progress, in the order in which they were drawn."""
    return re.findall(r"(pot: test_[^\x1b]*)\x1b\[K\x1b8", output)


@pytest.mark.usefixtures("impatient")
def test_the_line_is_drawn_below_the_dots_and_wiped(
    project: Project, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    project.write(conftest=TERMINAL)
    result = project.run_tests(MARKED)
    result.assert_outcomes(passed=1, failed=1)
    output = capsys.readouterr().out
    lines = drawn(output)
    assert len(lines) == 3
    for done, line in enumerate(lines, 1):
        left = r", \d+ s left" if done < 3 else ""  # there is no such thing as "0 s left"
        assert re.fullmatch(rf"pot: test_it: {done}/3 prompts{left}", line), line
    pictures = screens(output)
    for picture in pictures[:3]:
        assert picture[-2].rstrip() == "test_it.py"
        assert picture[-1].startswith("pot: test_it: ")
    end = pictures[-1]
    assert not any("pot: test_it:" in line for line in end)
    assert [line for line in end if line.startswith("test_it.py ")] == [f"{'test_it.py .F':<72} [100%]"]


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("height", [50, 8], ids=["room below", "last line"])
@pytest.mark.parametrize("arguments", [[], ["-v"], ["-s"]], ids=["plain", "verbose", "no capture"])
def test_the_screen_is_the_same_as_without_the_line(
    project: Project,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    height: int,
) -> None:
    """Also where the screen scrolls, where the tests print, and where the names of tests fill more than a line."""
    monkeypatch.setenv("COLUMNS", "80")
    long = "x" * 75
    tests = (
        ONE
        + f"""
@pytest.mark.pot_identity(preset="single")
def test_{long}():
    print("printed")
"""
    )

    def last(ci: str) -> list[str]:
        monkeypatch.setenv("CI", ci) if ci else monkeypatch.delenv("CI", raising=False)
        project.run_tests(tests, *arguments)
        output, summary, _ = capsys.readouterr().out.partition(" pot ===")  # which has times
        assert summary
        assert bool(drawn(output)) != bool(ci)
        return screens(output, height=height)[-1]

    project.write(conftest=TERMINAL)
    assert last("") == last("true")


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("arguments", [[], ["-v"], ["-s"]], ids=["plain", "verbose", "no capture"])
def test_no_line_without_a_terminal(project: Project, capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    project.run_tests(MARKED, *arguments).assert_outcomes(passed=1, failed=1)
    assert "\x1b" not in capsys.readouterr().out


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize(("arguments", "variable", "value"), [(["-q"], "X", "1"), ([], "CI", "true"), ([], "TERM", "dumb")])
def test_no_line_in_quiet_runs_in_ci_or_on_a_dumb_terminal(
    project: Project,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    variable: str,
    value: str,
) -> None:
    project.write(conftest=TERMINAL)
    monkeypatch.setenv(variable, value)
    project.run_tests(ONE, *arguments).assert_outcomes(passed=1)
    assert "\x1b" not in capsys.readouterr().out


@pytest.mark.usefixtures("impatient")
def test_captured_output_does_not_have_the_line(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
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
    assert len(drawn(capsys.readouterr().out)) == 3


def test_no_line_for_quick_gates(project: Project, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert progress._QUIET_S > 1
    monkeypatch.setattr(progress, "_QUIET_S", 600.0)  # on any machine, these gates are quick
    project.write(conftest=TERMINAL)
    project.run_tests(MARKED)
    assert not drawn(capsys.readouterr().out)


@pytest.mark.usefixtures("impatient")
def test_a_reference_that_is_recorded_comes_first_and_then_the_candidate(
    project: Project, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTEST_ADDOPTS", "-p pot")  # with pytest's cache
    project.write(conftest=TERMINAL)
    for first, stages in ((True, ["reference", "candidate"]), (False, ["candidate"])):
        project.run_tests(ONE).assert_outcomes(passed=1)
        lines = drawn(capsys.readouterr().out)
        counts = [re.fullmatch(r"pot: test_it: (\w+) (\d)/3(?:, \d+ s left)?", line) for line in lines]
        steps = [match.groups() for match in counts if match is not None]
        assert len(steps) == len(lines)
        assert list(dict.fromkeys(stage for stage, _ in steps)) == stages, first
        for stage in stages:
            done = [int(count) for name, count in steps if name == stage]
            assert done == sorted(set(done))
            assert done[-1] == 3


@pytest.mark.usefixtures("impatient")
def test_with_a_confidence_the_total_is_a_most(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    project.write(conftest=TERMINAL)
    project.run_tests(ONE.replace('preset="single"', 'preset="single", tolerance="int8", confidence=0.95'))
    lines = drawn(capsys.readouterr().out)
    assert "pot: test_it: 1 of at most 3 prompts" in lines
    assert not any("left" in line for line in lines)


@pytest.mark.usefixtures("impatient")
def test_timings_are_at_most_those_of_the_last_look(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    project.write(conftest=TERMINAL)
    project.run_tests(ONE.replace('identity(preset="single")', "latency(max_slowdown=50)"))
    lines = drawn(capsys.readouterr().out)
    assert lines[0] == "pot: test_it: 1 of at most 40 pairs"
    assert all(re.fullmatch(r"pot: test_it: \d+ of at most 40 pairs", line) for line in lines)


@pytest.mark.usefixtures("impatient")
def test_the_diagnosis_of_a_failing_gate_is_shown(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    project.write(conftest=TERMINAL)
    project.run_tests(ONE, f"--pot-candidate={project.tiny.perturbed}").assert_outcomes(failed=1)
    output = capsys.readouterr().out
    lines = [line for line in drawn(output) if "diagnosing" in line]
    assert lines[0] == "pot: test_it: diagnosing"  # a reference may be loaded here
    steps = [re.fullmatch(r"pot: test_it: diagnosing (\d+)/(\d+)(?:, \d+ s left)?", line) for line in lines[1:]]
    counts = [(int(step[1]), int(step[2])) for step in steps if step is not None]
    assert len(counts) == len(lines) - 1 > 1
    total = counts[0][1]
    assert [done for done, _ in counts] == sorted({done for done, _ in counts})
    assert counts[-1] == (total, total)
    assert not any("diagnosing" in line for line in screens(output, width=1000)[-1])


@pytest.mark.parametrize(
    ("seconds", "done", "total", "text"),
    [
        (1.0, 0, 8, ""),
        (1.0, 8, 8, ""),
        (1.0, 7, 8, ", 1 s left"),
        (10.0, 2, 8, ", 30 s left"),
        (100.0, 1, 4, ", 5 min left"),
        (0.0, 1, 8, ", 1 s left"),
    ],
)
def test_the_time_left_is_an_estimate_and_never_zero(seconds: float, done: int, total: int, text: str) -> None:
    assert progress._left(seconds, done, total) == text


_TERMINAL_LIMIT_S = 120


def on_a_terminal(width: int, height: int, *arguments: str) -> tuple[int, str]:
    """What pytest, which does not know that it is tested, exits with and writes to a pseudo terminal of that size."""
    import fcntl
    import pty
    import struct
    import termios

    controller, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))
    environment = {**os.environ, "TERM": "xterm", "PYTEST_ADDOPTS": WITHOUT_CACHE, "NO_COLOR": "1"}
    environment.pop("COLUMNS", None)
    command = [sys.executable, "-m", "pytest", "--no-header", *arguments]
    process = subprocess.Popen(command, stdin=terminal, stdout=terminal, stderr=terminal, env=environment, cwd=Path.cwd())
    os.close(terminal)
    content, end = b"", time.monotonic() + _TERMINAL_LIMIT_S
    try:
        while piece := _piece(controller, end):
            content += piece
        return process.wait(max(0.0, end - time.monotonic())), content.decode()
    except (TimeoutError, subprocess.TimeoutExpired):
        pytest.fail(f"pytest has not ended after {_TERMINAL_LIMIT_S} s; it wrote:\n{content.decode(errors='replace')}")
    finally:
        os.close(controller)
        process.kill()  # does nothing to one that has ended
        process.wait()


def _piece(controller: int, end: float) -> bytes:
    """What is written next to a pseudo terminal; nothing once the program has ended."""
    if not select.select([controller], [], [], max(0.0, end - time.monotonic()))[0]:
        raise TimeoutError
    try:
        return os.read(controller, 65536)
    except OSError:  # Linux says so
        return b""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no pseudo terminals of this kind")
def test_on_a_real_terminal(project: Project) -> None:
    tests = ONE.replace("def test_it", "@pytest.mark.parametrize('name', ['a', 'b' * 100])\ndef test_it").replace(
        "():", "(name):"
    )
    project.write(conftest=IMPATIENT, test_it=tests, test_other="def test_other(): pass\n")
    status, output = on_a_terminal(80, 12)
    assert status == 0
    assert [len(line) <= 79 for line in drawn(output)] == [True] * 6
    pictures = screens(output, height=12)
    for picture in (*pictures[:3], *pictures[4:7]):  # each gate ends with a wiped line
        assert re.fullmatch(r"pot: test_it\[.+\]: \d/3 prompts(, \d+ s left)?", picture[-1])
    dots = [line for line in pictures[-1] if re.match(r"test_\w+\.py \.", line)]
    assert dots == [f"{'test_it.py ..':<72} [ 66%]", f"{'test_other.py .':<72} [100%]"]


RESIZED = """
import os
import sys
import termios

def pytest_configure():
    global terminal
    terminal = os.dup(sys.__stdout__.fileno())  # pytest captures nothing here

def pytest_runtest_call(item):
    if item.name == "test_resize":
        termios.tcsetwinsize(terminal, (12, 60))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no pseudo terminals of this kind")
def test_progress_messages_and_table_fit_a_real_terminal_whose_size_changes(project: Project) -> None:
    """While a test runs, pytest's capture has put a file in the place of standard output."""
    gate = ONE.replace('preset="single"', 'preset="single", candidate={perturbed}')
    names = [f"test_{letter * 120}" for letter in "ab"]
    tests = [gate.replace("test_it", names[0]), "def test_resize(): pass", gate.replace("test_it", names[1])]
    project.write(conftest=IMPATIENT + RESIZED, test_it="\n".join(tests))
    status, output = on_a_terminal(120, 12)
    assert status == 1
    progressed = {letter: [len(line) for line in drawn(output) if letter * 9 in line] for letter in "ab"}
    assert [max(lengths) for lengths in progressed.values()] == [119, 59]
    messages, _, rest = output.replace("\r", "").partition(" pot =")
    # A path is one word, and longer than a narrow terminal where the temporary folder's name is.
    widths = [
        max(len(line) for line in re.findall("^  .*", message, re.MULTILINE) if len(line.split()) > 1)
        for message in messages.split("\npot_identity: ")[1:]
    ]
    assert [100 < widths[0] <= 120, 40 < widths[1] <= 60] == [True, True]
    table = rest.split("\n")[1:4]
    assert [line.split()[-1] for line in table] == ["verdict", "failed", "failed"]
    assert 40 < max(map(len, table)) <= 60
