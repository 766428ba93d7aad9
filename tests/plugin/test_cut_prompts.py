"""A pass on prompts that were cut says so: nothing is known of what stood before the cut."""

from __future__ import annotations

import re

import pytest

from .conftest import Project, table_rows

SENTENCE = "The old mill by the river stood empty all winter, and nobody said why. "
LONG = {"text": 20 * SENTENCE, "continuation": " Who is there?"}
SHORT = {"text": "Who is there?", "continuation": " Nobody, said the wind."}
GATE = """
import pytest

@pytest.mark.{marker}
def test_it():
    pass
"""


def warnings_of(result: pytest.RunResult) -> list[str]:
    return [line.split("PytestWarning: ")[1] for line in result.outlines if "PytestWarning: " in line]


@pytest.fixture
def wide(project: Project) -> Project:
    """A project whose models take 128 tokens, and a long prompt that needs more than the 40 that gates compare."""
    project.prompts("prompts.jsonl", {**LONG, "text": 2 * SENTENCE}, SHORT)
    return project


@pytest.mark.parametrize("reference", ["live", "recorded"])
def test_a_pass_warns_of_the_cut_and_says_what_to_set(wide: Project, reference: str) -> None:
    named = ", reference='base.pot.safetensors'" if reference == "recorded" else ""
    wide.write(test_it=GATE.format(marker=f"pot_identity(max_length=40{named})"))
    if named:
        wide.run("--pot-update").assert_outcomes(passed=1, warnings=1)
    result = wide.run()
    result.assert_outcomes(passed=1, warnings=1)
    [warning] = warnings_of(result)
    told = re.fullmatch(
        r"pot_identity: 1 of 2 prompts was cut on the left to 40 tokens, so nothing is known of what a longer context changes: "
        r"the longest has (\d+)\. To compare them whole, set max_length=(\d+) in the marker, --pot-max-length=(\d+), or the "
        r"ini key pot_max_length",
        warning,
    )
    assert told is not None, warning
    [needed] = set(told.groups())
    assert table_rows(result) == [["test_it.py::test_it", "copy", "0 / 0.01", "1 of 2", "SAME"]]
    # What the warning says is what it takes, and not one token more.
    if not named:
        wide.write(test_it=GATE.format(marker="pot_identity"))
        wide.run(f"--pot-max-length={needed}").assert_outcomes(passed=1, warnings=0)
        wide.run(f"--pot-max-length={int(needed) - 1}").assert_outcomes(passed=1, warnings=1)


def test_a_longer_limit_than_the_models_take_is_not_proposed(project: Project) -> None:
    project.prompts("prompts.jsonl", LONG)
    result = project.run_tests(GATE.format(marker="pot_identity"))
    result.assert_outcomes(passed=1, warnings=1)
    [warning] = warnings_of(result)
    assert re.fullmatch(
        r"pot_identity: 1 of 1 prompt was cut on the left to 128 tokens, so nothing is known of what a longer context changes: "
        r"the models take no more, or did not when the reference was recorded; the longest prompt has \d{3} tokens",
        warning,
    )


def test_builtin_prompts_that_a_preset_cuts_are_no_surprise(project: Project) -> None:
    project.write(
        conftest="""
        import pytest
        from pytest_pot import builtin_prompts

        @pytest.fixture
        def pot_prompts():
            return [prompt for prompt in builtin_prompts(60) if prompt.kind == "long"]
        """
    )
    result = project.run_tests(GATE.format(marker="pot_identity"))
    result.assert_outcomes(passed=1, warnings=0)
    assert table_rows(result) == [["test_it.py::test_it", "copy", "0 / 0.01", "3 of 3", "SAME"]]


def test_a_latency_gate_that_timed_cut_prompts_warns(wide: Project) -> None:
    result = wide.run_tests(GATE.format(marker="pot_latency(budget_ms=60000, max_length=40, max_seconds=20)"))
    result.assert_outcomes(passed=1, warnings=1)
    [warning] = warnings_of(result)
    assert warning.startswith("pot_latency: 1 of 2 prompts was cut on the left to 40 tokens")


def test_a_damage_that_a_long_context_alone_shows_is_found_once_the_prompt_is_whole(project: Project) -> None:
    """The candidate's positions beyond 64 are broken: prompts that are cut to 40 tokens never read them."""
    project.write(
        conftest="""
        import pytest, torch
        from transformers import AutoModelForCausalLM

        @pytest.fixture
        def pot_candidate():
            model = AutoModelForCausalLM.from_pretrained({reference})
            with torch.no_grad():
                model.transformer.wpe.weight[64:] = 0
            return model
        """,
        test_it=GATE.format(marker="pot_identity(tolerance='identical')"),
    )
    project.prompts("prompts.jsonl", {**LONG, "text": 3 * SENTENCE})
    cut = project.run("--pot-max-length=40")
    cut.assert_outcomes(passed=1, warnings=1)
    project.run("--pot-max-length=128").assert_outcomes(failed=1)


def test_the_length_that_a_decoding_gate_proposes_is_what_it_takes(wide: Project) -> None:
    marker = 'pot_latency(budget_ms=60000, what="decode", new_tokens=4, max_seconds=20, max_length={})'
    [warning] = warnings_of(wide.run_tests(GATE.format(marker=marker.format(40))))
    proposed = re.search(r"set max_length=(\d+)", warning)
    assert proposed is not None
    wide.run_tests(GATE.format(marker=marker.format(proposed[1]))).assert_outcomes(passed=1, warnings=0)
    wide.run_tests(GATE.format(marker=marker.format(int(proposed[1]) - 1))).assert_outcomes(passed=1, warnings=1)
