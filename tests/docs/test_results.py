"""Figures are read from the results' files, and an address that names nothing, or several things, is an error."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pot_docs.results import RESULTS, AddressError, result, results_table
from tests.docs.blocks import ROOT

RESULTS_FILE = """# Speed

## Presets, 16 prompts

| way | share (least to most) | share of `x` | s |
|---|---|---|---|
| original | 1 (1 to 1) | – | 0.386 |
| auto, recorded | 0.278 (0.231 to 0.311) | 1,234 | -7e-05 |

## Orders

| candidate | tolerance | verdict |
| --- | --- | --- |
| int8 | half | DIFFERENT |
| int8 | `int8` | SAME |

## Orders, again

| candidate | n |
| --- | --- |
| int8 | 3 |
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "speed.md").write_text(RESULTS_FILE, encoding="utf-8")
    (tmp_path / "speed.json").write_text('{"machine": "one", "runs": [{"s": 0.5}, {"s": 0.25}]}', encoding="utf-8")
    return tmp_path


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("speed.md | Presets | auto, recorded | share (", "0.278"),
        ("speed.md | Presets | auto, recorded | share ( | .1f", "0.3"),
        ("speed.md | Presets | auto, recorded | share ( | .0%", "28%"),
        ("speed.md | Presets | auto, recorded | share of x", "1,234"),
        ("speed.md | Presets | auto, recorded | share of x | .1e", "1.2e+03"),
        ("speed.md | Presets | auto, recorded | s", "-7e-05"),
        ("speed.md | Presets | original | share of x", "–"),
        ("speed.md | Orders | int8; int8 | verdict", "SAME"),
        ("speed.json | machine", "one"),
        ("speed.json | runs | 1 | s", "0.25"),
        ("speed.json | runs | 1 | s | .1f", "0.2"),
    ],
)
def test_the_figure_at_an_address(address: str, shown: str, folder: Path) -> None:
    assert result(address, folder) == shown


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("gone.md | a | b | c", "there is no file 'gone.md'"),
        ("../conftest.py | a | b | c", "there is no file"),
        ("speed.md | Presets | auto, recorded", "is not FILE | SECTION | ROW | COLUMN"),
        ("speed.md | Sizes | auto | s", "no table below a heading that begins with 'Sizes'"),
        ("speed.md | Order | int8; half | verdict", "several sections begin with 'Order'"),
        ("speed.md | Presets | auto | s", "no row 'auto'"),
        ("speed.md | Orders | int8 | verdict", "several times row 'int8'"),
        ("speed.md | Presets | original | sh", "several times column 'sh'"),
        ("speed.md | Presets | original | time", "no column 'time'"),
        ("speed.md | Presets | original | share of x | .1f", "'–' is no number"),
        ("speed.json | runs | 2 | s", "there is no '2'"),
        ("speed.json | runs", "is not a single value"),
    ],
)
def test_an_address_that_names_no_single_figure_is_refused(address: str, message: str, folder: Path) -> None:
    with pytest.raises(AddressError, match=re.escape(message)):
        result(address, folder)


def test_a_table_with_the_rows_and_columns_that_are_named(folder: Path) -> None:
    assert results_table("speed.md", "Presets", ["auto, recorded"], ["s", "way"], folder) == [
        "| s | way |",
        "| --- | --- |",
        "| -7e-05 | auto, recorded |",
    ]
    assert results_table("speed.md", "Orders", folder=folder)[2:] == ["| int8 | half | DIFFERENT |", "| int8 | `int8` | SAME |"]


def test_every_results_file_has_a_table() -> None:
    for path in sorted(RESULTS.glob("*.md")):
        assert len(results_table(path.name)) > 2


def test_the_figures_in_the_readme_are_those_of_the_results() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for shown, address in re.findall(r"(\S+?)<!-- result: (.+?) -->", text):
        assert shown.endswith(result(address)), address
    assert text.count("<!-- result:") == len(re.findall(r"\S<!-- result: .+? -->", text))
