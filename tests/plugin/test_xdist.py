"""With ``-n``: the same verdicts, one table and one report for all workers, and readable usage errors."""

from __future__ import annotations

import json
from typing import Any

import pytest

from pytest_pot.report.markdown import markdown_report

from .conftest import Project, table_rows


def test_workers_reach_the_same_verdicts_in_one_table_and_one_report(project: Project) -> None:
    project.write(
        test_it="""
        import pytest

        @pytest.mark.pot_identity(max_score=0)
        def test_same():
            pass

        @pytest.mark.pot_identity(candidate={perturbed})
        def test_different():
            pass

        @pytest.mark.pot_distinct(candidate={perturbed})
        def test_distinct():
            pass
        """
    )
    alone = project.gates()
    result = project.run_workers(2, "--pot-report=spread.json", "--junitxml=out.xml")
    result.assert_outcomes(passed=2, failed=1)
    spread = json.loads((project.path / "spread.json").read_text(encoding="utf-8"))["gates"]

    def essence(gates: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
        return sorted((gate["test"], gate["gate"], gate["limit"], gate["verdict"], gate["passed"]) for gate in gates)

    assert essence(spread) == essence(alone)
    scores = {gate["test"]: gate["score"] for gate in alone}
    assert {gate["test"]: gate["score"] for gate in spread} == pytest.approx(scores, abs=1e-6)
    assert sorted(table_rows(result)) == [
        ["test_it.py::test_different", "perturbed", "0.649 / 0.01", "DIFFERENT, failed"],
        ["test_it.py::test_distinct", "perturbed", "0.649 / >0.01", "DIFFERENT"],
        ["test_it.py::test_same", "copy", "0 / 0", "SAME"],
    ]
    assert (project.path / "out.xml").read_text(encoding="utf-8").count('name="pot_verdict"') == 3


def test_a_usage_error_in_a_worker_is_readable(project: Project) -> None:
    project.write(
        test_it="""
        import pytest

        @pytest.mark.pot_identity(preset="slow")
        def test_it():
            pass
        """
    )
    result = project.run_workers(2)
    assert result.ret != 0
    message = (
        "test_it.py::test_it: pot_identity: preset='slow' is not one of 'auto', 'balanced', 'accurate', 'fastest', 'single', "
        "'original'"
    )
    printed = result.outlines + result.errlines
    assert any(message in line for line in printed)
    assert len([line for line in printed if line.strip()]) < 40, "the message drowns"


def test_each_worker_that_runs_all_tests_has_its_rows(project: Project) -> None:
    """``--dist=each`` runs a suite on several machines or interpreters: what one of them says must not hide another's row."""
    project.write(
        conftest="""
        import os
        import pytest

        @pytest.fixture
        def pot_candidate():
            return {copy} if os.environ["PYTEST_XDIST_WORKER"] == "gw0" else {perturbed}
        """,
        test_it="""
        import pytest

        @pytest.mark.pot_identity
        def test_it():
            pass
        """,
    )
    result = project.run_workers(2, "--dist=each", "-v", "--pot-report=gates.json")
    result.assert_outcomes(passed=1, failed=1)
    assert sorted(table_rows(result)) == [
        ["[gw0] test_it.py::test_it", "copy", "0 / 0.01", "SAME"],
        ["[gw1] test_it.py::test_it", "perturbed", "0.649 / 0.01", "DIFFERENT, failed"],
    ]
    # Of the gate that failed, the message says it.
    assert [line for line in result.outlines if "(identity):" in line] == ["[gw0] test_it.py::test_it (identity):"]
    gates = json.loads((project.path / "gates.json").read_text(encoding="utf-8"))["gates"]
    assert sorted((gate["test"], gate["worker"], gate["verdict"]) for gate in gates) == [
        ("test_it.py::test_it", "gw0", "SAME"),
        ("test_it.py::test_it", "gw1", "DIFFERENT"),
    ]
    report = markdown_report(gates)
    assert report.count("| `[gw0] test_it.py::test_it` |") == report.count("| `[gw1] test_it.py::test_it` |") == 1
