"""Why a gate passed or failed: all reports say it in the same words."""

from __future__ import annotations

from typing import Any

import pytest

from pytest_pot.report.diff_markdown import diff_lines
from pytest_pot.report.fragment import gate_fragment
from pytest_pot.report.gate_words import Status, status
from pytest_pot.report.html.page import html_report
from pytest_pot.report.markdown import markdown_report
from pytest_pot.report.report_diff import compare_reports
from pytest_pot.report.run_facts import run_facts
from pytest_pot.report.saved_report import SavedReport

from .commonmark import rendered
from .html.parsed import check
from .rows import error_row, latency_row, passing_row, score_row, skipped_row
from .test_fragment import read

RUN = run_facts(1_767_323_045.0)
UNDECIDED = "UNDECIDED at 90% confidence after 8 of 8 prompts: tv 0.009, the limit is 0.01; about 40 more prompts would decide"
SLOW = "1.50 slowdown > 1.25 (95% bound 1.4)"
CASES: dict[str, tuple[dict[str, Any], str, Status]] = {
    "same": (passing_row(headline="pot_identity: SAME: tv 0.005 <= 0.01"), "SAME: tv 0.005 <= 0.01", Status.PASSED),
    "different": (score_row(headline="pot_identity: DIFFERENT: tv 9 > 1"), "DIFFERENT: tv 9 > 1", Status.FAILED),
    "xfail": (score_row(headline="pot_identity: DIFFERENT", outcome="xfailed"), "DIFFERENT", Status.EXPECTED),
    "undecided": (score_row(headline=f"pot_identity: {UNDECIDED}", verdict="UNDECIDED"), UNDECIDED, Status.FAILED),
    "slow": (latency_row(headline=f"pot_latency: {SLOW}"), SLOW, Status.FAILED),
    "not gated": (latency_row(headline=f"pot_latency: {SLOW}", passed=True, gated=False), SLOW, Status.NOT_GATED),
    "inconclusive": (
        latency_row(headline="pot_latency: inconclusive: slow", verdict="inconclusive", passed=True),
        "inconclusive: slow",
        Status.INCONCLUSIVE,
    ),
    "error": (error_row(error="no such model.\nlook again"), "no such model.", Status.ERROR),
    "skipped": (skipped_row(reason="workers run side by side"), "workers run side by side", Status.SKIPPED),
    "another kind": ({**passing_row(headline="it is fine"), "gate": "pot_other"}, "it is fine", Status.PASSED),
    "a gate with figures of such names": (
        {**passing_row(headline="it is fine"), "gate": "pot_other", "error": 0.003, "reason": "calibrated on A"},
        "it is fine",
        Status.PASSED,
    ),
    "an older report": (passing_row(), "SAME: tv 0.005, limit <= 0.01", Status.PASSED),
    "nothing known": ({"test": "t", "gate": "pot_other", "verdict": "FINE", "passed": False}, "FINE", Status.FAILED),
}


def in_html(row: dict[str, Any]) -> str:
    [lead] = check(html_report([row], RUN)).all("p", "lead")
    return lead.text


def in_markdown(row: dict[str, Any]) -> str:
    page = rendered(markdown_report([row]))
    if row["passed"] is None:  # which has no section
        return page.cells[-1][-1].removeprefix(f"{row['verdict']}: ")
    return next(code for code in page.codes if "\n" in code).partition("\n")[0]


def in_pytest_html(row: dict[str, Any]) -> str:
    return dict(read(gate_fragment(row)).cells)["reason"]


def in_diff(row: dict[str, Any]) -> str:
    before, now = (SavedReport("0.1", {}, (gate,)) for gate in ({**row, "verdict": "before"}, row))
    return rendered("\n".join(diff_lines(compare_reports(before, now)))).cells[-1][-1]


@pytest.mark.parametrize("report", [in_html, in_markdown, in_pytest_html, in_diff])
@pytest.mark.parametrize("case", CASES)
def test_all_reports_give_the_same_reason(report: Any, case: str) -> None:
    row, words, expected = CASES[case]
    assert status(row) is expected
    whole = {**dict.fromkeys(("preset", "metric", "limit", "score")), "outcome": "passed", **row}
    assert report(whole if case == "nothing known" else row) == words


def test_each_gate_of_a_test_has_its_own_reason() -> None:
    rows = [score_row("t", headline="pot_identity: DIFFERENT"), {**score_row("t", headline="pot_distinct: SAME")}]
    rows[1]["gate"] = "pot_distinct"
    leads = {lead.text for lead in check(html_report(rows, RUN)).all("p", "lead")}
    codes = {code.partition("\n")[0] for code in rendered(markdown_report(rows)).codes}
    assert leads == {"DIFFERENT", "SAME"} <= codes
