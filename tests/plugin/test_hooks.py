"""The hooks that a conftest.py may implement."""

from __future__ import annotations

import pytest

from .conftest import Project

MARKED = """
import pytest

@pytest.mark.pot_identity
def test_it():
    pass
"""


def test_a_model_from_the_load_hook_is_used(project: Project) -> None:
    project.write(
        conftest="""
        def pytest_pot_load_model(spec, role, config):
            from transformers import AutoTokenizer, GPT2LMHeadModel
            print(f"asked for {role} {spec}")
            if spec == "registry://good":
                return GPT2LMHeadModel.from_pretrained({copy}), AutoTokenizer.from_pretrained({copy})
            if spec == "registry://bad":
                return GPT2LMHeadModel.from_pretrained({perturbed})
        """
    )
    result = project.run_tests(
        """
        import pytest

        @pytest.mark.pot_identity(candidate="registry://good", max_score=0)
        def test_good():
            pass

        @pytest.mark.pot_identity(candidate="registry://bad")
        def test_bad():
            pass

        @pytest.mark.pot_identity(reference="registry://good", max_score=0)
        def test_reference():
            pass
        """,
        "-s",
    )
    result.assert_outcomes(passed=2, failed=1)
    calls = [line.partition("asked for ")[2] for line in result.outlines if "asked for " in line]
    tiny = project.tiny
    assert sorted(calls) == [
        f"candidate {tiny.copy}",
        "candidate registry://bad",
        "candidate registry://good",
        f"reference {tiny.reference}",
        "reference registry://good",
    ]


def test_a_tokenizer_from_the_hook_is_compared_too(project: Project) -> None:
    project.write(
        conftest="""
        def pytest_pot_load_model(spec, role, config):
            from transformers import AutoTokenizer, GPT2LMHeadModel
            if role == "candidate":
                return GPT2LMHeadModel.from_pretrained({copy}), AutoTokenizer.from_pretrained({other_tokenizer})
        """
    )
    result = project.run_tests(MARKED)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*the tokenizers of reference and candidate disagree on the text of prompt 0 *"])


def test_prompts_of_all_hooks_are_joined(project: Project) -> None:
    project.ini(pot_reference=project.tiny.reference, pot_candidate=project.tiny.copy)
    project.write(
        extra="""
        def pytest_pot_prompts(config):
            return (text for text in ["of the plugin"])
        """,
        conftest="""
        from pytest_pot import Prompt

        pytest_plugins = "extra"

        def pytest_pot_prompts(config):
            return [Prompt("of the", " conftest")]
        """,
        test_it="""
        import pytest

        @pytest.mark.pot_identity
        def test_it(pot_result):
            assert sorted(prompt.text for prompt in pot_result.report.prompts) == ["of the", "of the plugin"]
        """,
    )
    project.run("-ppytester").assert_outcomes(passed=1)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("'Hello'", "prompts must be a list of prompts, not one: write ['Hello']"),
        ("{'Hello': 'there'}", "prompts must be a list of strings and pytest_pot.Prompt, not dict"),
        ("3", "prompts must be a list of strings and pytest_pot.Prompt, not int"),
        ("['Hello', 3]", "prompt 1 is int, not a string or a pytest_pot.Prompt"),
    ],
)
def test_a_prompts_hook_that_returns_no_list_is_an_error(project: Project, value: str, message: str) -> None:
    project.ini(pot_reference=project.tiny.reference, pot_candidate=project.tiny.copy)
    project.write(conftest=f"def pytest_pot_prompts(config):\n    return {value}\n")
    result = project.run_tests(MARKED)
    result.assert_outcomes(errors=1)
    assert f"the hook pytest_pot_prompts: {message}" in result.outlines


def test_configured_prompts_win_over_the_prompts_hook(project: Project) -> None:
    project.write(
        conftest="""
        def pytest_pot_prompts(config):
            return ["of the conftest"]
        """,
        test_it=MARKED,
    )
    assert [gate["prompts"] for gate in project.gates()] == [3]


def test_the_gate_hook_is_called_after_a_pass_and_after_a_failure(project: Project) -> None:
    project.write(
        conftest="""
        def pytest_pot_gate(item, result):
            print(f"gate {item.name} {result.settings.gate} {result.verdict} {result.passed} {result.report.mean:.3f}")
        """
    )
    result = project.run_tests(
        """
        import pytest

        @pytest.mark.pot_identity
        @pytest.mark.pot_distinct(candidate={perturbed})
        def test_pass():
            pass

        @pytest.mark.pot_identity(candidate={perturbed})
        def test_miss():
            pass
        """,
        "-s",
    )
    result.assert_outcomes(passed=1, failed=1)
    assert [line.partition("gate ")[2] for line in result.outlines if "gate test_" in line] == [
        "test_pass pot_identity SAME True 0.000",
        "test_pass pot_distinct DIFFERENT True 0.649",
        "test_miss pot_identity DIFFERENT False 0.649",
    ]


def test_a_folders_gate_hook_is_called_only_for_tests_below_it(project: Project) -> None:
    """As with pytest's own hooks, a conftest.py applies to its folder."""
    for name in ("one", "two"):
        folder = project.path / name
        folder.mkdir()
        (folder / f"test_{name}.py").write_text(MARKED, encoding="utf-8")
    (project.path / "one" / "conftest.py").write_text(
        "def pytest_pot_gate(item, result):\n    print('gate of', item.nodeid)\n", encoding="utf-8"
    )
    result = project.run("-s")
    result.assert_outcomes(passed=2)
    assert "gate of one/test_one.py::test_it" in result.stdout.str()
    assert "gate of two/test_two.py::test_it" not in result.stdout.str()
