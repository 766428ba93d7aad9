"""The page as a whole, read with html.parser."""

from __future__ import annotations

import random
import sys
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pytest_pot.core.errors import PotError
from pytest_pot.core.version import __version__
from pytest_pot.gates.latency.latency_report import Check, LatencyReport, Outcome
from pytest_pot.gates.verdict.details import ScoreDetails
from pytest_pot.gates.verdict.limits import TOLERANCES
from pytest_pot.report.html import page as page_module
from pytest_pot.report.html.page import html_report
from pytest_pot.report.html.views import _LATENCY_DETAILS, _SCORE_DETAILS
from pytest_pot.report.run_facts import run_facts
from pytest_pot.scoring.position_statistics import DELTA_P_PERCENTILES

from ....processor_time import in_yardsticks
from .parsed import Page, check
from .rows import error_row, latency_row, score_row, skipped_row, token

RUN = run_facts(1_767_323_045.0)
HOSTILE = [
    "<script>alert(1)</script>",
    "x" * 10_000,
    "\x00\x07\x1b[31m\r\n\t\x7f\x9b",
    "\u202eolleh\u202c \u2066a\u2069 \u200b\ufeff",
    "\ud800 \udfff",
    "\" onmouseover=\"alert(1)' style='x",
    "</style></title></svg>]]><!-- -->",
    "{{ 7 * 7 }} {% raw %}",
    "&amp; &#0; &lt;",
    "",
]


def page_of(*rows: dict[str, Any]) -> Page:
    return check(html_report(rows, RUN))


def test_the_summary_counts_and_the_worst_come_first() -> None:
    rows = [
        score_row("fine", score=0.005),
        skipped_row(),
        score_row("bad", score=0.02),
        error_row(),
        score_row("known", score=0.5, outcome="xfailed"),
        score_row("worse", score=0.4),
        latency_row(),
        latency_row("unsure", verdict="inconclusive"),
    ]
    page = page_of(*rows)
    assert page.all("h1")[0].text == "3 of 8 gates failed"
    counts = [item.text for item in page.all("ul", "counts")[0].children]
    assert counts == ["✗ 2 failed", "! 1 no verdict", "✗ 1 failed as expected", "? 1 inconclusive", "– 1 skipped", "✓ 2 passed"]
    tests = [heading.text.rpartition("::")[2] for heading in page.all("h3")]
    assert tests == ["worse", "bad", "test_error", "known", "unsure", "test_skipped", "test_speed", "fine"]
    links = [link for link in page.all("a") if link.inside("table")]
    assert [link.text.rpartition("::")[2] for link in links] == tests


@pytest.mark.parametrize(
    ("rows", "headline"),
    [
        ([], "No gate ran"),
        ([score_row(score=0.005)], "The gate passed"),
        ([score_row(score=0.005), latency_row()], "All 2 gates passed"),
        ([score_row()], "The gate failed"),
        ([score_row(), latency_row()], "1 of 2 gates failed"),
        ([score_row(outcome="xfailed"), latency_row()], "2 gates, no unexpected failure"),
        ([score_row(score=0.005), skipped_row()], "2 gates, none failed"),
    ],
)
def test_the_headline(rows: list[dict[str, Any]], headline: str) -> None:
    page = page_of(*rows)
    assert page.all("h1")[0].text == headline
    assert page.all("title")[0].text == f"{headline} – pytest-pot"


def test_a_gate_on_a_score_shows_all_its_parts() -> None:
    steps = [{"score": 0.1, "different": 3.0, "same_mean": 0.5, "same_outliers": None}]
    row = score_row(trajectory={"threshold": 20.0, "decided_after": None, "steps": steps})
    page = page_of(row)
    titles = [title.text for title in page.all("title")][1:]
    assert titles == [
        "The score on the scale of tv",
        "The score on the scale of tv",  # for narrow pages
        "How the verdict was reached",
        "Mean tv by position",
        "Spread of tv of each prompt",
    ]
    captions = [caption.text for caption in page.all("caption")]
    assert "Percentiles over positions" in captions
    assert "Mean tv by kind of prompt" in captions
    assert "all 12 matrices rounded to 8 bits" in page.text
    assert "Same top p: 94% ± 1%." in page.text
    assert "bf16 (measured)" in page.text
    assert len(page.all("details")) == 3
    assert ["open" in details.attributes for details in page.all("details")] == [True, False, False]


def test_a_gate_whose_scores_are_all_0_has_no_plots_of_zeros() -> None:
    page = page_of(score_row(score=0.0, kinds={"prose": 0.0}))
    assert {title.text for title in page.all("title")[1:]} == {"The score on the scale of tv"}
    captions = [caption.text for caption in page.all("caption")]
    assert "Mean tv by kind of prompt" not in captions
    assert "Percentiles over positions" in captions


def test_the_percentiles_of_delta_p_are_all_shown() -> None:
    [table] = [table for table in page_of(score_row()).all("table") if table.children[0].text.startswith("Δp")]
    lines = [[cell.text for cell in line.children] for line in table.children[2].children]
    assert len(lines) == len(DELTA_P_PERCENTILES)
    assert lines[:4] == [["max", "+1.60"], ["99.9%", "+1.60"], ["99%", "+1.56"], ["95%", "+1.40"]]
    assert [name for name, _ in lines[5:]] == ["75%", "median", "25%", "10%", "5%", "1%", "0.1%", "min"]


ABSENT: dict[str, dict[str, Any]] = {
    "delta_p": {"delta_p": None},  # with tail="renormalise"
    "floor": {"scale": {**score_row()["scale"], "floor": None, "tolerances": [], "ladder": []}, "noise_floor": None},
    "standard error": {"same_top": {"share": 0.94, "standard_error": None}},
    "kinds": {"kinds": {}, "prompt_scores": [{**prompt, "kind": None} for prompt in score_row()["prompt_scores"]]},
    "limit for one prompt": {"max_prompt_limit": None, "gate": "pot_distinct"},
    "worst prompts": {"worst_prompts": []},
    "one prompt, one position": {
        "prompt_scores": score_row()["prompt_scores"][:1],
        "by_position": {"mean": [0.03], "prompts": [1]},
    },
    "infinite wealth": {
        "trajectory": {
            "threshold": 20.0,
            "decided_after": None,
            "steps": [{"score": 0.1, "different": None, "same_mean": None, "same_outliers": None}],
        }
    },
    "conditions": {"conditions": None, "notes": None, "warnings": None, "what_changed": None, "reference": None},
}


@pytest.mark.parametrize("values", ABSENT.values(), ids=ABSENT)
def test_what_a_gate_does_not_have_is_left_out(values: dict[str, Any]) -> None:
    page = page_of(score_row(**values), score_row("other", score=0.001, **values))
    assert len(page.all("h3")) == 2
    assert "None" not in page.text
    assert ("Δp" in page.text) == ("delta_p" not in values)


def test_a_gate_on_latency_without_a_reference_or_a_figure_is_shown() -> None:
    report = LatencyReport(
        what="decode",
        candidate=(0.2, 0.21),
        reference=None,
        checks=(Check("min_tokens_per_s", "tokens per second", None, None, 100.0, Outcome.INCONCLUSIVE, at_least=True),),
        n_prompts=1,
        n_tokens=38,
    )
    values: dict[str, Any] = {
        "reference": None,
        "score": None,
        "metric": "tokens per second",
        "limit": 100.0,
        "verdict": "inconclusive",
        "headline": "pot_latency: inconclusive: only 2 timings in 0 s, too few to measure tokens per second",
    }
    page = page_of(latency_row(**values, latency=report.to_dict()))
    assert "None" not in page.text
    [lead] = page.all("p", "lead")
    assert lead.text == "inconclusive: only 2 timings in 0 s, too few to measure tokens per second"
    assert ["tokens per second", "–", "–", ">= 100", "inconclusive"] in [
        [cell.text for cell in line.children] for line in page.all("tr")
    ]


@pytest.mark.parametrize("metric", ["tokens per second", "min_tokens_per_s"])
def test_a_gate_that_asks_for_a_rate_says_so(metric: str) -> None:
    rows = [latency_row(metric=metric, score=50.0, limit=100.0), skipped_row(gate="pot_latency", metric=metric, limit=100.0)]
    assert [cell.text for cell in page_of(*rows).all("td", "limit")] == [">= 100", ">= 100"]


def test_a_gate_that_passed_has_its_details_closed() -> None:
    page = page_of(score_row(score=0.005), latency_row())
    assert page.all("details")
    assert not any("open" in details.attributes for details in page.all("details"))


def test_a_token_shows_both_models_on_hover_and_focus() -> None:
    page = page_of(score_row())
    tokens = page.all("span", "tok")
    assert len(tokens) == 60
    for element in tokens:
        assert element.attributes["tabindex"] == "0"
        [tip] = [child for child in element.children if child.attributes.get("class") == "tip"]
        assert tip.attributes["id"] == element.attributes["aria-describedby"]
        assert "reference 25.0%, likeliest ␣word" in tip.text
        assert "candidate 0.04%, likeliest ␣other 50.0%" in tip.text
    marks = page.all("i", "ws")
    assert {(mark.text, mark.attributes["aria-label"]) for mark in marks} == {("␣", "space")}


def test_shades_tell_tokens_apart_where_a_limit_is_tight() -> None:
    row = score_row(score=2e-4, limit=TOLERANCES["numeric"])
    scores = [0.0, 0.5e-4, 2e-4, 3e-3, 0.02, 0.3, 0.9]
    row["worst_prompts"] = [{**row["worst_prompts"][0], "tokens": [token("a", score) for score in scores]}]
    page = page_of(row)
    styles = [element.attributes["class"] for element in page.all("span", "tok")]
    assert styles == [f"tok d{shade}" for shade in (0, 0, 1, 2, 3, 4, 5)]
    [legend] = page.all("ul", "legend")
    assert [item.text for item in legend.children] == [
        *("below 0.0001", "from 0.0001", "from 0.001", "from 0.01", "from 0.1", "0.5 and more"),
    ]


def test_line_ends_and_tabs_in_tokens_have_marks_with_names() -> None:
    row = score_row()
    row["worst_prompts"] = [{**row["worst_prompts"][0], "tokens": [token("\n\t"), token("\r"), token("")]}]
    marks = {(mark.text, mark.attributes["aria-label"]) for mark in page_of(row).all("i", "ws")}
    assert marks >= {("↵", "line feed"), ("⇥", "tab"), ("␍", "carriage return"), ("∅", "no text")}


def hostile_rows(text: str) -> list[dict[str, Any]]:
    score = score_row(text, notes=[text], warnings=[text], conditions=text, what_changed=[text], where_it_starts=[text])
    score |= {"reference": text, "candidate": text, "preset": text, "metric": text, "kinds": {text: 0.1}, "worker": text}
    score["prompt_scores"] = [{**prompt, "text": text, "kind": text} for prompt in score["prompt_scores"]]
    score["scale"] = {**score["scale"], "metric": text, "ladder": [{"name": text, "value": 0.1}]}
    score["percentiles"] = {text: score["percentiles"]["tv"], "kl": score["percentiles"]["kl"]}
    score["worst_prompts"] = [
        {**prompt, "context": text, "kind": text, "tokens": [token(text), token(text + " ")]}
        for prompt in score["worst_prompts"]
    ]
    custom = {**error_row(), "gate": text, "verdict": text, "passed": True, text or "x": {text: [text]}, "latency": text}
    return [score, latency_row(text, candidate=text, conditions=text), error_row(text), skipped_row(text), custom]


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_texts_are_shown_as_text(text: str) -> None:
    page = page_of(*hostile_rows(text))
    assert len(page.all("h3")) == 5
    if "<" in text:
        assert page.text.count(text) > 20
    if text.startswith("x"):
        assert "x" * 200 in page.text


@given(st.text(st.characters(exclude_categories=()), max_size=60))
@settings(max_examples=60)
@example("verdict")  # a metric may have the name of another value of the row
@example("passed")
@example("prompts")
def test_any_text_is_shown_as_text(text: str) -> None:
    page_of(*hostile_rows(text))


@pytest.mark.parametrize("name", [*score_row(), "outcome", "confidence", "error", "reason", "latency", "worker"])
def test_metrics_and_values_may_have_the_names_of_others(name: str) -> None:
    page_of(*hostile_rows(name))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
names = st.sampled_from(
    ["score", "limit", "metric", "notes", "warnings", "latency", "scale", "kinds", "level", "error", "reason", "checks", "what"]
)


@given(st.dictionaries(names, json_values), st.sampled_from([True, False, None]))
def test_a_gate_of_an_unknown_kind_is_a_table_of_its_values(values: dict[str, Any], passed: bool | None) -> None:
    row = {"test": "test_it", "gate": "pot_always", "verdict": "FINE", "passed": passed, **values, "flavour": "vanilla"}
    page = page_of(row)
    assert len(page.all("h3")) == 1
    if passed is not None:
        assert "vanilla" in page.text


def test_the_unknown_kind_shows_each_of_its_values() -> None:
    row = {
        **error_row(),
        "gate": "pot_always",
        "verdict": "FINE",
        "passed": True,
        "depth": 3,
        "shape": {"a": [1, 2]},
        "way": object,
    }
    del row["error"]
    table = page_of(row).all("table", "compact")[0]
    assert [cell.text for cell in table.children[2].children[0].children] == ["depth", "3"]
    assert '{"a": [1, 2]}' in table.text
    assert "object" in table.text


def test_the_keys_of_details_are_those_that_gates_give() -> None:
    assert ScoreDetails.__annotations__.keys() - {"trajectory", "diagnosis"} == _SCORE_DETAILS
    assert latency_row()["latency"].keys() >= _LATENCY_DETAILS
    assert LatencyReport.__dataclass_fields__.keys() | {"ratios"} >= _LATENCY_DETAILS


def test_no_gate_shows_figures_that_are_no_numbers() -> None:
    row = score_row(score=float("inf"), kl=float("nan"))
    page = page_of(row)
    assert "DIFFERENT: tv inf, limit <= 0.01" in page.text
    assert not {"nan", "inf"} & {e.attributes.get(name) for e in page.elements for name in ("cx", "cy", "x", "y", "d")}


def test_a_page_of_a_thousand_gates_is_small_and_quick() -> None:
    random_ = random.Random(0)
    rows = [score_row(f"test_{i}", score=random_.choice([0.02, 0.003])) for i in range(900)]
    rows += [latency_row(f"test_speed_{i}") for i in range(100)]
    html_report(rows[:2], RUN)  # templates are compiled
    sources: list[str] = []
    assert in_yardsticks(lambda: sources.append(html_report(rows, RUN)), 1) < 200, "about 2 s, and usually half a second"
    [source] = sources
    assert len(source.encode()) < 5_000_000
    page = check(source)
    assert len(page.all("table", "gates")[0].children[2].children) == 1000
    assert "plots and prompts of" in page.text
    with_plots = [heading for heading in page.all("h4") if heading.text == "On the scale of tv"]
    assert f"the worst {len(with_plots)} have theirs" in page.text
    assert len(with_plots) > 20


# Those that take most bytes in all, once escaped, are tried in every run.
@pytest.mark.parametrize(
    "character", ["<", "\u202e", *(pytest.param(each, marks=pytest.mark.slow) for each in ("é", "漢", "😀", "_"))]
)
def test_a_page_of_a_thousand_gates_with_long_names_is_small(character: str) -> None:
    name = 400 * character
    values: dict[str, Any] = {"candidate": name, "reference": name, "notes": [3 * name] * 40, "conditions": name}
    rows = [score_row(f"{name}{i}", **values) for i in range(500)]
    rows += [error_row("\n".join([name] * 30), **{**values, "test": f"{name}e{i}"}) for i in range(500)]
    source = html_report(rows, RUN)
    assert len(source.encode()) < 5_000_000
    page = check(source)
    lines = page.all("table", "gates")[0].children[2].children
    assert len(lines) == 1000
    assert len({line.children[1].text.partition("\n")[0] for line in lines}) == 1000
    assert page.all("article")


def test_gates_with_long_messages_are_listed_though_their_sections_are_left_out() -> None:
    rows = [error_row("\n".join(["y" * 900] * 25), test=f"test_{i}") for i in range(300)]
    source = html_report(rows, RUN)
    assert len(source.encode()) < 5_000_000
    page = check(source)
    assert len(page.all("table", "gates")[0].children[2].children) == 300
    n_sections = len(page.all("article"))
    assert n_sections < 300
    assert f"{300 - n_sections} gates have only their line in the table" in page.text


def test_a_page_says_when_and_with_what_it_was_made() -> None:
    words = page_of().text
    assert (
        f"started 2026-01-02 03:04:05 UTC · pytest-pot {__version__}, Python {RUN['python']}, pytest {RUN['pytest']}, " in words
    )
    assert f"torch {RUN['torch']}" in words
    assert f" · {RUN['platform']}\n" in words
    assert "numpy" not in check(html_report([], {**RUN, "numpy": None})).text


def test_without_jinja2_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    page_module._environment.cache_clear()
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(PotError, match="pip install jinja2"):
        html_report([], RUN)
