"""With ``-n``: the same verdicts, one table and one report for all workers, and readable usage errors."""

from __future__ import annotations

import json
from typing import Any

import pytest

from .conftest import Project


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
    assert sum(line.startswith("test_it.py::") and "balanced" in line for line in result.outlines) == 3
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
        "test_it.py::test_it: pot_identity: preset='slow' is not one of 'balanced', 'accurate', 'fastest', 'single', 'original'"
    )
    printed = result.outlines + result.errlines
    assert any(message in line for line in printed)
    assert len([line for line in printed if line.strip()]) < 40, "the message drowns"
