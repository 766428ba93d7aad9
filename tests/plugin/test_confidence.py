"""``confidence=``: a gate stops when the evidence decides, and reports this evidence."""

from __future__ import annotations

import json
from typing import Any

import pytest

from pytest_pot.prompts.challenges import challenge_sample

from .conftest import Project, table_rows

GATED = """
import pytest

@pytest.mark.pot_{gate}({arguments})
def test_it(pot_result):
    print("used", pot_result.report.n_prompts, pot_result.decision.verdict)
"""


@pytest.fixture
def pool(project: Project) -> Project:
    """A project with 120 prompts."""
    texts = [{"text": f"The old mill number {i}", "continuation": f" stood by the river {i}."} for i in range(120)]
    project.prompts("prompts.jsonl", *texts)
    return project


def run(project: Project, gate: str, arguments: str, candidate: object, *options: str) -> pytest.RunResult:
    project.ini(pot_reference=project.tiny.reference, pot_candidate=candidate, pot_prompts="prompts.jsonl")
    return project.run_tests(GATED.format(gate=gate, arguments=arguments), *options)


def test_a_copy_is_same_before_all_prompts_are_scored(pool: Project) -> None:
    result = run(pool, "identity", "confidence=0.95", pool.tiny.copy, "-s")
    result.assert_outcomes(passed=1)
    used = int(next(line for line in result.outlines if "used" in line).split()[-2])
    assert 30 < used < 70
    assert table_rows(result) == [["test_it.py::test_it", "copy", "0 / 0.01", "SAME 95%"]]


def test_a_perturbed_model_is_different_after_one_batch(pool: Project) -> None:
    result = run(pool, "identity", "confidence=0.95", pool.tiny.perturbed)
    result.assert_outcomes(failed=1)
    lines = [line for line in result.outlines if line]
    [head] = [line for line in lines if line.startswith("pot_identity: ")]
    assert head.startswith("pot_identity: DIFFERENT at 95% confidence after 4 of 120 prompts: tv 0.")
    assert head.endswith(" times the limit)")
    result.stdout.re_match_lines(
        [
            r"  claimed: the mean score is above 0\.01",
            r"  evidence \(wealth, 20 decides\): DIFFERENT \S+; SAME \S+ for the mean, \S+ for the outliers",
            r"  mean of the clipped score, valid at any stopping point: \S+ to \S+ at 95%",
            r"  worst prompts:",
        ]
    )


def test_distinct_passes_on_different_and_fails_on_same(pool: Project) -> None:
    run(pool, "distinct", "confidence=0.99", pool.tiny.perturbed).assert_outcomes(passed=1)
    result = run(pool, "distinct", "confidence=0.99", pool.tiny.copy)
    result.assert_outcomes(failed=1)
    [head] = [line for line in result.outlines if line.startswith("pot_distinct: ")]
    assert head.startswith("pot_distinct: SAME at 99% confidence after ")
    assert head.endswith(
        ": tv 0, so the models count as the same: the mean of the score, clipped at 0.1, is at most 0.01, and fewer than "
        "5% of the prompts score above 0.1"
    )


def test_undecided_fails_both_gates_and_says_if_more_prompts_would_decide(pool: Project) -> None:
    """A key can draw any number of prompts, so 256 may be too few."""
    [gate] = _reported_gates(pool, "identity", 'key="k", confidence=0.95, max_score=0.6')
    near = gate["tv"]
    for kind, name in (("identity", "max_score"), ("distinct", "min_score")):
        result = run(pool, kind, f'key="k", confidence=0.95, {name}={near * 1.001}', pool.tiny.perturbed)
        result.assert_outcomes(failed=1)
        [head] = [line for line in result.outlines if line.startswith(f"pot_{kind}: ")]
        assert head.startswith(f"pot_{kind}: UNDECIDED at 95% confidence after 256 prompts: tv 0.")
        assert "more prompts would decide" in head or "more prompts would not decide" in head


def test_high_confidence_is_not_rounded_to_certainty(pool: Project) -> None:
    result = run(pool, "identity", "confidence=0.999999", pool.tiny.perturbed)
    [head] = [line for line in result.outlines if line.startswith("pot_identity: ")]
    assert " at 99.9999% confidence " in head
    [row] = table_rows(result)
    assert row[-1] == "DIFFERENT 99.9999%, failed"


def test_undecided_at_score_zero_lists_no_worst_prompts(pool: Project) -> None:
    result = run(pool, "identity", 'confidence=0.95, key="k", max_outliers=0.001', pool.tiny.copy, "-Werror::RuntimeWarning")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        ["pot_identity: UNDECIDED at 95% confidence after 256 prompts: tv 0, *more prompts would decide"]
    )
    assert "worst prompts" not in result.stdout.str()


def _reported_gates(project: Project, gate: str, arguments: str) -> list[dict[str, Any]]:
    run(project, gate, arguments, project.tiny.perturbed, "--pot-report=out.json")
    gates: list[dict[str, Any]] = json.loads((project.path / "out.json").read_text(encoding="utf-8"))["gates"]
    return gates


def test_the_report_holds_the_evidence(pool: Project) -> None:
    [gate] = _reported_gates(pool, "identity", "confidence=0.95")
    assert (gate["confidence"], gate["pool"], gate["prompts"], gate["verdict"]) == (0.95, 120, 4, "DIFFERENT")
    assert gate["decided_after"] <= 4
    assert float(gate["wealth_different"]) >= 20  # "inf" if the rest of the pool cannot change the verdict
    assert (gate["score_clip"], gate["max_outliers"], gate["outliers"]) == (0.1, 0.05, 4)
    assert gate["wealth_threshold"] == pytest.approx(20)
    low, high = gate["interval"]
    assert low <= min(gate["score"], 0.1) <= high


def test_max_prompt_score_clips_the_scores(pool: Project) -> None:
    result = run(pool, "distinct", "confidence=0.95", pool.tiny.copy)
    assert any("clipped at 0.1" in line for line in result.outlines)
    [gate] = _reported_gates(pool, "identity", "confidence=0.95, max_score=0.5, max_prompt_score=0.55, max_outliers=0.1")
    assert gate["interval"][1] <= 0.55


def test_confidence_works_with_a_recorded_reference(pool: Project) -> None:
    arguments = 'reference="x.pot.safetensors", confidence=0.95'
    run(pool, "identity", arguments, pool.tiny.copy, "--pot-update").assert_outcomes(passed=1)
    run(pool, "identity", arguments, pool.tiny.copy).assert_outcomes(passed=1)
    run(pool, "identity", arguments, pool.tiny.perturbed).assert_outcomes(failed=1)
    run(pool, "identity", arguments + ", max_score=0", pool.tiny.copy).assert_outcomes(passed=1)
    result = run(pool, "identity", arguments + ", max_score=0", pool.tiny.perturbed)
    result.assert_outcomes(failed=1)
    result.stdout.re_match_lines([r"pot_identity: DIFFERENT at 95% .* 120 of 120 prompts", r"  all 120 prompts are scored"])


def test_the_built_in_suite_is_the_default_pool(project: Project) -> None:
    project.ini(pot_reference=project.tiny.reference, pot_candidate=project.tiny.perturbed)
    project.run_tests(GATED.format(gate="identity", arguments="confidence=0.95"), "--pot-report=out.json")
    [gate] = json.loads((project.path / "out.json").read_text(encoding="utf-8"))["gates"]
    assert gate["pool"] >= 256


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("confidence=1", "confidence=1 must be a number above 0.5 and below 1"),
        ("confidence='high'", "confidence='high' must be a number above 0.5 and below 1"),
        ("max_outliers=0.1", "max_outliers is a part of what is claimed with a confidence; give that too, confidence=0.95"),
        ("confidence=0.95, max_outliers=2", "max_outliers=2 must be a number above 0 and below 1"),
        (
            "confidence=0.95, max_prompt_score=0.1",
            "with a confidence, max_prompt_score=0.1 must be above the limit on the mean, 0.1: it clips the scores; give "
            "max_score or tolerance beside it",
        ),
        (
            "confidence=0.95, max_score=0.01, max_prompt_score=0.01",
            "with a confidence, max_prompt_score=0.01 must be above the limit on the mean, 0.01: it clips the scores",
        ),
        ("key='', confidence=0.95", "the key must be a string that is not empty, and it is empty"),
        ("key='k', prompts=['Hello']", "prompts and key both name the prompts; give one"),
    ],
)
def test_wrong_arguments_are_usage_errors(project: Project, arguments: str, message: str) -> None:
    result = project.run_tests(f"import pytest\n\n@pytest.mark.pot_identity({arguments})\ndef test_it(): pass\n")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert f"ERROR: test_it.py::test_it: pot_identity: {message}" in result.errlines


def test_a_key_draws_the_prompts_and_is_not_printed(project: Project) -> None:
    text = """
        import pytest

        @pytest.mark.pot_identity(key="{key}")
        def test_marker(pot_result):
            print("first", pot_result.report.prompts[0].text[:40].encode(), pot_result.report.n_prompts)

        @pytest.mark.pot_identity
        def test_open(pot_result):
            print("first", pot_result.report.prompts[0].text[:40].encode(), pot_result.report.n_prompts)

        @pytest.mark.pot_identity(prompts="prompts.jsonl")
        def test_named(pot_result):
            print("first", pot_result.report.prompts[0].text[:40].encode(), pot_result.report.n_prompts)
        """

    def first_prompts(key: str, *options: str) -> list[str]:
        result = project.run_tests(text.replace("{key}", key), "-s", *options)
        result.assert_outcomes(passed=3)
        assert "secret" not in result.stdout.str()
        return [line[line.index("first") :] for line in result.outlines if "first" in line]

    marker, from_file, named = first_prompts("a")
    assert marker.endswith(" 32")
    assert from_file == named
    again, by_option, named_still = first_prompts("a", "--pot-key=secret")
    assert again == marker
    assert by_option not in (marker, named)
    assert named_still == named
    assert first_prompts("b")[0] != marker


def test_drawn_prompts_keep_their_order_and_a_list_is_shuffled(pool: Project) -> None:
    text = """
        import pytest

        @pytest.mark.pot_distinct(confidence=0.95, key="k")
        def test_drawn(pot_result):
            print("taken", list(pot_result.report.indices))
            print("kinds", [prompt.kind for prompt in pot_result.report.prompts])

        @pytest.mark.pot_distinct(confidence=0.95)
        def test_listed(pot_result):
            print("taken", list(pot_result.report.indices))
        """
    pool.ini(pot_reference=pool.tiny.reference, pot_candidate=pool.tiny.perturbed, pot_prompts="prompts.jsonl")
    result = pool.run_tests(text, "-s")
    result.assert_outcomes(passed=2)
    drawn, listed = (line[line.index("taken") :] for line in result.outlines if "taken" in line)
    assert drawn == "taken [0, 1, 2, 3]"
    assert listed != drawn
    kinds = [prompt.kind for prompt in challenge_sample("k", 4)]
    assert any(line.endswith(f"kinds {kinds}") for line in result.outlines)
    run(pool, "distinct", 'reference="x.pot.safetensors", confidence=0.95', pool.tiny.perturbed, "--pot-update")
    recorded = run(
        pool, "distinct", 'reference="x.pot.safetensors", confidence=0.95', pool.tiny.perturbed, "--pot-report=o.json"
    )
    recorded.assert_outcomes(passed=1)
    result = pool.run_tests(text.replace("confidence=0.95)", 'reference="x.pot.safetensors", confidence=0.95)'), "-s")
    assert listed in [line[line.index("taken") :] for line in result.outlines if "taken" in line]
