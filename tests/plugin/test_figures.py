"""How scores are spread: in a failure message at -v, and in a report's details."""

from __future__ import annotations

import re

import numpy as np
import pytest
from transformers import AutoModelForCausalLM

from pytest_pot import Prompt, ScoringConfig, TeacherForcedScorer

from .conftest import PROMPTS, Project

FAILING = """
import pytest

@pytest.mark.pot_identity(candidate={perturbed})
def test_miss(): pass
"""


def figures(lines: list[str]) -> list[str]:
    return [line for line in lines if re.match(r"  (\w+ over positions|change of the next|same likeliest)", line)]


def test_they_are_told_at_v_only(project: Project) -> None:
    project.write(test_it=FAILING)
    lines = project.run("-v").outlines
    told = figures(lines)
    assert len(told) == 4
    patterns = [
        r"  tv over positions: median 0\.\d+, 90% 0\.\d+, 99% 0\.\d+, max 0\.\d+",
        r"  kl over positions: median [\d.]+, 90% [\d.]+, 99% [\d.]+, max [\d.]+",
        r"  change of the next token's probability \(Δp\): mean [+-]\S+ points, RMS \S+; min -\S+, .*99% \+\S+, .*max \+\S+",
        r"  same likeliest token: \d\d?(\.\d+)?% ± [\d.]+%",
    ]
    for line, pattern in zip(told, patterns, strict=True):
        assert re.fullmatch(pattern, line), line
    after = lines.index(told[0]) - 1
    assert lines[after].startswith("  all metrics: ")
    assert lines[lines.index(told[-1]) + 1] == "  worst prompts:"
    assert figures(project.run().outlines) == figures(project.run("-q").outlines) == []


@pytest.mark.parametrize("confidence", ["", ", confidence=0.9"])
def test_a_report_in_a_file_has_them(project: Project, confidence: str) -> None:
    project.write(test_it=FAILING.replace("{perturbed}", f"{{perturbed}}{confidence}"))
    [row] = project.gates()
    models = project.tiny.reference, project.tiny.perturbed
    prompts = [Prompt(**prompt) for prompt in PROMPTS]
    reference, candidate = (AutoModelForCausalLM.from_pretrained(path) for path in models)
    report = TeacherForcedScorer(ScoringConfig()).score_batch(reference, candidate, prompts, project.tiny.tokenizer)
    assert report.delta_p is not None
    kl = np.concatenate(report.divergences["kl"])
    assert row["percentiles"]["kl"]["99.9"] == pytest.approx(np.percentile(kl, 99.9), rel=1e-3)
    assert row["delta_p"]["rms"] == pytest.approx(report.delta_p.rms, rel=1e-3)
    assert row["same_top"]["share"] == pytest.approx(report.same_top.share)
    assert row["same_top"]["standard_error"] == pytest.approx(report.same_top.standard_error, rel=1e-3)
    assert [entry["score"] for entry in row["prompt_scores"]] == pytest.approx(report.scores, rel=1e-3)
    assert row["by_position"]["prompts"][0] == 3
    assert sum(row["by_position"]["prompts"]) == report.n_positions
    first = [values[0] for values in report.positions]
    assert row["by_position"]["mean"][0] == pytest.approx(np.mean(first), rel=1e-3)
    worst = [entry["prompt"] for entry in row["worst_prompts"]]
    assert worst == np.argsort(-report.scores).tolist()
    for entry in row["worst_prompts"]:
        assert "".join(token["text"] for token in entry["tokens"]) == PROMPTS[entry["prompt"]]["continuation"]
        assert np.mean([token["score"] for token in entry["tokens"]]) == pytest.approx(entry["score"])
        for token in entry["tokens"]:
            assert 0 <= token["reference"] <= token["reference_choice"]["probability"] + 1e-12 <= 1 + 1e-12
            assert 0 <= token["candidate"] <= token["candidate_choice"]["probability"] + 1e-12 <= 1 + 1e-12
    assert row["scale"]["score"] == pytest.approx(report.mean, rel=1e-3)
    assert row["scale"]["limit"] == 0.01
    assert [mark["name"] for mark in row["scale"]["tolerances"]] == ["identical", "numeric", "half", "int8", "int4"]
    if confidence:
        assert [step["score"] for step in row["trajectory"]["steps"]]
        assert row["trajectory"]["threshold"] == pytest.approx(10)
    else:
        assert "trajectory" not in row


def test_details_of_a_renormalised_score_have_no_change_of_probability(project: Project) -> None:
    project.write(test_it=FAILING.replace("(", "(preset='fastest', ", 1))
    lines = project.run("-v").outlines
    [row] = project.gates()
    assert row["delta_p"] is None
    told = "  change of the next token's probability (Δp): not known: probabilities are relative to the compared tokens"
    assert told in lines
    assert any(line.startswith("  same likeliest token of those compared: ") for line in lines)
