"""The built-in suite: its content, its order, and the statements in it that we can check."""

from __future__ import annotations

import ast
import csv
import hashlib
import json
import re
import tomllib
import unicodedata
from collections import Counter
from importlib import resources
from typing import Any
from xml.etree import ElementTree

import pytest

from pytest_pot import PRESETS, Prompt
from pytest_pot.prompts.builtin import builtin_prompts

from .challenges.equations import wrong_equations

SHORT_KINDS = {"fact", "code", "dialogue", "reasoning", "multilingual", "narrative", "arithmetic", "structured"}


@pytest.fixture(scope="module")
def suite() -> list[Prompt]:
    return builtin_prompts(None)


def of_kind(suite: list[Prompt], kind: str) -> list[str]:
    return [prompt.text + (prompt.continuation or "") for prompt in suite if prompt.kind == kind]


def test_there_are_enough_of_every_kind(suite: list[Prompt]) -> None:
    assert len(suite) == 257
    kinds = Counter(prompt.kind for prompt in suite)
    assert kinds == {**dict.fromkeys(SHORT_KINDS, 29), "long": 25}


def test_the_first_32_have_four_of_every_short_kind() -> None:
    kinds = Counter(prompt.kind for prompt in builtin_prompts())
    assert kinds == dict.fromkeys(SHORT_KINDS, 4)


def test_every_later_block_of_32_is_balanced_over_all_kinds(suite: list[Prompt]) -> None:
    for start in range(32, len(suite) - 31, 32):
        kinds = Counter(prompt.kind for prompt in suite[start : start + 32])
        assert set(kinds) == {*SHORT_KINDS, "long"}
        assert set(kinds.values()) == {3, 4}


def test_a_smaller_suite_is_the_beginning_of_the_whole(suite: list[Prompt]) -> None:
    assert builtin_prompts() == builtin_prompts(32) == suite[:32]
    assert builtin_prompts(1) == suite[:1]
    assert builtin_prompts(100) == suite[:100]
    assert builtin_prompts(257) == suite


@pytest.mark.parametrize("n", [0, -1, 258, True, 3.0, "8"])
def test_a_number_of_prompts_outside_the_suite_is_an_error(n: Any) -> None:
    with pytest.raises(ValueError, match=r"builtin_prompts\(.*\): ask for 1 to 257 prompts, or None for all of them"):
        builtin_prompts(n)


def test_published_prompts_do_not_change(suite: list[Prompt]) -> None:
    """Scores and baselines of different versions stay comparable. Add prompts only at the end."""
    assert digest(suite[:32]) == "c60a25df1e67425b"
    assert digest(suite) == "6ccacd344e357911"


def digest(prompts: list[Prompt]) -> str:
    rows = [[prompt.kind, prompt.text, prompt.continuation] for prompt in prompts]
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()[:16]


def test_prompts_added_at_the_end_do_not_change_earlier_long_prompts(
    suite: list[Prompt], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = resources.files("pytest_pot.prompts").joinpath("data/builtin.jsonl").read_text(encoding="utf-8")

    class Shorter:
        def joinpath(self, _: str) -> Shorter:
            return self

        def read_text(self, encoding: str) -> str:
            return "".join(whole.splitlines(keepends=True)[: 32 + 8 * 9 + 3])

    monkeypatch.setattr(resources, "files", lambda package: Shorter())
    earlier = builtin_prompts(None)
    assert len(earlier) == 32 + 9 * 9
    assert earlier == suite[: len(earlier)]


def test_no_two_prompts_have_the_same_text_or_ten_words_in_common(suite: list[Prompt]) -> None:
    short = [prompt for prompt in suite if prompt.kind != "long"]
    assert len({prompt.text for prompt in suite}) == len(suite)
    assert len({prompt.continuation for prompt in short}) == len(short)
    seen: dict[str, int] = {}
    for index, prompt in enumerate(short):
        words = re.findall(r"\w+", (prompt.text + (prompt.continuation or "")).lower())
        for start in range(len(words) - 9):
            run = " ".join(words[start : start + 10])
            assert seen.setdefault(run, index) == index or run.replace(" ", "").isdigit(), run


def test_ids_are_unique_and_named_after_their_kind() -> None:
    text = resources.files("pytest_pot.prompts").joinpath("data/builtin.jsonl").read_text(encoding="utf-8")
    rows = [json.loads(line) for line in text.splitlines()]
    assert len({row["id"] for row in rows}) == len(rows)
    assert all(re.fullmatch(rf"{row['kind']}-\d\d", row["id"]) for row in rows)


def test_no_text_ends_in_white_space(suite: list[Prompt]) -> None:
    """Most tokenizers join a trailing space to the next word, which would change the continuation's first token."""
    assert not [prompt.text for prompt in suite if prompt.text != prompt.text.strip()]
    assert not [prompt.continuation for prompt in suite if (prompt.continuation or "")[-1].isspace()]


def test_continuations_are_long_enough_for_every_preset(suite: list[Prompt]) -> None:
    assert max(config.positions_per_prompt for config in PRESETS.values()) == 64
    for prompt in suite:
        # A token is at most a word, three digits, a run of signs, or two characters of a script without spaces.
        pieces = re.findall(r"\d{1,3}|[^\W\d]+|[^\w\s]+", prompt.continuation or "")
        foreign = sum(character > "\u0e00" for character in prompt.continuation or "")
        assert max(len(pieces), foreign / 2) >= 64, prompt.continuation


def test_long_texts_hold_earlier_passages_in_full(suite: list[Prompt]) -> None:
    for index, prompt in enumerate(suite):
        if prompt.kind != "long":
            continue
        before = [earlier for earlier in suite[:index] if earlier.kind != "long"]
        whole = [p for p in before if p.text in prompt.text and (p.continuation or "").strip() in prompt.text]
        assert 2 <= len(whole) <= 7
        (kind,) = {p.kind for p in whole}
        (last,) = [p for p in before if (p.continuation or "").strip() == (prompt.continuation or "").strip()]
        assert last.kind == kind
        assert last not in whole
        assert prompt.text.rindex(last.text) > max(prompt.text.index(p.text) for p in whole)


def test_long_texts_come_in_five_forms(suite: list[Prompt]) -> None:
    texts = [prompt.text for prompt in suite if prompt.kind == "long"]
    for mark in (
        r"\A1\. ",
        r"\A# Notebook\n\n## Entry 1\n\n",
        r"\nContinuation:\Z",
        r"\A==> part-01",
        r"<\|im_start\|>assistant\Z",
    ):
        assert len([text for text in texts if re.search(mark, text)]) == 5, mark


def test_the_suite_has_chats_in_the_formats_of_many_models(suite: list[Prompt]) -> None:
    dialogues = of_kind(suite, "dialogue")
    for mark in (
        "<|im_start|>",
        "### Instruction:",
        "[INST]",
        "<|start_header_id|>",
        "<start_of_turn>",
        "<|user|>",
        "\nAssistant:",
    ):
        assert any(mark in dialogue for dialogue in dialogues), mark
    assert any("<|im_start|>" in dialogue for dialogue in of_kind(suite[:32], "dialogue"))


def test_the_suite_has_code_in_many_languages(suite: list[Prompt]) -> None:
    signs = {
        "Bash": r"\A#!/usr/bin/env bash",
        "C": r"#include <stddef\.h>",
        "C#": r"\busing System;",
        "C++": r"#include <vector>",
        "CSS": r"@media \(min-width",
        "Docker": r"\AFROM ",
        "Elixir": r"\Adefmodule ",
        "Go": r"\Apackage \w+\n",
        "Haskell": r"\bmodule \w+ .*where",
        "Java": r"\Aimport java\.",
        "JavaScript": r"export async function",
        "Julia": r"\bfor \w+ in 1:\w+\n",
        "Kotlin": r"\bfun \w+\(",
        "Lua": r"\Alocal ",
        "Make": r"^\.PHONY:",
        "OCaml": r"\blet rec ",
        "PHP": r"\A<\?php",
        "Perl": r"\Ause strict|^use strict;",
        "Python": r"^    def \w+\(self",
        "R": r"\Alibrary\(",
        "Ruby": r"frozen_string_literal",
        "Rust": r"\bpub fn ",
        "SQL": r"\bGROUP BY ",
        "Scala": r"\Aobject ",
        "Swift": r"\bfunc \w+\(.*\) throws ->",
        "TypeScript": r"\Ainterface \w+ \{",
    }
    codes = of_kind(suite, "code")
    codes_by_language = {name: [code for code in codes if re.search(sign, code, re.MULTILINE)] for name, sign in signs.items()}
    assert not [name for name, matches in codes_by_language.items() if not matches]


def test_the_suite_has_many_natural_languages_and_scripts(suite: list[Prompt]) -> None:
    texts = of_kind(suite, "multilingual")
    scripts = Counter(
        Counter(unicodedata.name(letter).split()[0] for letter in text if letter.isalpha()).most_common(1)[0][0]
        for text in texts
    )
    assert set(scripts) == {"LATIN", "CJK", "HIRAGANA", "CYRILLIC", "ARABIC", "DEVANAGARI", "HANGUL", "GREEK", "HEBREW", "THAI"}
    words = ["nicht", "vous", "los", "não", "della", "jest", "het", "och", "bir", "không", "oli", "ráda", "egy", "yang", "på"]
    assert not [word for word in words if not any(word in text.split() for text in texts)]


def test_python_prompts_can_be_parsed(suite: list[Prompt]) -> None:
    sources = [code for code in of_kind(suite, "code") if re.match(r"def |from \w+ import|import pytest", code)]
    assert len(sources) == 3
    for source in sources:
        ast.parse(source)


def test_structured_texts_are_well_formed(suite: list[Prompt]) -> None:
    texts = of_kind(suite, "structured")
    documents = [text for text in texts if text.startswith("{\n")]
    assert len(documents) == 2
    assert all(isinstance(json.loads(text), dict) for text in documents)
    (lines,) = [text for text in texts if text.startswith('{"id"')]
    assert [json.loads(line)["id"] for line in lines.splitlines()] == list(range(1, 9))
    (table,) = [text for text in texts if text.startswith("order date,")]
    assert {len(row) for row in csv.reader(table.splitlines())} == {6}
    (markdown,) = [text for text in texts if text.startswith("| Planet")]
    assert {line.count("|") for line in markdown.splitlines() if line.startswith("|")} == {6}
    assert tomllib.loads(next(text for text in texts if text.startswith("[project]")))["project"]["name"] == "tidewatch"
    trees = [text for text in texts if text.startswith("<")]
    assert len(trees) == 3
    for text in trees:
        ElementTree.fromstring(text.encode())


def test_the_equations_in_the_prompts_are_right(suite: list[Prompt]) -> None:
    n_equations, wrong = wrong_equations("\n".join(of_kind(suite, "arithmetic")))
    assert n_equations > 120
    assert not wrong
