"""A gate as a piece of HTML."""

from __future__ import annotations

import pytest

from pytest_pot.report.fragment import gate_fragment

from .commonmark import Page
from .hostile import TEXTS
from .rows import error_row, latency_row, passing_row, score_row, skipped_row

OURS = {"div", "style", "table", "tr", "th", "td", "br"}
DRAWN = {"svg", "title", "desc", "path", "rect", "circle", "text"}


def read(fragment: str) -> Page:
    page = Page()
    page.feed(fragment)
    page.close()
    return page


@pytest.mark.parametrize("make", [score_row, passing_row, error_row, skipped_row, latency_row])
@pytest.mark.parametrize("text", TEXTS)
def test_hostile_text_is_text(make: object, text: str) -> None:
    assert callable(make)
    page = read(gate_fragment(make(test=text, text=text)))
    assert set(page.tags) <= OURS | DRAWN
    assert {name for name, _ in page.attributes if name.startswith("on") or name in ("href", "src")} == set()


def test_what_it_shows() -> None:
    page = read(
        gate_fragment(score_row(candidate="cand", reference="ref", headline="tv 0.25 > 0.01", conditions="preset auto"))
    )
    assert page.cells[0] == ["pot_identity", "DIFFERENT (failed)"]
    assert page.cells[1] == ["candidate vs reference", "cand vs ref"]
    assert page.cells[2] == ["score", "tv 0.25, limit <= 0.01"]
    assert page.cells[3] == ["reason", "tv 0.25 > 0.01"]
    spread = "median 0.01, 90% 0.01, 99% 0.01, 99.9% 0.01, max 0.01"
    assert ["over positions", spread] in page.cells
    change = "min -6, 0.1% -5, 1% -4, 5% -3, median 0, 95% +3, 99% +4, 99.9% +5, max +6"
    assert ["Δp", f"mean -1.5 points, RMS 2.5; {change}"] in page.cells
    assert ["same top p", "50% ± 10%"] in page.cells


def test_without_a_change_of_probability_the_rest_is_shown() -> None:
    page = read(gate_fragment(score_row(delta_p=None)))
    assert ["Δp", "not known: probabilities are relative to the compared tokens"] in page.cells
    assert ["same top p", "50% ± 10%"] in page.cells
    assert ["conditions", "text"] in page.cells
    assert "svg" in page.tags


def test_a_share_below_1_is_not_shown_as_all() -> None:
    page = read(gate_fragment(score_row(same_top={"share": 0.999999, "standard_error": 1e-6})))
    assert ["same top p", "99.99% ± 0.0001%"] in page.cells


@pytest.mark.parametrize("name", ["percentiles", "what_changed"])
def test_a_fault_in_a_row_of_our_own_is_not_hidden(name: str) -> None:
    with pytest.raises((AttributeError, TypeError)):
        gate_fragment({**score_row(), name: 7})


FOREIGN = {"percentiles": 7, "what_changed": 7, "scale": "large", "checks": "none", "worst_prompts": [7], "notes": 7}
"""What another kind of gate may mean by our names."""


def test_another_kind_of_gate_may_use_the_same_names() -> None:
    for name, value in FOREIGN.items():
        page = read(gate_fragment({**score_row(candidate="cand"), "gate": "pot_other", name: value}))
        assert page.cells[0] == ["pot_other", "DIFFERENT (failed)"]
