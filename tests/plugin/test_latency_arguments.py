"""Arguments and options of latency gates that are wrong, or that a recorded reference cannot serve."""

from __future__ import annotations

import pytest

from .conftest import Project
from .latency_gates import latency_tests

LIMITS = "budget_ms, max_slowdown, min_tokens_per_s, max_memory_mb, max_memory_ratio"
ARGUMENTS = f"{LIMITS}, per, stat, what, new_tokens, max_seconds, preset, reference, candidate, prompts, key, "
ARGUMENTS += "max_length, positions, batch_size, candidate_dtype"
RECORDED = (
    "needs a live reference to run beside the candidate, but base.pot.safetensors is a recording, which cannot be timed. Name "
    "a model, reference=..., or limit the candidate only"
)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("", f"there is no limit to hold; give at least one of {LIMITS}"),
        ("per='token'", f"there is no limit to hold; give at least one of {LIMITS}"),
        ("budget_ms=-1", "budget_ms=-1 must be a finite number above 0"),
        ("max_slowdown='fast'", "max_slowdown='fast' must be a finite number above 0"),
        ("max_memory_ratio=float('inf')", "max_memory_ratio=inf must be a finite number above 0"),
        ("budget_ms=1, per='second'", "per='second' is not one of 'prompt', 'batch', 'token'"),
        ("budget_ms=1, stat='mean'", "stat='mean' is not one of 'median', 'p95'"),
        ("max_slowdown=2, stat='p95'", "stat='p95' applies to a budget only; add budget_ms=..."),
        ("budget_ms=1, what='train'", "what='train' is not one of 'score', 'prefill', 'decode'"),
        ("budget_ms=1, new_tokens=4", "new_tokens=4 applies to decoding only; add what='decode'"),
        (
            "budget_ms=1, what='decode', new_tokens=1",
            "new_tokens=1 must be a whole number of at least 2: the first token is timed separately",
        ),
        (
            "budget_ms=1, what='decode', new_tokens=256",
            "new_tokens=256 leaves no room for a prompt in the 256 tokens of the preset auto",
        ),
        (
            "budget_ms=60, reference='base.pot.safetensors'",
            "reference='base.pot.safetensors' is a recording, which cannot be timed, and no limit here needs a reference; "
            "leave it out",
        ),
        ("budget_ms=1, max_seconds=0", "max_seconds=0 must be a finite number above 0"),
        ("budget_ms=1, tolerance='half'", f"unknown argument 'tolerance'; the arguments are {ARGUMENTS}"),
        ("1.25", f"takes keyword arguments only, not 1.25; they are {ARGUMENTS}"),
        (
            "max_slowdown=1.25, reference='base.pot.safetensors'",
            f"max_slowdown=1.25 {RECORDED}, budget_ms=...",
        ),
        (
            "budget_ms=60, max_memory_ratio=2, reference='base.pot.safetensors'",
            f"max_memory_ratio=2 {RECORDED}, max_memory_mb=...",
        ),
        (
            "budget_ms=60, candidate='base.pot.safetensors'",
            "candidate='base.pot.safetensors' is a recording, and a gate runs its candidate; python -m pytest_pot compare "
            "scores two recordings against each other",
        ),
    ],
)
def test_wrong_arguments_are_usage_errors(project: Project, arguments: str, message: str) -> None:
    result = project.run_tests(latency_tests(arguments))
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert [line for line in result.errlines if line] == [f"ERROR: test_it.py::test_0: pot_latency: {message}"]


@pytest.mark.parametrize("option", ["--pot-reference=base.pot.safetensors", "--pot-baseline=base.pot.safetensors"])
def test_a_recorded_reference_in_the_options_has_no_slowdown(project: Project, option: str) -> None:
    project.ini(pot_candidate=project.tiny.copy, pot_prompts="prompts.jsonl")
    result = project.run_tests(latency_tests("max_slowdown=1.25"), option)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert f"ERROR: test_it.py::test_0: pot_latency: max_slowdown=1.25 {RECORDED}, budget_ms=..." in result.errlines
    project.run_tests(latency_tests("budget_ms=1e9"), option).assert_outcomes(passed=1)


def test_a_slowdown_needs_only_a_live_reference_beside_the_recording(project: Project) -> None:
    """--pot-baseline provides the scores; the configured model is timed."""
    project.write(test_it=latency_tests("max_slowdown=1e9"))
    project.run("--pot-baseline=base.pot.safetensors").assert_outcomes(passed=1)


def test_a_slowdown_against_a_recording_from_a_fixture_is_an_error(project: Project) -> None:
    project.write(
        conftest="""
        import pytest

        @pytest.fixture(scope="session")
        def pot_reference():
            return "base.pot.safetensors"
        """,
        test_it=latency_tests("max_slowdown=1.25"),
    )
    result = project.run()
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*base.pot.safetensors is a recording*"])


@pytest.mark.parametrize(
    ("ini", "option", "message"),
    [
        ({}, "--pot-latency=maybe", "--pot-latency='maybe' is not one of 'gate', 'report', 'off'"),
        ({"pot_latency": "on"}, "", "pot_latency='on' is not one of 'gate', 'report', 'off'"),
        ({"pot_latency_inconclusive": "skip"}, "", "pot_latency_inconclusive='skip' is not one of 'pass', 'fail'"),
    ],
)
def test_wrong_options_are_usage_errors(project: Project, ini: dict[str, str], option: str, message: str) -> None:
    project.ini(**ini)
    result = project.run_tests(latency_tests("budget_ms=1"), *([option] if option else []))
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert f"ERROR: {message}" in result.errlines
