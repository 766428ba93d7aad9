from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from pytest_pot import PotError, Prompt, TeacherForcedScorer
from pytest_pot.core.text import shorten
from pytest_pot.prompts.jsonl import load_prompts
from pytest_pot.prompts.prompt import as_prompts


def test_a_file_of_prompts_is_read_line_by_line(tmp_path: Path) -> None:
    path = tmp_path / "prompts.jsonl"
    rows = [{"text": "A", "continuation": " b", "kind": "x"}, "bare", {"text": "line\u2028separator", "id": "1"}]
    path.write_text("\n\n".join(json.dumps(row, ensure_ascii=False) for row in rows) + "\n", encoding="utf-8")
    assert load_prompts(path) == [Prompt("A", " b", "x"), Prompt("bare"), Prompt("line\u2028separator")]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{text: 1}", "line 2: not JSON"),
        ('{"continuation": "x"}', 'line 2: expected {"text": ..., "continuation": ...} or a string'),
        ('["a", "b"]', "line 2: expected"),
        ('{"text": 5}', "line 2: Prompt(text=5): text must be a string"),
        ('{"text": "a", "continuation": 5}', "line 2: Prompt(continuation=5): continuation must be a string"),
        ('{"text": "a", "answer": "b"}', "line 2: unknown field 'answer'; the fields are text, continuation, kind, id"),
    ],
)
def test_errors_name_the_wrong_line(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text('"fine"\n' + line)
    with pytest.raises(PotError) as error:
        load_prompts(path)
    assert str(error.value).startswith(f"{path}, ")
    assert message in str(error.value)


def test_a_file_without_prompts_or_no_file_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "empty.jsonl"
    path.write_text("\n")
    with pytest.raises(PotError, match=r"empty\.jsonl holds no prompt"):
        load_prompts(path)
    with pytest.raises(PotError, match="cannot read the prompts file"):
        load_prompts(tmp_path / "missing.jsonl")
    path.write_bytes(b'"\xff"')
    with pytest.raises(PotError, match="cannot read the prompts file"):
        load_prompts(path)


def test_a_single_string_is_not_read_as_a_list_of_letters() -> None:
    with pytest.raises(ValueError, match="prompts must be a list of prompts, not one"):
        as_prompts("The capital of France is")
    with pytest.raises(ValueError, match="prompt 1 is int, not a string"):
        as_prompts(["a", 3])  # type: ignore[list-item]
    with pytest.raises(PotError, match="there are no prompts to score"):
        as_prompts([])


def test_shortening_keeps_the_start_or_the_end() -> None:
    assert shorten("a\nb", 10) == "a\\nb"
    assert shorten("abcdefghij", 5) == "abcd…"
    assert shorten("abcdefghij", 5, keep="end") == "…ghij"


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        (None, "prompts must be a list of strings and pytest_pot.Prompt, not None"),
        (3, "prompts must be a list of strings and pytest_pot.Prompt, not int"),
        ({"Hello": " there"}, "prompts must be a list of strings and pytest_pot.Prompt, not dict"),
        ("Hello", "prompts must be a list of prompts, not one: write ['Hello']"),
        (
            Path("x.jsonl"),
            "prompts must be a list of prompts, not a file: pytest_pot.prompts.load_prompts('x.jsonl') reads one",
        ),
        ([3], "prompt 0 is int, not a string or a pytest_pot.Prompt"),
        ([], "there are no prompts to score; give at least one"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_scorer_rejects_anything_but_a_list_of_prompts(prompts: Any, message: str) -> None:
    """Unlike a gate's message, its message does not offer the built-in suite, which a scorer does not use."""
    for call in (TeacherForcedScorer().record, partial(TeacherForcedScorer().score_batch, None)):
        with pytest.raises(PotError) as error:
            call(None, prompts, None)
        assert str(error.value) == message
