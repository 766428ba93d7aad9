"""``--pot-report``, given several times: the files, what is refused at the start, and what is written where one fails."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from .conftest import Project

GATES = """
import pytest

@pytest.mark.pot_identity
def test_same():
    pass

@pytest.mark.pot_identity(candidate={perturbed})
def test_other():
    pass
"""
BLOCKED = """
from pathlib import Path

def pytest_sessionfinish():
    Path("reports").write_text("in the way")
"""


def test_each_of_several_files_is_written(project: Project) -> None:
    project.write(test_it=GATES)
    result = project.run("--pot-report=a.json", "--pot-report=deep/b.md", "--pot-report=c.json")
    assert [line for line in result.outlines if line.startswith("pot: written to ")] == [
        f"pot: written to {project.path / name}" for name in ("a.json", "deep/b.md", "c.json")
    ]
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    document = json.loads((project.path / "a.json").read_text(encoding="utf-8"))
    assert [gate["test"] for gate in document["gates"]] == ["test_it.py::test_same", "test_it.py::test_other"]
    assert (project.path / "a.json").read_bytes() == (project.path / "c.json").read_bytes()
    assert (project.path / "deep/b.md").read_text(encoding="utf-8").startswith("## pytest-pot: 1 failed, 1 passed\n")


def test_the_ini_key_has_one_per_line_and_the_command_line_replaces_it(project: Project) -> None:
    project.ini(
        pot_reference=project.tiny.reference,
        pot_candidate=project.tiny.copy,
        pot_prompts="prompts.jsonl",
        pot_report="\n    a name.json\n    b.md",
    )
    project.write(test_it=GATES)
    project.run("-k", "same").assert_outcomes(passed=1, deselected=1)
    assert (project.path / "a name.json").is_file()
    assert (project.path / "b.md").is_file()
    project.run("-k", "same", "--pot-report=c.md").assert_outcomes(passed=1, deselected=1)
    (project.path / "b.md").unlink()
    project.run("-k", "same", "--pot-report=c.md").assert_outcomes(passed=1, deselected=1)
    assert (project.path / "c.md").is_file()
    assert not (project.path / "b.md").exists()


@pytest.mark.parametrize("table", ["tool.pytest.ini_options", "tool.pytest"])
def test_a_list_in_pyproject(project: Project, table: str) -> None:
    if table == "tool.pytest" and int(pytest.__version__.partition(".")[0]) < 9:
        pytest.skip("pytest 9 reads this table first")
    (project.path / "pytest.ini").unlink()
    text = f'[{table}]\npot_report = ["a.json", "b.md"]\n'
    (project.path / "pyproject.toml").write_text(text, encoding="utf-8")
    project.run_tests("def test_it(): pass").assert_outcomes(passed=1)
    assert (project.path / "a.json").is_file()
    assert (project.path / "b.md").is_file()


@pytest.mark.parametrize(
    ("targets", "messages"),
    [
        (["a.md", "a.md"], ["'a.md' cannot be written: it is named twice"]),
        (["a.md", "./a.md"], ["'./a.md' cannot be written: 'a.md' is the same file"]),
        (["old.md", "link.md"], ["'link.md' cannot be written: 'old.md' is the same file"]),
        (["old.md", "hard.md"], ["'hard.md' cannot be written: 'old.md' is the same file"]),
        (
            ["a.md", "a.md/b.json"],
            ["'a.md/b.json' cannot be written: of 'a.md/b.json' and 'a.md', one is a folder of the other"],
        ),
        (["a.md", "folder.md", "b.txt"], ["'b.txt' must end in .json, .md or .html"]),
        (
            ["a.md", "folder.md", "/proc/x.json"],
            [
                "'folder.md' cannot be written: that is a folder; name a file in it",
                "'/proc/x.json' cannot be written: no file can be made in /proc: No such file or directory",
            ],
        ),
    ],
)
def test_what_can_be_seen_at_the_start_names_the_file(project: Project, targets: list[str], messages: list[str]) -> None:
    (project.path / "folder.md").mkdir()
    (project.path / "old.md").write_text("old", encoding="utf-8")
    (project.path / "link.md").symlink_to("old.md")
    (project.path / "hard.md").hardlink_to(project.path / "old.md")
    project.write(test_it=GATES)
    result = project.run(*(f"--pot-report={target}" for target in targets))
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert [line for line in result.errlines if line] == [f"ERROR: --pot-report={message}" for message in messages]
    assert not (project.path / "a.md").exists()


def test_the_others_are_written_where_one_fails(project: Project) -> None:
    project.write(conftest=BLOCKED, test_it=GATES)
    result = project.run(
        "-k", "same", *(f"--pot-report={name}" for name in ("reports/a.json", "b.json", "reports/c.md", "d.md"))
    )
    assert result.ret == pytest.ExitCode.INTERNAL_ERROR
    path = project.path
    assert [line for line in result.outlines if line.startswith(("pot: written to", "pot: the report"))] == [
        f"pot: written to {path}/b.json",
        f"pot: written to {path}/d.md",
        f"pot: the report {path}/reports/a.json could not be written: File exists",
        f"pot: the report {path}/reports/c.md could not be written: File exists. The exit status is 3 for that reason alone",
    ]
    assert Path(path / "b.json").is_file()
    assert Path(path / "d.md").is_file()


def test_the_document_says_what_ran_and_when(project: Project) -> None:
    import platform

    import torch

    project.write(test_it=GATES)
    project.run("-k", "same", "--pot-report=a.json")
    document = json.loads((project.path / "a.json").read_text(encoding="utf-8"))
    assert list(document) == ["schema", "pytest_pot", "run", "gates"]
    run = document["run"]
    assert document["schema"] == 1
    assert run["python"] == platform.python_version()
    assert run["pytest"] == pytest.__version__
    assert run["torch"].partition("+")[0] == torch.__version__.partition("+")[0]
    assert run["started"].endswith("+00:00")


def test_the_reason_travels_from_workers(project: Project) -> None:
    project.write(test_it=GATES)
    project.run_workers(2, "--pot-report=a.json", "--pot-report=b.md")
    gates = {gate["test"]: gate for gate in json.loads((project.path / "a.json").read_text(encoding="utf-8"))["gates"]}
    assert gates["test_it.py::test_other"]["headline"] == "pot_identity: DIFFERENT: tv 0.649 > 0.01 (64.9 times the limit)"
    assert gates["test_it.py::test_same"]["headline"] == "pot_identity: SAME: tv 0 <= 0.01"


def test_a_page_to_look_at(project: Project) -> None:
    pytest.importorskip("pytest_pot.report.html.page")
    project.write(test_it=GATES)
    result = project.run("--pot-report=a.html", "--pot-report=b.json")
    assert f"pot: written to {project.path / 'a.html'}" in result.outlines
    page = (project.path / "a.html").read_text(encoding="utf-8")
    assert page.lower().startswith("<!doctype html>")
    assert "perturbed" in page
