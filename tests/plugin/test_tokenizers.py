"""Tokenizers that differ though no prompt shows it: told where a tolerance allows it, refused where the claim is identity."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from pytest_pot import Baseline

from .conftest import PROMPTS, Project

GATED = """
import pytest

@pytest.mark.pot_identity(tolerance="{tolerance}")
def test_it():
    pass
"""
RECORDED = GATED.replace("tolerance=", 'reference="ref.pot.safetensors", tolerance=')

Parts = dict[str, Any]
"""A tokenizer.json."""


def added_token(parts: Parts) -> None:
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    parts["added_tokens"].append({"id": 280, "content": "<|tool|>", **flags})


def other_vocabulary(parts: Parts) -> None:
    vocab = parts["model"]["vocab"]
    vocab["!"], vocab["~"] = vocab["~"], vocab["!"]


def other_merges(parts: Parts) -> None:
    merges = parts["model"]["merges"]
    merges[-1], merges[-2] = merges[-2], merges[-1]


def other_model(parts: Parts) -> None:
    parts["model"]["ignore_merges"] = True


def normalizer(parts: Parts) -> None:
    parts["normalizer"] = {"type": "Replace", "pattern": {"String": "\r\n"}, "content": "\n"}


def pre_tokenizer(parts: Parts) -> None:
    tabs = {"type": "Split", "pattern": {"String": "\t\t"}, "behavior": "Isolated", "invert": False}
    parts["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [tabs, parts["pre_tokenizer"]]}


def post_processor(parts: Parts) -> None:
    parts["post_processor"] = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}


def decoder(parts: Parts) -> None:
    parts["decoder"] = {"type": "Fuse"}


CHANGES: dict[str, tuple[Callable[[Parts], None], str]] = {
    "added": (added_token, "added tokens (id 280 is nothing in the reference's and '<|tool|>' in the candidate's)"),
    "vocabulary": (
        other_vocabulary,
        "vocabulary (id 0 is '!' in the reference's and '~' in the candidate's; 2 ids differ)",
    ),
    "merges": (other_merges, "merges"),
    "model": (
        other_model,
        "settings of the tokenizer's model (ignore_merges: False in the reference's, True in the candidate's)",
    ),
    "normalizer": (normalizer, "normalizer (nothing in the reference's, Replace in the candidate's)"),
    "pre_tokenizer": (pre_tokenizer, "pre-tokenizer (type: 'ByteLevel' in the reference's, 'Sequence' in the candidate's)"),
    "post_processor": (
        post_processor,
        "post-processor (type: 'TemplateProcessing' in the reference's, 'ByteLevel' in the candidate's)",
    ),
    "decoder": (decoder, "decoder (type: 'ByteLevel' in the reference's, 'Fuse' in the candidate's)"),
}
CHAT_TEMPLATE = "{% for message in messages %}{{ message['content'] }}{% endfor %}"


def candidate(project: Project, change: Callable[[Parts], None] | None = None, template: str | None = None) -> None:
    """Make ``candidate``, the reference's weights with a changed tokenizer, the gates' candidate."""
    folder = project.path / "candidate"
    shutil.copytree(project.tiny.copy, folder)
    if change is not None:
        parts = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
        change(parts)
        (folder / "tokenizer.json").write_text(json.dumps(parts), encoding="utf-8")
    if template is not None:
        (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
    project.ini(pot_reference=project.tiny.reference, pot_candidate="candidate", pot_prompts="prompts.jsonl")


def failure(result: pytest.RunResult) -> str:
    """The message of the only failing test."""
    result.assert_outcomes(failed=1)
    start = next(i for i, line in enumerate(result.outlines) if line.startswith("____")) + 1
    end = next(i for i, line in enumerate(result.outlines) if i > start and line.startswith(("====", "----")))
    return "\n".join(result.outlines[start:end])


WHAT_TO_DO = (
    "Give both the same tokenizer; or allow more, such as tolerance='half'; or, if the candidate's tokenizer is not meant to "
    "be used, name the one to use with --pot-tokenizer or the pot_tokenizer fixture"
)


def refusal(difference: str, limit: str) -> str:
    return (
        f"pot_identity: {difference}. No prompt shows it, but a limit of {limit} claims that the models are the same, and with "
        f"other texts they would not be. {WHAT_TO_DO}"
    )


@pytest.mark.parametrize(("tolerance", "limit"), [("identical", "0"), ("numeric", "0.0001")])
@pytest.mark.parametrize("name", CHANGES)
def test_a_part_that_no_prompt_shows_fails_where_the_claim_is_identity(
    project: Project, name: str, tolerance: str, limit: str
) -> None:
    change, part = CHANGES[name]
    candidate(project, change)
    message = failure(project.run_tests(GATED.replace("{tolerance}", tolerance)))
    assert message == refusal(f"the tokenizers of reference and candidate differ in: {part}", limit)


@pytest.mark.parametrize("name", CHANGES)
def test_a_part_that_no_prompt_shows_is_told_where_a_tolerance_allows_it(project: Project, name: str) -> None:
    change, part = CHANGES[name]
    candidate(project, change)
    project.write(test_it=GATED.replace("{tolerance}", "half"))
    [gate] = project.gates()
    assert gate["passed"]
    note = f"the tokenizers of reference and candidate differ, which no prompt shows: {part}"
    assert [line for line in gate["notes"] if "tokenizers" in line] == [note]
    result = project.run("-v")
    assert any(line.strip() == note for line in result.outlines)


def test_a_chat_template_is_a_part_of_a_tokenizer(project: Project) -> None:
    candidate(project, template=CHAT_TEMPLATE)
    message = failure(project.run_tests(GATED.replace("{tolerance}", "identical")))
    assert message == refusal("the tokenizers of reference and candidate differ in: chat template", "0")


def test_the_same_tokenizer_in_two_folders_is_no_difference(project: Project) -> None:
    """Nor are other settings for truncation and padding, which tools write beside it."""

    def settings(parts: Parts) -> None:
        parts["truncation"] = {"direction": "Right", "max_length": 5, "strategy": "LongestFirst", "stride": 0}

    candidate(project, settings)
    project.write(test_it=GATED.replace("{tolerance}", "identical"))
    [gate] = project.gates()
    assert gate["passed"]
    assert gate["notes"] == []


def test_one_tokenizer_for_both_models_is_not_compared(project: Project) -> None:
    """The fix that the message proposes."""
    candidate(project, normalizer)
    result = project.run_tests(GATED.replace("{tolerance}", "identical"), f"--pot-tokenizer={project.tiny.reference}")
    result.assert_outcomes(passed=1)


def test_models_that_should_be_distinct_may_have_other_tokenizers(project: Project) -> None:
    candidate(project, normalizer)
    text = GATED.replace("pot_identity", "pot_distinct").replace("{tolerance}", "numeric")
    assert "SAME" in failure(project.run_tests(text))


@pytest.mark.parametrize("name", [*CHANGES, "chat_template"])
@pytest.mark.parametrize("tolerance", ["identical", "half"])
def test_a_recorded_reference_is_compared_in_the_same_parts(project: Project, name: str, tolerance: str) -> None:
    project.write(test_it=RECORDED.replace("{tolerance}", tolerance))
    project.run("--pot-update").assert_outcomes(passed=1)
    change, part = CHANGES.get(name, (None, "chat template"))
    candidate(project, change, CHAT_TEMPLATE if change is None else None)
    result = project.run("-v")
    part = part.split(" (")[0]
    if name == "added":
        part = "added tokens (id 280 is nothing in the recorded one and '<|tool|>' in the candidate's)"
    if name in ("vocabulary", "merges"):
        lines = failure(result).splitlines()
        assert lines[0] == "pot_identity: ref.pot.safetensors was recorded with something else:"
        assert lines[1].startswith(f"  tokenizer.{name}: sha256 ")
        assert lines[2:] == [OTHER_TOKENIZER]  # --pot-update would record the reference's again
    elif tolerance == "identical":
        assert failure(result) == refusal(f"the tokenizer differs from the recorded one in: {part}", "0")
    else:
        result.assert_outcomes(passed=1)
        note = f"the tokenizer differs from the recorded one, which no prompt shows: {part}"
        assert any(line.strip() == note for line in result.outlines)


OTHER_TOKENIZER = (
    "Give the candidate the reference's tokenizer; or, if its own is not meant to be used, name the one to use with "
    "--pot-tokenizer or the pot_tokenizer fixture"
)


def test_a_padding_token_more_does_not_make_a_recording_stale_again_and_again(project: Project) -> None:
    """--pot-update would record the reference's tokenizer each time, which has no such token."""
    tokenizer: Any = PreTrainedTokenizerFast.from_pretrained(project.tiny.copy)
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    shutil.copytree(project.tiny.padded, project.path / "padded")
    tokenizer.save_pretrained(project.path / "padded")
    project.ini(pot_reference=project.tiny.padded, pot_candidate="padded", pot_prompts="prompts.jsonl")
    project.write(test_it=RECORDED.replace("{tolerance}", "half"))
    for arguments, sides in (
        ((("--pot-update"),), "tokenizers of reference and candidate differ"),
        ((), "tokenizer differs from the recorded one"),
    ):
        result = project.run("-v", *arguments)
        result.assert_outcomes(passed=1)
        [note] = [line.strip() for line in result.outlines if "[PAD]" in line]
        assert note.startswith(f"the {sides}, which no prompt shows: added tokens (id 280 is nothing in the re")
        assert note.endswith(" and '[PAD]' in the candidate's)")


def test_a_token_that_is_added_in_place_of_another_makes_a_recording_stale(project: Project) -> None:
    """Only tokens after all that were recorded change no other."""
    for name, token in (("base", "<|a|>"), ("candidate", "<|b|>")):
        shutil.copytree(project.tiny.padded, project.path / name)
        tokenizer: Any = PreTrainedTokenizerFast.from_pretrained(project.path / name)
        tokenizer.add_tokens([token, "<|c|>"])
        tokenizer.save_pretrained(project.path / name)
    project.ini(pot_reference="base", pot_candidate="candidate", pot_prompts="prompts.jsonl")
    project.write(test_it=RECORDED.replace("{tolerance}", "half"))
    project.run("--pot-update").assert_outcomes(passed=1)
    lines = failure(project.run()).splitlines()
    assert [line.split(":")[0] for line in lines[1:-1]] == ["  tokenizer.added_tokens", "  tokenizer.vocabulary"]
    assert lines[-1] == OTHER_TOKENIZER


@pytest.mark.parametrize("chosen", [True, False])
def test_a_reference_with_a_new_tokenizer_can_be_recorded_anew(project: Project, chosen: bool) -> None:
    shutil.copytree(project.tiny.reference, project.path / "base")
    project.ini(pot_reference="base", pot_candidate=project.tiny.copy, pot_prompts="prompts.jsonl")
    project.write(test_it=RECORDED.replace("{tolerance}", "half"))
    project.run("--pot-update").assert_outcomes(passed=1)
    options = []
    if chosen:
        options = [f"--pot-tokenizer={project.tiny.other_tokenizer}"]
    else:  # both models get another one
        tokenizer = project.path / "base" / "tokenizer.json"
        shutil.copy(project.tiny.other_tokenizer / "tokenizer.json", tokenizer)
        options = [f"--pot-candidate={project.tiny.other_tokenizer}"]
    lines = failure(project.run(*options)).splitlines()
    assert lines[-2] == "If that is meant, this records it anew:"
    assert lines[-1].startswith("  pytest test_it.py::test_it --pot-update ")
    project.run("--pot-update", *options).assert_outcomes(passed=1)
    project.run(*options).assert_outcomes(passed=1)


def test_where_the_references_tokenizer_is_not_at_hand_both_remedies_are_named(project: Project) -> None:
    project.write(test_it=RECORDED.replace("{tolerance}", "half"))
    project.run("--pot-update").assert_outcomes(passed=1)
    project.ini(pot_candidate=project.tiny.other_tokenizer, pot_prompts="prompts.jsonl")
    lines = failure(project.run()).splitlines()
    assert lines[-2] == f"{OTHER_TOKENIZER}. If that is meant, this records it anew:"


def test_two_texts_that_look_alike_are_told_apart(recorded: Project) -> None:
    """A no-break space, a composed letter, and a difference far from the beginning."""
    long = "All work and no play makes Jack a dull boy. " * 3
    texts = ["a b", "caf\u00e9", long + "x"]
    recorded.prompts("prompts.jsonl", *({"text": text, "continuation": " y"} for text in texts))
    recorded.run("--pot-update").assert_outcomes(passed=1)
    others = ["a\u00a0b", "cafe\u0301", long + "z"]
    recorded.prompts("prompts.jsonl", *({"text": text, "continuation": " y"} for text in others))
    assert failure(recorded.run()).splitlines()[1:4] == [
        r"  prompt 0: 'a b' recorded, 'a\xa0b' now",
        r"  prompt 1: 'caf\xe9' recorded, 'cafe\u0301' now",
        "  prompt 2: '…es Jack a dull boy. x' recorded, '…es Jack a dull boy. z' now",
    ]


def test_a_text_with_other_tokens_shows_the_first_of_them(recorded: Project) -> None:
    recorded.run("--pot-update").assert_outcomes(passed=1)

    def old(parts: Parts) -> None:
        parts["normalizer"] = {"type": "Replace", "pattern": {"String": "mill"}, "content": "wind"}

    candidate(recorded, old)
    [_, line, *_] = failure(recorded.run()).splitlines()
    ids = recorded.tiny.tokenizer("The old mill by the river")["input_ids"]
    now = recorded.tiny.tokenizer("The old wind by the river")["input_ids"]
    at = next(i for i, pair in enumerate(zip(ids, now, strict=False)) if pair[0] != pair[1])
    tokens = [f"{side[at]} {recorded.tiny.tokenizer.decode([side[at]])!r}" for side in (ids, now)]
    assert line == (
        f"  prompt 0: 'The old mill by the river' has other tokens now: at token {at}, {tokens[0]} recorded, {tokens[1]} now"
    )


def test_the_first_difference_of_a_long_text_is_shown(project: Project) -> None:
    """It is beyond the ids that are listed from the beginning."""
    project.prompts("prompts.jsonl", {"text": "0123456789" * 4 + "\u200b", "continuation": " y"})

    def drop(parts: Parts) -> None:
        parts["normalizer"] = {"type": "Replace", "pattern": {"String": "\u200b"}, "content": ""}

    candidate(project, drop)
    lines = failure(project.run_tests(GATED.replace("{tolerance}", "half"))).splitlines()
    ids = project.tiny.tokenizer("0123456789" * 4 + "\u200b")["input_ids"]
    listed = [", ".join(map(str, side[-24:])) for side in (ids, ids[:40])]
    assert lines[1:5] == [
        f"  reference: [… 19 ids, {listed[0]}]",
        f"  candidate: [… 16 ids, {listed[1]}]",
        f"  first difference, at token 40: reference {ids[40]} '\ufffd', candidate the end",
        "  the tokenizers differ in: normalizer (nothing in the reference's, Replace in the candidate's)",
    ]


@pytest.fixture
def recorded(project: Project) -> Project:
    """A project whose gate has a recorded reference, which is not recorded yet."""
    project.prompts("prompts.jsonl", *PROMPTS)
    project.write(test_it=RECORDED.replace("{tolerance}", "half"))
    return project


OWN_CLASS = """
import pytest
from transformers import GPT2LMHeadModel, PreTrainedTokenizerFast


class Own(PreTrainedTokenizerFast):
    pass


def loaded(folder):
    return GPT2LMHeadModel.from_pretrained(folder), Own.from_pretrained(folder)


@pytest.fixture(scope="session")
def pot_reference():
    return loaded({reference})


@pytest.fixture(scope="session")
def pot_candidate():
    return loaded("candidate")
"""


@pytest.mark.parametrize("name", ["merges", "model"])
def test_a_tokenizer_class_of_ones_own_is_compared_in_its_rules_too(project: Project, name: str) -> None:
    change, part = CHANGES[name]
    candidate(project, change)
    project.write(conftest=OWN_CLASS)
    message = failure(project.run_tests(GATED.replace("{tolerance}", "identical")))
    assert message == refusal(f"the tokenizers of reference and candidate differ in: {part}", "0")


@pytest.mark.parametrize("parts", ["as recorded now", "as older versions recorded them"])
def test_a_recording_by_a_tokenizer_class_of_ones_own(project: Project, parts: str) -> None:
    """It is valid for the same tokenizer, and for no other."""
    candidate(project)
    project.write(conftest=OWN_CLASS, test_it=RECORDED.replace("{tolerance}", "identical"))
    project.run("--pot-update").assert_outcomes(passed=1)
    path = project.path / "ref.pot.safetensors"
    if parts != "as recorded now":
        baseline = Baseline.load(path)
        known = {name: sha for name, sha in baseline.provenance.tokenizer.items() if name in OLDEST_PARTS}
        assert set(known) == OLDEST_PARTS
        replace(baseline, provenance=replace(baseline.provenance, tokenizer=known)).save(path)
    project.run().assert_outcomes(passed=1)
    shutil.rmtree(project.path / "candidate")
    candidate(project, other_merges)
    assert "\n  tokenizer.merges: sha256 " in failure(project.run())


OLDEST_PARTS = {"vocabulary", "added_tokens", "merges", "encoding"}
"""Of a byte-pair encoding, by a class without ``whole``."""


def with_special_tokens(project: Project, name: str, **roles: str) -> None:
    """A folder with the padded model, whose tokenizer has two added tokens, in these roles."""
    folder = project.path / name
    shutil.copytree(project.tiny.padded, folder)
    tokenizer: Any = PreTrainedTokenizerFast.from_pretrained(folder)
    tokenizer.add_tokens(["<|end|>", "<|user|>"], special_tokens=True)
    for role, token in roles.items():
        setattr(tokenizer, role, token)
    tokenizer.save_pretrained(folder)


@pytest.mark.parametrize("tolerance", ["identical", "half"])
def test_the_roles_of_special_tokens_are_a_part_of_a_tokenizer(project: Project, tolerance: str) -> None:
    with_special_tokens(project, "base", eos_token="<|end|>")
    with_special_tokens(project, "candidate", eos_token="<|user|>")
    project.ini(pot_reference="base", pot_candidate="candidate", pot_prompts="prompts.jsonl")
    project.write(test_it=GATED.replace("{tolerance}", tolerance))
    part = "special tokens (eos_token: '<|end|>' in the reference's, '<|user|>' in the candidate's)"
    result = project.run("-v")
    if tolerance == "identical":
        assert failure(result) == refusal(f"the tokenizers of reference and candidate differ in: {part}", "0")
    else:
        result.assert_outcomes(passed=1)
        note = f"the tokenizers of reference and candidate differ, which no prompt shows: {part}"
        assert any(line.strip() == note for line in result.outlines)


@pytest.mark.parametrize("tolerance", ["identical", "half"])
def test_the_roles_of_special_tokens_are_recorded(project: Project, tolerance: str) -> None:
    with_special_tokens(project, "base", eos_token="<|end|>")
    with_special_tokens(project, "candidate", eos_token="<|user|>")
    project.ini(pot_reference="base", pot_candidate="base", pot_prompts="prompts.jsonl")
    project.write(test_it=RECORDED.replace("{tolerance}", tolerance))
    project.run("--pot-update", "--pot-reference=base").assert_outcomes(passed=1)
    result = project.run("-v", "--pot-candidate=candidate")
    if tolerance == "identical":
        assert failure(result) == refusal("the tokenizer differs from the recorded one in: special tokens", "0")
    else:
        result.assert_outcomes(passed=1)
        note = "the tokenizer differs from the recorded one, which no prompt shows: special tokens"
        assert any(line.strip() == note for line in result.outlines)


def test_padding_by_another_token_is_no_difference(project: Project) -> None:
    """Tools set it to EOS where there is none."""
    with_special_tokens(project, "base", eos_token="<|end|>")
    with_special_tokens(project, "candidate", eos_token="<|end|>", pad_token="<|end|>")
    project.ini(pot_reference="base", pot_candidate="candidate", pot_prompts="prompts.jsonl")
    project.run_tests(GATED.replace("{tolerance}", "identical")).assert_outcomes(passed=1)


METRIC = """
import pytest

@pytest.mark.pot_identity(metric="kl", max_score={limit})
def test_it():
    pass
"""


def test_a_small_limit_on_another_metric_is_no_claim_of_identity(project: Project) -> None:
    """Only the metric tv has a size that is known to be rounding error alone."""
    candidate(project, added_token)
    project.run_tests(METRIC.replace("{limit}", "1e-4")).assert_outcomes(passed=1)


def test_a_limit_of_0_is_one_on_every_metric_and_advises_what_the_metric_has(project: Project) -> None:
    candidate(project, added_token)
    message = failure(project.run_tests(METRIC.replace("{limit}", "0")))
    expected = refusal(f"the tokenizers of reference and candidate differ in: {CHANGES['added'][1]}", "0")
    assert message == expected.replace("tolerance='half'", "a max_score above 0 on kl")


PYTHON_RULES = OWN_CLASS.replace(
    "def loaded(folder):",
    """
class Splits:
    def pre_tokenize(self, text):
        text.split(lambda _, piece: [piece])


def loaded(folder):
    from tokenizers import pre_tokenizers

    tokenizer = Own.from_pretrained(folder)
    parts = [pre_tokenizers.ByteLevel(add_prefix_space=False), pre_tokenizers.PreTokenizer.custom(Splits())]
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(parts)
    return GPT2LMHeadModel.from_pretrained(folder), tokenizer


def unused(folder):""",
)


@pytest.mark.parametrize("text", [GATED, RECORDED])
def test_a_tokenizer_that_does_not_write_down_its_rules_is_told(project: Project, text: str) -> None:
    candidate(project)
    project.write(conftest=PYTHON_RULES, test_it=text.replace("{tolerance}", "identical"))
    if text == RECORDED:
        project.run("--pot-update").assert_outcomes(passed=1)
    [gate] = project.gates()
    assert gate["passed"], gate
    assert [line for line in gate["notes"] if "tokenizer" in line] == [
        "the candidate's tokenizer (Own) does not write down its rules: beside the ids of the prompts and of one other text, "
        "only its vocabulary, added and special tokens and chat template were compared"
    ]
