"""A report that cannot be written: a usage error where that can be seen at the start, one line of the summary at the end."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from .conftest import FULL_DISK, Project, table_rows
from .test_fourth_marker import GATE

GATED = """
import pytest

@pytest.mark.pot_identity
def test_it():
    pass
"""


def usage_error(project: Project, target: str) -> str:
    result = project.run(f"--pot-report={target}")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert result.outlines == []
    [line] = [line for line in result.errlines if line]
    return line


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        ("/proc/x.json", "no file can be made in /proc: No such file or directory"),
        ("/proc/deep/er/x.md", "no file can be made in /proc: No such file or directory"),
        ("/dev/null/x.json", "/dev/null is no folder"),
        ("taken/x.json", "{path}/taken is no folder"),
        ("taken/deeper/x.json", "{path}/taken is no folder"),
        ("nowhere/x.json", "{path}/nowhere is no folder"),
        ("folder.json", "that is a folder; name a file in it"),
        ("pipe.json", "there is something that is no regular file"),
        ("full.json", "there is something that is no regular file"),
        ("nowhere", "must end in .json, .md or .html"),
    ],
)
def test_what_can_be_seen_at_the_start_is_a_usage_error(project: Project, target: str, reason: str) -> None:
    project.write(test_it=GATED)
    (project.path / "taken").write_text("a file", encoding="utf-8")
    (project.path / "folder.json").mkdir()
    os.mkfifo(project.path / "pipe.json")
    (project.path / "full.json").symlink_to("/dev/full")
    (project.path / "nowhere").symlink_to("gone")
    line = usage_error(project, target)
    between = " " if target == "nowhere" else " cannot be written: "
    assert line == f"ERROR: --pot-report={target!r}{between}{reason.format(path=project.path)}"


def test_the_check_leaves_nothing_behind_and_keeps_the_old_report(project: Project) -> None:
    project.write(test_it=GATED)
    (project.path / "old.json").write_text("old", encoding="utf-8")
    before = {path.name: path.stat().st_mtime_ns for path in project.path.iterdir()}
    for target in ("old.json", "new.json", "deep/new.json"):
        result = project.run(f"--pot-report={target}", "--collect-only", "-q")
        assert result.ret == pytest.ExitCode.OK
        assert project.run(f"--pot-report={target}", "--markers").ret == pytest.ExitCode.OK
    after = {path.name: path.stat().st_mtime_ns for path in project.path.iterdir() if path.name != "__pycache__"}
    assert after == before
    assert (project.path / "old.json").read_text(encoding="utf-8") == "old"


def test_a_wrong_ini_key_is_named_and_tests_are_still_collected(project: Project) -> None:
    project.ini(pot_report="/proc/x.json")
    project.write(test_it=GATED)
    result = project.run()
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert [line for line in result.errlines if line] == [
        "ERROR: pot_report='/proc/x.json' cannot be written: no file can be made in /proc: No such file or directory"
    ]
    assert project.run("--collect-only").ret == pytest.ExitCode.OK


BLOCKED = """
from pathlib import Path

def pytest_sessionfinish():
    Path("reports").write_text("in the way")
"""


@pytest.mark.parametrize("verbosity", ["-q", "-v"])
@pytest.mark.parametrize(
    ("conftest", "reason"), [(FULL_DISK, "File too large"), (BLOCKED, "File exists")], ids=["full", "blocked"]
)
def test_at_the_end_it_is_one_line_and_nothing_is_lost(project: Project, conftest: str, reason: str, verbosity: str) -> None:
    project.write(conftest=conftest, test_it=GATED)
    result = project.run("--pot-report=reports/x.json", "-rA", verbosity)
    assert result.ret == pytest.ExitCode.INTERNAL_ERROR
    result.assert_outcomes(passed=1)
    path = project.path / "reports" / "x.json"
    lines = result.outlines
    message = f"pot: the report {path} could not be written: {reason}. The exit status is 3 for that reason alone"
    assert lines.count(message) == 1
    rows = [index for index, line in enumerate(lines) if "score / limit" in line]
    assert len(rows) == (verbosity == "-v")
    if rows:
        assert table_rows(result) == [["test_it.py::test_it", "copy", "0 / 0.01", "SAME"]]
    assert max(rows, default=0) < lines.index(message) < lines.index("PASSED test_it.py::test_it")
    assert "Traceback" not in result.stdout.str() + result.stderr.str()
    assert not path.is_file()


def test_beside_a_failing_test(project: Project) -> None:
    project.write(conftest=BLOCKED, test_it=GATED.replace("pot_identity", "pot_distinct"))
    result = project.run("--pot-report=reports/x.md")
    assert result.ret == pytest.ExitCode.INTERNAL_ERROR
    result.assert_outcomes(failed=1)
    assert f"pot: the report {project.path}/reports/x.md could not be written: File exists" in result.outlines
    assert any(
        line.startswith("FAILED test_it.py::test_it - pot_distinct: SAME: tv 0 is not above") for line in result.outlines
    )


def test_the_controller_alone_checks_and_writes(project: Project) -> None:
    project.write(conftest=BLOCKED, test_it=GATED)
    result = project.run_workers(2, "--pot-report=reports/x.json")
    assert result.ret == pytest.ExitCode.INTERNAL_ERROR
    result.assert_outcomes(passed=1)
    assert sum("could not be written" in line for line in result.outlines) == 1
    result = project.run_workers(2, "--pot-report=/proc/x.json")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert sum("cannot be written" in line for line in result.errlines) == 1


def test_figures_that_json_has_no_form_for(project: Project) -> None:
    project.write(conftest=GATE.replace('"score": 0.25', '"score": float("nan")'))
    result = project.run_tests(
        "import pytest\n\n@pytest.mark.pot_always\ndef test_it():\n    pass\n", "--pot-report=x.json", "-Wdefault"
    )
    assert result.ret == pytest.ExitCode.INTERNAL_ERROR
    assert table_rows(result) == [["test_it.py::test_it", "copy", "nan / 1", "level", "FINE"]]
    result.stdout.fnmatch_lines([f"pot: the report {project.path}/x.json could not be written: *"])
    assert result.parseoutcomes()["passed"] == 1


def test_a_test_file_whose_name_is_no_text(project: Project) -> None:
    name = os.fsdecode(b"test_\xff.py")
    try:
        (project.path / name).write_text(GATED, encoding="utf-8")
    except OSError:
        pytest.skip("this file system takes no such name")
    result = project.run_subprocess("--pot-report=x.json", "-p", "no:terminal")
    report = Path(project.path / "x.json")
    assert result.ret == pytest.ExitCode.OK
    assert '"gate": "pot_identity"' in report.read_text(encoding="utf-8")
    assert stat.S_ISREG(report.stat().st_mode)
