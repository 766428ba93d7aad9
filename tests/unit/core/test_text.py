from __future__ import annotations

import json
import sys
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_pot import PotError
from pytest_pot.core.errors import InvalidArgument
from pytest_pot.core.text import contrasted, first_difference, first_lines, percent, printable, printable_lines, quoted, shorten
from pytest_pot.report.json_report import printable_json

HARMFUL = {"Cc", "Cf", "Cs", "Zl", "Zp"}
"""Categories of characters that a terminal obeys, that reverse a line, that do not show, or that cannot be written."""
TEXTS = st.text(st.characters(codec="utf-8"), max_size=30) | st.text("ab\\n\n\u00a0 \u0301\u200b", max_size=100)
EVERYTHING = "".join(map(chr, range(sys.maxunicode + 1)))


def harmful(text: str) -> set[str]:
    return {c for c in text if unicodedata.category(c) in HARMFUL}


def test_no_character_that_a_terminal_obeys_is_left() -> None:
    assert harmful(EVERYTHING) >= {"\x1b", "\x07", "\x7f", "\x9b", "\u202e", "\u200b", "\u2028", "\ud800"}
    assert not harmful(printable(EVERYTHING))
    assert not harmful(shorten(EVERYTHING, 10_000_000))
    assert not harmful(quoted(EVERYTHING, 10_000_000))
    assert harmful(printable_lines(EVERYTHING)) == {"\n"}
    assert harmful(str(PotError(EVERYTHING))) == harmful(str(InvalidArgument(EVERYTHING))) == {"\n"}
    assert harmful(printable_json([EVERYTHING, {EVERYTHING: 1}])) == {"\n"}


def test_escapes_are_those_of_repr() -> None:
    text = "a\x1b[2J\x9b\u202e\u200bb\n\t\\é漢🙂"
    assert printable(text) == "a\\x1b[2J\\x9b\\u202e\\u200bb\\n\\t\\é漢🙂"
    assert printable_lines("a\x07\nb\r\n") == "a\\x07\nb\\r\n"


def test_json_with_escapes_is_valid_and_says_the_same() -> None:
    value = {"text": '\x1b\x9b\u202e\U000e0001 \u2028 é \\ " \n'}
    assert json.loads(printable_json(value)) == value


def test_a_shortened_text_is_no_longer_than_its_width() -> None:
    assert shorten("\x1b" * 10, 6) == "\\x1b\\…"
    assert shorten("\x1b" * 10, 6, keep="end") == "…\\x1b"[:1] + "\\x1b\\x1b"[-5:]
    assert len(shorten(EVERYTHING, 50)) == len(shorten(EVERYTHING, 50, keep="end")) == 50


def test_a_long_list_says_how_much_is_left_out() -> None:
    assert first_lines(["a", "b"], 2) == ["a", "b"]
    assert first_lines(["a", "b", "c"], 1) == ["a", "… and 2 more"]


@given(TEXTS, TEXTS, TEXTS)
def test_different_texts_have_different_excerpts_wherever_they_differ(start: str, one: str, other: str) -> None:
    if one != other:
        excerpts = contrasted(start * 5 + one, start * 5 + other, 40)
        assert excerpts[0] != excerpts[1]
        assert all("\n" not in excerpt for excerpt in excerpts)


@pytest.mark.parametrize(
    ("one", "other", "excerpts"),
    [
        ("x = 1", "x = 2", ("'x = 1'", "'x = 2'")),
        ("a b", "a\u00a0b", ("'a b'", r"'a\xa0b'")),
        ("a", "a\u200b", ("'a'", r"'a\u200b'")),
        ("\u0430", "a", (r"'\u0430'", "'a'")),
        ("1", "\uff11", ("'1'", r"'\uff11'")),
        ("\t", "    ", (r"'\t'", "'    '")),
        ("\u6771\u4eac", "\u6771\u90fd", ("'\u6771\u4eac'", "'\u6771\u90fd'")),
        ("a" * 60 + "b", "a" * 60 + "c", (f"'…{'a' * 20}b'", f"'…{'a' * 20}c'")),
        ("\n" * 30 + "b", "\n" * 30 + "c", (r"'…" + r"\n" * 20 + "b'", r"'…" + r"\n" * 20 + "c'")),
    ],
)
def test_what_looks_alike_is_written_as_escapes(one: str, other: str, excerpts: tuple[str, str]) -> None:
    assert contrasted(one, other, 40) == excerpts


def test_the_first_difference_of_a_beginning_is_its_end() -> None:
    assert first_difference("abc", "abd") == 2
    assert first_difference([1, 2], [1, 2, 3]) == 2


@pytest.mark.parametrize(
    ("share", "text"), [(1, "100.0%"), (0.1234, "12.3%"), (0.001, "0.1%"), (0.00049, "0.05%"), (2.4e-5, "0.002%"), (0, "0%")]
)
def test_a_small_share_is_not_shown_as_none(share: float, text: str) -> None:
    assert percent(share) == text
