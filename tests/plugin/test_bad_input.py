"""Each kind of bad input has its exact message, and never passes."""

from __future__ import annotations

import re

import pytest

from .conftest import Project

MARKED = """
import pytest

@pytest.mark.pot_identity
def test_it():
    pass
"""
FORMS = (
    "A model is named by a folder or hub id with safetensors weights or an ONNX graph, a .gguf file, a server's URL, or "
    "package.module:factory, a callable "
    "that returns the model or (model, tokenizer)."
)


def section(result: pytest.RunResult, title: str = "_ test_it _") -> list[str]:
    """The lines under the heading of a failure or an error."""
    lines = result.outlines
    [start] = [index for index, line in enumerate(lines) if title in line and line.startswith("_")]
    rest = lines[start + 1 :]
    end = next(index for index, line in enumerate(rest) if line.startswith(("=====", "-----", "_____")))
    return rest[:end]


@pytest.mark.parametrize(
    ("role", "configured"), [("reference", "candidate"), ("candidate", "reference")], ids=["no reference", "no candidate"]
)
def test_a_missing_model_setting_is_an_error(project: Project, role: str, configured: str) -> None:
    project.ini(**{f"pot_{configured}": project.tiny.copy, "pot_prompts": "prompts.jsonl"})
    result = project.run_tests(MARKED)
    result.assert_outcomes(errors=1)
    assert section(result, "_ ERROR at setup of test_it _") == [
        f"no {role} model is configured. Name one in the marker, {role}=...; with the option --pot-{role}; in the ini "
        f"file, pot_{role} = ...; or override the fixture pot_{role} in a conftest.py"
    ]


def test_an_empty_list_from_the_prompts_fixture_fails(project: Project) -> None:
    project.write(conftest="import pytest\n\n@pytest.fixture\ndef pot_prompts():\n    return []\n")
    result = project.run_tests(MARKED)
    result.assert_outcomes(failed=1)
    assert section(result) == [
        "pot_identity: there are no prompts to score; give at least one, or omit prompts to use the built-in suite"
    ]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("None", "the fixture pot_prompts: prompts must be a list of strings and pytest_pot.Prompt, not None"),
        ("{}", "the fixture pot_prompts: prompts must be a list of strings and pytest_pot.Prompt, not dict"),
        (
            "'Hello'",
            "the fixture pot_prompts returned 'Hello': that is no list of prompts, and there is no such file beside the "
            "fixture or in {root}",
        ),
        (
            "'x' * 5000",
            f"the fixture pot_prompts returned '{'x' * 199}…': that is no list of prompts, and there is no such file beside "
            "the fixture or in {root}",
        ),
    ],
    ids=["none", "dict", "text", "long"],
)
def test_a_prompts_fixture_that_returns_no_list_is_an_error(project: Project, value: str, message: str) -> None:
    project.write(conftest=f"import pytest\n\n@pytest.fixture\ndef pot_prompts():\n    return {value}\n")
    result = project.run_tests(MARKED)
    result.assert_outcomes(errors=1)
    assert section(result, "_ ERROR at setup of test_it _") == [message.replace("{root}", str(project.path))]


def test_a_prompts_file_without_prompts_is_an_error(project: Project) -> None:
    path = project.prompts("prompts.jsonl")
    result = project.run_tests(MARKED)
    result.assert_outcomes(errors=1)
    assert section(result, "_ ERROR at setup of test_it _") == [f"the prompts file {path} holds no prompt"]


def test_a_prompts_file_with_a_line_that_is_not_json_is_an_error(project: Project) -> None:
    path = project.path / "prompts.jsonl"
    path.write_text('"fine"\n{"text": \n', encoding="utf-8")
    result = project.run_tests(MARKED)
    result.assert_outcomes(errors=1)
    assert section(result, "_ ERROR at setup of test_it _") == [
        f"{path}, line 2: not JSON (Expecting value: line 1 column 10 (char 9)); each line is one JSON object or string"
    ]


def test_a_prompt_with_an_empty_continuation_fails(project: Project) -> None:
    project.prompts("prompts.jsonl", {"text": "x = 1", "continuation": "; y"}, {"text": "Who is there?", "continuation": ""})
    result = project.run_tests(MARKED)
    result.assert_outcomes(failed=1)
    assert section(result) == [
        "pot_identity: prompt 1 ('Who is there?') has the continuation '', which has no tokens: there is no position to "
        "score. Give it a text, or None to let the reference continue the prompt"
    ]


def test_an_empty_prompt_fails(project: Project) -> None:
    project.prompts("prompts.jsonl", {"text": "", "continuation": "x"})
    result = project.run_tests(MARKED)
    result.assert_outcomes(failed=1)
    assert section(result) == [
        "pot_identity: prompt 0 ('') has no tokens with this tokenizer, so nothing predicts the first token of its "
        "continuation: give it a text"
    ]


@pytest.mark.parametrize("role", ["reference", "candidate"])
@pytest.mark.parametrize("gate", ["identity", "distinct"])
@pytest.mark.parametrize("preset", ["balanced", "original"])
def test_nan_fails_both_gates(project: Project, role: str, gate: str, preset: str) -> None:
    """NaN proves neither that models are the same nor that they differ."""
    result = project.run_tests(
        f"""
        import pytest

        @pytest.mark.pot_{gate}({role}={{nan}}, preset={preset!r})
        def test_it():
            pass
        """
    )
    result.assert_outcomes(failed=1)
    # A batch holds all three prompts; the unoptimised path runs one prompt at a time, the longest first.
    tokens = [len(project.tiny.tokenizer(text)["input_ids"]) for text in (" stood empty all winter.", "; y = x + 1")]
    tokens.append(len(project.tiny.tokenizer(" Nobody, said the wind.")["input_ids"]))
    n = sum(tokens) if preset == "balanced" else tokens[0]
    assert section(result) == [
        f"pot_{gate}: the {role}'s log-probabilities are NaN at prompt 0 ('The old mill by the river'), position 0, and at {n} "
        f"of the {n} positions of its batch. Such a model has no score; look for an overflow (float16?) or for weights that "
        "are not finite"
    ]


def test_nan_at_later_positions_names_the_long_prompt(project: Project) -> None:
    """The message names the prompt of the batch that is long enough to reach the broken position."""
    project.write(
        broken="""
        import torch
        from transformers import GPT2LMHeadModel

        def model():
            model = GPT2LMHeadModel.from_pretrained({reference})
            with torch.no_grad():
                model.transformer.wpe.weight[26] = torch.nan
            return model
        """
    )
    project.prompts(
        "prompts.jsonl",
        {"text": "x = 1", "continuation": "; y"},
        {"text": "a long one: " + "n" * 10, "continuation": "n" * 20},
    )
    project.ini(pot_reference=project.tiny.reference, pot_candidate="broken:model", pot_prompts="prompts.jsonl", pythonpath=".")
    result = project.run_tests(MARKED, "--pot-preset=balanced")  # auto runs each of these two prompts alone
    result.assert_outcomes(failed=1)
    [line] = section(result)
    pattern = (
        r"pot_identity: the candidate's log-probabilities are NaN at prompt 1 \('a long one: nnnnnnnnnn'\), position (\d+), "
        r"and at (\d+) of the 23 positions of its batch\. Such a model has no score; look for an overflow \(float16\?\) or for "
        r"weights that are not finite"
    )
    assert re.fullmatch(pattern, line), line


def test_tokenizers_that_disagree_fail(project: Project) -> None:
    result = project.run_tests(MARKED, f"--pot-candidate={project.tiny.other_tokenizer}")
    result.assert_outcomes(failed=1)
    ours = project.tiny.tokenizer("The old mill by the river")["input_ids"]
    from transformers import PreTrainedTokenizerFast

    theirs = PreTrainedTokenizerFast.from_pretrained(project.tiny.other_tokenizer)("The old mill by the river")["input_ids"]
    assert ours != theirs
    assert section(result) == [
        "pot_identity: the tokenizers of reference and candidate disagree on the text of prompt 0 ('The old mill by the "
        "river'):",
        f"  reference: {ours}",
        f"  candidate: {theirs}",
        f"  first difference, at token 0: reference {ours[0]} 'The', candidate {theirs[0]} 'T'",
        "  the tokenizers differ in: vocabulary (id 256 is 'he' in the reference's and 'br' in the candidate's; 24 ids "
        "differ), merges",
        "Both models must read the same tokens. If the candidate's tokenizer is not meant to be used, name the one to use with "
        "--pot-tokenizer or the pot_tokenizer fixture.",
    ]


def test_one_tokenizer_for_both_models_ends_the_disagreement(project: Project) -> None:
    """The fix that the message proposes."""
    options = [f"--pot-candidate={project.tiny.other_tokenizer}", f"--pot-tokenizer={project.tiny.reference}"]
    project.run_tests(MARKED, *options).assert_outcomes(passed=1)


def test_a_vocabulary_without_an_id_of_a_prompt_fails(project: Project) -> None:
    result = project.run_tests(MARKED, f"--pot-candidate={project.tiny.small}")
    result.assert_outcomes(failed=1)
    highest = max(project.tiny.tokenizer(" stood empty all winter.The old mill by the river")["input_ids"])
    assert section(result) == [
        f"pot_identity: the tokenizer gives id {highest}, but the candidate's vocabulary has only 200 tokens: the tokenizer "
        "belongs to another model; or the token was added to it, and the model has no row for it (resize_token_embeddings adds "
        "one)"
    ]


def test_a_vocabulary_without_a_likely_id_of_the_reference_fails(project: Project) -> None:
    """Both vocabularies have all ids of the prompt, but not all ids that are compared."""
    project.prompts("prompts.jsonl", {"text": "x=1", "continuation": ";;"})
    assert max(project.tiny.tokenizer("x=1;;")["input_ids"]) < 200
    result = project.run_tests(MARKED, f"--pot-candidate={project.tiny.small}")
    result.assert_outcomes(failed=1)
    [line] = section(result)
    pattern = (
        r"pot_identity: the candidate's vocabulary has 200 tokens, but the other model's likeliest tokens include id 2\d\d\. "
        r"Vocabularies may differ in padding only: every id that is used must exist in both"
    )
    assert re.fullmatch(pattern, line), line


@pytest.mark.parametrize("preset", ["auto", "balanced", "accurate", "fastest", "single", "original"])
def test_either_model_may_have_a_padded_vocabulary(project: Project, preset: str) -> None:
    result = project.run_tests(
        f"""
        import pytest

        @pytest.mark.pot_identity(candidate={{padded}}, preset={preset!r}, max_score=1e-6)
        def test_candidate():
            pass

        @pytest.mark.pot_identity(reference={{padded}}, candidate={{reference}}, preset={preset!r}, max_score=1e-6)
        def test_reference():
            pass

        @pytest.mark.pot_identity(reference={{padded}}, candidate={{perturbed}}, preset={preset!r})
        def test_still_different():
            pass
        """
    )
    result.assert_outcomes(passed=2, failed=1)


def test_a_prompt_above_the_length_limit_is_cut_and_counted(project: Project) -> None:
    project.prompts("prompts.jsonl", {"text": "x" * 400, "continuation": " end"}, {"text": "x = 1", "continuation": "; y"})
    project.write(
        test_it="""
        import pytest

        @pytest.mark.pot_identity(candidate={perturbed})
        def test_it():
            pass

        @pytest.mark.pot_identity
        def test_counted(pot_result):
            tokens = pot_result.report.tokens
            assert pot_result.report.n_truncated == 1
            assert [tokens[0].truncated, tokens[1].truncated] == [True, False]
            assert len(tokens[0].ids) == 128
        """
    )
    result = project.run("--pot-report=gates.json")
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.re_match_lines([r"  reference .*; preset auto, 2 prompts, 1 cut on the left, \d+ positions, top 100 .*"])
    assert [gate["truncated"] for gate in project.gates()] == [1, 1]


def test_a_long_prompt_does_not_shorten_the_continuation(project: Project) -> None:
    """The preset asks for 64 positions, and the sampled continuation has 64, however long the prompt is."""
    result = project.run_tests(
        """
        import pytest

        @pytest.mark.pot_identity(preset="accurate", prompts=["x" * 400])
        def test_it(pot_result):
            assert [len(values) for values in pot_result.report.positions] == [64]
        """
    )
    result.assert_outcomes(passed=1)


def test_a_spec_that_names_no_model_is_an_error(project: Project) -> None:
    result = project.run_tests(MARKED, "--pot-candidate=./nowhere")
    result.assert_outcomes(errors=1)
    [line] = section(result, "_ ERROR at setup of test_it _")
    assert line.startswith("cannot load the candidate './nowhere': ")
    assert line.endswith(f". {FORMS}")


def test_a_folder_without_a_model_is_an_error(project: Project) -> None:
    """The reason is a sentence of transformers, which has its own full stop."""
    folder = project.path / "empty"
    folder.mkdir()
    result = project.run_tests(MARKED, "--pot-candidate=empty")
    result.assert_outcomes(errors=1)
    line = section(result, "_ ERROR at setup of test_it _")[-1]
    assert line.startswith(f"cannot load the candidate {str(folder)!r}: ")
    assert line.endswith(f". {FORMS}")
    assert ".. " not in line


def test_a_missing_factory_is_an_error(project: Project) -> None:
    result = project.run_tests(MARKED, "--pot-candidate=no_such_module:model")
    result.assert_outcomes(errors=1)
    assert section(result, "_ ERROR at setup of test_it _") == [
        "cannot find the candidate factory 'no_such_module:model': No module named 'no_such_module'. It is imported as Python "
        "would from the tests; pythonpath = . in pytest's ini file makes modules in the root folder importable"
    ]


@pytest.mark.parametrize("by", ["option", "marker"])
def test_a_file_that_is_not_a_model_is_an_error(project: Project, by: str) -> None:
    path = project.path / "notes.txt"
    path.write_text("weights", encoding="utf-8")
    if by == "option":
        result = project.run_tests(MARKED, "--pot-candidate=notes.txt")
    else:
        result = project.run_tests(MARKED.replace("pot_identity", "pot_identity(candidate='notes.txt')"))
    result.assert_outcomes(errors=1)
    assert section(result, "_ ERROR at setup of test_it _") == [
        f"the candidate {str(path)!r} is a file that is no model. {FORMS}"
    ]


def test_a_fixture_that_returns_no_model_fails(project: Project) -> None:
    project.write(conftest="import pytest\n\n@pytest.fixture\ndef pot_candidate():\n    return 42\n")
    result = project.run_tests(MARKED)
    result.assert_outcomes(failed=1)
    assert section(result) == [
        "pot_identity: the candidate is int, not a model: give a torch.nn.Module whose forward returns logits [batch, length, "
        "vocab], such as a transformers causal LM"
    ]


def test_pickled_weights_are_not_loaded(project: Project) -> None:
    """Reading a pickled checkpoint could run code."""
    import shutil

    import torch

    folder = project.path / "pickled"
    shutil.copytree(project.tiny.copy, folder)
    (folder / "model.safetensors").unlink()
    torch.save({}, folder / "pytorch_model.bin")
    result = project.run_tests(MARKED, "--pot-candidate=pickled")
    result.assert_outcomes(errors=1)
    [line] = section(result, "_ ERROR at setup of test_it _")
    assert line.startswith(f"cannot load the candidate {str(folder)!r}: ")
