"""Ctrl-C while a failing gate looks for what changed, or a diagnosis without time: the verdict is told all the same."""

from __future__ import annotations

import json

import pytest

from pytest_pot.gates.verdict import diagnosing
from pytest_pot.scoring.diagnosis.diagnose import diagnose

from .conftest import Project

INTERRUPTING = """
import os
import signal

import pytest
from pytest_pot.gates.verdict import diagnosing

whole = diagnosing.diagnose

def diagnose(pair, progress):
    def step(done, total):
        progress(done, total)
        if done == 3:
            os.kill(os.getpid(), signal.SIGINT)
    return whole(pair, step)

diagnosing.diagnose = diagnose

@pytest.fixture(scope="session", autouse=True)
def server():
    yield
    with open("ended.txt", "a") as file:
        file.write("ended\\n")
"""
AGAIN = """
@pytest.fixture(autouse=True)
def slow_to_end():
    yield
    os.kill(os.getpid(), signal.SIGINT)
"""
TESTS = """
import pytest

@pytest.mark.pot_identity(max_score=0)
def test_gated():
    pass

def test_next():
    pass
"""
HEADLINE = "pot_identity: DIFFERENT: tv 0.649 > 0"
INTERRUPTED = "  what changed: not known: the diagnosis was interrupted"


@pytest.fixture(autouse=True)
def restored(monkeypatch: pytest.MonkeyPatch) -> None:
    """What an interrupted run in this process leaves behind."""
    monkeypatch.setattr(diagnosing, "diagnose", diagnose)


@pytest.mark.parametrize("n_workers", [0, 1])
def test_the_gate_fails_as_ever_and_the_run_stops(project: Project, n_workers: int) -> None:
    project.write(conftest=INTERRUPTING, test_it=TESTS)
    arguments = [f"--pot-candidate={project.tiny.perturbed}", "--pot-report=gates.json"]
    result = project.run_workers(n_workers, *arguments) if n_workers else project.run(*arguments)
    result.assert_outcomes(failed=1)
    assert HEADLINE in result.outlines
    assert INTERRUPTED in result.outlines
    result.stdout.fnmatch_lines(["*!! *Interrupted: interrupted during a diagnosis !!*"])
    assert result.ret == pytest.ExitCode.INTERRUPTED
    [gate] = json.loads((project.path / "gates.json").read_text(encoding="utf-8"))["gates"]
    assert gate["diagnosis"]["interrupted"]
    assert (project.path / "ended.txt").read_text(encoding="utf-8") == "ended\n"


def test_a_second_interrupt_stops_at_once(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    project.write(conftest=INTERRUPTING + AGAIN, test_it=TESTS)
    with pytest.raises(KeyboardInterrupt):
        project.run(f"--pot-candidate={project.tiny.perturbed}")
    lines = capsys.readouterr().out.splitlines()
    assert {HEADLINE, INTERRUPTED} <= set(lines)
    assert any("!! KeyboardInterrupt !!" in line for line in lines)


def test_a_diagnosis_without_time_measures_all_tensors(project: Project) -> None:
    project.write(
        conftest="""
        import pytest
        from pytest_pot.gates.verdict import diagnosing, gate

        class Clock:
            thread_time = staticmethod(lambda: 0.0)  # the gate takes no time

        @pytest.fixture(autouse=True)
        def hurry(monkeypatch):
            monkeypatch.setattr(diagnosing, "_LEAST_S", 0.0)
            monkeypatch.setattr(gate, "time", Clock)
        """
    )
    result = project.run_tests(TESTS, f"--pot-candidate={project.tiny.perturbed}", "-v")
    result.assert_outcomes(failed=1, passed=1)
    start = result.outlines.index(
        "  what changed: all 28 tensors changed in a way that was not looked for (relative change 0.0877 to 0.507)"
    )
    assert result.outlines[start + 1 : start + 3] == [
        "  what changed: the kinds of the changes of 28 tensors were not looked for, to save time: "
        "python -m pytest_pot explain does",
        "  what changed: where it starts was not looked for, to save time: python -m pytest_pot explain does",
    ]
