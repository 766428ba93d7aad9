"""Gates under xfail and pytest-rerunfailures."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest

from .conftest import Project, table_rows


def properties(case: ElementTree.Element) -> list[tuple[str | None, str | None]]:
    return [(entry.get("name"), entry.get("value")) for entry in case.iter("property")]


def test_a_failing_gate_is_an_xfail_and_a_passing_gate_is_a_strict_xpass(project: Project) -> None:
    result = project.run_tests(
        """
        import pytest

        @pytest.mark.xfail(strict=True)
        @pytest.mark.pot_identity(candidate={perturbed})
        def test_miss():
            pass

        @pytest.mark.xfail(strict=True)
        @pytest.mark.pot_identity
        def test_pass():
            pass
        """,
        "-rxf",
    )
    result.assert_outcomes(xfailed=1, failed=1)
    result.stdout.fnmatch_lines(["*XPASS(strict)*"])
    result.stdout.fnmatch_lines(["XFAIL test_it.py::test_miss*", "FAILED test_it.py::test_pass*"])


def test_a_gate_without_verdict_is_an_xfail_too(project: Project) -> None:
    result = project.run_tests(
        """
        import pytest

        @pytest.mark.xfail(strict=True)
        @pytest.mark.pot_identity(candidate={nan})
        def test_nan():
            pass
        """
    )
    result.assert_outcomes(xfailed=1)


def test_a_rerun_runs_the_gate_again_with_new_fixtures(project: Project) -> None:
    pytest.importorskip("pytest_rerunfailures")
    project.write(
        conftest="""
        import pytest

        candidates = [{perturbed}, {perturbed}, {copy}]

        @pytest.fixture
        def pot_candidate():
            return candidates.pop(0)

        def pytest_pot_gate(item, result):
            print(f"gate of {item.name} {result.verdict}")
        """
    )
    result = project.run_tests(
        """
        import pytest

        @pytest.mark.pot_identity
        def test_flaky(pot_result):
            assert [str(gate.verdict) for gate in pot_result.gates] == ["SAME"]
        """,
        "-prerunfailures",
        "--reruns=2",
        "--junitxml=out.xml",
        "-s",
    )
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["*2 rerun*"])
    verdicts = [line.rpartition(" ")[2] for line in result.outlines if "gate of test_flaky" in line]
    assert verdicts == ["DIFFERENT", "DIFFERENT", "SAME"]
    assert table_rows(result) == [["test_it.py::test_flaky", "copy", "0 / 0.01", "SAME"]]
    runs = [properties(case) for case in ElementTree.parse(project.path / "out.xml").getroot().iter("testcase")]
    assert [[value for name, value in run if name == "pot_verdict"] for run in runs] == [["DIFFERENT"], ["DIFFERENT"], ["SAME"]]
    for run in runs:
        names = [name for name, _ in run]
        assert len(names) == len(set(names))


def test_a_rerun_keeps_the_tests_own_properties(project: Project) -> None:
    pytest.importorskip("pytest_rerunfailures")
    project.run_tests(
        """
        import pytest

        @pytest.fixture
        def tagged(record_property):
            record_property("ticket", 42)

        @pytest.mark.pot_identity(candidate={perturbed})
        def test_it(tagged):
            pass
        """,
        "-prerunfailures",
        "--reruns=1",
        "--junitxml=out.xml",
        "-ojunit_family=xunit1",
    ).assert_outcomes(failed=1)
    for case in ElementTree.parse(project.path / "out.xml").getroot().iter("testcase"):
        values = properties(case)
        assert ("ticket", "42") in values
        assert [value for name, value in values if name == "pot_verdict"] == ["DIFFERENT"]


@pytest.mark.parametrize("where", ["before", "after"])
def test_a_tests_own_property_may_have_our_prefix(project: Project, where: str) -> None:
    """A fixture records it before the gates run, or the body records it after them."""
    pytest.importorskip("pytest_rerunfailures")
    project.run_tests(
        f"""
        import pytest

        @pytest.fixture
        def tagged(record_property):
            if {where == "before"}:
                record_property("pot_custom", 1)

        @pytest.mark.pot_identity
        def test_it(tagged, record_property):
            if {where == "after"}:
                record_property("pot_custom", 1)
            raise AssertionError

        @pytest.mark.pot_identity
        def test_set_up(record_property):
            pass

        @pytest.fixture
        def broken(record_property):
            record_property("pot_custom", 1)
            raise RuntimeError

        @pytest.mark.pot_identity
        def test_broken(broken):
            pass
        """,
        "-prerunfailures",
        "--reruns=1",
        "--junitxml=out.xml",
        "-ojunit_family=xunit1",
    ).assert_outcomes(passed=1, failed=1, errors=1)
    for case in ElementTree.parse(project.path / "out.xml").getroot().iter("testcase"):
        values = properties(case)
        assert (("pot_custom", "1") in values) == (case.get("name") != "test_set_up")
        assert [name for name, _ in values].count("pot_verdict") == 1
