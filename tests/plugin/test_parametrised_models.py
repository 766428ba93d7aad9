"""Models that a test gets by parametrised fixtures, or that each folder has of its own."""

from __future__ import annotations

from .conftest import Project


def test_a_parametrised_candidate_multiplies_the_tests(project: Project) -> None:
    project.write(
        conftest="""
        import pytest

        @pytest.fixture(params=[{copy}, {perturbed}], ids=["copy", "perturbed"])
        def pot_candidate(request):
            return request.param
        """
    )
    result = project.run_tests(
        """
        import pytest

        @pytest.mark.pot_identity
        def test_it():
            pass

        @pytest.mark.pot_identity
        class TestClass:
            def test_method(self):
                pass

        @pytest.mark.pot_identity(candidate={copy})
        def test_own_candidate():
            pass

        def test_unmarked():
            pass
        """,
        "-rA",
    )
    result.assert_outcomes(passed=4, failed=2)
    passed = sorted(line.split()[1] for line in result.outlines if line.startswith("PASSED"))
    failed = sorted(line.split()[1] for line in result.outlines if line.startswith("FAILED"))
    assert passed == [
        "test_it.py::TestClass::test_method[copy]",
        "test_it.py::test_it[copy]",
        "test_it.py::test_own_candidate",
        "test_it.py::test_unmarked",
    ]
    assert failed == ["test_it.py::TestClass::test_method[perturbed]", "test_it.py::test_it[perturbed]"]


def test_a_parametrised_candidate_reaches_a_marker_on_the_module(project: Project) -> None:
    project.write(
        test_it="""
        import pytest

        pytestmark = pytest.mark.pot_distinct

        def test_it():
            pass
        """,
        conftest="""
        import pytest

        @pytest.fixture(params=[{copy}, {perturbed}])
        def pot_candidate(request):
            return request.param
        """,
    )
    project.run().assert_outcomes(passed=1, failed=1)


def test_a_parametrised_candidate_reaches_an_inherited_marker(project: Project) -> None:
    """The test's own marker needs no fixture, but its class's marker does."""
    project.write(
        conftest="""
        import pytest

        @pytest.fixture(params=[{perturbed}, {nan}])
        def pot_candidate(request):
            return request.param
        """
    )
    result = project.run_tests(
        """
        import pytest

        @pytest.mark.pot_distinct
        class TestClass:
            @pytest.mark.pot_identity(reference={reference}, candidate={copy}, prompts="prompts.jsonl")
            def test_it(self):
                pass
        """
    )
    result.assert_outcomes(passed=1, failed=1)


def test_a_parametrised_candidate_reaches_a_marker_on_a_parameter(project: Project) -> None:
    project.write(
        conftest="""
        import pytest

        @pytest.fixture(params=[{copy}, {perturbed}])
        def pot_candidate(request):
            return request.param
        """
    )
    result = project.run_tests(
        """
        import pytest

        @pytest.mark.parametrize("name", [pytest.param("marked", marks=pytest.mark.pot_identity)])
        def test_it(name, pot_candidate):
            pass
        """
    )
    result.assert_outcomes(passed=1, failed=1)


def test_parametrize_may_set_the_candidate(project: Project) -> None:
    result = project.run_tests(
        """
        import pytest

        @pytest.mark.parametrize("pot_candidate", [{copy}, {perturbed}], ids=["copy", "perturbed"])
        @pytest.mark.pot_identity
        def test_it():
            pass
        """,
        "-rf",
    )
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["FAILED *test_it*perturbed* - *"])


def test_each_parametrised_reference_has_its_own_tokenizer(project: Project) -> None:
    project.write(
        conftest="""
        import pytest

        @pytest.fixture(scope="session", params=[{reference}, {other_tokenizer}], ids=["ours", "theirs"])
        def pot_reference(request):
            return request.param

        @pytest.fixture
        def pot_candidate(pot_reference):
            return pot_reference
        """
    )
    result = project.run_tests(
        """
        import pytest
        from transformers import AutoTokenizer

        @pytest.mark.pot_identity(max_score=0)
        def test_it(pot_result, pot_reference):
            ids = AutoTokenizer.from_pretrained(pot_reference)("The old mill by the river")["input_ids"]
            assert list(pot_result.report.tokens[0].ids[: len(ids)]) == ids
        """
    )
    result.assert_outcomes(passed=2)


def test_each_modules_own_reference_has_its_own_tokenizer(project: Project) -> None:
    """Two modules with different pot_reference fixtures use the session's pot_tokenizer."""
    module = """
        import pytest
        from transformers import AutoTokenizer

        @pytest.fixture(scope="session")
        def pot_reference():
            return {model}

        @pytest.fixture(scope="session")
        def pot_candidate():
            return {model}

        @pytest.mark.pot_identity(max_score=0)
        def test_it(pot_result):
            ids = AutoTokenizer.from_pretrained({model})("The old mill by the river")["input_ids"]
            assert list(pot_result.report.tokens[0].ids[: len(ids)]) == ids
        """
    project.write(test_a=module.replace("{model}", "{reference}"), test_b=module.replace("{model}", "{other_tokenizer}"))
    project.run().assert_outcomes(passed=2)
