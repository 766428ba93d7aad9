"""Wrong markers and options are usage errors during collection: exit code 4, and no test runs."""

from __future__ import annotations

import pytest

from .conftest import Project

PRESETS = "'auto', 'balanced', 'accurate', 'fastest', 'single', 'original'"
METRICS = "'tv', 'jsd', 'kl', 'kl_reverse', 'delta_ce', 'top1_flip'"
TOLERANCES = "'identical', 'numeric', 'half', 'int8', 'int4'"
DTYPES = "'auto', 'float32', 'float16', 'bfloat16', 'float64'"
DEVICES = "'auto', 'cpu', 'cuda', 'cuda:N', 'mps' or another torch device"
SHARED = (
    "tolerance, confidence, max_outliers, reference, candidate, prompts, key, "
    "max_length, positions, batch_size, candidate_dtype, path, max_tail"
)
IDENTITY = f"preset, metric, max_score, max_prompt_score, {SHARED}"
DISTINCT = f"preset, metric, min_score, {SHARED}"
MODEL = (
    "must name a model: a folder or hub id, an ONNX graph, a .gguf file, a server's URL, or package.module:factory; "
    "a model that is already in memory "
    "comes from the fixture"
)

MARKED_WITH = """
import pytest

@pytest.mark.pot_identity(ARGUMENTS)
def test_it():
    pass
"""


@pytest.mark.parametrize(
    ("marker", "message"),
    [
        ("identity(preset='slow')", f"preset='slow' is not one of {PRESETS}"),
        ("identity(preset=['balanced'])", f"preset=['balanced'] is not one of {PRESETS}"),
        ("identity(metric='mse')", f"metric='mse' is not one of {METRICS}"),
        ("identity(limit=0.1)", f"unknown argument 'limit'; the arguments are {IDENTITY}"),
        ("identity(tolerence='half')", "unknown argument 'tolerence'; did you mean 'tolerance'?"),
        ("identity(min_score=0.1)", f"unknown argument 'min_score'; the arguments are {IDENTITY}"),
        ("distinct(max_score=0.1)", f"unknown argument 'max_score'; the arguments are {DISTINCT}"),
        ("identity(0.1)", f"takes keyword arguments only, not 0.1; they are {IDENTITY}"),
        ("distinct('fastest')", f"takes keyword arguments only, not 'fastest'; they are {DISTINCT}"),
        (
            "identity(metric='kl', tolerance='int8')",
            "tolerance='int8' is a limit on 'tv'; with metric='kl' give the limit as a number: max_score=...",
        ),
        (
            "identity(metric='jsd')",
            "the default tolerance 'half' is a limit on 'tv'; with metric='jsd' give the limit as a number: max_score=...",
        ),
        (
            "distinct(metric='jsd')",
            "the default tolerance 'half' is a limit on 'tv'; with metric='jsd' give the limit as a number: min_score=...",
        ),
        ("identity(tolerance='fp8')", f"tolerance='fp8' is not one of {TOLERANCES}"),
        ("identity(max_score=0.1, tolerance='half')", "max_score=0.1 and tolerance='half' are two limits; give one"),
        ("distinct(min_score=0.1, tolerance='half')", "min_score=0.1 and tolerance='half' are two limits; give one"),
        ("identity(max_score=-0.1)", "max_score=-0.1 must be a finite number of at least 0"),
        ("identity(max_prompt_score=-1)", "max_prompt_score=-1 must be a finite number of at least 0"),
        ("identity(max_score=float('nan'))", "max_score=nan must be a finite number of at least 0"),
        ("identity(max_score=float('inf'))", "max_score=inf must be a finite number of at least 0"),
        ("identity(max_score='0.1')", "max_score='0.1' must be a finite number of at least 0"),
        ("identity(max_score=True)", "max_score=True must be a finite number of at least 0"),
        ("identity(reference=3)", f"reference=3 {MODEL} pot_reference"),
        ("identity(candidate='')", f"candidate='' {MODEL} pot_candidate"),
        ("identity(prompts=3)", "prompts=3 must be a JSON Lines file, a list of prompts or 'added-tokens'"),
        ("identity(prompts=[3])", "prompt 0 is int, not a string or a pytest_pot.Prompt"),
        (
            "identity(prompts=[])",
            "there are no prompts to score; give at least one, or omit prompts to use the built-in suite",
        ),
    ],
)
def test_a_wrong_marker_is_a_usage_error(project: Project, marker: str, message: str) -> None:
    result = project.run_tests(
        f"""
        import pytest

        def test_fine():
            pass

        class TestModel:
            @pytest.mark.pot_{marker}
            def test_it(self):
                pass
        """
    )
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    name = marker.partition("(")[0]
    assert [line for line in result.errlines if line] == [f"ERROR: test_it.py::TestModel::test_it: pot_{name}: {message}"]
    result.assert_outcomes()


def test_a_missing_prompts_file_in_a_marker_is_a_usage_error(project: Project) -> None:
    result = project.run_tests(
        """
        import pytest

        @pytest.mark.pot_identity(prompts="missing.jsonl")
        def test_it():
            pass
        """
    )
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert [line for line in result.errlines if line] == [
        f"ERROR: test_it.py::test_it: pot_identity: prompts='missing.jsonl': no such file beside the test or in {project.path}"
    ]


def test_a_prompt_instead_of_a_prompts_file_is_a_usage_error(project: Project) -> None:
    """Even a prompt that is too long to be a file name."""
    result = project.run_tests(MARKED_WITH.replace("ARGUMENTS", "prompts='x' * 5000"))
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert [line for line in result.errlines if line] == [
        f"ERROR: test_it.py::test_it: pot_identity: prompts='{'x' * 199}…': no such file beside the test or in {project.path}"
    ]
    result = project.run_tests(MARKED_WITH.replace("ARGUMENTS", r"prompts='one\ntwo'"))
    assert any(r"prompts='one\ntwo': no such file" in line for line in result.errlines)  # escaped once


def test_one_run_names_all_wrong_markers(project: Project) -> None:
    result = project.run_tests(
        """
        import pytest

        @pytest.mark.pot_identity(preset="slow")
        def test_preset():
            pass

        @pytest.mark.pot_distinct(metric="mse")
        def test_metric():
            pass
        """,
        "--collect-only",
    )
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert [line for line in result.errlines if line] == [
        f"ERROR: test_it.py::test_preset: pot_identity: preset='slow' is not one of {PRESETS}",
        f"ERROR: test_it.py::test_metric: pot_distinct: metric='mse' is not one of {METRICS}",
    ]


OPTIONS = [
    ("preset", "slow", f"is not one of {PRESETS}"),
    ("metric", "mse", f"is not one of {METRICS}"),
    ("device", "gpu", f"is not {DEVICES}"),
    ("dtype", "int8", f"is not one of {DTYPES}"),
    ("candidate-dtype", "int8", f"is not one of {DTYPES}"),
    ("path", "cached", "is not one of 'prefill', 'decode'"),
    ("tolerance", "int3", f"is not one of {TOLERANCES}"),
    ("max-length", "1k", "must be a whole number of at least 1"),
    ("positions", "0", "must be a whole number of at least 1"),
    ("batch-size", "0", "must be a whole number of at least 1 or 'auto'"),
    ("max-tail", "25%", "must be a number from 0 to 1"),
    ("diagnosis", "loud", "is not one of 'off', 'short', 'full'"),
    ("report", "out.txt", "must end in .json, .md or .html"),
]


def _number(value: str) -> str | int:
    return int(value) if value.isdecimal() else value


@pytest.mark.parametrize(("name", "value", "message"), OPTIONS)
def test_a_wrong_option_is_a_usage_error(project: Project, name: str, value: str, message: str) -> None:
    result = project.run_tests("def test_it(): pass", f"--pot-{name}={value}")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert [line for line in result.errlines if line] == [f"ERROR: --pot-{name}={_number(value)!r} {message}"]


@pytest.mark.parametrize(("name", "value", "message"), OPTIONS)
def test_a_wrong_ini_key_is_a_usage_error(project: Project, name: str, value: str, message: str) -> None:
    key = f"pot_{name.replace('-', '_')}"
    project.ini(**{key: value})
    result = project.run_tests("def test_it(): pass")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert [line for line in result.errlines if line] == [f"ERROR: {key}={_number(value)!r} {message}"]


def test_a_missing_prompts_file_in_an_option_is_a_usage_error(project: Project) -> None:
    result = project.run_tests("def test_it(): pass", "--pot-prompts=missing.jsonl")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    missing = f"{project.path / 'missing.jsonl'} does not exist"
    assert [line for line in result.errlines if line] == [f"ERROR: the prompts file 'missing.jsonl': {missing}"]


def test_an_option_that_conflicts_with_a_marker_is_a_usage_error(project: Project) -> None:
    """The marker's tolerance is a limit on tv, but the command line selects another metric."""
    result = project.run_tests(
        """
        import pytest

        @pytest.mark.pot_identity(tolerance="int8")
        def test_it():
            pass
        """,
        "--pot-metric=kl",
    )
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert [line for line in result.errlines if line] == [
        "ERROR: test_it.py::test_it: pot_identity: tolerance='int8' is a limit on 'tv'; with metric='kl' give the limit as a "
        "number: max_score=..."
    ]
