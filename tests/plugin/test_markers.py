"""Markers on tests, classes, modules and parameters, and combinations of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from pytest_pot.plugin.marker_help import USUAL
from pytest_pot.plugin.markers import MARKERS

from .conftest import Project, table_rows


def limits(gates: list[dict[str, Any]]) -> dict[str, list[float]]:
    """The limits of each test's gates, by the test's name."""
    limits_by_test: dict[str, list[float]] = {}
    for gate in gates:
        limits_by_test.setdefault(gate["test"].partition("::")[2], []).append(gate["limit"])
    return limits_by_test


def test_the_nearest_marker_wins(project: Project) -> None:
    project.write(
        test_it="""
        import pytest

        pytestmark = pytest.mark.pot_identity(max_score=0.1)

        def test_of_module():
            pass

        @pytest.mark.pot_identity(max_score=0.3)
        def test_own():
            pass

        @pytest.mark.pot_identity(max_score=0.2)
        class TestClass:
            def test_of_class(self):
                pass

            @pytest.mark.pot_identity(max_score=0.3)
            def test_own(self):
                pass
        """
    )
    assert limits(project.gates()) == {
        "test_of_module": [0.1],
        "test_own": [0.3],
        "TestClass::test_of_class": [0.2],
        "TestClass::test_own": [0.3],
    }


def test_a_subclass_is_nearer_than_its_bases(project: Project) -> None:
    """With several bases, Python's method resolution order decides."""
    project.write(
        test_it="""
        import pytest

        shared = pytest.mark.pot_identity(max_score=0.4)

        @pytest.mark.pot_identity(max_score=0.1)
        class TestBase:
            def test_it(self):
                pass

        @pytest.mark.pot_identity(max_score=0.2)
        @pytest.mark.pot_identity(max_score=0.3)
        class TestOwn(TestBase):
            pass

        class TestInherits(TestOwn):
            pass

        @shared
        class Mixin:
            pass

        class TestMixed(Mixin, TestBase):
            pass

        class TestAttribute(TestBase):
            pytestmark = pytest.mark.pot_identity(max_score=0.5)

        @shared
        class TestShared(Mixin, TestBase):
            pass

        @pytest.mark.pot_distinct(candidate={perturbed}, min_score=0.6)
        class TestOther(TestBase):
            pass
        """
    )
    assert limits(project.gates()) == {
        "TestBase::test_it": [0.1],
        "TestOwn::test_it": [0.2, 0.3],
        "TestInherits::test_it": [0.2, 0.3],
        "TestMixed::test_it": [0.4],
        "TestAttribute::test_it": [0.5],
        "TestShared::test_it": [0.4],
        "TestOther::test_it": [0.1, 0.6],
    }


def test_a_parameter_is_nearer_than_its_function(project: Project) -> None:
    project.write(
        test_it="""
        import pytest

        shared = pytest.mark.pot_identity(max_score=0.4)

        @pytest.mark.pot_identity(max_score=0.1)
        @pytest.mark.parametrize("other", [1, pytest.param(2, marks=pytest.mark.pot_identity(max_score=0.3))])
        @pytest.mark.parametrize("name", ["plain", pytest.param("own", marks=pytest.mark.pot_identity(max_score=0.2))])
        def test_it(name, other):
            pass

        @shared
        @pytest.mark.parametrize("name", [pytest.param("own", marks=shared)])
        def test_shared(name):
            pass

        @pytest.mark.pot_identity(max_score=0.5)
        class TestClass:
            @pytest.mark.parametrize("name", ["plain", pytest.param("own", marks=pytest.mark.pot_identity(max_score=0.2))])
            def test_it(self, name):
                pass
        """
    )
    limits_by_test = limits(project.gates())
    assert sorted(limits_by_test.pop("test_it[own-2]")) == [0.2, 0.3]
    assert limits_by_test == {
        "test_it[plain-1]": [0.1],
        "test_it[plain-2]": [0.3],
        "test_it[own-1]": [0.2],
        "test_shared[own]": [0.4],
        "TestClass::test_it[plain]": [0.5],
        "TestClass::test_it[own]": [0.2],
    }


def test_another_kind_of_marker_does_not_replace_the_one_of_the_class(project: Project) -> None:
    project.write(
        test_it="""
        import pytest

        @pytest.mark.pot_distinct(candidate={perturbed}, min_score=0.2)
        class TestClass:
            @pytest.mark.pot_identity(max_score=0.3)
            def test_both(self):
                pass
        """
    )
    gates = project.gates()
    assert [(gate["gate"], gate["limit"], gate["verdict"]) for gate in gates] == [
        ("pot_identity", 0.3, "SAME"),
        ("pot_distinct", 0.2, "DIFFERENT"),
    ]


def test_markers_combine_and_the_first_failing_gate_ends_the_test(project: Project) -> None:
    result = project.run_tests(
        """
        import pytest

        @pytest.mark.pot_identity(max_score=0)
        @pytest.mark.pot_distinct(candidate={perturbed})
        def test_both_hold():
            print("body ran")

        @pytest.mark.pot_identity(max_score=0)
        @pytest.mark.pot_distinct
        def test_second_misses():
            print("body of second")

        @pytest.mark.pot_identity(candidate={perturbed})
        @pytest.mark.pot_distinct
        def test_both_miss():
            pass
        """,
        "-s",
    )
    result.assert_outcomes(passed=1, failed=2)
    assert "body ran" in result.stdout.str()
    assert "body of second" not in result.stdout.str()
    assert [(gate["test"], gate["gate"]) for gate in project.gates()] == [
        ("test_it.py::test_both_hold", "pot_identity"),
        ("test_it.py::test_both_hold", "pot_distinct"),
        ("test_it.py::test_second_misses", "pot_identity"),
        ("test_it.py::test_second_misses", "pot_distinct"),
        ("test_it.py::test_both_miss", "pot_identity"),
    ]


def test_a_repeated_marker_is_two_gates_from_top_to_bottom(project: Project) -> None:
    project.write(
        test_it="""
        import pytest

        @pytest.mark.pot_identity(max_score=0.1)
        @pytest.mark.pot_identity(max_score=0.2)
        def test_it(pot_result):
            assert [gate.limit for gate in pot_result.gates] == [0.1, 0.2]
        """
    )
    assert limits(project.gates()) == {"test_it": [0.1, 0.2]}
    project.run().assert_outcomes(passed=1)


def test_markers_on_parameters_gate_only_those_parameters(project: Project) -> None:
    result = project.run_tests(
        """
        import pytest

        @pytest.mark.parametrize(
            "name",
            [
                pytest.param("same", marks=pytest.mark.pot_identity(max_score=0)),
                pytest.param("different", marks=pytest.mark.pot_identity(candidate={perturbed})),
                pytest.param("distinct", marks=pytest.mark.pot_distinct(candidate={perturbed})),
                "unmarked",
            ],
        )
        def test_it(name):
            print(f"body of {name}")
        """,
        "-s",
    )
    result.assert_outcomes(passed=3, failed=1)
    printed = result.stdout.str()
    assert [f"body of {name}" in printed for name in ("same", "different", "distinct", "unmarked")] == [True, False, True, True]
    assert table_rows(result) == [
        ["test_it.py::test_it[same]", "copy", "0 / 0", "SAME"],
        ["test_it.py::test_it[different]", "perturbed", "0.649 / 0.01", "DIFFERENT, failed"],
        ["test_it.py::test_it[distinct]", "perturbed", "0.649 / >0.01", "DIFFERENT"],
    ]


def test_a_marker_does_not_affect_another_class_with_the_same_function(project: Project) -> None:
    """Both classes inherit one function, but only the marked class requests the gate's fixtures."""
    project.ini()
    project.write(
        conftest="""
        import pytest

        @pytest.fixture(scope="session")
        def pot_reference():
            raise RuntimeError("asked for")

        pot_candidate = pot_reference
        """
    )
    result = project.run_tests(
        """
        import pytest

        class Shared:
            def test_it(self):
                pass

        @pytest.mark.pot_identity
        class TestMarked(Shared):
            pass

        class TestPlain(Shared):
            pass
        """,
        "-rA",
    )
    result.assert_outcomes(passed=1, errors=1)
    assert "PASSED test_it.py::TestPlain::test_it" in result.outlines


def test_a_marked_module_may_have_fixtures_and_helpers(project: Project) -> None:
    """pytestmark applies to tests only: pytest-pot marks no other object of the module."""
    project.write(helper="def help_out():\n    pass\n")
    result = project.run_tests(
        """
        import pytest
        from helper import help_out

        pytestmark = pytest.mark.pot_identity

        @pytest.fixture
        def number():
            return 3

        def test_it(number):
            assert number == 3
            assert not hasattr(help_out, "pytestmark")
        """,
        "-Werror",
    )
    result.assert_outcomes(passed=1)


def test_a_static_method_is_gated(project: Project) -> None:
    result = project.run_tests(
        """
        import pytest

        class TestClass:
            @staticmethod
            @pytest.mark.pot_identity(candidate={perturbed})
            def test_it():
                pass
        """
    )
    result.assert_outcomes(failed=1)


def test_skipped_tests_need_no_models(project: Project) -> None:
    """A skipped test needs neither a reference nor a candidate."""
    project.ini()
    result = project.run_tests(
        """
        import pytest

        @pytest.mark.skip(reason="later")
        @pytest.mark.pot_identity
        def test_skipped():
            pass

        @pytest.mark.pot_identity
        @pytest.mark.skipif(True, reason="later")
        def test_skipped_if():
            pass
        """
    )
    result.assert_outcomes(skipped=2)
    assert not any("pot" in line for line in result.outlines if not line.startswith(("plugins", "rootdir")))


def test_pytest_markers_lists_the_markers_with_their_usual_arguments(project: Project) -> None:
    lines = project.run("--markers").outlines
    start = next(index for index, line in enumerate(lines) if line.startswith("@pytest.mark.pot_identity"))
    assert lines[start : start + 5] == [
        "@pytest.mark.pot_identity(reference=..., candidate=..., prompts=...,",
        "  tolerance='half', metric='tv', preset='auto'): fail unless the candidate is",
        "  the SAME model as its reference. What is left out comes from the options",
        "  --pot-* and the fixtures pot_*. For all arguments:",
        "  python -m pydoc pytest_pot.markers.identity",
    ]
    for name in MARKERS:
        start = next(index for index, line in enumerate(lines) if line.startswith(f"@pytest.mark.{name}("))
        assert all(len(line) < 80 for line in lines[start : lines.index("", start)])


@pytest.mark.parametrize("name", USUAL)
def test_the_usual_arguments_exist_and_their_defaults_are_those_of_a_gate(project: Project, name: str) -> None:
    usual = USUAL[name]
    assert set(usual) <= set(MARKERS[name].gate.arguments)
    values = {argument: value for argument, value in usual.items() if value is not ...}
    limit = {"max_slowdown": 2} if name == "pot_latency" else {}

    def settings(arguments: Mapping[str, Any]) -> str:
        words = ", ".join(f"{argument}={value!r}" for argument, value in {**limit, **arguments}.items())
        result = project.run_tests(
            f"""
            import pytest

            @pytest.mark.{name}({words})
            def test_it(): pass
            """,
            "--collect-only",
            "-s",
        )
        [line] = [line for line in result.outlines if line.startswith("settings: ")]
        return line

    project.write(
        conftest="""
        from pytest_pot.plugin.collection import gates_on

        def pytest_collection_finish(session):
            for item in session.items:
                print("settings:", gates_on(item)[0].settings)
        """
    )
    assert settings({}) == settings(values)


def test_a_module_that_imports_the_mark_generator_is_no_module_of_unknown_marks(project: Project) -> None:
    """The generator has every attribute that it is asked for, and warns of those that are no marks."""
    text = """
    import pytest
    from pytest import mark

    m = pytest.mark

    def test_it():
        pass
    """
    project.run_tests(text, "-Werror").assert_outcomes(passed=1)
