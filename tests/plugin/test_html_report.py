"""The page that ``--pot-report gates.html`` writes, of real gates on tiny models."""

from __future__ import annotations

import json
import re
from pathlib import Path

from ..unit.report.commonmark import rendered
from ..unit.report.html.parsed import Page, check
from .conftest import Project
from .test_fourth_marker import GATE


def written(name: str = "gates.html") -> Page:
    return check((Path.cwd() / name).read_text(encoding="utf-8"))


CLAIM = "the mean of the score, clipped at 0.1, is at most 0.01, and fewer than 5% of the prompts score above 0.1"
REASONS = {
    "test_same": r"SAME: tv 0 <= 0",
    "test_other": r"DIFFERENT: tv 0\.649 > 0\.01 \(64\.9 times the limit\)",
    "test_distinct": r"DIFFERENT: tv 0\.649 > 0\.3 \(2\.16 times the limit\)",
    "test_sequential": r"DIFFERENT at 90% confidence after 3 of 3 prompts: tv 0\.649 > 0\.01 \(64\.9 times the limit\)",
    "test_sequential_same": rf"SAME at 90% confidence after 3 of 3 prompts: tv 0, so the models count as the same: {CLAIM}",
    "test_speed": r"slowdown [\d.]+x <= 1000\.00x \(95% bound [\d.]+x, \d+ pairs; reference .* ms, candidate .* ms, IQR \d+%\)",
    "test_missing": r"cannot load the candidate 'nowhere': as a path, .*/nowhere does not exist; .*",
    "test_own": r"fine",
}
"""Why each gate passed or failed, in the reports and, after the gate's name, in the terminal."""


def test_a_run_writes_a_page_with_all_its_gates(project: Project) -> None:
    project.write(
        conftest=GATE,
        test_it="""
        import pytest

        @pytest.mark.pot_identity(max_score=0)
        def test_same():
            pass

        @pytest.mark.pot_identity(candidate={perturbed})
        def test_other():
            pass

        @pytest.mark.pot_identity(candidate={perturbed}, confidence=0.9)
        def test_sequential():
            pass

        @pytest.mark.pot_identity(confidence=0.9)
        def test_sequential_same():
            pass

        @pytest.mark.pot_distinct(candidate={perturbed}, min_score=0.3)
        def test_distinct():
            pass

        @pytest.mark.pot_latency(max_slowdown=1000)
        def test_speed():
            pass

        @pytest.mark.pot_identity(candidate="nowhere")
        def test_missing():
            pass

        @pytest.mark.pot_always(level=3)
        def test_own():
            pass
        """,
    )
    result = project.run("--pot-report=gates.html", "--pot-report=gates.md")
    result.stdout.fnmatch_lines(["pot: written to *gates.html"])
    page = written()
    names = [heading.text.rpartition("::")[2] for heading in page.all("h3")]
    assert sorted(names) == sorted(REASONS)
    reasons = {name: lead.text for name, lead in zip(names, page.all("p", "lead"), strict=True)}
    told = [code.partition("\n")[0] for code in rendered(Path("gates.md").read_text(encoding="utf-8")).codes]
    for name, pattern in REASONS.items():
        assert re.fullmatch(pattern, reasons[name])
        assert any(reason.startswith(reasons[name].removesuffix("…")) for reason in told) or name == "test_own"
    assert {f"pot_identity: {reasons[name]}" for name in ("test_other", "test_sequential")} <= set(result.outlines)
    assert page.all("h1")[0].text == "3 of 8 gates failed"
    titles = {title.text for title in page.all("title")}
    assert {"Mean tv by position", "How the verdict was reached", "candidate / reference, ratio, pair by pair"} <= titles
    tokens = page.all("span", "tok")
    assert len(tokens) > 20
    assert any("What the gate reports" in table.text for table in page.all("table"))


def test_a_run_without_delta_p_writes_a_page(project: Project) -> None:
    project.write(
        test_it="""
        import pytest

        @pytest.mark.pot_identity(candidate={perturbed}, preset="fastest", max_tail=1)
        def test_other():
            pass
        """
    )
    project.run("--pot-report=gates.html").stdout.fnmatch_lines(["pot: written to *gates.html"])
    page = written()
    assert [heading.text.rpartition("::")[2] for heading in page.all("h3")] == ["test_other"]
    assert any("Percentiles over positions" in table.text for table in page.all("table"))
    assert "Δp" not in page.text


def test_reports_in_html_and_json_tell_the_same_facts_of_a_run(project: Project) -> None:
    project.write(test_it="def test_plain(): pass\n")
    project.run("--pot-report=gates.html", "--pot-report=gates.json")
    run = json.loads(Path("gates.json").read_text(encoding="utf-8"))["run"]
    words = written().all("header")[0].text
    assert run.pop("started").replace("T", " ").replace("+00:00", " UTC") in words
    assert len(run) > 5
    assert all(fact in words for fact in run.values() if fact is not None)


def test_a_page_without_gates_says_so(project: Project) -> None:
    project.write(test_it="def test_plain(): pass\n")
    result = project.run("--pot-report=gates.html")
    result.assert_outcomes(passed=1)
    page = written()
    assert page.all("h1")[0].text == "No gate ran"


def test_workers_send_what_the_page_shows(project: Project) -> None:
    project.write(
        test_it="""
        import pytest

        @pytest.mark.pot_identity(candidate={perturbed})
        @pytest.mark.parametrize("name", ["<b>", "a b"])
        def test_other(name):
            pass
        """
    )
    project.run_workers(2, "--pot-report=gates.html")
    page = written()
    assert sorted(heading.text.rpartition("::")[2] for heading in page.all("h3")) == ["test_other[<b>]", "test_other[a b]"]
    assert len(page.all("span", "tok")) > 20
