"""A gate passes or fails its test in the call phase, and the body runs only after a pass."""

from __future__ import annotations

import json
import shutil
from xml.etree import ElementTree

import pytest

from .conftest import Models, Project, table_rows

PHASES = """
import pytest

def pytest_runtest_logreport(report):
    print(f"phase {report.nodeid.split('::')[-1]} {report.when} {report.outcome}")
"""


def test_the_body_runs_only_after_a_passing_gate(project: Project) -> None:
    result = project.run_tests(
        """
        import pytest

        @pytest.mark.pot_identity
        def test_same():
            print("body of same")

        @pytest.mark.pot_identity(candidate={perturbed})
        def test_different():
            print("body of different")
        """,
        "-s",
    )
    result.assert_outcomes(passed=1, failed=1)
    assert "body of same" in result.stdout.str()
    assert "body of different" not in result.stdout.str()


def test_a_failing_gate_fails_in_the_call_phase(project: Project) -> None:
    project.write(conftest=PHASES)
    result = project.run_tests(
        """
        import pytest

        @pytest.mark.pot_identity(candidate={perturbed})
        def test_identity():
            pass

        @pytest.mark.pot_distinct
        def test_distinct():
            pass

        @pytest.mark.pot_identity(candidate={nan})
        def test_no_verdict():
            pass
        """,
        "-s",
    )
    result.assert_outcomes(failed=3)
    for name in ("test_identity", "test_distinct", "test_no_verdict"):
        result.stdout.fnmatch_lines(
            [f"*phase {name} setup passed", f"*phase {name} call failed", f"*phase {name} teardown passed"]
        )


@pytest.mark.parametrize("workers", [0, 1])
def test_the_short_summary_has_one_line_per_failure_on_a_ci(
    project: Project, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There, pytest does not cut what it shows of a failure, and our messages have many lines."""
    monkeypatch.setenv("CI", "true")
    monkeypatch.setenv("COLUMNS", "80")
    project.write(
        test_it="""
        import pytest

        @pytest.mark.pot_identity(candidate={perturbed})
        def test_different():
            pass

        @pytest.mark.pot_identity(candidate="nowhere/at/all")
        def test_missing():
            pass
        """
    )
    arguments = ("--junitxml=junit.xml", "--pot-report=report.json")
    result = project.run_workers(workers, *arguments) if workers else project.run_subprocess(*arguments)
    lines = result.stdout.str().partition("short test summary info")[2].splitlines()[1:-1]
    assert [line.partition(" - ")[2][:30] for line in lines] == [
        "pot_identity: DIFFERENT: tv 0.",
        "cannot load the candidate 'now",
    ]
    assert "worst prompts:" in result.stdout.str()
    failure = ElementTree.parse(project.path / "junit.xml").find(".//failure")
    assert failure is not None
    assert "\n" not in failure.attrib["message"]
    assert "worst prompts:" in (failure.text or "")
    gates = json.loads((project.path / "report.json").read_text(encoding="utf-8"))["gates"]
    assert "\n" not in gates[1]["error"]  # what is wrapped for the terminal is not wrapped in reports


def test_models_below_the_root_are_named_relative_to_it(project: Project, tiny: Models) -> None:
    """An absolute path would fill the message's line."""
    for name, model in {"base": tiny.reference, "new": tiny.perturbed}.items():
        shutil.copytree(model, project.path / "models" / name)
    result = project.run_tests("""
        import pytest

        @pytest.mark.pot_identity(reference="models/base", candidate="models/new")
        def test_it():
            pass
    """)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["  reference models/base, candidate models/new; *"])


def test_distinct_passes_where_identity_fails(project: Project) -> None:
    result = project.run_tests(
        """
        import pytest

        @pytest.mark.pot_distinct(candidate={perturbed})
        def test_different():
            pass

        @pytest.mark.pot_distinct(candidate={copy})
        def test_same():
            pass
        """
    )
    result.assert_outcomes(passed=1, failed=1)
    assert "pot_distinct: SAME: tv 0 is not above 0.01, so the models count as the same" in result.outlines


def test_a_failing_body_fails_its_test_after_a_passing_gate(project: Project) -> None:
    result = project.run_tests(
        """
        import pytest

        @pytest.mark.pot_identity
        def test_same():
            assert 1 + 1 == 3
        """
    )
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["E       assert (1 + 1) == 3"])
    assert table_rows(result) == [["test_it.py::test_same", "copy", "0 / 0.01", "SAME"]]


@pytest.mark.parametrize("preset", ["auto", "balanced", "accurate", "fastest", "single", "original"])
def test_a_copy_scores_exactly_zero(project: Project, preset: str) -> None:
    """On the marker's prompts and on the built-in suite, where most prompts are cut to the model's 128 positions."""
    project.ini(pot_reference=project.tiny.reference, pot_candidate=project.tiny.copy)
    project.write(
        test_it=f"""
        import pytest

        @pytest.mark.pot_identity(preset={preset!r}, max_score=0, max_prompt_score=0)
        def test_builtin():
            pass

        @pytest.mark.pot_identity(preset={preset!r}, metric="kl", max_score=0, prompts=["The old mill", "x = 1"])
        def test_sampled():
            pass
        """
    )
    builtin, sampled = project.gates()
    assert (builtin["score"], builtin["verdict"], builtin["passed"], builtin["prompts"]) == (0.0, "SAME", True, 32)
    assert (sampled["score"], sampled["verdict"], sampled["passed"], sampled["prompts"]) == (0.0, "SAME", True, 2)
    metrics = ("tv", "jsd", "kl", "kl_reverse", "delta_ce", "top1_flip")
    assert [builtin[name] for name in metrics] == [0.0] * 6


def test_exitfirst_stops_after_a_failing_gate(project: Project) -> None:
    result = project.run_tests(
        """
        import pytest

        @pytest.mark.pot_identity(candidate={perturbed})
        def test_different():
            pass

        def test_after():
            pass
        """,
        "-x",
    )
    result.assert_outcomes(failed=1)
    assert result.ret == pytest.ExitCode.TESTS_FAILED


def test_one_prompt_above_max_prompt_score_fails_the_gate(project: Project) -> None:
    result = project.run_tests(
        """
        import pytest

        @pytest.mark.pot_identity(candidate={perturbed}, max_score=0.9, max_prompt_score=0.65)
        def test_different():
            pass
        """
    )
    result.assert_outcomes(failed=1)
    result.stdout.re_match_lines(
        [
            r"pot_identity: DIFFERENT: prompt 1 has tv 0\.\d+ > 0\.65, the limit for one prompt \(1\.\d+ times the limit\); "
            r"1 of 3 prompts is above it, though the mean of 0\.\d+ is within 0\.9$"
        ]
    )


def test_a_unittest_method_is_gated(project: Project) -> None:
    result = project.run_tests(
        """
        import unittest
        import pytest

        class TestModel(unittest.TestCase):
            @pytest.mark.pot_identity
            def test_same(self):
                print("body of same")

            @pytest.mark.pot_identity(candidate={perturbed})
            def test_different(self):
                print("body of different")
        """,
        "-s",
    )
    result.assert_outcomes(passed=1, failed=1)
    assert "body of same" in result.stdout.str()
    assert "body of different" not in result.stdout.str()


def test_the_batches_that_ran_are_in_the_verbose_message_and_in_the_json_report(project: Project) -> None:
    test = """
        import pytest

        @pytest.mark.pot_identity(candidate={perturbed}, batch_size="auto")
        def test_planned():
            pass

        @pytest.mark.pot_identity(candidate={perturbed}, batch_size=2)
        def test_given():
            pass
        """
    assert "batches of up to" not in project.run_tests(test).stdout.str()
    lines = project.run_tests(test, "-v", "--pot-report=gates.json").stdout.str()
    planned, given = json.loads((project.path / "gates.json").read_text(encoding="utf-8"))["gates"]
    for gate in (planned, given):
        n, prompts, tokens = (gate[name] for name in ("batches", "largest_batch_prompts", "largest_batch_tokens"))
        batches = "1 batch of" if n == 1 else f"{n} batches of up to"
        assert f"ran {batches} {prompts} prompts and {tokens} tokens" in lines
    assert planned["batches_planned_with"] == {"launch": 0, "fixed": 32, "most": 1024}
    assert (given["largest_batch_prompts"], given["batches_planned_with"]) == (2, None)
