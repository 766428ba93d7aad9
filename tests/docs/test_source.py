"""What becomes of a page's text before Sphinx parses it."""

from __future__ import annotations

import re

import pytest

from pot_docs.results import result
from pot_docs.source import DOCS, PageError, prepared

PAGE = DOCS / "explanation" / "diagnosis.md"
URL = "https://example.org/blob/main"


def test_a_generated_block_is_replaced_and_other_blocks_are_left_alone() -> None:
    text = "# T\n\n```{generated} tolerances\n```\n\n```python\nx = '{result}`a.md | b`'\n[y](../../z)\n```\n"
    lines = prepared(text, PAGE, URL).splitlines()
    assert "| `half` (default) | 0.01 | weights rounded to bf16 or fp16 |" in lines
    assert lines[-4:] == ["```python", "x = '{result}`a.md | b`'", "[y](../../z)", "```"]


def test_figures_come_from_the_results() -> None:
    text = "It is {result}`speed.md | The presets | auto, recorded | share`.\n"
    assert prepared(text, PAGE, URL) == f"It is {result('speed.md | The presets | auto, recorded | share')}.\n"
    table = prepared("```{results-table} tolerances.md\n:rows: half, int8\n:columns: tolerance; limit\n```\n", PAGE, URL)
    assert table == "| tolerance | limit |\n| --- | --- |\n| `half` | 0.01 |\n| `int8` | 0.08 |\n"


@pytest.mark.parametrize(
    ("link", "repository", "expected"),
    [
        ("[a](../../README.md)", URL, f"[a]({URL}/README.md)"),
        ("[`b`](../../tests/x.py#L3)", URL, f"[`b`]({URL}/tests/x.py#L3)"),
        ("[`b`](../../tests/x.py)", None, "`b`"),
        ("[c](what-a-pass-means.md#x) and [d](#e) and [f](https://g.h/i)", URL, None),
        ("![j](../_static/logo.svg)", URL, None),
    ],
)
def test_links_out_of_the_site_lead_to_the_repository(link: str, repository: str | None, expected: str | None) -> None:
    assert prepared(f"See {link}.\n", PAGE, repository) == f"See {expected or link}.\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("```{generated} opinions\n```\n", "nothing generates 'opinions'; there is markers"),
        ("```{results-table} gone.md\n```\n", "there is no file 'gone.md'"),
        ("```{results-table} tolerances.md\n:lines: half\n```\n", "':lines: half' is no option of results-table"),
        ("{result}`speed.md | The presets | auto, recorded`\n", "is not FILE | SECTION | ROW | COLUMN"),
    ],
)
def test_what_is_not_there_is_an_error(text: str, message: str) -> None:
    with pytest.raises(PageError, match=re.escape(message)):
        prepared(text, PAGE, URL)
