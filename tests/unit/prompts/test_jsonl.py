from __future__ import annotations

import json
import os
import socket
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
        (
            '{"continuation": "x"}',
            'line 2: expected {"text": ..., "continuation": ...}, {"messages": [...], "continuation": ...} or a string',
        ),
        ('{"text": "a", "messages": []}', "line 2: expected"),
        ('["a", "b"]', "line 2: expected"),
        ('{"text": 5}', "line 2: Prompt(text=5): text must be a string"),
        ('{"text": "a", "continuation": 5}', "line 2: Prompt(continuation=5): continuation must be a string"),
        (
            '{"text": "a", "answer": "b"}',
            "line 2: unknown field 'answer'; the fields are text, messages, continuation, kind, id",
        ),
        ('{"messages": []}', "line 2: Prompt.chat: messages is empty; a chat has at least one message"),
        ('{"messages": null}', 'line 2: Prompt.chat(None): messages must be a list of {"role": ..., "content": ...}'),
        ('{"messages": "hi"}', 'line 2: Prompt.chat: messages must be a list of {"role": ..., "content": ...}, not str'),
        ('{"messages": ["hi"]}', 'line 2: Prompt.chat: messages[0] is str, not {"role": ..., "content": ...}'),
        (
            '{"messages": [{"role": "user", "content": "a"}, {"content": "b"}]}',
            'line 2: Prompt.chat: messages[1] has no role; give it one, such as "role": "user"',
        ),
        ('{"messages": [{"role": "user"}]}', "line 2: Prompt.chat: messages[0] has no content; it must be a string, or"),
        ("[" * 100_000, "line 2: brackets are nested too deeply for a prompt"),
        ('{"text": ' + "[" * 100_000, "line 2: brackets are nested too deeply for a prompt"),
        ("9" * 5_000, "line 2: not JSON (Exceeds the limit"),
        ('{"text": "a", "id": ' + "9" * 5_000 + "}", "line 2: not JSON (Exceeds the limit"),
        ('{"text": "a", "text": "b"}', "line 2: not JSON (the field 'text' is there twice)"),
        (
            r'"ab\ud83d"',
            r"line 2: Prompt: text has half of a character at index 2 ('\ud83d', a lone surrogate), which no tokenizer can "
            "read: it was cut inside a character, or decoded with surrogateescape",
        ),
        (r'{"text": "a", "continuation": "\udc00"}', "line 2: Prompt: continuation has half of a character at index 0"),
        (r'{"text": "a", "kind": "\udc00"}', "line 2: Prompt: kind has half of a character at index 0"),
        (
            r'{"messages": [{"role": "user", "content": "\ud83d"}]}',
            "line 2: Prompt.chat: messages, as JSON, has half of a character",
        ),
    ],
    ids=range(22),
)
def test_errors_name_the_wrong_line(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text('"fine"\n' + line)
    with pytest.raises(PotError) as error:
        load_prompts(path)
    assert str(error.value).startswith(f"{path}, ")
    assert message in str(error.value)
    assert len(str(error.value)) < 500


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


def test_a_file_that_is_not_utf_8_is_an_error_that_names_the_line(tmp_path: Path) -> None:
    path = tmp_path / "latin.jsonl"
    path.write_bytes('"fine"\n"café"\n'.encode("latin-1"))
    with pytest.raises(
        PotError, match=r"cannot read the prompts file .*latin\.jsonl, line 2: .* can't decode .*; save it as UTF-8"
    ):
        load_prompts(path)


def test_a_byte_order_mark_and_carriage_returns_are_no_part_of_prompts(tmp_path: Path) -> None:
    path = tmp_path / "windows.jsonl"
    path.write_bytes(b'\xef\xbb\xbf"a"\r\n{"text": "b"}\r\n')
    assert load_prompts(path) == [Prompt("a"), Prompt("b")]


@pytest.mark.parametrize("kind", ["a FIFO", "a folder", "a device", "a socket"])
def test_only_a_regular_file_is_read(tmp_path: Path, kind: str) -> None:
    """A FIFO without a writer would be waited for, and /dev/zero never ends."""
    path = tmp_path / "p"
    if kind == "a FIFO":
        os.mkfifo(path)
    elif kind == "a folder":
        path.mkdir()
    elif kind == "a device":
        path.symlink_to("/dev/zero")
    else:
        with socket.socket(socket.AF_UNIX) as server, pytest.MonkeyPatch.context() as patch:
            patch.chdir(tmp_path)  # the names of sockets are short
            server.bind("p")
    with pytest.raises(PotError) as error:
        load_prompts(path)
    assert str(error.value) == f"cannot read the prompts file {path}: it is {kind}, not a regular file"


def test_a_name_that_no_file_can_have_is_an_error() -> None:
    for name in ("a\0b", "x" * 300):
        with pytest.raises(PotError, match="cannot read the prompts file"):
            load_prompts(name)


def test_a_file_that_is_too_large_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "large.jsonl"
    with path.open("wb") as file:
        file.truncate((1 << 28) + 1)  # a sparse file
    with pytest.raises(PotError, match=r"large\.jsonl: it has more than 256 MiB, which is too much for a suite of prompts"):
        load_prompts(path)


@pytest.mark.parametrize(("one", "other"), [("7", "7"), ('"a"', '"a"'), ('{"a": 1, "b": 2}', '{"b": 2, "a": 1}')])
def test_two_prompts_with_the_same_id_are_an_error(tmp_path: Path, one: str, other: str) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text(f'{{"text": "a", "id": {one}}}\n\n"b"\n{{"text": "c", "id": {other}}}\n')
    with pytest.raises(PotError) as error:
        load_prompts(path)
    message = f"{path}, line 4: the id {one} is also that of line 1; give each prompt an id of its own, or none"
    assert str(error.value) == message
    path.write_text('{"text": "a", "id": 7}\n{"text": "b", "id": "7"}\n{"text": "c", "id": null}\n{"text": "d", "id": null}\n')
    assert len(load_prompts(path)) == 4


def test_a_chat_is_read_message_by_message(tmp_path: Path) -> None:
    path = tmp_path / "chats.jsonl"
    answer: dict[str, Any] = {"role": "assistant", "content": None, "tool_calls": [{"id": 1}]}
    messages = [{"role": "user", "content": "Hi"}, answer]
    path.write_text(json.dumps({"messages": messages, "continuation": " there", "kind": "chat"}))
    [prompt] = load_prompts(path)
    assert prompt == Prompt.chat(messages, " there", "chat")
    assert prompt.messages == tuple(messages)


def test_half_of_a_character_in_python_is_an_error_too() -> None:
    with pytest.raises(PotError, match="Prompt: text has half of a character at index 1"):
        Prompt("a\ud800")
    with pytest.raises(PotError, match="prompt 1: Prompt: text has half of a character at index 0"):
        as_prompts(["a", "\ud800"])


@pytest.mark.parametrize("value", [10**5000, ["x" * 1000] * 1000, b"a"], ids=["digits", "large", "bytes"])
def test_what_is_no_text_is_not_quoted_at_length(value: Any) -> None:
    with pytest.raises(PotError, match=r"text must be a string") as error:
        Prompt(value)
    assert len(str(error.value)) < 200


def test_messages_are_copied_and_hold_what_json_can() -> None:
    message: dict[str, Any] = {"role": "user", "content": "a"}
    prompt = Prompt.chat([message])
    message["content"] = "b"
    assert prompt.messages == ({"role": "user", "content": "a"},)
    assert hash(prompt) == hash(Prompt.chat([message]))
    nested: list[Any] = []
    nested.append(nested)
    values: list[Any] = [object(), float("nan"), {1, 2}, nested]
    for value in values:
        with pytest.raises(PotError, match=r"Prompt\.chat: messages hold something else than JSON types"):
            Prompt.chat([{**message, "extra": value}])


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
