"""The properties and failures of gates in JUnit XML."""

from __future__ import annotations

from xml.etree import ElementTree

from .conftest import Project


def test_junit_has_the_score_limit_and_verdict_as_properties(project: Project) -> None:
    project.run_tests(
        """
        import pytest

        @pytest.mark.pot_identity(max_score=0.02)
        def test_same():
            pass

        @pytest.mark.pot_identity(candidate={perturbed}, max_score=0.02)
        def test_different():
            pass

        def test_unmarked():
            pass
        """,
        "--junitxml=out.xml",
    ).assert_outcomes(passed=2, failed=1)
    cases = ElementTree.parse(project.path / "out.xml").getroot().iter("testcase")
    properties = {case.get("name"): {p.attrib["name"]: p.attrib["value"] for p in case.iter("property")} for case in cases}
    same, different = properties["test_same"], properties["test_different"]
    assert float(same["pot_score"]) == 0.0
    assert (same["pot_limit"], same["pot_verdict"]) == ("0.02", "SAME")
    assert 0.5 < float(different["pot_score"]) < 1
    assert (different["pot_limit"], different["pot_verdict"]) == ("0.02", "DIFFERENT")
    assert properties["test_unmarked"] == {}


def test_a_failing_gate_is_a_junit_failure_with_its_message(project: Project) -> None:
    project.run_tests(
        """
        import pytest

        @pytest.mark.pot_identity(candidate={perturbed})
        def test_different():
            pass
        """,
        "--junitxml=out.xml",
    )
    [case] = ElementTree.parse(project.path / "out.xml").getroot().iter("testcase")
    failure = case.find("failure")
    assert case.find("error") is None
    assert failure is not None
    assert "pot_identity: DIFFERENT: tv 0." in failure.attrib["message"]
    assert "worst prompts:" in (failure.text or "")


def test_both_gates_of_a_test_write_their_properties(project: Project) -> None:
    project.run_tests(
        """
        import pytest

        @pytest.mark.pot_identity
        @pytest.mark.pot_distinct(candidate={perturbed})
        def test_both():
            pass
        """,
        "--junitxml=out.xml",
    ).assert_outcomes(passed=1)
    [case] = ElementTree.parse(project.path / "out.xml").getroot().iter("testcase")
    values = [(p.get("name"), p.get("value")) for p in case.iter("property")]
    assert [value for name, value in values if name == "pot_verdict"] == ["SAME", "DIFFERENT"]
    assert [value for name, value in values if name == "pot_gate"] == ["pot_identity", "pot_distinct"]
