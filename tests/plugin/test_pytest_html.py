"""pytest-html: each gate is in the row of its test."""

from __future__ import annotations

import html
import json
import re
from pathlib import Path
from typing import Any

import pytest

from .conftest import Project

pytest_html = pytest.importorskip("pytest_html")

GATES = """
import pytest

@pytest.mark.pot_identity(candidate={perturbed})
@pytest.mark.parametrize("name", ["<script>evil</script>"])
def test_other(name):
    pass

@pytest.mark.pot_identity(max_score=0)
@pytest.mark.pot_distinct(candidate={perturbed}, min_score=0.3)
def test_two():
    pass

def test_plain():
    pass
"""
ACTIVE = ("-p", "pytest_metadata.plugin", "-p", "pytest_html.plugin", "-p", "pytest_html.fixtures")
"""Runs of a test project load no installed plugins by themselves."""


def table(path: Path) -> list[tuple[str, dict[str, Any], list[str]]]:
    """Each row: the test, the data that the page's script shows, and the pieces of HTML."""
    text = path.read_text(encoding="utf-8")
    [blob] = re.findall(r'data-jsonblob="([^"]*)"', text)
    tests: dict[str, list[dict[str, Any]]] = json.loads(html.unescape(blob))["tests"]
    return [
        (name.partition("::")[2], row, [extra["content"] for extra in row["extras"] if extra["format_type"] == "html"])
        for name, rows in tests.items()
        for row in rows
    ]


def pieces(path: Path) -> dict[str, list[str]]:
    """The pieces of HTML in each test's row; these tests have one row each."""
    rows = table(path)
    found = {name: contents for name, _, contents in rows}
    assert len(found) == len(rows)
    return found


@pytest.mark.parametrize("more", [[], ["--self-contained-html"]], ids=["apart", "self-contained"])
@pytest.mark.parametrize("workers", [None, 2], ids=["alone", "workers"])
def test_each_gate_is_in_its_row(project: Project, more: list[str], workers: int | None) -> None:
    project.write(test_it=GATES)
    arguments = (*ACTIVE, "--html=page.html", *more)
    result = project.run_subprocess(*arguments) if workers is None else project.run_workers(workers, *arguments)
    result.assert_outcomes(passed=2, failed=1)
    rows = pieces(project.path / "page.html")
    assert {name: len(contents) for name, contents in rows.items()} == {
        "test_other[<script>evil</script>]": 1,
        "test_two": 2,
        "test_plain": 0,
    }
    [other] = rows["test_other[<script>evil</script>]"]
    assert "<td>DIFFERENT (failed)</td>" in other
    assert "tv 0.649, limit &lt;= 0.01" in other
    assert "over positions" in other  # which is in the details, so these came along
    assert "<script" not in other
    identity, distinct = sorted(rows["test_two"], key=lambda piece: "pot_distinct" in piece)
    assert "<th>pot_identity</th><td>SAME (passed)</td>" in identity
    assert "<th>pot_distinct</th><td>DIFFERENT (passed)</td>" in distinct


def test_what_the_test_adds_stays(project: Project) -> None:
    project.write(
        test_it="""
        import pytest
        from pytest_html import extras as made

        @pytest.mark.pot_identity
        def test_it(extras):
            extras.append(made.html("<p>its own</p>"))
        """
    )
    project.run_subprocess(*ACTIVE, "--html=page.html").assert_outcomes(passed=1)
    [contents] = pieces(project.path / "page.html").values()
    assert len(contents) == 2
    assert "<p>its own</p>" in contents


def test_nothing_without_the_option(project: Project) -> None:
    project.write(
        conftest="def pytest_runtest_logreport(report): print(report.when, getattr(report, 'extras', None) or 'nothing')",
        test_it=GATES,
    )
    result = project.run_subprocess(*ACTIVE, "-s")
    assert "call nothing" in result.stdout.str()
    assert "pot-gate" not in result.stdout.str()


RUN_AGAIN = """
import itertools

import pytest

runs = itertools.count()

@pytest.fixture
def broken():
    yield
    raise ValueError("broken")

@pytest.mark.pot_identity
@pytest.mark.pot_distinct(candidate={perturbed}, min_score=0.3)
def test_teardown(broken):
    pass

@pytest.mark.pot_identity
def test_flaky():
    assert next(runs) == 1

@pytest.mark.pot_identity(candidate={perturbed})
def test_fails():
    pass
"""


def test_a_gate_is_shown_once_though_a_teardown_fails_and_tests_are_run_again(project: Project) -> None:
    """pytest-html has a row for each run, and for a teardown that fails, and shows in all what is on any report of the test."""
    pytest.importorskip("pytest_rerunfailures")
    project.write(test_it=RUN_AGAIN)
    project.run_subprocess(*ACTIVE, "--html=page.html", "-p", "pytest_rerunfailures", "--reruns=2")
    rows = table(project.path / "page.html")
    assert all(len(set(gates)) == len(gates) for _, _, gates in rows)
    assert {name: len(gates) for name, _, gates in rows} == {"test_teardown": 2, "test_flaky": 1, "test_fails": 1}
    assert {row["result"] for _, row, _ in rows} == {"Passed", "Failed", "Rerun", "Error"}
    # In a browser, the fragment's style hides it in rows of the classes and ids that pytest-html gives to further rows.
    visible = [(name, row["result"]) for name, row, _ in rows if row["result"] != "Rerun" and "::teardown" not in row["testId"]]
    assert visible == [("test_teardown", "Passed"), ("test_flaky", "Passed"), ("test_fails", "Failed")]
    for _, _, gates in rows:
        assert all('tbody[id$="::teardown"] .pot-gate,tbody.rerun .pot-gate{display:none}' in gate for gate in gates)
    script = (Path(pytest_html.__file__).parent / "resources" / "app.js").read_text(encoding="utf-8")
    assert "querySelector('tbody').classList.add(result.toLowerCase())" in script
    assert "querySelector('tbody').id = testId" in script


@pytest.mark.parametrize(("candidate", "verdict"), [("copy", "SAME (passed)"), ("perturbed", "DIFFERENT (failed)")])
def test_without_a_change_of_probability_the_rest_is_shown(project: Project, candidate: str, verdict: str) -> None:
    """The preset ``fastest`` compares probabilities that are relative to the likeliest tokens."""
    gate = f"@pytest.mark.pot_identity(candidate={{{candidate}}}, preset='fastest')"
    project.write(test_it=f"import pytest\n\n{gate}\ndef test_it(): pass\n")
    project.run_subprocess(*ACTIVE, "--html=page.html", "--pot-report=out.md")
    [[piece]] = pieces(project.path / "page.html").values()
    assert f"<td>{verdict}</td>" in piece
    for name in ("over positions", "same top p", "conditions"):
        assert f"<th>{name}</th>" in piece
    assert "<td>not known: probabilities are relative to the compared tokens</td>" in piece
    assert "<svg" in piece
    text = (project.path / "out.md").read_text(encoding="utf-8")
    assert "Δp: not known: probabilities are relative to the compared tokens\n\nSame top p: " in text
    assert ("what changed: " in text) == ("<summary>the worst prompts</summary>" in text) == (candidate == "perturbed")
