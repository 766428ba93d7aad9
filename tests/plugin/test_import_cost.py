"""Importing torch takes seconds, so a run that compares nothing must not import it."""

from __future__ import annotations

import sys

import pytest

from .conftest import Project

HEAVY = ("torch", "transformers", "numpy")
CONFTEST = f"""
import sys

def pytest_unconfigure(config):
    print("heavy:", [name for name in {HEAVY!r} if name in sys.modules], "plugin:", "pytest_pot.plugin" in sys.modules)
"""
NO_HEAVY_IMPORTS = "heavy: [] plugin: True"


@pytest.mark.parametrize("option", ["--collect-only", "--markers", "--fixtures", "--help"])
def test_a_run_of_no_tests_imports_nothing_heavy(project: Project, option: str) -> None:
    project.write(conftest=CONFTEST, test_it="import pytest\n\n@pytest.mark.pot_identity\ndef test_it(): pass\n")
    result = project.run_new_process(option)
    assert result.ret == 0
    assert NO_HEAVY_IMPORTS in result.outlines


def test_an_empty_project_imports_nothing_heavy(project: Project) -> None:
    project.ini()
    project.write(conftest=CONFTEST)
    result = project.run_new_process("--collect-only")
    assert result.ret == pytest.ExitCode.NO_TESTS_COLLECTED
    assert NO_HEAVY_IMPORTS in result.outlines


def test_a_run_without_gates_imports_nothing_heavy(project: Project) -> None:
    """Even with an option, marker arguments to check, and marked tests that are skipped or deselected."""
    project.write(
        conftest=CONFTEST,
        test_it="""
        import pytest

        def test_plain():
            pass

        @pytest.mark.skip
        @pytest.mark.pot_identity(preset="accurate", prompts=["x"], max_score=0.1)
        def test_skipped():
            pass

        @pytest.mark.pot_identity
        def test_left_out():
            pass
        """,
    )
    result = project.run_new_process("-k", "plain or skipped", "--pot-report=gates.json", "--junitxml=out.xml")
    result.assert_outcomes(passed=1, skipped=1, deselected=1)
    assert NO_HEAVY_IMPORTS in result.outlines


def test_importing_the_package_imports_nothing_heavy(pytester: pytest.Pytester) -> None:
    code = f"import sys, pytest_pot; print(pytest_pot.PRESETS, [name for name in {HEAVY!r} if name in sys.modules])"
    result = pytester.run(sys.executable, "-c", code)
    assert result.outlines[-1].endswith(" []")


LOADED = """
import sys

def pytest_unconfigure(config):
    print("loaded:", *sorted({name.split(".")[1] for name in sys.modules if name.startswith("pytest_pot.")}))
"""


def test_a_suite_without_gates_loads_only_the_plugin_and_core(project: Project) -> None:
    """Markers, options and hooks need no settings, gates or prompts, which take ten times as long to import."""
    project.ini()
    project.write(conftest=LOADED, test_it="def test_it(): pass\n")
    result = project.run_new_process()
    result.assert_outcomes(passed=1)
    assert "loaded: core plugin" in result.outlines


def test_the_plugin_imports_nothing_that_pytest_does_not_import(project: Project) -> None:
    """For example, ``dataclasses`` would cost a run some milliseconds; the plugin needs only what pytest imports itself."""
    project.ini()
    code = "import sys, pytest, _pytest.config, _pytest.python; before = set(sys.modules); import pytest_pot.plugin; "
    code += "print('new:', *sorted(name for name in set(sys.modules) - before if not name.startswith('pytest_pot')))"
    result = project.pytester.run(sys.executable, "-c", code)
    assert result.outlines[-1] == "new:"
