"""Added tokens whose rows were lost: no built-in prompt reads them, which is told; prompts that hold them find it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from typing import Any

import pytest
import torch
from tokenizers import AddedToken
from transformers import AutoTokenizer, GPT2LMHeadModel

from .conftest import VOCAB, Project
from .test_tokenizers import failure

TOKENS = [f"<|tool_{n}|>" for n in range(6)]
NOTE = (
    "6 added tokens of the tokenizer are in no prompt, so their rows are not compared: '<|tool_0|>', '<|tool_1|>', "
    "'<|tool_2|>', '<|tool_3|>' and 2 more. pytest_pot.added_token_prompts(tokenizer) makes prompts that hold them, and "
    'prompts="added-tokens" adds these to the built-in suite'
)
GATED = """
import pytest

@pytest.mark.pot_identity({arguments})
def test_it():
    pass
"""


def zeroed(rows: torch.Tensor) -> torch.Tensor:
    return torch.zeros_like(rows)


def shuffled(rows: torch.Tensor) -> torch.Tensor:
    return rows.roll(1, dims=0)


def model(
    project: Project, name: str, change: Callable[[torch.Tensor], torch.Tensor] | None = None, where: str = "both"
) -> None:
    """The tiny reference with six added tokens, which it expects after each other and nowhere else.

    ``change`` spoils their rows, ``where``: in the ``"input"`` embeddings, the ``"output"`` layer, or both.
    """
    folder = project.path / name
    shutil.copytree(project.tiny.reference, folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens(TOKENS, special_tokens=True)
    tokenizer.save_pretrained(folder)
    network: Any = GPT2LMHeadModel.from_pretrained(folder)
    network.resize_token_embeddings(VOCAB + len(TOKENS))
    network.config.tie_word_embeddings = False
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        inputs = network.transformer.wte.weight
        outputs = inputs.clone()
        outputs[:VOCAB, 0] += 12  # the final coordinate 0 is always 1, so this is a bias
        inputs[VOCAB:] = torch.randn(len(TOKENS), 32, generator=generator) * 0.4
        inputs[VOCAB:, 1] = 8
        outputs[VOCAB:] = torch.randn(len(TOKENS), 32, generator=generator)
        outputs[VOCAB:, 0], outputs[VOCAB:, 1] = 0, 5
        for kind, matrix in (("input", inputs), ("output", outputs)):
            if change is not None and where in ("both", kind):
                matrix[VOCAB:] = change(matrix[VOCAB:].clone())
    network.lm_head.weight = torch.nn.Parameter(outputs)
    network.save_pretrained(folder)


@pytest.fixture
def tools(project: Project) -> Project:
    project.ini(pot_reference="base", pot_candidate="spoilt", pot_max_tail=1)
    return project


@pytest.mark.parametrize("where", ["both", "input", "output"])
@pytest.mark.parametrize("change", [zeroed, shuffled])
def test_lost_rows_pass_the_built_in_prompts_and_fail_those_that_hold_them(
    tools: Project, change: Callable[[torch.Tensor], torch.Tensor], where: str
) -> None:
    model(tools, "base")
    model(tools, "spoilt", change, where)
    tools.write(test_it=GATED.replace("{arguments}", 'tolerance="half"'))
    [gate] = tools.gates()
    assert NOTE in gate["notes"]
    assert gate["passed"], gate
    message = failure(tools.run_tests(GATED.replace("{arguments}", 'tolerance="half", prompts="added-tokens"')))
    assert message.startswith("pot_identity: DIFFERENT: ")
    worst = message.split("worst prompts:\n")[1].splitlines()[0]
    assert "(added token): 'Again and again:\\n<|tool_" in worst


def test_lost_rows_fail_against_a_recorded_reference_too(tools: Project) -> None:
    model(tools, "base")
    model(tools, "spoilt", zeroed)
    arguments = 'tolerance="half", reference="{name}.pot.safetensors"{prompts}'
    for name, prompts in (("plain", ""), ("held", ', prompts="added-tokens"')):
        tools.write(test_it=GATED.replace("{arguments}", arguments.replace("{name}", name).replace("{prompts}", prompts)))
        tools.run("--pot-update", "--pot-reference=base", "--pot-candidate=base").assert_outcomes(passed=1)
        [gate] = tools.gates()
        assert gate["passed"] == (name == "plain")
        assert (NOTE in gate["notes"]) == (name == "plain")
        assert gate["verdict"] == ("SAME" if name == "plain" else "DIFFERENT")


def test_the_same_rows_pass_the_prompts_that_hold_them(tools: Project) -> None:
    model(tools, "base")
    model(tools, "spoilt")
    tools.write(test_it=GATED.replace("{arguments}", 'tolerance="identical", prompts="added-tokens"'))
    [gate] = tools.gates()
    assert gate["passed"]
    assert gate["prompts"] == 32 + 2
    assert gate["notes"] == []


@pytest.mark.parametrize("way", ["option", "ini", "fixture", "list"])
def test_the_prompts_can_be_named_wherever_prompts_are(tools: Project, way: str) -> None:
    model(tools, "base")
    model(tools, "spoilt", zeroed)
    options = ["--pot-prompts=added-tokens"] if way == "option" else []
    arguments = "prompts=['x', pytest_pot.ADDED_TOKENS]" if way == "list" else ""
    if way == "ini":
        tools.ini(pot_reference="base", pot_candidate="spoilt", pot_max_tail=1, pot_prompts="added-tokens")
    if way == "fixture":
        tools.write(
            conftest="""
            import pytest
            from pytest_pot import added_token_prompts

            @pytest.fixture(scope="session")
            def pot_prompts(pot_tokenizer):
                return added_token_prompts(pot_tokenizer)
            """
        )
    tools.write(test_it="import pytest_pot\n" + GATED.replace("{arguments}", arguments))
    result = tools.run(*options)
    result.assert_outcomes(failed=1)
    assert "(added token)" in failure(result)


def test_the_note_is_shown_at_v_only(tools: Project) -> None:
    model(tools, "base")
    model(tools, "spoilt", zeroed)
    tools.write(test_it=GATED.replace("{arguments}", ""))
    assert NOTE not in tools.run().stdout.str()
    assert tools.run("-v").stdout.str().count(NOTE) == 1


def test_a_file_of_that_name_is_read(tools: Project) -> None:
    model(tools, "base")
    model(tools, "spoilt", zeroed)
    tools.prompts("added-tokens", {"text": "x", "continuation": "y"})
    tools.write(test_it=GATED.replace("{arguments}", 'prompts="added-tokens"'))
    [gate] = tools.gates()
    assert gate["passed"]
    assert gate["prompts"] == 1


def with_tokens(project: Project, name: str, *tokens: str) -> None:
    """The tiny reference, whose tokenizer has tokens more, without rows of the model."""
    folder = project.path / name
    shutil.copytree(project.tiny.reference, folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens(list(tokens), special_tokens=True)
    tokenizer.save_pretrained(folder)


@pytest.mark.parametrize("recorded", [False, True])
def test_a_token_without_a_row_is_told_and_in_no_prompt(project: Project, recorded: bool) -> None:
    model(project, "base")
    tokenizer = AutoTokenizer.from_pretrained(project.path / "base")
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    tokenizer.save_pretrained(project.path / "base")
    project.ini(pot_reference="base", pot_candidate="base", pot_max_tail=1)
    arguments = 'prompts="added-tokens"' + (', reference="ref.pot.safetensors"' if recorded else "")
    project.write(test_it=GATED.replace("{arguments}", arguments))
    if recorded:
        project.run("--pot-update", "--pot-reference=base").assert_outcomes(passed=1)
    [gate] = project.gates()
    assert gate["passed"], gate
    assert gate["prompts"] == 32 + 2
    rows = VOCAB + len(TOKENS)
    note = f"1 added token of the tokenizer has no row in the models' embeddings, which have {rows} (its id is beyond): '[PAD]'"
    assert [line for line in gate["notes"] if "token" in line] == [note]


def test_a_prompt_with_a_token_without_a_row_says_so(project: Project) -> None:
    with_tokens(project, "base", "[PAD]")
    project.ini(pot_reference="base", pot_candidate="base")
    message = failure(project.run_tests(GATED.replace("{arguments}", "prompts=['a [PAD]']")))
    assert message == (
        "pot_identity: the tokenizer gives id 280, but the reference's vocabulary has only 280 tokens: the tokenizer belongs "
        "to another model; or the token was added to it, and the model has no row for it (resize_token_embeddings adds one)"
    )


def test_where_a_tokenizer_has_no_added_tokens_that_is_told(project: Project) -> None:
    project.ini(pot_prompts="added-tokens", pot_reference=project.tiny.reference, pot_candidate=project.tiny.copy)
    project.write(test_it=GATED.replace("{arguments}", 'tolerance="identical", max_tail=1'))
    [gate] = project.gates()
    assert gate["prompts"] == 32
    assert gate["notes"] == ["prompts for added tokens were asked for, but the tokenizer has none that a text can hold"]


def test_a_token_that_no_text_gives_is_told_without_advising_the_prompts_in_use(project: Project) -> None:
    """Special tokens in texts are split, as a setting of the tokenizer asks."""
    folder = project.path / "base"
    shutil.copytree(project.tiny.padded, folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens([AddedToken("<x>", special=True), AddedToken("<y>")])
    tokenizer.save_pretrained(folder)
    path = folder / "tokenizer_config.json"
    settings = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**settings, "split_special_tokens": True}), encoding="utf-8")
    project.ini(pot_reference="base", pot_candidate="base", pot_prompts="added-tokens", pot_max_tail=1)
    project.write(test_it=GATED.replace("{arguments}", ""))
    [gate] = project.gates()
    assert gate["prompts"] == 32 + 1
    assert gate["notes"] == [
        "1 added token of the tokenizer is in no prompt, so its rows of the embeddings and the output layer are not compared: "
        "'<x>'. added_token_prompts found no text that gives it"
    ]


def test_a_gate_that_is_decided_early_says_that_it_did_not_come_to_the_tokens(tools: Project) -> None:
    model(tools, "base")
    model(tools, "spoilt")
    prompts = "[*(Prompt(f'word {n}', ' and') for n in range(200)), ADDED_TOKENS]"
    text = GATED.replace("{arguments}", f'tolerance="int4", confidence=0.9, prompts={prompts}')
    tools.write(test_it="from pytest_pot import ADDED_TOKENS, Prompt\n" + text)
    [gate] = tools.gates()
    assert gate["passed"]
    assert gate["prompts"] < 100
    [note] = [line for line in gate["notes"] if "added token" in line]
    assert note.endswith(". The gate was decided before it came to the prompts that hold them")


def test_bos_and_eos_that_no_prompt_holds_are_told(project: Project) -> None:
    """Chat tokenizers have them in these roles: their rows are lost in merges like any other's. Padding is not."""
    folder = project.path / "base"
    shutil.copytree(project.tiny.padded, folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_special_tokens(
        {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>", "unk_token": "<|endoftext|>", "pad_token": "[PAD]"}
    )
    tokenizer.save_pretrained(folder)
    project.ini(pot_reference="base", pot_candidate="base", pot_prompts="prompts.jsonl")
    project.write(test_it=GATED.replace("{arguments}", ""))
    [gate] = project.gates()
    [note] = [line for line in gate["notes"] if "added token" in line]
    start = "3 added tokens of the tokenizer are in no prompt, so their rows are not compared: "
    assert note.startswith(start)
    assert {*note.removeprefix(start).split(". ")[0].split(", ")} == {"'<|im_start|>'", "'<|im_end|>'", "'<|endoftext|>'"}
