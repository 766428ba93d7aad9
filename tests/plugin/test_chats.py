"""Chats as prompts, and texts that get a second BOS because a chat template has rendered them already."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import GPT2LMHeadModel

from .conftest import Project
from .test_tokenizers import failure

TEMPLATE = (
    "<s>{% for message in messages %}{{ message['role'] }}: {{ message['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)
SAME_TEMPLATE = TEMPLATE.replace("<s>", "{{ '<s>' }}")
CHAT = {"messages": [{"role": "user", "content": "Who is there?"}], "continuation": " Nobody, said the wind."}
RENDERED = "<s>user: Who is there?\nassistant:"
GATED = """
import pytest

@pytest.mark.pot_identity(tolerance="{tolerance}")
def test_it():
    pass
"""
RECORDED = GATED.replace("tolerance=", 'reference="ref.pot.safetensors", tolerance=')


def model(project: Project, name: str, template: str | None = TEMPLATE, *, bos: bool = True) -> Path:
    """A folder with the padded model and a tokenizer that has a BOS token and a chat template."""
    folder = project.path / name
    shutil.copytree(project.tiny.padded, folder)
    parts = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    parts["added_tokens"].append({"id": 280, "content": "<s>", **flags})
    if bos:
        parts["post_processor"] = {
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [280], "tokens": ["<s>"]}},
        }
    (folder / "tokenizer.json").write_text(json.dumps(parts), encoding="utf-8")
    settings = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    (folder / "tokenizer_config.json").write_text(json.dumps({**settings, "bos_token": "<s>"}), encoding="utf-8")
    if template is not None:
        (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
    return folder


@pytest.fixture
def chats(project: Project) -> Project:
    """A project with two equal models, ``base`` and ``copy``, and one chat as its prompts."""
    model(project, "base")
    model(project, "copy")
    project.ini(pot_reference="base", pot_candidate="copy", pot_prompts="prompts.jsonl")
    project.prompts("prompts.jsonl", CHAT)
    return project


def candidate(project: Project, name: str) -> None:
    project.ini(pot_reference="base", pot_candidate=name, pot_prompts="prompts.jsonl")


def test_a_chat_in_a_file_is_rendered_by_the_template(chats: Project) -> None:
    chats.run_tests(
        f"""
        import pytest

        @pytest.mark.pot_identity(tolerance="identical")
        def test_it(pot_result, pot_tokenizer):
            [prompt], [tokens] = pot_result.report.prompts, pot_result.report.tokens
            assert prompt.text == {RENDERED!r}
            assert pot_tokenizer.decode(tokens.ids) == prompt.text + prompt.continuation
            assert tokens.ids[0] == 280 and tokens.ids[1] != 280
        """
    ).assert_outcomes(passed=1)


def test_a_chat_in_a_marker_is_rendered_by_the_template(chats: Project) -> None:
    network: Any = GPT2LMHeadModel.from_pretrained(chats.path / "copy")
    with torch.no_grad():
        network.transformer.h[0].mlp.c_fc.weight.neg_()
    network.save_pretrained(chats.path / "copy")
    result = chats.run_tests(
        f"""
        import pytest
        from pytest_pot import Prompt

        @pytest.mark.pot_identity(prompts=[Prompt.chat({CHAT["messages"]!r}, "x")])
        def test_it(): pass
        """
    )
    assert r"prompt 0: '<s>user: Who is there?\nassistant:'" in failure(result)


@pytest.mark.parametrize("recorded", [False, True], ids=["live", "recorded"])
@pytest.mark.parametrize("tolerance", ["identical", "half"])
def test_a_candidate_that_adds_no_bos_to_texts_is_comparable_in_chats(chats: Project, recorded: bool, tolerance: str) -> None:
    """Its template renders the same chats; only texts, of which there are none, are encoded differently."""
    chats.write(test_it=(RECORDED if recorded else GATED).replace("{tolerance}", tolerance))
    if recorded:
        chats.run("--pot-update").assert_outcomes(passed=1)
    model(chats, "no_bos", bos=False)
    candidate(chats, "no_bos")
    [gate] = chats.gates()
    assert gate["passed"], gate
    assert any("which no prompt shows: post-processor" in note for note in gate["notes"])
    chats.prompts("prompts.jsonl", CHAT, {"text": "x", "continuation": "y"})
    assert ("prompts: 1 recorded, 2 now" if recorded else "disagree on the text of prompt 1") in failure(chats.run())


@pytest.mark.parametrize("recorded", [False, True], ids=["live", "recorded"])
def test_a_template_that_renders_the_same_chats_is_comparable(chats: Project, recorded: bool) -> None:
    chats.write(test_it=(RECORDED if recorded else GATED).replace("{tolerance}", "half"))
    if recorded:
        chats.run("--pot-update").assert_outcomes(passed=1)
    model(chats, "same", SAME_TEMPLATE)
    candidate(chats, "same")
    [gate] = chats.gates()
    assert gate["passed"], gate
    assert any("which no prompt shows: chat template" in note for note in gate["notes"])


@pytest.mark.parametrize("recorded", [False, True], ids=["live", "recorded"])
def test_a_template_that_renders_another_chat_fails(chats: Project, recorded: bool) -> None:
    chats.write(test_it=(RECORDED if recorded else GATED).replace("{tolerance}", "half"))
    if recorded:
        chats.run("--pot-update").assert_outcomes(passed=1)
    model(chats, "other", TEMPLATE.replace("assistant:", "model:"))
    candidate(chats, "other")
    message = failure(chats.run())
    if recorded:
        assert "prompt 0: '<s>user: Who is there?\\nassistant:' has other tokens now: at token " in message
    else:
        assert message.splitlines()[0] == (
            "pot_identity: the tokenizers of reference and candidate disagree on the chat of prompt 0 "
            r"('<s>user: Who is there?\nassistant:'):"
        )
        assert message.splitlines()[4:6] == [
            r"  rendered by their chat templates: reference '<s>user: Who is there?\nassistant:', candidate "
            r"'<s>user: Who is there?\nmodel:'",
            "  the tokenizers differ in: chat template",
        ]


def test_a_tokenizer_without_a_template_is_an_error(project: Project) -> None:
    project.prompts("prompts.jsonl", CHAT)
    message = failure(project.run_tests(GATED.replace("{tolerance}", "half")))
    assert message == (
        f"pot_identity: prompt 0 is a chat, and the tokenizer {project.tiny.reference} has no chat template to render it with. "
        "Put the template (chat_template.jinja) beside the tokenizer's files; name a tokenizer that has one with "
        "--pot-tokenizer or the pot_tokenizer fixture; or give the prompt as a text"
    )


def test_the_cache_tells_chats_apart_by_what_they_are_rendered_to(chats: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTEST_ADDOPTS", "-p pot")
    chats.write(test_it=GATED.replace("{tolerance}", "identical"))
    for _ in range(2):
        [gate] = chats.gates()
        assert gate["passed"], gate
    assert "from the cache" in gate["conditions"]
    for name in ("base", "copy"):
        (chats.path / name / "chat_template.jinja").write_text(TEMPLATE.replace("assistant:", "model:"), encoding="utf-8")
    [gate] = chats.gates()
    assert gate["passed"], gate
    assert "from the cache" not in gate["conditions"]


def test_a_text_that_gets_a_second_bos_is_warned_of_once(chats: Project) -> None:
    chats.prompts(
        "prompts.jsonl",
        {"text": "x", "continuation": "y"},
        {"text": RENDERED, "continuation": CHAT["continuation"]},
        {"text": RENDERED + " ", "continuation": CHAT["continuation"]},
    )
    chats.write(test_it=GATED.replace("{tolerance}", "identical"))
    result = chats.run("-W", "error")
    result.assert_outcomes(passed=1, warnings=1)
    warning = (
        "pot_identity: 2 of 3 prompts begin with two BOS ('<s><s>'; the first is prompt 1): the text has one, and the "
        "tokenizer adds another. Remove it from the text; or give a chat by its messages, "
        '{"messages": [...], "continuation": ...} or Prompt.chat(messages, continuation), which are encoded as the template '
        "renders them"
    )
    assert sum(warning in line for line in result.outlines) == 1
    chats.prompts("prompts.jsonl", CHAT, {"text": "x", "continuation": "y"})
    chats.run().assert_outcomes(passed=1, warnings=0)


def test_where_only_the_candidate_has_no_template_the_message_says_so(project: Project) -> None:
    """Both folders may have the same name elsewhere, and the reference's tokenizer has a template."""
    base = project.path / "base"
    shutil.copytree(project.tiny.reference, base)
    (base / "chat_template.jinja").write_text("{% for m in messages %}{{ m['content'] }}{% endfor %}", encoding="utf-8")
    project.ini(pot_reference="base", pot_candidate=project.tiny.copy, pot_prompts="prompts.jsonl")
    project.prompts("prompts.jsonl", {"messages": [{"role": "user", "content": "x"}], "continuation": "y"})
    message = failure(project.run_tests("import pytest\n\n@pytest.mark.pot_identity\ndef test_it():\n    pass\n"))
    assert message.startswith(
        f"pot_identity: prompt 0 is a chat, and the candidate's tokenizer {project.tiny.copy} has no chat template to render "
        "it with. Put the template"
    )
