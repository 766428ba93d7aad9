"""The Markdown report: what is in it, that hostile text stays text, and how it is cut."""

from __future__ import annotations

from typing import Any

import pytest

from pytest_pot.report.markdown import markdown_report
from pytest_pot.report.table import summary_table

from .commonmark import OURS, Page, rendered
from .hostile import TEXTS
from .rows import error_row, latency_row, passing_row, score_row, skipped_row
from .test_fragment import FOREIGN


def words(page: Page) -> str:
    return " ".join("".join(page.plain).split())


def test_failures_come_first_and_have_a_section() -> None:
    rows = [
        passing_row("t::same"),
        skipped_row("t::skipped", reason="not under -n"),
        score_row("t::xfail", outcome="xfailed"),
        error_row("t::error", error="cannot load the candidate\nit is not there"),
        score_row("t::different", candidate="a/cand", reference="a/ref", headline="pot_identity: DIFFERENT: tv 0.25 > 0.01"),
        latency_row("t::slow", headline="pot_latency: slowdown 1.50x > 1.25x"),
    ]
    text = markdown_report(rows)
    page = rendered(text)
    assert text.startswith("## pytest-pot: 2 failed, 1 no verdict, 1 failed as expected, 1 skipped, 1 passed\n")
    gates = [row for row in page.cells if "t::" in row[1]]
    assert [row[0].split(" ", 1)[1] + " " + row[1] for row in gates] == [
        "failed t::different",
        "failed t::slow",
        "no verdict t::error",
        "failed as expected t::xfail",
        "skipped t::skipped",
        "passed t::same",
    ]
    assert gates[0][2:] == ["identity", "a/cand vs a/ref", "tv 0.25", "<= 0.01", "DIFFERENT"]
    assert gates[1][2:] == ["latency", "text vs text", "slowdown 1.5", "<= 1.25", "fail"]
    assert gates[4][6] == "SKIPPED: not under -n"
    assert page.tags.count("h3") == 4
    blocks = [block for block in page.codes if "\n" in block]
    assert blocks[0].startswith("DIFFERENT: tv 0.25 > 0.01\n")
    assert any(block.startswith("cannot load the candidate\nit is not there\n") for block in blocks)
    assert "what changed: text\n" * 30 + "… and 10 more\n" in blocks[0]
    change = "min -6, 0.1% -5, 1% -4, 5% -3, median 0, 95% +3, 99% +4, 99.9% +5, max +6"
    assert f"Δp: mean -1.5 points, RMS 2.5; {change}" in words(page)
    assert "Same top p: 50% ± 10%; 1 prompt, 1 position" in words(page)
    assert "candidate: median 15 ms; reference: median 10 ms; 20 timings, IQR 3%" in words(page)
    assert ["over positions", "median", "90%", "95%", "99%", "99.9%", "max"] in page.cells
    assert ["max_slowdown", "1.5", "fail"] in page.cells
    assert ["0.25", "0 (text)", "text", "text", "50.0%", "25.0%", "text 50.0%", "text 40.0%"] in page.cells


def test_without_a_change_of_probability_the_rest_is_shown() -> None:
    text = markdown_report([score_row(delta_p=None, headline="tv 0.25 > 0.01"), passing_row(delta_p=None)])
    page = rendered(text)
    assert text.count("Δp: not known: probabilities are relative to the compared tokens\n\nSame top p: 50% ± 10%; ") == 2
    assert any(block.startswith("tv 0.25 > 0.01\n") for block in page.codes)
    assert ["0.25", "0 (text)", "text", "text", "50.0%", "25.0%", "text 50.0%", "text 40.0%"] in page.cells


def test_small_probabilities_and_shares_just_below_1_are_not_rounded_away() -> None:
    row = score_row(same_top={"share": 0.999999, "standard_error": 1e-6})
    [token] = row["worst_prompts"][0]["tokens"]
    token |= {"reference": 0.00002, "candidate": 3e-9}
    token["candidate_choice"]["probability"] = 0.0004
    text = markdown_report([row])
    assert ["0.25", "0 (text)", "text", "text", "0.002%", "3e-07%", "text 50.0%", "text 0.04%"] in rendered(text).cells
    assert "Same top p: 99.99% ± 0.0001%; " in text


@pytest.mark.parametrize("name", ["percentiles", "worst_prompts", "what_changed", "notes"])
def test_a_fault_in_a_row_of_our_own_is_not_hidden(name: str) -> None:
    with pytest.raises((AttributeError, TypeError)):
        markdown_report([{**score_row(), name: 7}])


@pytest.mark.parametrize("name", ["notes", "warnings", "what_changed", "where_it_starts"])
def test_long_lists_of_lines_are_cut(name: str) -> None:
    none: dict[str, list[str]] = {"notes": [], "warnings": [], "what_changed": [], "where_it_starts": []}
    lines = [f"line {index}" for index in range(100)]
    text = markdown_report([{**score_row(), **none, name: lines}])
    assert "line 29\n… and 70 more\n" in text
    assert "line 30" not in text


@pytest.mark.parametrize("text", TEXTS)
def test_hostile_text_makes_no_element_and_no_link(text: str) -> None:
    makers = (score_row, passing_row, error_row, skipped_row, latency_row)
    rows = [make(text or "x", text) for make in makers]
    rows += [score_row(worker=text), score_row(metric=text, verdict=text, gate=text)]
    for row in rows:
        page = rendered(markdown_report([row]))
        assert set(page.tags) <= OURS
        assert page.attributes in ([], [("class", "language-text")], [("class", "language-text")] * 2)
        outside = "".join(page.plain)
        assert not {"evil", "@", "#", "://"} & {word for word in ("evil", "@", "#", "://") if word in outside}
        assert all(len(row) in (3, 7, 8) for row in page.cells)
    page = rendered(markdown_report(rows))
    assert set(page.tags) <= OURS
    assert "evil" not in "".join(page.plain)


def test_a_gate_on_latency_that_passes_beyond_its_limit_is_no_plain_pass() -> None:
    rows = [latency_row("t::a", passed=True, gated=False), latency_row("t::b", passed=True, verdict="inconclusive")]
    text = markdown_report([passing_row("t::c"), *rows])
    assert text.startswith("## pytest-pot: 1 inconclusive, 1 not gated, 1 passed\n")
    assert [row[0] for row in rendered(text).cells if "t::" in row[1]] == ["⚠️ inconclusive", "⚠️ not gated", "✅ passed"]


@pytest.mark.parametrize("metric", ["tokens per second", "min_tokens_per_s"])
def test_a_limit_that_is_a_minimum_has_its_sign(metric: str) -> None:
    text = markdown_report([latency_row("t", metric=metric, limit=50.0), score_row("t", gate="pot_distinct", limit=0.5)])
    assert [row[5] for row in rendered(text).cells if row[1:2] == ["t"]] == [">= 50", "> 0.5"]
    rows = [latency_row("t", metric=metric, limit=50.0), score_row("t", gate="pot_distinct", limit=0.5)]
    assert ["/ >=50 tokens/s" in line.text or "/ >0.5" in line.text for line in summary_table(rows, 120)[1:]] == [True, True]


def test_no_gate() -> None:
    assert markdown_report([]) == "## pytest-pot: no gate ran\n"


def test_a_row_of_an_unknown_kind() -> None:
    row = {
        "test": "t",
        "gate": "pot_always",
        "reference": None,
        "candidate": "c",
        "preset": "p",
        "metric": "level",
        "limit": 1.0,
    }
    text = markdown_report([{**row, "score": 2.0, "verdict": "BAD", "passed": False}])
    assert "| ❌ failed | `t` | `always` | `c` | `level 2` | `<= 1` | `BAD` |" in text
    assert "```text\nBAD: level 2, limit <= 1\n```" in text


@pytest.mark.parametrize("name", FOREIGN)
def test_another_kind_of_gate_may_use_the_same_names(name: str) -> None:
    for make in (score_row, passing_row, latency_row):
        row = {**make("t::it"), "gate": "pot_other", name: FOREIGN[name]}
        [line] = [cells for cells in rendered(markdown_report([row])).cells if "t::it" in cells]
        assert line[2] == "other"


@pytest.mark.parametrize("most", [0, 300, 1_000, 5_000, 20_000, 100_000])
def test_whole_gates_are_left_out_where_there_is_no_room(most: int) -> None:
    rows = [(score_row if index % 5 == 0 else passing_row)(f"t::test_{index}", "äöü 🙂 evil" * 10) for index in range(60)]
    whole = markdown_report(rows)
    text = markdown_report(rows, most)
    assert len(whole.encode()) > 100_000
    assert len(text.encode()) <= most
    if not text:
        assert most <= 300
        return
    page = rendered(text)
    assert set(page.tags) <= OURS
    assert "evil" not in "".join(page.plain)
    shown = [row for row in page.cells if "t::test_" in row[1]]
    failed = sum("failed" in row[0] for row in shown)
    assert failed == min(12, len(shown))  # those that passed are left out first
    assert f"{60 - len(shown)} gates are left out here, for lack of room (" in text
    if failed < 12:
        assert f"{12 - failed} failed, 48 passed" in text
    assert page.tags.count("h3") == failed


def test_only_the_gates_that_fit_are_looked_at() -> None:
    """A step summary of thousands of gates takes no longer than what it shows."""
    looked_at = 0

    class Counted(dict[str, Any]):
        def __getitem__(self, name: str) -> Any:
            nonlocal looked_at
            looked_at += name == "same_top"
            return super().__getitem__(name)

    rows = [Counted(score_row(f"t::test_{index}")) for index in range(1000)]
    text = markdown_report(rows, 20_000)
    shown = text.count("<summary>figures</summary>")
    assert 5 < shown < 20
    assert shown <= looked_at <= shown + 2
    assert "1000 failed" in text
    assert len(text.encode()) <= 20_000


def test_nothing_is_left_out_where_all_fits() -> None:
    rows = [score_row(), passing_row()]
    whole = markdown_report(rows)
    assert markdown_report(rows, len(whole.encode()) + 100) == whole
    assert "left out" in markdown_report(rows, len(whole.encode()) - 1)
