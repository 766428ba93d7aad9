"""Text from strangers in Markdown, read back by a real renderer."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_pot.core.text import shorten
from pytest_pot.report.markdown_text import Cell, code, code_block, details, table

from .commonmark import rendered
from .hostile import TEXTS

ANY = st.one_of(st.sampled_from(TEXTS), st.text(alphabet="`|\\ <>@#*_[]()&ab\n\t!~-", max_size=30), st.text(max_size=30))


@given(ANY)
def test_code_is_shown_as_it_is(text: str) -> None:
    page = rendered(code(text))
    assert page.tags == ["p", "code"]
    assert "".join(page.plain).strip() == ""
    # A code span cannot be empty, or all of spaces that are kept.
    assert page.codes[0].strip() == shorten(text, 300).strip()


@given(st.lists(ANY, min_size=1, max_size=4))
def test_cells_stay_in_their_cells(texts: list[str]) -> None:
    page = rendered("\n".join(table(["x"] * len(texts), [list(map(Cell, texts))] * 2)))
    assert set(page.tags) == {"table", "thead", "tbody", "tr", "th", "td", "code"}
    assert [len(row) for row in page.cells] == [len(texts)] * 3
    for cell, text in zip(page.cells[2], texts, strict=True):
        shown = cell.replace(r"\x7c", "|").strip()
        assert shown == shorten(text, 300).replace(r"\x7c", "|").strip()


@given(st.lists(ANY, max_size=4))
def test_a_block_of_code_ends_at_its_end(lines: list[str]) -> None:
    page = rendered("\n".join([*code_block(lines), "", "after"]))
    assert page.tags == ["pre", "code", "p"]
    assert page.codes[0].split("\n")[:-1] == [shorten(line, 1000) for line in lines]
    assert "".join(page.plain).strip() == "after"


@given(ANY)
def test_details_open_and_close(text: str) -> None:
    page = rendered("\n".join([*details("passed:", ["inside"], text), "", "after"]))
    assert page.tags == (["details", "summary", "code", "p", "p"] if text else ["details", "summary", "p", "p"])
    assert page.attributes == []
    assert not text or page.codes == [shorten(text, 300)]


@pytest.mark.parametrize("text", TEXTS)
def test_long_texts_are_cut(text: str) -> None:
    assert len(rendered(code(text)).codes[0]) <= 300
    assert len(rendered(code(text, 20)).codes[0]) <= 20


def test_bars_are_readable_in_a_cell() -> None:
    assert table(["x"], [[Cell("a|b")], [Cell("a\\|b")]])[2:] == ["| `a\\|b` |", "| `a\\\\x7cb` |"]
