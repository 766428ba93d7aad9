"""Markers added by code: gated if they are added during collection, a failure if they are added later."""

from __future__ import annotations

import pytest

from .conftest import Project

UNMARKED = """
def test_it():
    print("body ran")
"""
LATE = (
    "pot_{}: marker added too late: its gate was not run, so this test cannot pass. Gates are attached when tests have been "
    "collected; a marker that is added by a program must be there by then, at the latest from the hook "
    "pytest_collection_modifyitems, not from a fixture or from pytest_runtest_setup"
)
HOOKS = {
    "plain": "",
    "tryfirst": "@pytest.hookimpl(tryfirst=True)",
    "trylast": "@pytest.hookimpl(trylast=True)",
}


def conftest_that_adds(marker: str, hook: str = "") -> str:
    return f"""
    import pytest

    {hook}
    def pytest_collection_modifyitems(items):
        for item in items:
            item.add_marker(pytest.mark.{marker})
    """


@pytest.mark.parametrize("hook", HOOKS.values(), ids=HOOKS)
def test_a_marker_added_to_collected_tests_is_gated(project: Project, hook: str) -> None:
    project.write(conftest=conftest_that_adds("pot_identity(candidate={perturbed})", hook))
    result = project.run_tests(UNMARKED, "-s")
    result.assert_outcomes(failed=1)
    result.stdout.re_match_lines([r"pot_identity: DIFFERENT: tv 0\.649 > 0\.01 .*"])
    assert "body ran" not in result.stdout.str()


def test_a_marker_added_to_collected_tests_requests_its_gates_fixtures(project: Project) -> None:
    """Also fixtures that the suite overrides, and pot_result in the body."""
    project.ini(pot_reference=project.tiny.reference)
    project.write(
        conftest=conftest_that_adds("pot_identity")
        + """
    @pytest.fixture
    def pot_candidate():
        return {copy}

    @pytest.fixture
    def pot_prompts():
        return ["Who is there?"]
    """
    )
    result = project.run_tests(
        """
        def test_it(pot_result):
            assert str(pot_result.verdict) == "SAME"
            assert pot_result.report.n_prompts == 1
        """
    )
    result.assert_outcomes(passed=1)


def test_a_marker_added_to_a_marked_test_adds_a_gate(project: Project) -> None:
    project.write(conftest=conftest_that_adds("pot_distinct(candidate={perturbed})"))
    result = project.run_tests(
        """
        import pytest

        @pytest.mark.pot_identity
        def test_it(pot_result):
            assert [gate.settings.gate for gate in pot_result.gates] == ["pot_identity", "pot_distinct"]
        """
    )
    result.assert_outcomes(passed=1)


def test_a_marker_removed_from_collected_tests_is_not_gated(project: Project) -> None:
    project.write(
        conftest="""
        def pytest_collection_modifyitems(items):
            for item in items:
                item.own_markers.clear()
        """
    )
    result = project.run_tests(
        """
        import pytest

        @pytest.mark.pot_identity(candidate={perturbed})
        def test_it():
            pass
        """
    )
    result.assert_outcomes(passed=1)


def test_nothing_is_loaded_for_a_marker_that_was_taken_off(project: Project) -> None:
    project.write(conftest="def pytest_collection_modifyitems(items):\n    items[0].own_markers.clear()\n")
    result = project.run_tests(
        """
        import pytest

        @pytest.mark.pot_identity(candidate="nowhere:nothing")
        def test_it():
            pass
        """
    )
    result.assert_outcomes(passed=1)


def test_a_gate_runs_although_its_marker_was_taken_off_later(project: Project) -> None:
    """Missing evidence never passes: what was attached while tests were collected is run."""
    result = project.run_tests(
        """
        import pytest

        @pytest.fixture(autouse=True)
        def unmarked(request):
            request.node.own_markers.clear()

        @pytest.mark.pot_identity(candidate={perturbed})
        def test_it():
            pass
        """
    )
    result.assert_outcomes(failed=1)


def test_a_wrong_marker_added_to_collected_tests_is_a_usage_error(project: Project) -> None:
    project.write(conftest=conftest_that_adds("pot_identity(preset='slow')"))
    result = project.run_tests(UNMARKED)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert [line for line in result.errlines if line] == [
        "ERROR: test_it.py::test_it: pot_identity: preset='slow' is not one of 'auto', 'balanced', 'accurate', 'fastest', "
        "'single', 'original'"
    ]


@pytest.mark.slow
def test_a_marker_added_to_collected_tests_is_gated_in_workers_too(project: Project) -> None:
    project.write(conftest=conftest_that_adds("pot_identity(candidate={perturbed})"), test_it=UNMARKED)
    project.run_workers(2).assert_outcomes(failed=1)


@pytest.mark.parametrize("gate", ["identity", "distinct"])
@pytest.mark.parametrize(
    "late",
    [
        "def pytest_runtest_setup(item):\n    item.add_marker(pytest.mark.pot_GATE)",
        "@pytest.fixture(autouse=True)\ndef late(request):\n    request.node.add_marker(pytest.mark.pot_GATE)",
        "@pytest.fixture(autouse=True, scope='module')\ndef late(request):\n    request.node.add_marker(pytest.mark.pot_GATE)",
        "@pytest.hookimpl(tryfirst=True)\ndef pytest_runtest_call(item):\n    item.add_marker(pytest.mark.pot_GATE)",
    ],
    ids=["setup", "fixture", "module", "call"],
)
def test_a_marker_added_later_is_a_failure(project: Project, late: str, gate: str) -> None:
    (project.path / "conftest.py").write_text(f"import pytest\n\n{late.replace('GATE', gate)}\n", encoding="utf-8")
    result = project.run_tests(UNMARKED, "-s")
    result.assert_outcomes(failed=1)
    assert LATE.format(gate) in result.outlines
    assert "body ran" not in result.stdout.str()


def test_a_marker_added_later_to_a_gated_test_is_a_failure(project: Project) -> None:
    result = project.run_tests(
        """
        import pytest

        @pytest.fixture
        def late(request):
            request.node.add_marker(pytest.mark.pot_distinct)

        @pytest.mark.pot_identity
        def test_it(late):
            pass
        """
    )
    result.assert_outcomes(failed=1)
    assert LATE.format("distinct") in result.outlines


def test_a_marker_added_by_the_body_is_a_failure(project: Project) -> None:
    result = project.run_tests(
        """
        import pytest

        def test_it(request):
            request.node.add_marker(pytest.mark.pot_identity)
        """
    )
    result.assert_outcomes(failed=1)
    assert LATE.format("identity") in result.outlines
