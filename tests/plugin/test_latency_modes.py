"""Where latency is not gated: under workers, and where an option says so."""

from __future__ import annotations

import json
import re

from .conftest import Project, table_rows
from .latency_gates import LATENCY_OFF, latency_tests


def test_pot_latency_report_measures_and_never_fails(project: Project) -> None:
    project.write(test_it=latency_tests("budget_ms=1e-6"))
    for result in (project.run("--pot-latency=report"), _write_ini(project, pot_latency="report").run()):
        result.assert_outcomes(passed=1)
        [[test, candidate, score, verdict]] = table_rows(result)
        assert (test, candidate, verdict) == ("test_it.py::test_0", "copy", "fail, not gated")
        assert re.fullmatch(r"[\d.]+ / 1e-06 ms/prompt", score)


def test_pot_latency_off_only_prints_that_it_is_off(project: Project) -> None:
    project.ini(pot_candidate="no/such/model", pot_prompts="prompts.jsonl", pot_latency="gate")
    project.write(
        test_it=latency_tests(
            "max_slowdown=2", "budget_ms=1e-6", body="assert pot_result.latency is None", fixtures="pot_result"
        )
    )
    result = project.run(LATENCY_OFF)
    result.assert_outcomes(passed=2)
    off = "pot: latency is off (--pot-latency=off or the ini key pot_latency); 2 tests"
    assert result.outlines.count(off) == 1


def _write_ini(project: Project, **values: str) -> Project:
    project.ini(pot_candidate=project.tiny.copy, pot_prompts="prompts.jsonl", **values)
    return project


NOT_GATED = "pot: latency is not gated under -n, because workers slow each other down; run these tests without -n; {} tests"


def test_workers_skip_tests_of_latency_and_say_so_once(project: Project) -> None:
    """They are not green: nothing was measured. Each gate has its row."""
    project.write(
        test_it="""
        import pytest

        @pytest.mark.parametrize("number", [1, 2])
        @pytest.mark.pot_latency(budget_ms=1e-6)
        def test_latency(number):
            raise AssertionError("the body runs only after its gates")
        """
    )
    result = project.run_workers(2, "-rs", "--pot-report=gates.json")
    result.assert_outcomes(skipped=2)
    reason = NOT_GATED.removesuffix("; {} tests").removeprefix("pot: ")
    assert [line for line in result.outlines if "latency is not gated" in line] == [
        NOT_GATED.format(2),
        f"SKIPPED [2] test_it.py:3: pot_latency: {reason}",
    ]
    rows = [[f"test_it.py::test_latency[{number}]", "- / 1e-06 ms", "SKIPPED"] for number in (1, 2)]
    assert sorted(table_rows(result)) == rows
    gates = json.loads((project.path / "gates.json").read_text(encoding="utf-8"))["gates"]
    assert [(gate["verdict"], gate["passed"], gate["reason"]) for gate in gates] == [("SKIPPED", None, reason)] * 2


def test_workers_still_gate_scores(project: Project) -> None:
    """Beside a score gate, the test is what that gate and the body say; the row shows that latency was not measured."""
    project.write(
        test_it="""
        import pytest

        @pytest.mark.pot_latency(budget_ms=1e-6)
        @pytest.mark.pot_identity(candidate={perturbed})
        def test_different():
            pass

        @pytest.mark.pot_latency(budget_ms=1e-6)
        @pytest.mark.pot_identity(max_score=0)
        def test_same(pot_result):
            assert pot_result.verdict == "SAME"
            assert pot_result.latency is None
        """
    )
    result = project.run_workers(2, "--pot-report=gates.json")
    result.assert_outcomes(passed=1, failed=1)
    assert [line for line in result.outlines if "latency is not gated" in line] == [NOT_GATED.format(2)]
    gates = json.loads((project.path / "gates.json").read_text(encoding="utf-8"))["gates"]
    assert sorted((gate["gate"], gate["verdict"]) for gate in gates) == [
        ("pot_identity", "DIFFERENT"),
        ("pot_identity", "SAME"),
        ("pot_latency", "SKIPPED"),
        ("pot_latency", "SKIPPED"),
    ]
