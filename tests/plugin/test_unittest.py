"""Gates on methods of ``unittest.TestCase``: unittest's own decorators and ``setUp`` mean what they mean without a gate."""

from __future__ import annotations

import pytest

from .conftest import Project, table_rows


def gated(project: Project, text: str, *arguments: str) -> pytest.RunResult:
    """Run tests that are all gated against a candidate that is another model, or that does not exist."""
    project.write(conftest="def pytest_pot_gate(item, result):\n    print('told', item.name, result.verdict)\n")
    return project.run_tests(text, "-s", "-rxsf", *arguments)


def told(result: pytest.RunResult) -> list[str]:
    return [line.partition("told ")[2] for line in result.outlines if "told " in line]


@pytest.mark.parametrize("candidate", ["{perturbed}", "'no_such_module:model'"])
def test_a_skipped_test_is_skipped_and_its_gate_is_not_run(project: Project, candidate: str) -> None:
    result = gated(
        project,
        f"""
        import unittest
        import pytest

        @pytest.mark.pot_identity(candidate={candidate})
        class TestModel(unittest.TestCase):
            @unittest.skip("on the method")
            def test_skip(self):
                raise AssertionError

            @unittest.skipIf(True, "if")
            def test_skip_if(self):
                raise AssertionError

            @unittest.skipUnless(False, "unless")
            def test_skip_unless(self):
                raise AssertionError

        @unittest.skip("on the class")
        @pytest.mark.pot_identity(candidate={candidate})
        class TestSkipped(unittest.TestCase):
            def test_class(self):
                raise AssertionError

        class TestInherited(TestSkipped):
            pass

        @pytest.mark.pot_identity(candidate={candidate})
        class TestSetUp(unittest.TestCase):
            def setUp(self):
                self.skipTest("in setUp")

            def test_set_up(self):
                raise AssertionError

        @pytest.mark.pot_identity(candidate={candidate})
        class TestSetUpClass(unittest.TestCase):
            @classmethod
            def setUpClass(cls):
                raise unittest.SkipTest("in setUpClass")

            def test_set_up_class(self):
                raise AssertionError

        @pytest.mark.pot_identity(candidate={candidate})
        @unittest.skip("on a function")
        def test_function():
            raise AssertionError
        """,
    )
    result.assert_outcomes(skipped=8)
    assert told(result) == []
    reasons = {line.rpartition(": ")[2] for line in result.outlines if line.startswith("SKIPPED")}
    assert reasons == {"on the method", "if", "unless", "on the class", "in setUp", "in setUpClass", "on a function"}
    assert not any(" pot " in line for line in result.outlines if line.startswith("==="))


def test_an_expected_failure(project: Project) -> None:
    """A miss, and a gate that came to no verdict, are what was expected; a pass is an unexpected success, which fails."""
    result = gated(
        project,
        """
        import unittest
        import pytest

        class TestModel(unittest.TestCase):
            @unittest.expectedFailure
            @pytest.mark.pot_identity(candidate={perturbed})
            def test_miss(self):
                raise SystemExit("the body runs only after a pass")

            @unittest.expectedFailure
            @pytest.mark.pot_identity(candidate={nan})
            def test_no_verdict(self):
                pass

            @unittest.expectedFailure
            @pytest.mark.pot_identity(candidate="no_such_module:model")
            def test_no_model(self):
                pass

            @unittest.expectedFailure
            @pytest.mark.pot_identity
            def test_pass(self):
                pass

            @unittest.expectedFailure
            @pytest.mark.pot_identity
            def test_body(self):
                self.assertEqual(1, 2)
        """,
    )
    result.assert_outcomes(xfailed=4, failed=1)
    assert "FAILED test_it.py::TestModel::test_pass - Failed: Unexpected success" in result.outlines
    assert told(result) == [
        "test_body SAME",
        "test_miss DIFFERENT",
        "test_no_model ERROR",
        "test_no_verdict ERROR",
        "test_pass SAME",
    ]
    assert [(row[0].rpartition("::")[2], *row[1:]) for row in table_rows(result)] == [
        ("test_body", "copy vs reference", "0 / 0.01", "SAME"),
        ("test_miss", "perturbed vs reference", "0.649 / 0.01", "DIFFERENT, expected"),
        ("test_no_model", "model", "- / 0.01", "ERROR, expected"),
        ("test_no_verdict", "nan vs reference", "- / 0.01", "ERROR, expected"),
        ("test_pass", "copy vs reference", "0 / 0.01", "SAME"),
    ]


def test_gates_run_after_set_up_and_before_the_method(project: Project) -> None:
    result = gated(
        project,
        """
        import unittest
        import pytest

        @pytest.mark.pot_identity
        class TestModel(unittest.TestCase):
            def setUp(self):
                print("told setUp")

            def tearDown(self):
                print("told tearDown")

            def test_it(self):
                print("told body")

        @pytest.mark.pot_identity(candidate={perturbed})
        class TestOther(TestModel):
            pass

        class TestAsync(unittest.IsolatedAsyncioTestCase):
            @pytest.mark.pot_identity
            async def test_async(self):
                print("told async body")

            @pytest.mark.pot_identity(candidate={perturbed})
            async def test_miss(self):
                print("told async body")
        """,
    )
    result.assert_outcomes(passed=2, failed=2)
    assert told(result) == [
        *["setUp", "test_it SAME", "body", "tearDown"],
        *["setUp", "test_it DIFFERENT", "tearDown"],
        *["test_async SAME", "async body", "test_miss DIFFERENT"],
    ]
    assert result.outlines.count("pot_identity: DIFFERENT: tv 0.649 > 0.01 (64.9 times the limit)") == 2
    assert "unittest/case.py" not in result.stdout.str()


def test_a_failed_set_up_leaves_a_row(project: Project) -> None:
    result = gated(
        project,
        """
        import unittest
        import pytest

        @pytest.mark.pot_identity
        class TestModel(unittest.TestCase):
            def setUp(self):
                raise RuntimeError("no database")

            def test_it(self):
                pass
        """,
    )
    result.assert_outcomes(failed=1)
    assert told(result) == ["test_it ERROR"]
    assert table_rows(result) == [["test_it.py::TestModel::test_it", "- / 0.01", "ERROR, failed"]]
    assert "E   RuntimeError: no database" in [line.replace("     ", " ") for line in result.outlines]


def test_a_model_that_cannot_be_loaded_fails_with_the_usual_message(project: Project) -> None:
    result = gated(
        project,
        """
        import unittest
        import pytest

        class TestModel(unittest.TestCase):
            @pytest.mark.pot_identity(candidate="no_such_module:model")
            def test_it(self):
                pass
        """,
    )
    result.assert_outcomes(failed=1)
    assert told(result) == ["test_it ERROR"]
    assert any(line.startswith("cannot find the candidate factory 'no_such_module:model'") for line in result.outlines)


def test_a_rerun_gates_again(project: Project) -> None:
    pytest.importorskip("pytest_rerunfailures")
    result = gated(
        project,
        """
        import unittest
        import pytest

        candidates = [{perturbed}, {copy}]

        @pytest.fixture
        def pot_candidate():
            return candidates.pop(0)

        @pytest.mark.pot_identity
        class TestModel(unittest.TestCase):
            def test_it(self):
                pass
        """,
        "-prerunfailures",
        "--reruns=1",
    )
    result.assert_outcomes(passed=1)
    assert told(result) == ["test_it DIFFERENT", "test_it SAME"]


def test_latency_under_n_is_skipped(project: Project) -> None:
    project.write(
        test_it="""
        import unittest
        import pytest

        class TestModel(unittest.TestCase):
            @pytest.mark.pot_latency(budget_ms=1e-6)
            def test_it(self):
                raise AssertionError

            @unittest.expectedFailure
            @pytest.mark.pot_latency(budget_ms=1e-6)
            def test_expected(self):
                raise AssertionError
        """
    )
    project.run_workers(1).assert_outcomes(skipped=2)
