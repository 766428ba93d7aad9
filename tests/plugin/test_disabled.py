"""The plugin turned off, and the plugin in the suites of people who do not use it."""

from __future__ import annotations

import pytest

from .conftest import Project

MARKED = """
import pytest

@pytest.mark.pot_identity(candidate="nowhere")
def test_it():
    pass
"""


def test_without_the_plugin_a_marker_is_unknown_and_does_nothing(project: Project) -> None:
    project.ini()
    project.write(test_it=MARKED)
    result = project.run_apart("-pno:pot")
    result.assert_outcomes(passed=1, warnings=1)
    result.stdout.fnmatch_lines(["*PytestUnknownMarkWarning: Unknown pytest.mark.pot_identity *"])


def test_without_the_plugin_strict_markers_refuse_it(project: Project) -> None:
    project.ini()
    project.write(test_it=MARKED)
    result = project.run_apart("-pno:pot", "--strict-markers")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*'pot_identity' not found in `markers` configuration option*"])


def test_with_the_plugin_strict_markers_know_it(project: Project) -> None:
    project.write(test_it=MARKED)
    project.run("--strict-markers", "--strict-config", "--collect-only").assert_outcomes()


def test_objects_that_answer_no_question_do_not_end_collection(project: Project) -> None:
    """Such as a proxy of a web framework, which raises on any attribute outside of a request."""
    project.ini()
    result = project.run_tests(
        """
        class Proxy:
            def __getattr__(self, name):
                raise RuntimeError(f"working outside of a request: {name}")

            def __call__(self):
                pass

        request = Proxy()

        def test_it():
            pass
        """
    )
    result.assert_outcomes(passed=1)


def test_the_terminal_and_capture_turned_off(project: Project) -> None:
    project.write(
        test_it="""
        import pytest

        @pytest.mark.pot_identity(candidate={perturbed})
        def test_it():
            pass
        """
    )
    assert project.run("-pno:terminal").ret == pytest.ExitCode.TESTS_FAILED
    project.run("-pno:capture").assert_outcomes(failed=1)
