"""The plugin turned off, and the plugin in suites that do not use it."""

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
    result = project.run_subprocess("-pno:pot")
    result.assert_outcomes(passed=1, warnings=1)
    result.stdout.fnmatch_lines(["*PytestUnknownMarkWarning: Unknown pytest.mark.pot_identity *"])


def test_without_the_plugin_strict_markers_reject_it(project: Project) -> None:
    project.ini()
    project.write(test_it=MARKED)
    result = project.run_subprocess("-pno:pot", "--strict-markers")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*'pot_identity' not found in `markers` configuration option*"])


def test_with_the_plugin_strict_markers_accept_it(project: Project) -> None:
    project.write(test_it=MARKED)
    project.run("--strict-markers", "--strict-config", "--collect-only").assert_outcomes()


def test_objects_that_raise_on_any_attribute_do_not_break_collection(project: Project) -> None:
    """For example, a web framework's proxy raises on any attribute outside a request."""
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


def test_gates_work_without_the_terminal_or_capture_plugin(project: Project) -> None:
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
