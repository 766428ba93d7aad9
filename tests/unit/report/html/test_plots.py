"""Where the plots put what they show."""

from __future__ import annotations

import math
import re
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_pot.gates.verdict.limits import TOLERANCES
from pytest_pot.report.html.plots import distribution_plot, position_plot, trajectory_plot
from pytest_pot.report.html.scale_plot import scale_plot
from pytest_pot.report.html.svg import Figure, text_width
from pytest_pot.report.html.time_plots import times_plot

from .parsed import Element, Page
from .rows import score_row

scores = st.one_of(st.just(0.0), st.floats(1e-15, 1e6))
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?")


def drawn(figure: Figure) -> Page:
    """Parse a plot; every coordinate must be a number within its box, every text within its width."""
    page = Page(figure.svg("p"))
    for element in page.elements:
        for name, most in (("cx", figure.width), ("cy", figure.height), ("x", figure.width), ("y", figure.height)):
            if name in element.attributes:
                assert -0.1 <= float(element.attributes[name] or "") <= most + 0.1, (element, figure)
        if element.tag == "text":
            start, end = extent(element)
            assert start >= -0.1, (element.text, figure)
            assert end <= figure.width + 0.1, (element.text, figure)
        for x, y in points(element):
            assert -0.1 <= x <= figure.width + 0.1
            assert -0.1 <= y <= figure.height + 0.1
    return page


def extent(element: Element) -> tuple[float, float]:
    """Where a label begins and ends."""
    styles = (element.attributes.get("class") or "").split()
    x, size = float(element.attributes["x"] or ""), text_width(element.text, strong="strong" in styles)
    start = x - size / 2 if "am" in styles else x - size if "ae" in styles else x
    return start, start + size


def points(element: Element) -> list[tuple[float, float]]:
    """The points of a path of straight lines."""
    data = element.attributes.get("d") or ""
    return (
        [(x, y) for x, y in (map(float, _NUMBER.findall(part)) for part in re.split("[ML]", data)[1:])]
        if "h" not in data
        else []
    )


def of_class(page: Page, tag: str, style: str) -> list[Element]:
    return page.all(tag, style)


@given(scores, scores, st.none() | scores, st.lists(scores, max_size=6), st.booleans(), st.sampled_from([330, 760]))
def test_the_scale_holds_all_that_is_on_it(
    score: float, limit: float, floor: float | None, rungs: list[float], above: bool, width: int
) -> None:
    named = [{"name": name, "value": value} for name, value in TOLERANCES.items()]
    ladder = [{"name": f"rung {i}", "value": value} for i, value in enumerate(rungs)]
    scale = {"metric": "tv", "score": score, "limit": limit, "floor": floor, "tolerances": named, "ladder": ladder}
    page = drawn(scale_plot(scale, above=above, width=width))
    [dot] = of_class(page, "circle", "score")
    [limit_line] = of_class(page, "path", "limit")
    at_score, at_limit = float(dot.attributes["cx"] or ""), points(limit_line)[0][0]
    assert at_score == at_limit if score == limit else (at_score <= at_limit if score < limit else at_score >= at_limit)
    [desc] = page.all("desc")
    assert all(name in desc.text for name in TOLERANCES)


@pytest.mark.parametrize(("above", "sides"), [(False, ["passes", "fails"]), (True, ["fails", "passes"])])
def test_the_sides_of_the_limit_are_named(above: bool, sides: list[str]) -> None:
    page = drawn(scale_plot(score_row()["scale"], above=above, width=760))
    words = of_class(page, "text", "side")
    assert [element.text for element in words] == sides
    assert [element.attributes["class"] for element in page.all("rect")] == sides


def test_the_scale_is_logarithmic() -> None:
    tolerances = [{"name": f"1e{k}", "value": 10.0**k} for k in range(-4, 1)]
    scale = {"metric": "tv", "score": 0.03, "limit": 0.01, "floor": None, "tolerances": tolerances, "ladder": []}
    page = drawn(scale_plot(scale, above=False, width=424))
    places = [points(element)[0][0] for element in of_class(page, "path", "named")]
    assert places == pytest.approx([12, 112, 212, 312, 412])
    [dot] = of_class(page, "circle", "score")
    assert float(dot.attributes["cx"] or "") == pytest.approx(12 + 100 * (math.log10(0.03) + 4), abs=0.06)


@given(st.lists(scores, min_size=1, max_size=500), scores)
def test_the_line_over_positions_follows_the_means(means: list[float], limit: float) -> None:
    page = drawn(position_plot({"mean": means, "prompts": [1] * len(means)}, "tv", limit))
    curves = of_class(page, "path", "curve")
    line = points(curves[0]) if curves else []
    assert len(line) <= 150
    assert [x for x, _ in line] == sorted(x for x, _ in line)
    if len(means) <= 150:
        for (one, other), ((_, y), (_, other_y)) in zip(pairwise(means), pairwise(line), strict=True):
            assert other_y <= y + 0.11 if other >= one else other_y >= y - 0.11


@given(st.lists(scores, min_size=1, max_size=300), st.none() | scores)
def test_a_distribution_shows_each_value_once(numbers: list[float], limit: float | None) -> None:
    page = drawn(distribution_plot(numbers, "tv", limit))
    dots = of_class(page, "circle", "dot")
    if not of_class(page, "path", "column"):
        assert len(dots) == len(numbers)
        assert len({(dot.attributes["cx"], dot.attributes["cy"]) for dot in dots}) == len(dots)
    else:
        assert not dots
        assert len(numbers) > 12


@pytest.mark.parametrize("limit", [1e-4, 0.1, 5.0])
def test_the_limit_for_one_prompt_is_named_and_meets_no_other_label(limit: float) -> None:
    page = drawn(distribution_plot([0.01] * 32 + [0.001] * 8, "tv", limit))
    [named] = [element for element in page.all("text") if element.text == f"limit for one prompt {limit:.3g}"]
    [highest] = [element for element in page.all("text") if element.text == "32 in the highest column"]
    assert abs(float(named.attributes["y"] or "") - float(highest.attributes["y"] or "")) >= 14


def _trajectory(wealth: list[tuple[float | None, float | None, float | None]], after: int | None) -> dict[str, Any]:
    steps = [{"score": 0.1, "different": a, "same_mean": b, "same_outliers": c} for a, b, c in wealth]
    return {"threshold": 20.0, "decided_after": after, "steps": steps}


wealths = st.tuples(*[st.none() | st.floats(0, 1e12)] * 3)


@given(st.lists(wealths, min_size=1, max_size=400), st.booleans())
def test_a_trajectory_is_drawn_within_its_plot(
    wealth: list[tuple[float | None, float | None, float | None]], decided: bool
) -> None:
    page = drawn(trajectory_plot(_trajectory(wealth, len(wealth) if decided else None)))
    lines = of_class(page, "path", "curve")
    assert len(lines) == 3
    assert all(len(points(line)) <= 152 for line in lines)
    names = [element.text for element in of_class(page, "text", "name")]
    assert sorted(names) == ["DIFFERENT", "SAME, mean", "SAME, outliers"]


def test_a_trajectory_meets_the_threshold_where_its_wealth_does() -> None:
    page = drawn(trajectory_plot(_trajectory([(2.0, 0.5, 1.0), (20.0, 0.1, 1.0)], 2)))
    [threshold] = of_class(page, "path", "limit")
    [different] = of_class(page, "path", "different")
    assert points(different)[-1][1] == points(threshold)[0][1]
    assert points(different)[0][1] > points(different)[1][1] > points(different)[2][1]
    assert "decided after 2 prompts" in page.all("desc")[0].text


@given(st.lists(st.floats(1e-6, 1e6), min_size=1, max_size=400), st.lists(st.floats(1e-6, 1e6), min_size=1, max_size=50))
def test_times_lie_in_their_row_in_their_order(reference: list[float], candidate: list[float]) -> None:
    page = drawn(times_plot({"reference": reference, "candidate": candidate}, "ms", 1.0))
    for row, values in enumerate((reference, candidate)):
        dots = of_class(page, "circle", f"row{row}")
        assert len(dots) == min(len(values), len(values[:: math.ceil(len(values) / 300)]))
        if len(values) <= 300:
            places = [float(dot.attributes["cx"] or "") for dot in dots]
            pairs = sorted(zip(values, places, strict=True))
            assert [place for _, place in pairs] == sorted(places)
    assert len(of_class(page, "path", "median")) == 2
