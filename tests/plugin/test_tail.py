"""A gate is refused where most of the reference's probability is in the tail: merged cells are not compared."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from pytest_pot import Baseline, ScoringConfig, TeacherForcedScorer
from pytest_pot.prompts.jsonl import load_prompts

from .conftest import Project, table_rows

GATE = """
import pytest

@pytest.mark.{marker}
def test_it():
    pass
"""
REFUSED = (
    "the score is no evidence: the reference has {tail} of its probability outside its {k} likeliest tokens, which are all "
    "that is compared one by one; at most {most} may be outside. Trained models are seldom so undecided: check the reference. "
    "If it is meant to be, as with random weights, raise max_tail (marker, --pot-max-tail or the ini key pot_max_tail). "
    "preset='accurate' compares the whole vocabulary"
)
RECORD_AGAIN = ": with it, record the reference again (--pot-update)"


def flat(project: Project, name: str = "flat", seed: int = 5) -> Path:
    """The reference with an output layer so small that its predictions are nearly uniform."""
    torch.manual_seed(seed)
    model: Any = AutoModelForCausalLM.from_pretrained(project.tiny.reference)
    with torch.no_grad():
        model.transformer.wte.weight.normal_(std=0.01)
    model.save_pretrained(project.path / name)
    project.tiny.tokenizer.save_pretrained(project.path / name)
    return project.path / name


@pytest.mark.parametrize("preset", ["balanced", "fastest"])
@pytest.mark.parametrize(
    "marker", ["pot_identity(preset='PRESET', max_score=0.1)", "pot_distinct(preset='PRESET', min_score=0.0)"]
)
def test_a_flat_reference_is_refused(project: Project, marker: str, preset: str) -> None:
    """Two unrelated models whose predictions are flat: their top-k cells hold almost the same, whatever they know."""
    project.ini(pot_reference=flat(project, "one", 1), pot_candidate=flat(project, "two", 2), pot_prompts="prompts.jsonl")
    result = project.run_tests(GATE.format(marker=marker.replace("PRESET", preset)))
    result.assert_outcomes(failed=1)
    k = ScoringConfig.preset(preset).top_k
    name = marker.partition("(")[0]
    [line] = [line for line in result.outlines if line.startswith(f"{name}: the score is no evidence")]
    tail = line.partition("has ")[2].partition(" ")[0]
    assert line == f"{name}: {REFUSED.format(tail=tail, k=k, most='25.0%')}"
    assert 60 < float(tail.rstrip("%")) < 90


def test_the_whole_vocabulary_has_no_tail(project: Project) -> None:
    project.ini(pot_reference=flat(project), pot_candidate=flat(project, "copy"), pot_prompts="prompts.jsonl")
    project.run_tests(GATE.format(marker="pot_identity(preset='accurate')")).assert_outcomes(passed=1)


def test_a_recording_follows_the_advice_of_its_refusal(project: Project) -> None:
    """With another preset than it was recorded with, a recording is refused: it is made again with that preset."""
    project.ini(pot_candidate=flat(project, "copy"), pot_prompts="prompts.jsonl")
    update = ["--pot-update", f"--pot-reference={flat(project)}"]
    project.write(test_it=GATE.format(marker="pot_identity(reference='flat.pot.safetensors')"))
    project.run(*update)
    refused = project.run()
    assert any(line.startswith("pot_identity: the score is no") and line.endswith(RECORD_AGAIN) for line in refused.outlines)
    project.write(test_it=GATE.format(marker="pot_identity(reference='flat.pot.safetensors', preset='accurate')"))
    project.run(*update).assert_outcomes(passed=1)
    project.run().assert_outcomes(passed=1)


@pytest.mark.parametrize("way", ["marker", "option", "ini"])
def test_the_largest_tail_can_be_raised(project: Project, way: str) -> None:
    ini = {"pot_max_tail": "0.9"} if way == "ini" else {}
    project.ini(pot_reference=flat(project), pot_candidate=flat(project, "copy"), pot_prompts="prompts.jsonl", **ini)
    project.write(test_it=GATE.format(marker="pot_identity(max_tail=0.9)" if way == "marker" else "pot_identity"))
    project.run(*(["--pot-max-tail=0.9"] if way == "option" else [])).assert_outcomes(passed=1)


def test_it_can_be_lowered_below_what_a_normal_reference_has(project: Project) -> None:
    result = project.run_tests(GATE.format(marker="pot_identity(max_tail=0.03)"))
    result.assert_outcomes(failed=1)
    assert f"pot_identity: {REFUSED.format(tail='3.4%', k=100, most='3.0%')}" in result.outlines


def test_a_miss_is_told_as_a_miss(project: Project) -> None:
    """A lower bound above the limit is proof enough, whatever the tail hides."""
    result = project.run_tests(GATE.format(marker="pot_identity(candidate={perturbed}, max_tail=0.03)"))
    result.assert_outcomes(failed=1)
    assert any(line.startswith("pot_identity: DIFFERENT: tv 0.649 > 0.01") for line in result.outlines)


def forged(project: Project) -> Path:
    """A recording that names rarely used ids with next to no probability, and leaves the rest to the tail."""
    model: Any = AutoModelForCausalLM.from_pretrained(project.tiny.reference)
    tokenizer: Any = AutoTokenizer.from_pretrained(project.tiny.reference)
    baseline = TeacherForcedScorer(ScoringConfig(top_k=100)).record(
        model, load_prompts(project.path / "prompts.jsonl"), tokenizer
    )
    recorded = baseline.recorded
    assert recorded.log_tail is not None
    values = np.full_like(recorded.values, -9.0)
    values[:] = -9.0 - 1e-4 * np.arange(values.shape[1])  # most likely first, as in an honest file
    recorded.values[:] = values
    assert recorded.ids is not None
    for row, target in enumerate(token for tokens in baseline.tokens for token in tokens.targets):
        recorded.ids[row] = [token for token in range(279, 0, -1) if token != target][:100]
    recorded.log_normalisers[:] = 0.0
    recorded.target_values[:] = -9.5
    recorded.log_tail[:] = np.log1p(-np.exp(recorded.values.astype(np.float64)).sum(axis=1))
    path = project.path / "forged.pot.safetensors"
    baseline.save(path)
    Baseline.load(path)  # a well-formed file: nothing but the tail gives it away
    return path


@pytest.mark.parametrize("candidate", ["copy", "perturbed"])
def test_a_forged_recording_with_everything_in_the_tail_is_refused(project: Project, candidate: str) -> None:
    path = forged(project)
    project.write(
        test_it=GATE.format(marker=f"pot_identity(reference={path.name!r}, candidate={{{candidate}}}, tolerance='int4')")
    )
    result = project.run()
    result.assert_outcomes(failed=1)
    assert f"pot_identity: {REFUSED.format(tail='98.8%', k=100, most='25.0%')}{RECORD_AGAIN}" in result.outlines


def test_a_passing_gate_shows_the_tail_with_v(project: Project) -> None:
    result = project.run_tests(GATE.format(marker="pot_identity"), "-v")
    assert table_rows(result) == [["test_it.py::test_it", "copy", "0 / 0.01", "SAME"]]
    start = result.outlines.index("test_it.py::test_it (identity):")
    assert re.fullmatch(
        r"  preset auto, 3 prompts, 41 positions, top 100 \+ tail of 3\.4%, float32 on cpu, noise floor 4\.\d+e-07; ran 1 "
        r"batch of 3 prompts and 93 tokens; .*; [\d.]+ ms per prompt",
        result.outlines[start + 1],
    )


def test_where_exact_metrics_contradict_a_small_score_a_pass_says_so(project: Project) -> None:
    """Point for point the likeliest token differs, and the score is small: the user allowed a tail that hides the rest."""
    project.ini(pot_reference=flat(project, "one", 1), pot_candidate=flat(project, "two", 2), pot_prompts="prompts.jsonl")
    result = project.run_tests(GATE.format(marker="pot_identity(max_tail=0.9, max_score=0.05)"))
    result.assert_outcomes(passed=1, warnings=1)
    [warning] = [line.split("PytestWarning: ")[1] for line in result.outlines if "PytestWarning: " in line]
    assert warning.startswith("pot_identity: the likeliest token differs at ")
    assert "(top1_flip), which contradicts so small a tv as " in warning


def test_two_unrelated_random_models_do_not_pass_by_being_undecided(project: Project) -> None:
    """As a new user would try it: random weights over a vocabulary of usual size, scored 0.0013 at the default tolerance."""
    config = LlamaConfig(
        vocab_size=32000,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    for seed, name in enumerate(("one", "two")):
        torch.manual_seed(seed)
        LlamaForCausalLM(config).save_pretrained(project.path / name)
        project.tiny.tokenizer.save_pretrained(project.path / name)
    project.ini(pot_reference=project.path / "one", pot_candidate=project.path / "two", pot_prompts="prompts.jsonl")
    gates = {tail: project.run_gates(GATE.format(marker=f"pot_identity(max_tail={tail})"))[0] for tail in (0.25, 1.0)}
    assert gates[0.25]["verdict"] == "ERROR"
    assert re.search(r"the reference has 99\.\d% of its probability outside its 100 likeliest tokens", gates[0.25]["error"])
    assert gates[1.0]["verdict"] == "SAME"
    assert gates[1.0]["top1_flip"] > 0.9
    [warning] = gates[1.0]["warnings"]
    assert "the likeliest token differs at " in warning
