from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_pot.core.text import contrasted, first_difference

TEXTS = st.text(st.characters(codec="utf-8"), max_size=30) | st.text("ab\\n\n\u00a0 \u0301\u200b", max_size=100)


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
