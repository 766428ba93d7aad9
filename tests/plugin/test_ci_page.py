"""The workflow that docs/how-to/ci.md shows: its own commands are run, in a small project, as GitHub's runner runs them."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.unit.report.commonmark import OURS, rendered

from .conftest import Models, Project

PAGE = (Path(__file__).parents[2] / "docs" / "how-to" / "ci.md").read_text(encoding="utf-8")
WORKFLOW, GITLAB = (yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL))
STEPS: dict[str, dict[str, Any]] = {step["name"]: step for step in WORKFLOW["jobs"]["gates"]["steps"]}
NEED_GITHUB = ["Install", "Get the report of the last run on main", "Comment on the pull request"]
"""Commands that need GitHub or a package index."""
OURS_TO_RUN = ["Run the gates", "Compare with main"]
TESTS = """
import pytest

@pytest.mark.pot_identity(reference="reference.pot.safetensors")
def test_same_model():
    pass

@pytest.mark.pot_distinct(reference="reference.pot.safetensors", candidate={perturbed}, min_score=0.3)
def test_another_one():
    pass
"""


def test_all_other_commands_are_run_here() -> None:
    assert [name for name, step in STEPS.items() if "run" in step] == [
        NEED_GITHUB[0],
        OURS_TO_RUN[0],
        NEED_GITHUB[1],
        OURS_TO_RUN[1],
        NEED_GITHUB[2],
    ]


def test_actions_are_pinned_and_permissions_are_few() -> None:
    for step in STEPS.values():
        assert "run" in step or re.fullmatch(r"actions/[\w-]+@[0-9a-f]{40}", step["uses"])
    assert len(re.findall(r"@[0-9a-f]{40} # v\d+\.\d+\.\d+\n", PAGE)) == len(
        [step for step in STEPS.values() if "uses" in step]
    )
    assert WORKFLOW["permissions"] == {}
    permissions = WORKFLOW["jobs"]["gates"]["permissions"]
    assert permissions == {"contents": "read", "actions": "read", "pull-requests": "write"}
    # What others can choose, such as the title of a pull request, is in no command.
    assert not any("${{" in step["run"] for step in STEPS.values() if "run" in step)


def test_gitlab_runs_the_same() -> None:
    assert GITLAB["gates"]["script"][1:] == [STEPS["Run the gates"]["run"]]


class Checkout:
    """A project in a folder of its own, and the file of a step's summary."""

    def __init__(self, project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
        self.path = project.path
        self.tiny: Models = project.tiny
        self.summary = project.path / "summary.md"
        project.write(test_it=TESTS)
        # As in a job: plugins are found by themselves.
        for name in ("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "PYTEST_ADDOPTS", "COLUMNS"):
            monkeypatch.delenv(name)
        monkeypatch.setenv("PATH", f"{project.commands}{os.pathsep}{os.environ['PATH']}")
        monkeypatch.setenv("CI", "true")

    def sh(self, command: str) -> subprocess.CompletedProcess[str]:
        """Run a command as GitHub runs it, with a new summary."""
        self.summary.write_text("", encoding="utf-8")
        environment = {**os.environ, "GITHUB_STEP_SUMMARY": str(self.summary)}
        return subprocess.run(
            ["bash", "-e", "-c", command], cwd=self.path, env=environment, capture_output=True, text=True, encoding="utf-8"
        )

    def step(self, name: str) -> subprocess.CompletedProcess[str]:
        return self.sh(STEPS[name]["run"])


def test_the_commands_do_what_the_page_says(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("xdist")
    [record] = re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)
    checkout = Checkout(project, monkeypatch)
    recorded = checkout.sh(record)
    assert (checkout.path / "reference.pot.safetensors").is_file(), recorded.stdout + recorded.stderr
    # CI has no reference model.
    project.ini(pot_candidate=project.tiny.copy, pot_tokenizer=project.tiny.copy, pot_prompts="prompts.jsonl")

    on_main = checkout.step("Run the gates")
    assert on_main.returncode == 0, on_main.stdout + on_main.stderr
    names = ("report.html", "report.json", "junit.xml")
    assert [name for name in names if (checkout.path / name).is_file()] == list(names)
    assert set(STEPS["Upload the reports"]["with"]["path"].split()) == set(names)
    assert checkout.summary.read_text(encoding="utf-8").startswith("## pytest-pot: 2 passed\n")

    compared = checkout.step("Compare with main")
    assert compared.returncode == 0, compared.stderr
    assert (checkout.path / "diff.md").read_text(encoding="utf-8") == "There is no report of main to compare with.\n"

    (checkout.path / "main").mkdir()
    (checkout.path / "report.json").rename(checkout.path / "main" / "report.json")
    project.ini(pot_candidate=project.tiny.perturbed, pot_tokenizer=project.tiny.copy, pot_prompts="prompts.jsonl")
    on_branch = checkout.step("Run the gates")
    assert on_branch.returncode == 1, on_branch.stdout + on_branch.stderr
    assert checkout.summary.read_text(encoding="utf-8").startswith("## pytest-pot: 1 failed, 1 passed\n")

    compared = checkout.step("Compare with main")
    assert compared.returncode == 0, compared.stderr
    comment = (checkout.path / "diff.md").read_text(encoding="utf-8")
    assert comment == checkout.summary.read_text(encoding="utf-8")
    assert comment.startswith("## pytest-pot: 1 verdict changed, 1 gate cannot be compared, 1 gate as before\n")
    page = rendered(comment)
    assert set(page.tags) <= OURS
    assert ["test_it.py::test_same_model", "identity", "SAME", "DIFFERENT"] in [row[:4] for row in page.cells]

    (checkout.path / "report.json").write_text("{}", encoding="utf-8")
    assert checkout.step("Compare with main").returncode == 1
