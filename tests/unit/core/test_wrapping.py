"""Lines for a terminal: their width in columns, cut in the middle, and broken between words."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_pot.core.text import columns, cut_middle, printable, wrapped

WORDS = st.lists(st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=12), max_size=30)


@pytest.mark.parametrize(
    ("text", "width"), [("", 0), ("abc", 3), ("東京", 4), ("e\u0301", 1), ("\uff21", 2), ("▸ '…'", 5), ("\u00e9", 1)]
)
def test_wide_characters_take_two_columns_and_combining_marks_none(text: str, width: int) -> None:
    assert columns(text) == width


def test_the_middle_is_cut() -> None:
    assert cut_middle("test_it.py::test_a", 18) == "test_it.py::test_a"
    assert cut_middle("tests/test_markers.py::test_rounding_keeps_the_model", 22) == "tests/t…eeps_the_model"
    assert cut_middle("東京" * 10, 10) == "東…京東京"


@given(st.text(st.characters(exclude_categories=["Cs", "Cc"])), st.integers(4, 40))
def test_a_cut_text_fits(text: str, width: int) -> None:
    cut = cut_middle(text, width)
    assert columns(cut) <= width
    assert cut == text or "…" in cut


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("short", ["short"]),
        ("one two three four five six seven", ["one two three four", "  five six seven"]),
        ("  one two three four five", ["  one two three four", "    five"]),
        ("one\n\n  two", ["one", "", "  two"]),
        (
            "the file /a/path/that/is/longer/than/a/line is missing",
            ["the file", "  /a/path/that/is/longer/than/a/line", "  is missing"],
        ),
        ("  pytest test_it.py --pot-update --pot-reference=MODEL", ["  pytest test_it.py --pot-update --pot-reference=MODEL"]),
        ("  POT_KEY=KEY pytest test_it.py --pot-update", ["  POT_KEY=KEY pytest test_it.py --pot-update"]),
        ("not installed: pip install 'xy', then", ["not installed:", "  pip install 'xy',", "  then"]),
        ("for all: python -m x a.b", ["for all:", "  python -m x a.b"]),
        ("prompt 3 (prose): 'the old mill'", ["prompt 3 (prose):", "  'the old mill'"]),
        ("'a b'is glued to a word", ["'a b'is glued to a", "  word"]),
        ("'aa bbbb cc'isgluedtoo", ["'aa bbbb", "  cc'isgluedtoo"]),
        ("the candidate's own and the reference's own", ["the candidate's own", "  and the", "  reference's own"]),
        ("the words: 'a quotation of more than one line'", ["the words: 'a", "  quotation of more", "  than one line'"]),
        ("東京東京 東京東京 東京東京", ["東京東京 東京東京", "  東京東京"]),
    ],
)
def test_lines_are_broken_between_words(text: str, lines: list[str]) -> None:
    assert wrapped(text, 20).split("\n") == lines


@given(WORDS, st.integers(0, 8), st.integers(20, 60))
def test_nothing_is_lost_and_only_a_long_word_is_longer(words: list[str], indent: int, width: int) -> None:
    text = " " * indent + " ".join(map(printable, words))
    lines = wrapped(text, width).split("\n")
    assert "".join("".join(lines).split()) == "".join(text.split())
    for line in lines:
        assert columns(line) <= width or len(line.split()) == 1
