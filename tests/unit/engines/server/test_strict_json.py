"""JSON, read so that nothing it says twice gets lost."""

from __future__ import annotations

import json
import math

import pytest

from pytest_pot.engines.server.strict_json import parse


@pytest.mark.parametrize(
    "value", [None, [], {}, 1.5, "a", {"a": [{"b": None}, {"b": 2}], "c": {"a": 1}}, [[[]]], {"": {"": 1}}]
)
def test_json_is_read(value: object) -> None:
    assert parse(json.dumps(value).encode()) == value


def test_numbers_that_are_no_json() -> None:
    nan, infinity = parse(b"[NaN, -Infinity]")
    assert math.isnan(nan)
    assert infinity == -math.inf


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "Expecting value at character 0"),
        ("{'a': 1}", "Expecting property name enclosed in double quotes at character 1"),
        ("[1] 2", "Extra data at character 4"),
        ('{"a": 1, "a": 1}', "'a' is there twice"),
        ('{"a": {"b": [0, {"7": 1, "8": 2, "7": 1}]}}', "'7' is there twice in a.b[1]"),
        ('[{"\\u0061": 1, "a": 2}]', "'a' is there twice in [0]"),
        ("[" * 200_000, "its parts are nested too deep"),
        ('{"a":' * 200_000, "its parts are nested too deep"),
        ('{"a": "\\ud800", "a": 1}', "'a' is there twice"),
    ],
)
def test_what_is_wrong_is_said(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=r".") as error:
        parse(text.encode())
    assert str(error.value) == why


def test_other_encodings_are_refused() -> None:
    with pytest.raises(ValueError, match="it is not UTF-8"):
        parse(b'"\xff"')


@pytest.mark.parametrize("between", [":", " :", "\t:", "\n :", ": "])
@pytest.mark.parametrize("name", ["a", 'a":', 'a"', "a\\", 'a\\":', "é", ": "])
@pytest.mark.parametrize("text", ["", '":', '\\":', " :", '"b":'])
def test_a_name_that_is_there_twice_is_seen_however_it_is_written(between: str, name: str, text: str) -> None:
    written, value = json.dumps(name), json.dumps([text, {"c": 1}])
    once = f'{{"x" : {value}, {written}{between}{value}}}'.replace(" : ", between)
    twice = f"{once[:-1]}, {written}{between}{value}}}"
    assert parse(once.encode()) == {"x": [text, {"c": 1}], name: [text, {"c": 1}]}
    with pytest.raises(ValueError, match="is there twice"):
        parse(twice.encode())


def test_a_large_answer_is_read_alike() -> None:
    value = {"a": [{"b": None}, {"b": 0.1}, "é"] * 10_000}
    assert parse(json.dumps(value).encode()) == value
    texts = {"a": ['":', '\\":', "\\\\", '"', " :"] * 5_000, 'b":': 1, "c\\": {}}
    for separators in ((",", ":"), (", ", ": "), (" ,", " : ")):
        assert parse(json.dumps(texts, separators=separators).encode()) == texts
    with pytest.raises(ValueError, match=r"^'b' is there twice in a\[20001\]$"):
        parse(json.dumps({"a": [*value["a"][:20_001], {"b": 1, "c": 2}]}).replace('"c"', '"b"').encode())
    [*_, nan] = parse(b"[" + b"1," * 70_000 + b"NaN]")
    assert math.isnan(nan)
    with pytest.raises(ValueError, match=r"^Expecting value at character 140001$"):
        parse(b"[" + b"1," * 70_000 + b"}")
