from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from pytest_pot import Baseline, PotError, Prompt, ScoringConfig, TeacherForcedScorer
from pytest_pot.baseline.provenance import digest_of_prompts
from pytest_pot.prompts.tokenization import EncodedPrompts, tokenise

from ..conftest import make_tokenizer
from ..models import tiny

TEMPLATE = (
    "<s>{% for message in messages %}{{ message['role'] }}: {{ message['content'] }}</s>{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)
SAME_TEMPLATE = TEMPLATE.replace("<s>", "{{ bos_token }}")
"""Another template that renders the same chats to the same text."""
MESSAGES = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Who is there?"}]
CHAT = Prompt.chat(MESSAGES, " Nobody.")
RENDERED = "<s>system: Be brief.</s>user: Who is there?</s>assistant:"


def chat_tokenizer(template: str | None = TEMPLATE, *, bos: bool = True) -> PreTrainedTokenizerFast:
    tokenizer = make_tokenizer(bos=bos)
    if template is not None:
        tokenizer.chat_template = template
    return tokenizer


def test_a_chat_is_rendered_by_the_template_and_gets_no_special_tokens() -> None:
    tokenizer = chat_tokenizer()
    [(context, continuation)] = tokenise(tokenizer, [CHAT])
    assert tokenizer.decode(context) == RENDERED
    assert context == tokenizer.apply_chat_template(MESSAGES, add_generation_prompt=True, return_dict=False)
    assert context[:2] != [1, 1]
    assert continuation == tokenizer(" Nobody.", add_special_tokens=False)["input_ids"]


def test_a_chat_without_a_continuation_is_continued_by_the_reference() -> None:
    report = TeacherForcedScorer().score_batch(tiny(), tiny(), [Prompt.chat(MESSAGES)], chat_tokenizer())
    assert report.n_positions == 32
    assert report.mean == 0


def test_a_report_shows_the_rendered_text() -> None:
    report = TeacherForcedScorer().score_batch(tiny(), tiny(seed=1), ["x", CHAT], chat_tokenizer())
    assert report.prompts[1].text == RENDERED
    assert report.to_dict()["prompts"][1]["text"] == RENDERED


def test_a_tokenizer_without_a_chat_template_is_an_error() -> None:
    tokenizer = chat_tokenizer(None)
    tokenizer.name_or_path = "models/base"
    with pytest.raises(PotError) as error:
        tokenise(tokenizer, [Prompt("x"), CHAT])
    assert str(error.value) == (
        "prompt 1 is a chat, and the tokenizer models/base has no chat template to render it with. Put the template "
        "(chat_template.jinja) beside the tokenizer's files; name a tokenizer that has one with --pot-tokenizer or the "
        "pot_tokenizer fixture; or give the prompt as a text"
    )

    class Bare:
        def __call__(self, text: str, **_: Any) -> dict[str, list[int]]:
            return {"input_ids": [ord(character) for character in text]}

    with pytest.raises(PotError, match=r"prompt 0 is a chat, and the tokenizer \(Bare\) has no chat template"):
        tokenise(Bare(), [CHAT])


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{{ raise_exception('Conversation roles must alternate') }}", "Conversation roles must alternate"),
        ("{% for %}", "Expected an expression, got 'end of statement block'"),
        ("{{ messages[7]['content'] }}", "list object has no element 7"),
        ("{{ 1 // 0 }}", "integer division or modulo by zero"),
        ("{{ messages.__class__.__mro__ }}", "access to attribute '__class__' of 'list' object is unsafe"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "maximum recursion depth exceeded"),
        ("{% for i in range(10**9) %}x{% endfor %}", "Range too big"),
    ],
    ids=lambda value: value[:20],
)
def test_whatever_a_template_raises_is_an_error_that_names_the_prompt(template: str, reason: str) -> None:
    with pytest.raises(PotError) as error:
        tokenise(chat_tokenizer(template), [Prompt("x"), CHAT])
    message = str(error.value)
    assert message.startswith("prompt 1: the chat template of the tokenizer (")
    assert f"cannot render this chat: {reason}" in message
    assert message.endswith(". Give messages that the template takes, or another template")


def test_a_template_that_renders_nothing_leaves_nothing_to_score() -> None:
    with pytest.raises(PotError, match=r"prompt 0 \(''\) has no tokens"):
        tokenise(chat_tokenizer("{# nothing #}"), [CHAT])


def test_tokenizers_that_render_the_same_chat_alike_agree() -> None:
    """Even where a text gets a BOS from one of them and none from the other."""
    one, other = chat_tokenizer(), chat_tokenizer(SAME_TEMPLATE, bos=False)
    assert one("x")["input_ids"] != other("x")["input_ids"]
    EncodedPrompts([CHAT], one).check_same(other)
    report = TeacherForcedScorer().score_batch(tiny(), tiny(), [CHAT], one, candidate_tokenizer=other)
    assert report.mean == 0
    with pytest.raises(PotError, match="disagree on the text of prompt 1"):
        EncodedPrompts([CHAT, Prompt("x")], one).check_same(other)


def test_tokenizers_that_render_a_chat_differently_disagree() -> None:
    other = chat_tokenizer(TEMPLATE.replace("assistant:", "model:"))
    with pytest.raises(PotError) as error:
        EncodedPrompts([CHAT], chat_tokenizer()).check_same(other)
    lines = str(error.value).splitlines()
    assert lines[0] == "the tokenizers of reference and candidate disagree on the chat of prompt 0 (" + f"{RENDERED!r}):"
    assert lines[3:6] == [
        "  first difference, at token 39: reference 68 'a', candidate 80 'm'",
        "  rendered by their chat templates: reference '<s>system: Be brief.</s>user: Who is there?</s>assistant:', candidate "
        "'<s>system: Be brief.</s>user: Who is there?</s>model:'",
        "  the tokenizers differ in: chat template",
    ]


def test_texts_that_have_a_bos_already_are_found() -> None:
    prompts = [Prompt("<s>a"), Prompt("a"), CHAT, Prompt("<s>b", "c"), Prompt("aab")]
    assert EncodedPrompts(prompts, chat_tokenizer()).doubled_bos == {0: "<s><s>", 3: "<s><s>"}
    assert EncodedPrompts(prompts, chat_tokenizer(bos=False)).doubled_bos == {}


def test_a_bos_of_two_tokens_with_another_name_is_found_too() -> None:
    tokenizer = make_tokenizer()
    tokenizer.bos_token = None  # some tokenizers have none, but add tokens all the same
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<s> </s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    prompts = [Prompt("a"), Prompt("<s></s>a"), Prompt("<s>a"), Prompt("<s>")]
    assert EncodedPrompts(prompts, tokenizer).doubled_bos == {1: "<s></s><s></s>"}


# -- recordings --------------------------------------------------------------------------------------------------------


@pytest.fixture
def baseline(tmp_path: Path) -> Baseline:
    scorer = TeacherForcedScorer(ScoringConfig(top_k=10))
    path = scorer.record(tiny(), [CHAT, Prompt.chat(MESSAGES)], chat_tokenizer()).save(tmp_path / "x.pot.safetensors")
    return Baseline.load(path)


def stale(baseline: Baseline, tokenizer: PreTrainedTokenizerFast, prompts: list[Prompt] | None = None) -> list[str]:
    with pytest.raises(PotError) as error:
        TeacherForcedScorer(ScoringConfig(top_k=10)).score_baseline(baseline, tiny(), tokenizer, prompts=prompts)
    return [line.strip() for line in str(error.value).splitlines()[1:]]


def test_a_recording_keeps_messages_and_rendered_texts(baseline: Baseline) -> None:
    assert baseline.prompts == (
        replace(CHAT, text=RENDERED),
        replace(Prompt.chat(MESSAGES), text=RENDERED),
    )
    assert baseline.provenance.prompts == digest_of_prompts([CHAT, Prompt.chat(MESSAGES)])
    assert baseline.provenance.prompts != digest_of_prompts([Prompt(RENDERED, " Nobody."), Prompt(RENDERED)])


def test_the_order_of_keys_in_a_recorded_message_stays(tmp_path: Path) -> None:
    """A template may write a whole message, such as the arguments of a tool."""
    message = {"role": "tool", "content": "b", "arguments": {"z": 1, "a": 2}, "also": 3}
    tokenizer = chat_tokenizer("{% for message in messages %}{{ message | tojson }}{% endfor %}")
    scorer = TeacherForcedScorer(ScoringConfig(top_k=10))
    path = scorer.record(tiny(), [Prompt.chat([message], "c")], tokenizer).save(tmp_path / "x.pot.safetensors")
    assert scorer.score_baseline(Baseline.load(path), tiny(), tokenizer).max == 0
    assert scorer.score_baseline(Baseline.load(path), tiny(), tokenizer, prompts=[Prompt.chat([message], "c")]).max == 0


def test_a_recorded_chat_is_rendered_again_by_the_candidates_tokenizer(baseline: Baseline) -> None:
    scorer = TeacherForcedScorer(ScoringConfig(top_k=10))
    for prompts in (None, [CHAT, Prompt.chat(MESSAGES)]):
        for tokenizer in (chat_tokenizer(), chat_tokenizer(SAME_TEMPLATE), chat_tokenizer(SAME_TEMPLATE, bos=False)):
            assert scorer.score_baseline(baseline, tiny(), tokenizer, prompts=prompts).max == 0
        lines = stale(baseline, chat_tokenizer(TEMPLATE.replace("assistant:", "model:")), prompts)
        assert lines == [
            f"prompt {index}: '<s>system: Be brief.</s>user: Who is th…' has other tokens now: at token 39, 68 'a' recorded, "
            "80 'm' now; the chat was rendered as '…r: Who is there?</s>assistant:', and is '…r: Who is there?</s>model:' now"
            for index in range(2)
        ]
        with pytest.raises(PotError, match="prompt 0 is a chat, and the tokenizer"):
            scorer.score_baseline(baseline, tiny(), chat_tokenizer(None), prompts=prompts)


def test_a_template_that_writes_the_date_is_named(baseline: Baseline) -> None:
    lines = stale(baseline, chat_tokenizer("<s>{{ strftime_now('%d %b %Y') }}" + TEMPLATE.removeprefix("<s>")))
    assert lines[0].endswith(
        "; the tokenizer's chat template writes today's date (strftime_now), so that its chats differ from day to day: let the "
        "fixture pot_tokenizer return it with a fixed date in its chat_template, and record it so"
    )


def test_changed_messages_make_a_recording_stale(baseline: Baseline) -> None:
    other = [MESSAGES[0], {"role": "user", "content": "Who goes there?"}]
    assert stale(baseline, chat_tokenizer(), [Prompt.chat(other, " Nobody."), Prompt(RENDERED)]) == [
        """prompt 0: '…r", "content": "Who is there?"}]' recorded, '…r", "content": "Who goes there?"}]' now""",
        "prompt 1: a chat recorded, a text now",
    ]


def test_a_forged_chat_in_a_recording_is_refused(baseline: Baseline, tmp_path: Path) -> None:
    forged = replace(CHAT, text=RENDERED)
    object.__setattr__(forged, "messages", [{"role": 7}])
    path = replace(baseline, prompts=[forged, *baseline.prompts[1:]]).save(tmp_path / "forged.pot.safetensors")
    with pytest.raises(PotError, match=r"not a recording of pytest-pot: Prompt\.chat: messages\[0\] has no role"):
        Baseline.load(path)
