"""A marker that looks like one of ours and does not exist is a usage error: its gate would be missing, and its test green."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from .conftest import Project

ONLY_WARN = "-Wdefault"
"""The suite that this test is part of turns pytest's warning about unknown markers into an error."""
README = Path(__file__).parents[2] / "README.md"
MARKED = """
import pytest

@pytest.mark.{}(candidate={perturbed})
def test_it():
    pass
"""


def message(name: str, meant: str) -> str:
    return (
        f"there is no marker {name}{meant} The markers of pytest-pot are pot_identity, pot_distinct, pot_latency. Register a "
        f"marker of your own with such a name in pytest's ini file: markers = {name}: what it means"
    )


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("pot_identiy", ": did you mean pot_identity?"),
        ("pot_indentity", ": did you mean pot_identity?"),
        ("pot_distict", ": did you mean pot_distinct?"),
        ("pot_latancy", ": did you mean pot_latency?"),
        ("POT_IDENTITY", ": did you mean pot_identity?"),
        ("potidentity", ": did you mean pot_identity?"),
        ("potDistinct", ": did you mean pot_distinct?"),
        ("pot_same", "."),
    ],
)
def test_a_misspelt_marker_is_a_usage_error(project: Project, name: str, meant: str) -> None:
    result = project.run_tests(MARKED.replace("{}", name), ONLY_WARN)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert [line for line in result.errlines if line] == [f"ERROR: test_it.py::test_it: {message(name, meant)}"]
    result.assert_outcomes()


def test_wherever_the_marker_stands(project: Project) -> None:
    project.write(
        conftest="""
        import pytest

        def pytest_collection_modifyitems(items):
            for item in items:
                if item.name == "test_added":
                    item.add_marker("pot_identiy")
        """,
        test_module="""
        import pytest

        pytestmark = pytest.mark.pot_identiy

        def test_on_module():
            pass
        """,
        test_others="""
        import pytest

        @pytest.mark.pot_identiy
        class TestClass:
            def test_method(self):
                pass

        @pytest.mark.parametrize("x", [pytest.param(1, marks=pytest.mark.pot_identiy), 2])
        def test_param(x):
            pass

        @pytest.mark.pot_identity
        @pytest.mark.pot_distict
        def test_beside_another():
            pass

        def test_added():
            pass

        def test_fine():
            pass
        """,
    )
    result = project.run(ONLY_WARN, "--collect-only")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    wrong = message("pot_identiy", ": did you mean pot_identity?")
    assert [line for line in result.errlines if line] == [
        f"ERROR: test_module.py::test_on_module: {wrong}",
        f"ERROR: test_others.py::TestClass::test_method: {wrong}",
        f"ERROR: test_others.py::test_param[1]: {wrong}",
        f"ERROR: test_others.py::test_beside_another: {message('pot_distict', ': did you mean pot_distinct?')}",
    ]
    (project.path / "test_module.py").unlink()
    result = project.run(ONLY_WARN, "-k", "test_added")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert f"ERROR: test_others.py::TestClass::test_method: {wrong}" in result.errlines


def test_a_misspelt_marker_that_a_program_adds_never_passes(project: Project) -> None:
    """Until pytest_collection_modifyitems it is a usage error; later, the test fails."""
    project.write(
        test_it="""
        import pytest

        @pytest.fixture
        def gated(request):
            request.node.add_marker("pot_identiy")

        def test_fixture(gated):
            pass

        def test_body(request):
            request.node.add_marker("pot_identiy")
        """
    )
    result = project.run(ONLY_WARN)
    result.assert_outcomes(failed=2)
    assert result.outlines.count(message("pot_identiy", ": did you mean pot_identity?")) == 2
    project.write(
        conftest="""
        def pytest_collection_modifyitems(items):
            for item in items:
                item.add_marker("pot_identiy")
        """
    )
    assert project.run(ONLY_WARN).ret == pytest.ExitCode.USAGE_ERROR


def test_a_projects_own_markers_are_left_alone(project: Project) -> None:
    """Registered in the ini file or by another plugin; or with names that are like ours in their first letters only."""
    project.ini(markers="pot_slow(minutes): takes long")
    project.write(
        conftest="""
        def pytest_configure(config):
            config.addinivalue_line("markers", "pot_night: runs at night")
        """
    )
    result = project.run_tests(
        """
        import pytest

        @pytest.mark.pot_slow(3)
        @pytest.mark.pot_night
        @pytest.mark.potato
        @pytest.mark.potential
        def test_it():
            pass
        """,
        ONLY_WARN,
    )
    result.assert_outcomes(passed=1)


def test_a_registered_marker_is_known(project: Project) -> None:
    from .test_fourth_marker import GATE

    project.write(conftest=GATE)
    project.run_tests("import pytest\n\n@pytest.mark.pot_always\ndef test_it():\n    pass\n").assert_outcomes(
        passed=1, warnings=1
    )


def test_a_misspelt_marker_in_a_worker_is_readable(project: Project) -> None:
    project.write(test_it=MARKED.replace("{}", "pot_identiy"))
    result = project.run_workers(2, ONLY_WARN)
    assert result.ret != 0
    text = message("pot_identiy", ": did you mean pot_identity?")
    assert any(f"test_it.py::test_it: {text}" in line for line in result.outlines + result.errlines)


def test_the_readmes_settings_fail_where_the_plugin_is_missing(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    [settings] = re.findall(r"```ini\n# pytest.ini\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    (project.path / "pytest.ini").write_text(settings, encoding="utf-8")
    project.write(test_it=MARKED.replace("{}", "pot_identiy"))
    result = project.run()
    assert result.ret == pytest.ExitCode.INTERRUPTED
    result.stdout.fnmatch_lines(["'pot_identiy' not found in `markers` configuration option"])
    monkeypatch.setenv("PYTEST_ADDOPTS", "-p no:pot")
    result = project.run()
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert [line for line in result.errlines if line] == ["ERROR: Missing required plugins: pytest-pot"]


@pytest.mark.parametrize("name", ["pot", "potidentiy", "PotDistint", "potlatency"])
def test_a_name_that_is_nearly_a_marker_is_refused_too(project: Project, name: str) -> None:
    result = project.run_tests(f"import pytest\n\n@pytest.mark.{name}\ndef test_it():\n    pass\n", ONLY_WARN)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert any(f"there is no marker {name}" in line for line in result.errlines)


def test_names_that_only_begin_alike_are_the_projects_own(project: Project) -> None:
    text = "import pytest\n\n@pytest.mark.potato\n@pytest.mark.potential\n@pytest.mark.pottery\ndef test_it():\n    pass\n"
    project.run_tests(text, ONLY_WARN).assert_outcomes(passed=1, warnings=3)
