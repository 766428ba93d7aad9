"""The fixtures: their defaults, and overrides in a conftest.py."""

from __future__ import annotations

import os
import shutil

import pytest

from .conftest import Project

MARKED = """
import pytest

@pytest.mark.pot_identity
def test_it(pot_result):
    print("score", pot_result.report.mean)
"""


@pytest.mark.parametrize("scope", ["session", "module", "function"])
@pytest.mark.parametrize(
    "value",
    ["{reference}", "Model.from_pretrained({reference})", "(Model.from_pretrained({reference}), tokenizer)"],
    ids=["spec", "model", "pair"],
)
def test_pot_reference_returns_a_spec_a_model_or_a_pair(project: Project, value: str, scope: str) -> None:
    project.ini(pot_candidate=project.tiny.perturbed, pot_prompts="prompts.jsonl")
    project.write(
        conftest=f"""
        import pytest
        from transformers import AutoTokenizer
        from transformers import GPT2LMHeadModel as Model

        tokenizer = AutoTokenizer.from_pretrained({{reference}})

        @pytest.fixture(scope={scope!r})
        def pot_reference():
            return {value}
        """
    )
    result = project.run_tests(MARKED)
    result.assert_outcomes(failed=1)
    result.stdout.re_match_lines([r"pot_identity: DIFFERENT: tv 0\.649 > 0\.01 \(64\.9 times the limit\)$"])


@pytest.mark.parametrize(
    ("value", "name"),
    [
        ("{perturbed}", "{perturbed}"),
        ("GPT2LMHeadModel.from_pretrained({perturbed})", "GPT2LMHeadModel from the fixture pot_candidate"),
        ("(GPT2LMHeadModel.from_pretrained({perturbed}), None)", "GPT2LMHeadModel from the fixture pot_candidate"),
    ],
    ids=["spec", "model", "pair"],
)
def test_messages_name_a_model_by_its_spec_or_its_class(project: Project, value: str, name: str) -> None:
    project.write(
        conftest=f"""
        import pytest
        from transformers import GPT2LMHeadModel

        @pytest.fixture(scope="session")
        def pot_candidate():
            return {value}
        """
    )
    result = project.run_tests(MARKED)
    result.assert_outcomes(failed=1)
    tiny = project.tiny
    name = name.replace("{perturbed}", str(tiny.perturbed))
    [line] = [line for line in result.outlines if line.startswith("  reference ")]
    assert line.startswith(f"  reference {tiny.reference}, candidate {name}; preset auto, 3 prompts, ")


def test_tokenizers_are_compared_if_the_reference_fixture_returns_only_a_model(project: Project) -> None:
    """Its tokenizer is read from the folder that the model was loaded from."""
    project.write(
        conftest="""
        import pytest
        from transformers import GPT2LMHeadModel

        @pytest.fixture(scope="session")
        def pot_reference():
            return GPT2LMHeadModel.from_pretrained({reference})
        """
    )
    result = project.run_tests(MARKED, f"--pot-candidate={project.tiny.other_tokenizer}")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*pot_identity: the tokenizers of reference and candidate disagree on the text of prompt 0 *"])


def test_tokenizers_are_compared_after_another_reference_was_loaded(project: Project) -> None:
    """The fixture's reference is then loaded a second time, so its tokenizer is another object."""
    project.write(
        conftest="""
        import pytest

        @pytest.fixture(scope="session")
        def pot_reference():
            return {reference}
        """
    )
    result = project.run_tests(
        """
        import pytest

        @pytest.mark.pot_identity
        def test_first():
            pass

        @pytest.mark.pot_identity(reference={copy})
        def test_another_reference():
            pass

        @pytest.mark.pot_identity(candidate={other_tokenizer})
        def test_third():
            pass
        """
    )
    result.assert_outcomes(passed=2, failed=1)
    result.stdout.fnmatch_lines(["*pot_identity: the tokenizers of reference and candidate disagree on the text of prompt 0 *"])


def test_a_reference_without_tokenizer_is_an_error(project: Project) -> None:
    project.write(
        conftest="""
        import pytest
        from transformers import GPT2Config, GPT2LMHeadModel

        @pytest.fixture(scope="session")
        def pot_reference():
            return GPT2LMHeadModel(GPT2Config(n_layer=1, n_embd=8, n_head=1, vocab_size=280))
        """
    )
    result = project.run_tests(MARKED)
    result.assert_outcomes(errors=1)
    assert (
        "the reference comes without a tokenizer. Name one with the option --pot-tokenizer; in the ini file, "
        "pot_tokenizer = ...; override the fixture pot_tokenizer in a conftest.py; or let pot_reference return "
        "(model, tokenizer)"
    ) in result.outlines


def test_an_overridden_pot_tokenizer_encodes_the_prompts(project: Project) -> None:
    project.write(
        conftest="""
        import pytest
        from transformers import AutoTokenizer

        @pytest.fixture(scope="session")
        def pot_tokenizer():
            return AutoTokenizer.from_pretrained({other_tokenizer})
        """
    )
    result = project.run_tests(
        """
        import pytest

        @pytest.mark.pot_identity
        def test_it(pot_result, pot_tokenizer):
            ids = pot_tokenizer("The old mill by the river")["input_ids"]
            assert list(pot_result.report.tokens[0].ids[: len(ids)]) == ids
        """
    )
    result.assert_outcomes(passed=1)


@pytest.mark.parametrize("scope", ["session", "function"])
@pytest.mark.parametrize("place", ["sub", "."], ids=["beside the fixture", "in the root"])
def test_a_relative_path_from_a_fixture_works_as_in_a_marker(project: Project, place: str, scope: str) -> None:
    """From any working folder, and also for pot_tokenizer, which is loaded from pot_reference."""
    folder = project.path / place
    folder.mkdir(exist_ok=True)
    shutil.copytree(project.tiny.reference, folder / "models" / "ours")
    shutil.copytree(project.tiny.perturbed, folder / "models" / "theirs")
    project.prompts(f"{place}/data/other.jsonl", "Who is there?")
    project.ini()
    project.write(
        **{
            "sub/conftest": f"""
            from pathlib import Path
            import pytest

            @pytest.fixture(scope={scope!r})
            def pot_reference():
                return "models/ours"

            @pytest.fixture(scope={scope!r})
            def pot_candidate():
                return Path("models/theirs")

            @pytest.fixture(scope={scope!r})
            def pot_prompts():
                return Path("data/other.jsonl")
            """,
            "sub/below/test_it": """
            import pytest

            @pytest.mark.pot_identity(max_score=1)
            def test_it(pot_result, TOKENIZER):
                assert [prompt.text for prompt in pot_result.report.prompts] == ["Who is there?"]
                assert pot_result.report.mean > 0.5
            """.replace("TOKENIZER", "pot_tokenizer" if scope == "session" else "request"),
        }
    )
    project.pytester.mkdir("elsewhere")
    os.chdir(project.path / "elsewhere")
    project.run(project.path, f"--rootdir={project.path}").assert_outcomes(passed=1)


def write_two_folders_with_references(project: Project, *, with_tokenizer: bool) -> None:
    for folder, model in (("a", "{reference}"), ("b", "{other_tokenizer}")):
        (project.path / folder).mkdir()
        conftest = f"""
        import pytest
        from transformers import AutoTokenizer

        @pytest.fixture(scope="session")
        def pot_reference():
            return {model}
        """
        if with_tokenizer:
            conftest += f"""
        @pytest.fixture(scope="session")
        def pot_tokenizer():
            return AutoTokenizer.from_pretrained({model})
        """
        test = f"""
        from transformers import AutoTokenizer

        def test_it(pot_tokenizer):
            assert pot_tokenizer.get_vocab() == AutoTokenizer.from_pretrained({model}).get_vocab()
        """
        project.write(**{f"{folder}/conftest": conftest, f"{folder}/test_{folder}": test})


def test_pot_tokenizer_of_another_folders_reference_is_an_error(project: Project) -> None:
    write_two_folders_with_references(project, with_tokenizer=False)
    result = project.run("a", "b")
    result.assert_outcomes(passed=1, errors=1)
    assert (
        "pot_tokenizer is made once per session, and it came from another pot_reference than this test's. Override "
        "pot_tokenizer where pot_reference is overridden, or name one tokenizer for all with --pot-tokenizer"
    ) in result.outlines
    project.run("b").assert_outcomes(passed=1)


def test_pot_tokenizer_may_be_overridden_beside_each_reference(project: Project) -> None:
    write_two_folders_with_references(project, with_tokenizer=True)
    project.run("a", "b").assert_outcomes(passed=2)


def test_an_overridden_pot_prompts_is_used_unless_the_marker_has_prompts(project: Project) -> None:
    project.write(
        conftest="""
        import pytest
        from pytest_pot import Prompt

        @pytest.fixture
        def pot_prompts():
            return ["Who is there?", Prompt("x = 1", "; y")]
        """
    )
    result = project.run_tests(
        """
        import pytest

        @pytest.mark.pot_identity
        def test_it(pot_result):
            assert [prompt.text for prompt in pot_result.report.prompts] == ["Who is there?", "x = 1"]

        @pytest.mark.pot_identity(prompts=["of the marker"])
        def test_marker_first(pot_result):
            assert [prompt.text for prompt in pot_result.report.prompts] == ["of the marker"]
        """
    )
    result.assert_outcomes(passed=2)


def test_the_fixtures_work_without_a_marker(project: Project) -> None:
    """They load the models that the options name; options and the default preset configure pot_scorer."""
    result = project.run_tests(
        """
        from pytest_pot import ScoringConfig

        def test_it(pot_scorer, pot_reference, pot_candidate, pot_prompts, pot_tokenizer):
            assert pot_scorer.config == ScoringConfig.preset("auto", metric="kl", device="cpu")
            assert pot_scorer.score_batch(pot_reference, pot_candidate, pot_prompts, pot_tokenizer).mean == 0.0
        """,
        "--pot-metric=kl",
    )
    result.assert_outcomes(passed=1)
    assert not any(line.strip("=") == " pot " for line in result.outlines)


def test_the_marker_configures_pot_scorer(project: Project) -> None:
    result = project.run_tests(
        """
        import pytest
        from pytest_pot import ScoringConfig

        @pytest.mark.pot_identity(preset="fastest", metric="jsd", max_score=0.1)
        def test_it(pot_scorer):
            assert pot_scorer.config == ScoringConfig.preset("fastest", metric="jsd", dtype="float32", device="cpu")
        """,
        "--pot-preset=single",
        "--pot-dtype=float32",
    )
    result.assert_outcomes(passed=1)


def test_the_body_can_read_pot_result(project: Project) -> None:
    result = project.run_tests(
        """
        import pytest
        from pytest_pot import ScoreReport, Verdict

        @pytest.mark.pot_identity(candidate={perturbed}, max_score=1)
        def test_it(pot_result):
            assert pot_result.verdict is Verdict.SAME
            assert isinstance(pot_result.report, ScoreReport)
            assert 0.5 < pot_result.report.mean < 1
            assert len(pot_result.gates) == 1
        """
    )
    result.assert_outcomes(passed=1)


def test_pot_result_without_a_marker_is_an_error(project: Project) -> None:
    result = project.run_tests("def test_it(pot_result):\n    pass\n")
    result.assert_outcomes(errors=1)
    assert "pot_result needs a gate: mark the test, for example with @pytest.mark.pot_identity" in result.outlines


def test_reading_pot_result_before_the_gate_is_an_error(project: Project) -> None:
    """During setup the gate has no result yet; the message must not say that a marker is missing."""
    result = project.run_tests(
        """
        import pytest

        @pytest.fixture
        def early(pot_result):
            return pot_result.verdict

        @pytest.mark.pot_identity
        def test_it(early):
            pass
        """
    )
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*there is no result yet: *"])


@pytest.mark.parametrize("role", ["reference", "candidate"])
def test_a_marker_that_names_a_fixture_is_told_which_one_to_override(project: Project, role: str) -> None:
    project.ini(pot_reference=project.tiny.reference, pot_candidate=project.tiny.copy, pot_prompts="prompts.jsonl")
    result = project.run_tests(
        f"""
        import pytest

        @pytest.fixture
        def merged():
            raise AssertionError("nobody asked for it")

        @pytest.mark.pot_identity({role}="merged")
        def test_it():
            pass
        """
    )
    result.assert_outcomes(errors=1)
    hint = (
        f"no model is named 'merged', but a fixture is, and a marker takes the names of models only. Leave {role}= out, "
        f"and write a fixture pot_{role} that asks for merged and returns it. As a model: cannot load the {role} 'merged': "
    )
    assert any(hint in line for line in result.outlines)


def test_a_fixture_of_the_name_of_a_model_that_is_damaged_is_no_hint(project: Project) -> None:
    (project.path / "merged").mkdir()
    project.ini(pot_reference=project.tiny.reference, pot_prompts="prompts.jsonl")
    result = project.run_tests(
        """
        import pytest

        @pytest.fixture
        def merged():
            pass

        @pytest.mark.pot_identity(candidate="merged")
        def test_it():
            pass
        """
    )
    result.assert_outcomes(errors=1)
    assert "but a fixture is" not in result.stdout.str()
    assert any("merged': Unrecognized model in " in line for line in result.outlines)
