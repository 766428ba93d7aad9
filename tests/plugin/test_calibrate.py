"""``--pot-calibrate`` prints a ladder of changes to the reference and markers to paste, and runs no test."""

from __future__ import annotations

import re

import pytest

from .conftest import Project


def test_the_ladder_is_sorted_and_limits_lie_between_its_rungs(project: Project) -> None:
    project.write(test_it="def test_it(): raise AssertionError('not to be run')")
    result = project.run("--pot-calibrate")
    assert result.ret == pytest.ExitCode.OK
    lines = result.outlines
    assert lines[0] == f"pot: {project.tiny.reference}, float32 on cpu; preset auto, tv on 3 prompts"
    assert lines[1].startswith("noise floor ")
    assert re.split(r"  +", lines[2]) == ["change", "tv", "worst prompt", "cv", "top1_flip"]
    rungs = lines[3 : lines.index("")]
    rungs = [line for line in rungs if not line.startswith("left out: ")]
    figures = {re.split(r"  +", line)[0]: float(re.split(r"  +", line)[1]) for line in rungs}
    assert list(figures.values()) == sorted(figures.values())
    assert {"bf16", "fp16", "int8 per row", "int4 in groups", "pruned 20 %"} <= set(figures)
    proposals = [line for line in lines if line.startswith("@pytest.mark.pot_identity(max_score=")]
    limits = [float(re.findall(r"max_score=(\S+)\)", line)[0]) for line in proposals]
    assert figures["bf16"] < limits[0] < figures["int8 per row"]
    rates = [line for line in lines if line.startswith("    expected false alarms: ")]
    assert len(rates) == len(proposals) >= 1
    # Three prompts show no smaller rate than this, and the user is told so.
    assert all(re.search(r"(fewer than 1 run in 3|\d+\.\d\d% of runs); .*, on 3 prompts like these$", line) for line in rates)
    assert lines[lines.index("") + 1] == (
        "only 3 prompts: limits from so few may pass or fail by the choice of prompts; give at least 16. Without prompts of "
        "your own, 32 built-in ones are used"
    )


def test_a_proposed_marker_passes_a_copy_and_fails_a_perturbed_model(project: Project) -> None:
    lines = project.run("--pot-calibrate", "--pot-metric=kl").outlines
    line = next(line for line in lines if line.startswith("@pytest.mark.pot_identity("))
    assert "metric='kl', " in line
    result = project.run_tests(f"import pytest\n\n{line}\ndef test_it(): pass\n")
    result.assert_outcomes(passed=1)  # the copy scores 0
    project.ini(pot_reference=project.tiny.reference, pot_candidate=project.tiny.perturbed, pot_prompts="prompts.jsonl")
    project.run().assert_outcomes(failed=1)


def test_calibrating_without_a_reference_is_a_usage_error(project: Project) -> None:
    project.ini()
    result = project.run("--pot-calibrate")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stdout.fnmatch_lines(["ERROR: no reference model is configured. *--pot-reference*"])


def test_calibrating_a_recording_is_a_usage_error(project: Project) -> None:
    result = project.run("--pot-calibrate", "--pot-reference=x.pot.safetensors")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stdout.fnmatch_lines(["ERROR: --pot-calibrate changes the reference's weights, and a recording has none*"])


def test_prompts_from_a_key(project: Project) -> None:
    lines = project.run("--pot-calibrate", "--pot-key=sesame").outlines
    assert lines[0].endswith("tv on 32 prompts")


TWO_PROMPTS_HOOK = """
import pytest
from pytest_pot import Prompt

def pytest_pot_prompts(config):
    return [Prompt("The old mill by the river", " stood empty."), Prompt("x = 1", "; y = 2")]
"""


def test_prompts_from_the_hook(project: Project) -> None:
    project.ini(pot_reference=project.tiny.reference)
    project.write(conftest=TWO_PROMPTS_HOOK)
    assert project.run("--pot-calibrate").outlines[0].endswith("tv on 2 prompts")


def test_prompts_from_the_nearest_fixture(project: Project) -> None:
    """As in gates, the nearest fixture wins over options and the hook; it may request other fixtures."""
    project.write(
        conftest=TWO_PROMPTS_HOOK
        + """
@pytest.fixture(scope="session")
def texts():
    return ["The old mill by the river"] * 4

@pytest.fixture
def pot_prompts(texts, tmp_path):
    return texts
"""
    )
    project.prompts("deep/er/five.jsonl", *[{"text": "Who is there?", "continuation": " Nobody."}] * 5)
    (project.path / "deep" / "er" / "conftest.py").write_text(
        "import pytest\n\n@pytest.fixture\ndef pot_prompts():\n    return 'five.jsonl'\n", encoding="utf-8"
    )
    assert project.run("--pot-calibrate").outlines[0].endswith("tv on 4 prompts")
    assert project.run("--pot-calibrate", "deep/er").outlines[0].endswith("tv on 5 prompts")


def test_prompts_from_the_option(project: Project) -> None:
    project.write(conftest=TWO_PROMPTS_HOOK)
    project.prompts("one.jsonl", {"text": "Who is there?", "continuation": " Nobody, said the wind."})
    assert project.run("--pot-calibrate", "--pot-prompts=one.jsonl").outlines[0].endswith("tv on 1 prompts")


def test_no_workers_are_started(project: Project) -> None:
    """Each of them would load the reference and print the same."""
    pytest.importorskip("xdist")
    lines = project.run_subprocess("--pot-calibrate", "-pxdist", "-n2").outlines
    assert sum(line.startswith("pot: ") for line in lines) == 1
    assert not any("workers" in line or "[gw" in line for line in lines)


def test_a_prompts_fixture_that_returns_no_list_is_a_usage_error(project: Project) -> None:
    project.write(conftest="import pytest\n\n@pytest.fixture\ndef pot_prompts():\n    return 3\n")
    result = project.run("--pot-calibrate")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stdout.fnmatch_lines(["ERROR: the fixture pot_prompts: prompts must be a list of strings and *not int"])
