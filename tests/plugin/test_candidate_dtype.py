"""A candidate may be held in a precision of its own, and a pass says in which precision it ran."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from .conftest import Project

GATE = """
import pytest

@pytest.mark.{marker}
def test_it():
    pass
"""


def marker(arguments: dict[str, str]) -> str:
    return f"pot_identity({', '.join(f'{name}={value}' for name, value in arguments.items())})"


@pytest.fixture
def overflowing(project: Project) -> Path:
    """The reference with activations beyond float16's range inside a layer; in float32 the model is the same function."""
    model: Any = AutoModelForCausalLM.from_pretrained(project.tiny.reference)
    with torch.no_grad():
        layer = model.transformer.h[0].mlp
        layer.c_proj.weight.mul_(2.0**-14)
        # A rectifier passes positive numbers on as they are, so a factor may move from the matrix after it to the one before.
        layer.c_fc.weight.mul_(2.0**14)
        layer.c_fc.bias.mul_(2.0**14)
    model.config.activation_function = "relu"
    folder = project.path / "overflowing"
    model.save_pretrained(folder)
    project.tiny.tokenizer.save_pretrained(folder)
    reference: Any = AutoModelForCausalLM.from_pretrained(project.tiny.reference)
    reference.config.activation_function = "relu"
    reference.save_pretrained(project.path / "relu")
    project.tiny.tokenizer.save_pretrained(project.path / "relu")
    project.ini(pot_reference=project.path / "relu", pot_candidate=folder, pot_prompts="prompts.jsonl")
    return folder


@pytest.mark.parametrize("reference", ["live", "recorded"])
@pytest.mark.parametrize("way", ["marker", "option", "ini"])
def test_an_overflow_in_the_candidates_own_precision_is_found(
    project: Project, overflowing: Path, reference: str, way: str
) -> None:
    arguments = {"reference": "'base.pot.safetensors'"} if reference == "recorded" else {}
    own = {**arguments, "candidate_dtype": "'float16'"} if way == "marker" else arguments
    project.write(test_it=GATE.format(marker=marker(arguments)))
    project.run(*(["--pot-update"] if arguments else [])).assert_outcomes(passed=1)  # in float32, nothing is wrong with it
    if way == "ini":
        project.ini(
            pot_reference=project.path / "relu",
            pot_candidate=overflowing,
            pot_prompts="prompts.jsonl",
            pot_candidate_dtype="float16",
        )
    project.write(test_it=GATE.format(marker=marker(own)))
    result = project.run(*(["--pot-candidate-dtype=float16"] if way == "option" else []))
    result.assert_outcomes(failed=1)
    message = "pot_identity: the candidate's log-probabilities are NaN at prompt 0 ('The old mill by the river'), position 0"
    assert any(line.startswith(message) for line in result.outlines)


def test_the_reference_keeps_its_precision(project: Project) -> None:
    [row] = project.run_gates(GATE.format(marker="pot_identity(candidate_dtype='bfloat16', tolerance='int4')"))
    assert row["conditions"].count("float32 on cpu and bfloat16 on cpu") == 1
    assert 1e-5 < row["score"] < 0.1


def test_a_latency_gate_times_the_candidate_in_that_precision(project: Project) -> None:
    gate = "pot_latency(max_slowdown=1000, candidate_dtype='bfloat16', max_seconds=20)"
    [row] = project.run_gates(GATE.format(marker=gate))
    assert "reference float32 on cpu, candidate bfloat16 on cpu" in row["conditions"]


def test_a_wrong_precision_is_a_usage_error(project: Project) -> None:
    result = project.run_tests(GATE.format(marker="pot_identity(candidate_dtype='int8')"))
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert [line for line in result.errlines if line] == [
        "ERROR: test_it.py::test_it: pot_identity: candidate_dtype='int8' is not one of 'auto', 'float32', 'float16', "
        "'bfloat16', 'float64'"
    ]
