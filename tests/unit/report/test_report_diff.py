"""``python -m pytest_pot diff``: what it finds between two reports, what it prints, and its exit status."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pytest_pot.__main__ import main

from .commonmark import OURS, rendered
from .hostile import TEXTS
from .rows import error_row, latency_row, passing_row, score_row, skipped_row

Row = dict[str, Any]
Compare = Callable[..., tuple[int, dict[str, Any], str]]


def document(*gates: Row, **changes: Any) -> dict[str, Any]:
    run = {"started": "2026-01-01T00:00:00+00:00", "python": "3.11.7", "platform": "Linux", "torch": "2.12.0"}
    return {"schema": 1, "pytest_pot": "0.1", "run": run, "gates": list(gates), **changes}


@pytest.fixture
def compare(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Compare:
    def run(old: Any, new: Any) -> tuple[int, dict[str, Any], str]:
        """Exit status, the JSON and the Markdown for two reports, given as documents or lists of gates."""
        paths = []
        for name, report in (("old", old), ("new", new)):
            path = tmp_path / f"{name}.json"
            path.write_text(json.dumps(document(*report) if isinstance(report, list) else report), encoding="utf-8")
            paths.append(str(path))
        status = main(["diff", *paths])
        markdown = capsys.readouterr().out
        assert main(["diff", "--json", *paths]) == status
        found: dict[str, Any] = json.loads(capsys.readouterr().out)
        assert found["verdict_changed"] == (status == 1)
        assert set(rendered(markdown).tags) <= OURS
        return status, found, markdown

    return run


def test_the_same_report_twice(compare: Compare) -> None:
    gates = [score_row(), passing_row(), error_row(), skipped_row(), latency_row()]
    status, found, markdown = compare(gates, gates)
    assert status == 0
    assert (found["changes"], found["new"], found["gone"], found["n_unchanged"]) == ([], [], [], 5)
    assert markdown == "## pytest-pot: no verdict changed, 5 gates as before\n"


@pytest.mark.parametrize(
    ("before", "now"),
    [
        (passing_row("t"), score_row("t")),
        (score_row("t"), passing_row("t")),
        (passing_row("t"), error_row("t")),
        (skipped_row("t"), passing_row("t")),
        (passing_row("t"), passing_row("t", passed=False)),
        (latency_row("t"), latency_row("t", verdict="pass", passed=True)),
    ],
)
def test_a_verdict_that_changed(compare: Compare, before: Row, now: Row) -> None:
    status, found, markdown = compare([before], [now])
    assert status == 1
    [change] = found["changes"]
    assert (change["verdict_changed"], change["verdicts"]) == (True, [before["verdict"], now["verdict"]])
    assert "## pytest-pot: 1 verdict changed\n\n### Verdicts that changed\n" in markdown
    [row] = [row for row in rendered(markdown).cells if row[:1] == ["t"]]
    assert row[2:4] == [before["verdict"], now["verdict"]]


def test_a_score_that_moved(compare: Compare) -> None:
    status, found, markdown = compare([passing_row("t", score=0.002)], [passing_row("t", score=0.005)])
    assert status == 0
    [change] = found["changes"]
    assert (change["scores"], change["ratio"], change["moved"], change["noise"]) == ([0.002, 0.005], 2.5, True, 1e-6)
    assert ["t", "identity, tv", "0.002", "0.005", "2.5", "1e-06"] in rendered(markdown).cells
    assert markdown.startswith("## pytest-pot: no verdict changed, 1 score moved\n")


@pytest.mark.parametrize(
    ("scores", "floors", "moved"),
    [
        ((1e-7, 9e-7), (1e-6, 1e-6), False),  # each within the noise floor of its run
        ((1e-7, 3e-6), (1e-6, 5e-6), False),
        ((1e-7, 3e-6), (1e-6, 1e-6), True),
        ((0.0, 1e-9), (None, 0.0), True),
        ((0.0, 0.0), (None, None), False),
        ((0.00100001, 0.00100002), (1e-9, 1e-9), False),  # the same in all digits that are shown
    ],
)
def test_noise_is_no_change(
    compare: Compare, scores: tuple[float, float], floors: tuple[float | None, float | None], moved: bool
) -> None:
    old, new = (passing_row(score=score, noise_floor=floor) for score, floor in zip(scores, floors, strict=True))
    _, found, _ = compare([old], [new])
    assert [change["moved"] for change in found["changes"]] == [True] * moved


def test_a_score_from_0_has_no_ratio(compare: Compare) -> None:
    _, found, markdown = compare([passing_row(score=0.0)], [passing_row(score=0.005)])
    assert found["changes"][0]["ratio"] is None
    assert " | 0 | 0.005 | - | " in markdown


def test_times_move_where_that_is_more_than_their_spread(compare: Compare) -> None:
    for score, moved in ((1.53, False), (1.9, True)):
        _, found, _ = compare([latency_row(score=1.5)], [latency_row(score=score)])
        assert [change["moved"] for change in found["changes"]] == [True] * moved


def test_limits_that_changed(compare: Compare) -> None:
    old, new = passing_row("t", max_prompt_limit=None), passing_row("t", limit=0.08)
    status, found, markdown = compare([old], [new])
    assert status == 0
    assert found["changes"][0]["limits"] == {"limit": [0.01, 0.08], "limit for one prompt": [None, 0.1]}
    assert ["t", "identity", "limit", "0.01", "0.08"] in rendered(markdown).cells
    assert ["t", "identity", "limit for one prompt", "none", "0.1"] in rendered(markdown).cells
    assert markdown.startswith("## pytest-pot: no verdict changed, 1 gate has another limit\n")
    assert ["test", "gate", "limit", "before", "now"] in rendered(markdown).cells


def test_gates_that_are_new_or_gone_leave_the_status(compare: Compare) -> None:
    status, found, markdown = compare([passing_row("same"), score_row("gone")], [score_row("new"), passing_row("same")])
    assert status == 0
    assert found["new"] == [{"test": "new", "gate": "pot_identity", "verdict": "DIFFERENT"}]
    assert found["gone"] == [{"test": "gone", "gate": "pot_identity", "verdict": "DIFFERENT"}]
    assert markdown.startswith("## pytest-pot: no verdict changed, 1 new gate, 1 gate gone, 1 gate as before\n")
    cells = rendered(markdown).cells
    assert ["new", "identity", "DIFFERENT"] in cells  # as the other tables call it
    assert ["gone", "identity", "DIFFERENT"] in cells


OTHER_TEXT = [{"prompt": 0, "kind": None, "text": "another", "score": 0.25, "positions": 1, "truncated": False}]


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("candidate", {"candidate": "other"}),
        ("reference", {"reference": "other"}),
        ("preset", {"preset": "accurate"}),
        ("metric", {"metric": "kl"}),
        ("path", {"path": "decode"}),
        ("confidence", {"confidence": 0.95}),
        ("prompts", {"prompt_scores": OTHER_TEXT}),
        ("prompts", {"prompts": 7}),
        ("positions", {"positions": 7}),
    ],
)
def test_scores_that_cannot_be_compared(compare: Compare, name: str, changes: Row) -> None:
    status, found, markdown = compare([passing_row("t")], [passing_row("t", **{"score": 0.001, **changes})])
    assert status == 0
    [change] = found["changes"]
    assert list(change["settings"]) == [name]
    assert (change["moved"], change["ratio"]) == (False, None)
    assert markdown.startswith("## pytest-pot: no verdict changed, 1 gate cannot be compared\n")
    assert "### Scores that cannot be compared, as something else was compared" in markdown
    [row] = [row for row in rendered(markdown).cells if row[:1] == ["t"]]
    assert row[2] == name
    assert row[3].endswith("(score 0.005)")
    assert row[4].endswith("(score 0.001)")


def test_a_sequential_gate_may_score_more_prompts(compare: Compare) -> None:
    more = [*passing_row()["prompt_scores"], {**OTHER_TEXT[0], "prompt": 1}]
    old = passing_row(confidence=0.95)
    new = passing_row(confidence=0.95, prompts=2, positions=2, prompt_scores=more)
    assert compare([old], [new])[1]["changes"] == []


def test_gates_of_one_test_find_their_partners(compare: Compare) -> None:
    """By their settings first, then by their place; each worker's for itself."""
    one, two = passing_row("t", candidate="one"), passing_row("t", candidate="two")
    _, found, _ = compare([one, two], [{**two, "score": 0.009}])
    assert [(change["scores"], change["settings"]) for change in found["changes"]] == [([0.005, 0.009], {})]
    assert len(found["gone"]) == 1
    workers = [passing_row("t", worker=f"gw{n}", score=score) for n, score in ((0, 0.001), (1, 0.002))]
    assert compare(workers, workers[::-1])[1]["n_unchanged"] == 2
    assert compare([one, one], [one, one])[1]["n_unchanged"] == 2
    _, found, markdown = compare(workers, [workers[0], {**workers[1], "score": 0.004}])
    assert found["changes"][0]["test"] == "[gw1] t"
    assert "`[gw1] t`" in markdown


def test_the_versions_are_told(compare: Compare) -> None:
    new = document(passing_row(), pytest_pot="0.2")
    new["run"] = {**new["run"], "torch": "2.13.0", "started": "later"}
    _, found, markdown = compare(document(passing_row()), new)
    assert found["environment"] == {"pytest-pot": ["0.1", "0.2"], "torch": ["2.12.0", "2.13.0"]}
    assert ["torch", "2.12.0", "2.13.0"] in rendered(markdown).cells


@pytest.mark.parametrize("text", TEXTS)
def test_hostile_text_is_code(compare: Compare, text: str) -> None:
    old = [passing_row(text, text), passing_row("x", text, limit=0.5), score_row(text + "1", text), error_row("e", text)]
    new = [score_row(text, text, metric=text), passing_row("x", text, candidate=text + "2"), error_row("e", preset=text)]
    _, _, markdown = compare(old, [*new, score_row(text + "3", text), {**score_row("v"), "verdict": text, "gate": text}])
    page = rendered(markdown)
    assert page.attributes == []
    outside = "".join(page.plain)
    assert not any(word in outside for word in ("evil", "@", "#", "://"))


def test_a_report_of_an_older_version(compare: Compare) -> None:
    """It had no schema, no run and no details."""
    old = passing_row("t", score=0.002)
    for name in ("prompt_scores", "percentiles", "delta_p", "same_top", "by_position", "worst_prompts", "scale"):
        del old[name]
    status, found, _ = compare({"pytest_pot": "0.1.0", "gates": [old]}, [passing_row("t")])
    assert status == 0
    assert found["changes"][0]["ratio"] == 2.5


@pytest.mark.parametrize(
    ("report", "words"),
    [
        ("", "is no JSON: "),
        ("[" * 100_000, "is no JSON: "),
        ('"text"', "is no JSON report of pytest-pot: write one with --pot-report=gates.json"),
        ('{"gates": []}', "is no JSON report of pytest-pot"),
        (
            '{"pytest_pot": "9", "schema": 2, "gates": []}',
            "by pytest-pot 9, in schema 2; this version reads 1 at most",
        ),
        ('{"pytest_pot": "9", "schema": "new", "gates": []}', "is damaged: its schema is 'new'"),
        ('{"pytest_pot": "9", "schema": 1}', "is damaged: it has no list of gates"),
        ('{"pytest_pot": "9", "gates": [7]}', "is damaged: gate 0 is no object"),
        ('{"pytest_pot": "9", "gates": [{}]}', "is damaged: gate 0 has no text as 'test'"),
    ],
)
def test_what_cannot_be_read_is_status_2(tmp_path: Path, capsys: pytest.CaptureFixture[str], report: str, words: str) -> None:
    good, bad = tmp_path / "good.json", tmp_path / "bad.json"
    good.write_text(json.dumps(document(passing_row())), encoding="utf-8")
    bad.write_text(report, encoding="utf-8")
    for paths in ((good, bad), (bad, good)):
        assert main(["diff", *map(str, paths)]) == 2
        captured = capsys.readouterr()
        assert captured.out == ""
        assert captured.err.startswith(("pytest-pot: the report ", "pytest-pot: /"))
        assert str(bad) in captured.err
        assert words in captured.err


@pytest.mark.parametrize("name", ["test", "passed", "score", "limit", "noise_floor", "candidate", "prompt_scores", "worker"])
def test_a_field_of_another_type_is_status_2(tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    path = tmp_path / "x.json"
    path.write_text(json.dumps(document({**passing_row(), name: {"a": 1}})), encoding="utf-8")
    assert main(["diff", str(path), str(path)]) == 2
    assert f"the report {path} is damaged: gate 0 has " in capsys.readouterr().err


@pytest.mark.parametrize("value", ["1" + "0" * 400, "-1e400", "NaN", "Infinity"])
@pytest.mark.parametrize("name", ["score", "limit", "noise_floor", "prompts"])
def test_a_number_that_is_not_finite_is_status_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, value: str
) -> None:
    path = tmp_path / "x.json"
    path.write_text(json.dumps(document({**passing_row(), name: "HERE"})).replace('"HERE"', value), encoding="utf-8")
    assert main(["diff", str(path), str(path)]) == 2
    assert f"the report {path} is damaged: gate 0 has no finite number as '{name}'" in capsys.readouterr().err


def test_a_missing_file_and_wrong_usage_are_status_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    missing = str(tmp_path / "x.json")
    assert main(["diff", missing, missing]) == 2
    assert capsys.readouterr().err == f"pytest-pot: the report {missing} cannot be read: No such file or directory\n"
    with pytest.raises(SystemExit) as caught:
        main(["diff", missing])
    assert caught.value.code == 2
