"""The summary table: what it shows, and that no line is wider than the terminal."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_pot.core.text import columns
from pytest_pot.report.table import summary_table, what_ran


def row(test: str = "test_it.py::test_a", score: float | None = 0.0314, **values: Any) -> dict[str, Any]:
    return {
        "test": test,
        "gate": "pot_identity",
        "reference": "models/reference",
        "candidate": "models/candidate",
        "preset": "auto",
        "metric": "tv",
        "limit": 0.08,
        "score": score,
        "verdict": "SAME",
        "passed": True,
        "prompts": 8,
        **values,
    }


def texts(rows: list[dict[str, Any]], width: int = 80) -> list[str]:
    return [line.text + line.verdict for line in summary_table(rows, width)]


def test_a_row_names_test_models_score_limit_and_verdict() -> None:
    assert texts([row(), row("test_it.py::test_b", 0.1, passed=False, verdict="DIFFERENT", outcome="failed")]) == [
        "test                candidate vs reference  score / limit  verdict",
        "test_it.py::test_a  candidate               0.0314 / 0.08  SAME",
        "test_it.py::test_b  candidate                  0.1 / 0.08  DIFFERENT, failed",
    ]


@pytest.mark.parametrize(
    ("values", "verdict", "colour"),
    [
        ({}, "SAME", "green"),
        ({"outcome": "failed"}, "SAME", "green"),  # the test's body failed, or another gate
        ({"confidence": 0.95}, "SAME 95%", "green"),
        ({"passed": False, "verdict": "DIFFERENT", "outcome": "failed"}, "DIFFERENT, failed", "red"),
        ({"passed": False, "verdict": "DIFFERENT"}, "DIFFERENT, failed", "red"),
        ({"passed": False, "verdict": "DIFFERENT", "outcome": "xfailed"}, "DIFFERENT, expected", "yellow"),
        ({"passed": False, "verdict": "ERROR", "outcome": "error", "score": None}, "ERROR, failed", "red"),
        ({"passed": False, "verdict": "ERROR", "outcome": "xfailed", "score": None}, "ERROR, expected", "yellow"),
        ({"passed": None, "verdict": "SKIPPED", "outcome": "skipped", "score": None}, "SKIPPED", "yellow"),
        ({"outcome": "xpassed"}, "SAME, xpassed", "yellow"),
        ({"metric": "slowdown", "verdict": "pass"}, "pass", "green"),
        ({"metric": "slowdown", "verdict": "inconclusive"}, "inconclusive", "yellow"),
        ({"metric": "slowdown", "verdict": "fail", "gated": False}, "fail, not gated", "yellow"),
        ({"metric": "slowdown", "verdict": "fail", "gated": True, "passed": False}, "fail", "red"),
        ({"metric": "slowdown", "verdict": "fail", "passed": False, "outcome": "xfailed"}, "fail, expected", "yellow"),
    ],
)
def test_the_verdict_says_in_words_and_by_its_colour_what_it_did_to_the_test(
    values: dict[str, Any], verdict: str, colour: str
) -> None:
    [_, line] = summary_table([row(**values)], 80)
    assert (line.verdict, line.colour) == (verdict, colour)


@pytest.mark.parametrize(
    ("metric", "cell"),
    [
        ("slowdown", "1.03 / 1.25 x time"),
        ("max_slowdown", "1.03 / 1.25 x time"),
        ("memory ratio", "1.03 / 1.25 x memory"),
        ("MB of memory", "1.03 / 1.25 MB"),
        ("tokens per second", "1.03 / >=1.25 tokens/s"),
        ("ms per prompt", "1.03 / 1.25 ms/prompt"),
        ("ms per prompt (p95)", "1.03 / 1.25 ms/prompt p95"),
        ("ms per output token", "1.03 / 1.25 ms/token"),
        ("ms per request after its first token (p95)", "1.03 / 1.25 ms/request p95"),
        ("budget_ms", "1.03 / 1.25 ms"),
    ],
)
def test_limits_on_time_and_memory_have_units(metric: str, cell: str) -> None:
    lines = texts([row(score=1.03, gate="pot_latency", metric=metric, limit=1.25, verdict="pass")], 120)
    assert f"  {cell}  " in lines[1]
    assert "metric" not in lines[0]


def test_a_limit_that_must_be_exceeded_has_its_sign() -> None:
    assert "0.3 / >0.01" in texts([row(score=0.3, gate="pot_distinct", limit=0.01, verdict="DIFFERENT")])[1]


def test_columns_appear_where_they_tell_something() -> None:
    assert texts([row(), row()])[0].split("  ")[-1] == "verdict"
    heading, first, second = texts([row(preset="single"), row(metric="kl", truncated=3)], 120)
    assert heading.endswith("score / limit  metric  preset  prompts cut  verdict")
    assert first.split()[-3:] == ["tv", "single", "SAME"]
    assert second.split()[-6:] == ["kl", "auto", "3", "of", "8", "SAME"]
    assert " metric " in texts([row(metric="kl")])[0]


@pytest.mark.parametrize(
    ("name", "short"),
    [
        ("models/candidate/", "candidate"),
        (r"C:\models\candidate", "candidate"),
        ("org/SmolLM2-135M", "SmolLM2-135M"),
        ("smollm2:int8", "int8"),
        ("package.module:models.int8", "models.int8"),
        ("llamacpp:///models/q4.gguf", "q4.gguf"),
        ("http://127.0.0.1:8000#tiny", "127.0.0.1:8000#tiny"),
        ("vllm+https://host/path", "host/path"),
        ("GPT2LMHeadModel from the fixture pot_candidate", "GPT2LMHeadModel"),
        ("ref/smollm2.pot.safetensors", "smollm2.pot"),
        ("evil\x1b[31m", r"evil\x1b[31m"),
    ],
)
def test_models_are_called_by_the_last_part_of_their_names(name: str, short: str) -> None:
    assert f"  {short} " in texts([row(candidate=name)])[1]
    assert f"  {short} vs reference  " in texts([row(candidate=name), row(reference="other")])[1]


def test_models_of_one_name_are_told_apart() -> None:
    other = row(reference="other")
    assert "  v2/model vs v1/model  " in texts([row(candidate="/a/v2/model", reference="/a/v1/model"), other])[1]
    assert "  model vs model  " in texts([row(candidate="/a/model", reference="/a/model"), other])[1]
    heading, first, second = texts([row(candidate=f"/a/{name}", reference="/a/v1/model") for name in ("v2/model", "new")])
    assert "  candidate vs v1/model  " in heading
    assert "  v2/model  " in first
    assert "  new  " in second


def test_a_gate_without_a_reference_names_the_candidate() -> None:
    assert [line.split()[1:3] for line in texts([row(reference=None)])] == [["candidate", "score"], ["candidate", "0.0314"]]
    assert "  candidate  " in texts([row(reference=None), row()])[1]


def test_tests_and_candidates_are_readable_where_there_is_room() -> None:
    """A reference that all rows have is said once; a heading takes no room from the names of tests."""
    names = [("the_same_model", "identical"), ("rounding_within_tolerance", "int8")]
    rows = [
        row(f"examples/test_demo.py::test_{test}", candidate=f"d/{model}", reference="r/m.pot.safetensors")
        for test, model in names
    ]
    rows[1].update(verdict="DIFFERENT", passed=False, outcome="failed")
    assert texts(rows) == [
        "examples/test_demo.py::         vs m.pot   score / limit  verdict",
        "test_the_same_model             identical  0.0314 / 0.08  SAME",
        "test_rounding_within_tolerance  int8       0.0314 / 0.08  DIFFERENT, failed",
    ]


def test_the_score_is_never_left_out() -> None:
    failed: dict[str, Any] = {"verdict": "DIFFERENT", "passed": False, "outcome": "failed"}
    rows = [
        row("test_it.py::test_rounding", confidence=0.9999, metric="kl", **failed),
        row("test_it.py::test_fast", 1.03, limit=1.25, gate="pot_latency", metric="ms per request (p95)", verdict="pass"),
        row("test_it.py::test_the_same_model", preset="single", truncated=3, reference="other"),
    ]
    assert texts(rows, 80) == [
        "tes…it.py::  models       score / limit                 verdict",
        "tes…ounding  …te vs r…ce  0.0314 / 0.08                 DIFFERENT 99.99%, failed",
        "test_fast    …te vs r…ce    1.03 / 1.25 ms/request p95  pass",
        "tes…e_model  …te vs o…er  0.0314 / 0.08                 SAME",
    ]
    assert texts(rows, 60) == [
        "te…t.py::  models    score / limit                 verdict",
        "te…unding  ca…idate  0.0314 / 0.08                 DIFFERENT",
        "test_fast  ca…idate    1.03 / 1.25 ms/request p95  pass",
        "te…_model  ca…idate  0.0314 / 0.08                 SAME",
    ]
    for width in range(40, 200):
        heading, *lines = texts(rows, width)
        assert " score / limit " in heading
        for score, line in zip(("0.0314 / 0.08", "1.03 / 1.25", "0.0314 / 0.08"), lines, strict=True):
            assert score in line
        assert [line.split()[-1] for line in lines][1:] == ["pass", "SAME"]
        assert "DIFFERENT" in lines[0]
        assert max(map(len, (heading, *lines))) <= width


def test_long_names_of_tests_lose_their_file_and_then_their_middle() -> None:
    rows = [row(f"tests/models/test_markers.py::test_{name}") for name in ("a", "rounding_to_bf16_keeps_the_model_as_it_is")]
    assert texts(rows) == [
        "tests/models/test_markers.py::              vs reference  score / limit  verdict",
        "test_a                                      candidate     0.0314 / 0.08  SAME",
        "test_rounding…f16_keeps_the_model_as_it_is  candidate     0.0314 / 0.08  SAME",
    ]


def test_workers_that_all_run_all_tests_are_named() -> None:
    assert texts([row(worker="gw1")])[1].startswith("[gw1] test_it.py::test_a  ")


NAMES = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=90)
ROWS = st.lists(
    st.builds(
        row,
        NAMES,
        st.one_of(st.none(), st.floats(0, 1e5)),
        candidate=NAMES,
        reference=st.one_of(st.none(), NAMES),
        preset=st.sampled_from(["auto", "original"]),
        metric=st.sampled_from(["tv", "kl_reverse", "ms per request after its first token (p95)"]),
        verdict=st.sampled_from(["SAME", "DIFFERENT", "UNDECIDED"]),
        passed=st.sampled_from([True, False]),
        outcome=st.sampled_from(["passed", "xfailed"]),
        truncated=st.sampled_from([0, 0, 117]),
        confidence=st.sampled_from([0.95, 0.9999]),
        conditions=NAMES,
        notes=st.lists(st.sampled_from(["a note " * 30, "東京 " * 60])),
    ),
    min_size=1,
    max_size=5,
)


@given(ROWS, st.sampled_from([40, 60, 80, 120, 200]))
def test_no_line_is_wider_than_the_terminal(rows: list[dict[str, Any]], width: int) -> None:
    lines = texts(rows, width)
    assert len(lines) == len(rows) + 1
    assert max(map(columns, lines)) <= width
    assert all(line.isprintable() for line in lines)
    for text in "\n".join(what_ran(rows, width)).split("\n"):
        assert columns(text) <= width or len(text.split()) == 1  # a word that is longer is not cut


def test_hundreds_of_gates_have_a_line_each() -> None:
    rows = [row(f"test_it.py::test_a[{index}-{'x' * 80}]") for index in range(500)]
    lines = texts(rows)
    assert len(lines) == 501
    assert max(map(len, lines)) <= 80


def test_what_ran_is_told_in_lines_that_fit() -> None:
    gate = row(conditions="preset auto, " * 8 + "end", ms_per_prompt=12.3, on_scale=["scale: half 0.01"], notes=["a note"])
    lines = what_ran([gate, row()], 80)
    assert lines[0] == "test_it.py::test_a (identity):"
    assert "\n".join(lines).endswith("end; 12.3 ms per prompt\n  scale: half 0.01\n  a note")
