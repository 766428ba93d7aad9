"""The elements that plots are made of."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from pytest_pot.report.html.svg import Figure, circle, columns, labels_in_lanes, line, path, text, text_width

labels = st.lists(st.tuples(st.floats(0, 330), st.text("abcxyz 0.", min_size=1, max_size=30)), max_size=12)


@given(labels)
def test_labels_in_one_lane_do_not_meet_and_stay_within_the_plot(labels: list[tuple[float, str]]) -> None:
    placed = labels_in_lanes(labels, 330)
    boxes = sorted((lane, start, start + text_width(words)) for (start, lane), (_, words) in zip(placed, labels, strict=True))
    assert all(start >= 0 and end <= 330 + 1e-9 for _, start, end in boxes)
    for (lane, _, end), (next_lane, start, _) in itertools.pairwise(boxes):
        assert next_lane != lane or start > end


def test_one_label_is_centred_in_the_first_lane() -> None:
    assert labels_in_lanes([(100, "half")], 330) == [(100 - text_width("half") / 2, 0)]


def test_coordinates_have_one_decimal() -> None:
    assert line(1.26, 2.0, -0.04, 1 / 3, "axis") == '<path d="M1.3 2L0 0.3" class="axis"/>'
    assert path([(0, 0), (1.25, 10)]) == '<path d="M0 0L1.2 10"/>'
    assert circle(1, 2, 3, "dot") == '<circle cx="1" cy="2" r="3" class="dot"/>'
    assert columns([(1, 2, 3, 4)]) == '<path d="M1 2h3v4h-3z"/>'
    assert columns([]) == ""


def test_what_is_written_is_escaped() -> None:
    assert text(0, 0, "<b>&\u202e\0", anchor="end") == '<text x="0" y="0" class="ae">&lt;b&gt;&amp;\\u202e\\x00</text>'
    svg = Figure(10, 10, '"<t>"', "<d>", ()).svg("gate-1")
    assert '<title id="gate-1-t">&quot;&lt;t&gt;&quot;</title><desc id="gate-1-d">&lt;d&gt;</desc>' in svg
