"""Each score is reported with the noise floor, and limits below it are rejected."""

from __future__ import annotations

import json
import re

import pytest

from .conftest import Project

# A reference whose logits depend slightly on the batch size.
NOISY = """
import copy
import pytest
from transformers import AutoTokenizer, GPT2LMHeadModel

@pytest.fixture(scope="session")
def pot_reference():
    model = GPT2LMHeadModel.from_pretrained({reference})
    model.lm_head.register_forward_hook(lambda module, inputs, output: output * (1 + 0.001 * len(output)))
    return model, AutoTokenizer.from_pretrained({reference})

@pytest.fixture(scope="session")
def pot_candidate(pot_reference):
    return copy.deepcopy(pot_reference[0]), pot_reference[1]
"""
TEST = """
import pytest

@pytest.mark.pot_{gate}({limit})
def test_it():
    pass
"""

MEASURED = "measured on 1 prompt (11 positions), run alone and in a batch of 3"


def run(project: Project, gate: str, limit: str, *options: str) -> pytest.RunResult:
    project.write(conftest=NOISY)
    return project.run_tests(TEST.format(gate=gate, limit=limit), *options)


@pytest.mark.parametrize(("gate", "limit"), [("identity", "max_score=1e-5"), ("distinct", "min_score=1e-5")])
def test_a_limit_below_the_noise_floor_fails(project: Project, gate: str, limit: str) -> None:
    result = run(project, gate, limit)
    result.assert_outcomes(failed=1)
    [line] = [line for line in result.outlines if line.startswith(f"pot_{gate}: ")]
    head, floor, rest = re.split(r"(0\.00\d+)", line)
    assert head == f"pot_{gate}: the limit 1e-05 on tv is below the noise floor "
    assert float(floor) > 1e-5
    assert rest == (
        f": that far is the reference from itself in another batch shape, by rounding alone ({MEASURED}). Such a limit cannot "
        "tell a changed model from the same one. Raise it above the noise floor, or set it to 0: the same weights score "
        "exactly 0 where both models run in the same batches"
    )


def test_a_limit_above_the_noise_floor_or_of_zero_passes(project: Project) -> None:
    run(project, "identity", "max_score=0.01").assert_outcomes(passed=1)
    run(project, "identity", "max_score=0").assert_outcomes(passed=1)


def test_a_candidate_that_runs_in_another_way_is_measured_too(project: Project) -> None:
    conftest = """
import pytest
from transformers import AutoTokenizer, GPT2LMHeadModel

@pytest.fixture(scope="session")
def pot_candidate():
    model = GPT2LMHeadModel.from_pretrained({reference}).double()
    model.lm_head.register_forward_hook(lambda module, inputs, output: output * (1 + 0.001 * len(output)))
    return model, AutoTokenizer.from_pretrained({reference})
"""
    project.write(conftest=conftest)
    result = project.run_tests(TEST.format(gate="identity", limit="max_score=1e-5"))
    result.assert_outcomes(failed=1)
    assert any("below the noise floor" in line and "that far is the candidate from itself" in line for line in result.outlines)


def test_the_noise_floor_is_reported(project: Project) -> None:
    run(project, "identity", "", "--pot-report=out.json")
    [gate] = json.loads((project.path / "out.json").read_text(encoding="utf-8"))["gates"]
    assert 1e-5 < gate["noise_floor"] < 1e-2
    assert gate["noise_floor_measured"] == MEASURED
    result = run(project, "distinct", "")
    result.assert_outcomes(failed=1)
    assert any(", noise floor 0.00" in line for line in result.outlines)
    told = run(project, "identity", "", "-v")
    assert any(f"; noise floor of the reference {MEASURED}" in line for line in told.outlines)


def test_a_recorded_reference_uses_the_noise_floor_of_the_candidate(project: Project) -> None:
    run(project, "identity", 'reference="x.pot.safetensors"', "--pot-update").assert_outcomes(passed=1)
    result = run(project, "identity", 'reference="x.pot.safetensors", max_score=1e-5')
    result.assert_outcomes(failed=1)
    assert any("that far is the candidate from itself" in line for line in result.outlines)


def test_a_recorded_gate_that_decodes_shows_the_noise_floor(project: Project) -> None:
    run(project, "identity", 'reference="x.pot.safetensors"', "--pot-update").assert_outcomes(passed=1)
    result = run(project, "identity", 'reference="x.pot.safetensors", path="decode", max_score=0.5', "--pot-report=out.json")
    result.assert_outcomes(passed=1)
    [gate] = json.loads((project.path / "out.json").read_text(encoding="utf-8"))["gates"]
    assert gate["noise_floor"] > 1e-5
    assert gate["noise_floor_measured"].endswith("run alone and in a batch of 3")
    refused = run(project, "identity", 'reference="x.pot.safetensors", path="decode", max_score=1e-5')
    refused.assert_outcomes(failed=1)
    lines = [line for line in refused.outlines if "that far is the candidate from itself" in line]
    # A model that decodes is not at 0 from its prefill.
    assert lines[0].endswith("Raise it above the noise floor")


@pytest.mark.parametrize("limit", ["max_score=1e-5", "confidence=0.95, max_score=1e-5"])
def test_each_way_to_score_is_refused_below_the_noise_floor(project: Project, limit: str) -> None:
    assert any("below the noise floor" in line for line in run(project, "identity", limit).outlines)
    run(project, "identity", 'reference="x.pot.safetensors"', "--pot-update").assert_outcomes(passed=1)
    recorded = run(project, "identity", f'reference="x.pot.safetensors", {limit}')
    assert any("below the noise floor" in line for line in recorded.outlines)


@pytest.mark.parametrize("batch_size", ["1", "2", "4"])
def test_a_recording_is_compared_in_its_own_batches_where_the_limit_is_0(project: Project, batch_size: str) -> None:
    """In batches of another size the same model rounds otherwise, and would not be at a distance of 0 from itself."""
    recorded = 'tolerance="identical", reference="x.pot.safetensors"'
    run(project, "identity", recorded, "--pot-update").assert_outcomes(passed=1)
    run(project, "identity", f"{recorded}, batch_size={batch_size}").assert_outcomes(passed=1)
    run(project, "identity", f"{recorded}, batch_size={batch_size}, confidence=0.95").assert_outcomes(passed=1)
