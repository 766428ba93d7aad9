"""The summary of a step on GitHub: appended once, by the process that prints, and cut below GitHub's limit."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.report.commonmark import OURS, rendered

from .conftest import FULL_DISK, Project

MIB, SPARE = 1 << 20, 4096
GATES = """
import pytest

@pytest.mark.pot_identity
def test_same():
    pass

@pytest.mark.pot_identity(candidate={perturbed})
def test_other():
    pass
"""


@pytest.fixture
def summary(project: Project, monkeypatch: pytest.MonkeyPatch) -> Path:
    project.write(test_it=GATES)
    path = project.path / "summary.md"
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(path))
    return path


def headings(path: Path) -> list[str]:
    return [line for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("## ")]


HEADING = "## pytest-pot: 1 failed, 1 passed"


def test_it_is_written_without_an_option(project: Project, summary: Path) -> None:
    result = project.run()
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert "step summary" not in result.stdout.str()
    text = summary.read_text(encoding="utf-8")
    assert text.startswith(f"{HEADING}\n")
    assert "the worst prompts" in text
    assert "tv 0.649 > 0.01" in text


@pytest.mark.parametrize("arguments", [["-n2"], ["-n0"], ["-n2", "--dist=each"]], ids=" ".join)
def test_once_under_xdist(project: Project, summary: Path, arguments: list[str]) -> None:
    summary.write_text("# Before\n\n", encoding="utf-8")
    project.run_workers(int(arguments[0][2:]), *arguments[1:])
    each = "--dist=each" in arguments
    assert headings(summary) == ["## pytest-pot: 2 failed, 2 passed" if each else HEADING]
    assert summary.read_text(encoding="utf-8").startswith("# Before\n\n## ")


@pytest.mark.parametrize(("before", "between"), [("", ""), ("text", "\n\n"), ("text\n", "\n"), ("text\n\n", "")])
def test_what_is_there_stays(project: Project, summary: Path, before: str, between: str) -> None:
    summary.write_text(before, encoding="utf-8")
    project.run("-k", "same")
    assert summary.read_text(encoding="utf-8").startswith(f"{before}{between}## pytest-pot: 1 passed\n")
    project.run("-k", "same")
    assert headings(summary) == ["## pytest-pot: 1 passed"] * 2


@pytest.mark.parametrize(
    "arguments", [["--collect-only"], ["-k", "nothing"], ["-k", "plain"], ["--nonsense"], ["--markers"]], ids=" ".join
)
def test_nothing_where_no_gate_ran(project: Project, summary: Path, arguments: list[str]) -> None:
    project.write(test_plain="def test_plain(): pass")
    result = project.run(*arguments)
    assert not summary.exists()
    assert "step summary" not in result.stdout.str()


def test_an_empty_variable_is_none(project: Project, summary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", "")
    assert "step summary" not in project.run("-k", "same").stdout.str()


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        ("/proc/x", "no file can be made in /proc: No such file or directory"),
        ("{path}", "that is a folder; name a file in it"),
        ("/dev/full", "there is something that is no regular file"),
    ],
)
def test_an_unwritable_file_is_a_line(
    project: Project, summary: Path, monkeypatch: pytest.MonkeyPatch, target: str, reason: str
) -> None:
    target = target.format(path=project.path)
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", target)
    result = project.run("-k", "same", "-q")
    assert result.ret == pytest.ExitCode.OK
    message = f"pot: the step summary {target} (GITHUB_STEP_SUMMARY) has no report of the gates: {reason}"
    assert result.outlines.count(message) == 1


def test_no_part_is_left_where_the_disk_is_full(project: Project, summary: Path) -> None:
    summary.write_text("before\n", encoding="utf-8")
    project.write(conftest=FULL_DISK)
    result = project.run("-k", "same")
    assert result.ret == pytest.ExitCode.OK
    assert "has no report of the gates: File too large" in result.stdout.str()
    assert summary.read_text(encoding="utf-8") == "before\n"


def test_it_is_cut_below_the_limit_of_github(project: Project, summary: Path) -> None:
    project.run()
    before = (MIB - SPARE - summary.stat().st_size) // 2 * 2
    summary.write_text("ä" * (before // 2), encoding="utf-8")
    project.run()
    text = summary.read_text(encoding="utf-8")  # no character is cut
    assert before < summary.stat().st_size <= MIB - SPARE
    assert "1 gate is left out here, for lack of room (1 passed). A file has all: --pot-report=report.html" in text
    page = rendered(text[text.index("## ") :])
    assert set(page.tags) <= OURS


def test_no_room_at_all(project: Project, summary: Path) -> None:
    summary.write_text("x" * MIB, encoding="utf-8")
    result = project.run("-k", "same")
    assert result.ret == pytest.ExitCode.OK
    assert f"it has {MIB} bytes already, and GitHub shows no more than {MIB}" in result.stdout.str()
    assert summary.stat().st_size == MIB
