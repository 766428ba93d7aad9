"""Where values lie on an axis."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_pot.report.html.axes import LinearAxis, LogAxis, decade_label, linear_axis, log_axis

values = st.lists(st.floats(min_value=0, allow_nan=False, allow_infinity=True), min_size=1, max_size=20)
finite = st.lists(st.floats(min_value=-1e12, max_value=1e12), min_size=1, max_size=20)
ends = st.sampled_from([(10.0, 300.0), (180.0, 16.0)])


@given(values, ends, st.integers(1, 4))
def test_a_logarithmic_axis_is_monotone_and_holds_all_values(
    numbers: list[float], ends: tuple[float, float], decades: int
) -> None:
    axis = log_axis(numbers, ends, decades=decades)
    assert axis.high - axis.low >= decades
    places = [axis.at(value) for value in sorted(numbers)]
    assert all(min(ends) - 1e-9 <= place <= max(ends) + 1e-9 for place in places)
    assert places == sorted(places, reverse=ends[0] > ends[1])
    ticks = [place for place, _ in axis.ticks()]
    assert len(set(ticks)) == len(ticks)
    assert ticks == sorted(ticks, reverse=ends[0] > ends[1])


def test_a_decade_is_as_long_as_any_other_and_0_lies_beside_them() -> None:
    axis = log_axis([0, 0.001, 1], (0, 326))
    assert axis == LogAxis(-3, 0, 26, 326, zero=0)
    assert [axis.at(value) for value in (0, 0.001, 0.01, 0.1, 1)] == pytest.approx([0, 26, 126, 226, 326])
    assert axis.ticks() == [
        (0, "0"),
        *((pytest.approx(26 + 100 * k), label) for k, label in enumerate(["0.001", "0.01", "0.1", "1"])),
    ]


def test_a_logarithmic_axis_takes_the_plain_logarithm() -> None:
    axis = LogAxis(-4, 2, 50, 350)
    for value in (1e-4, 3.7e-3, 0.5, 42):
        assert axis.at(value) == pytest.approx(50 + 300 * (math.log10(value) + 4) / 6)
    assert [axis.at(value) for value in (math.nan, 1e-9, 1e9, math.inf)] == [50, 50, 350, 350]


@given(finite, ends, st.booleans())
def test_a_linear_axis_is_monotone_and_holds_all_values(
    numbers: list[float], ends: tuple[float, float], from_zero: bool
) -> None:
    axis = linear_axis(numbers, ends, from_zero=from_zero)
    assert axis.low < axis.high
    slack = 1e-6 * (axis.high - axis.low)
    assert axis.low - slack <= min(numbers)
    assert max(numbers) <= axis.high + slack
    assert not from_zero or axis.low <= 0 <= axis.high
    places = [axis.at(value) for value in sorted(numbers)]
    assert places == sorted(places, reverse=ends[0] > ends[1])
    assert 2 <= len(axis.ticks()) <= 12


def test_a_linear_axis_ends_at_round_numbers() -> None:
    axis = linear_axis([0.031, 0.187], (0, 100))
    assert (axis.low, axis.high) == pytest.approx((0, 0.2))
    assert [label for _, label in axis.ticks()] == ["0", "0.05", "0.1", "0.15", "0.2"]
    assert linear_axis([0.0, 0.0], (0, 100)) == LinearAxis(0.0, 1.0, 0, 100, 0.25)


@pytest.mark.parametrize(("exponent", "label"), [(-3, "0.001"), (0, "1"), (3, "1000"), (-6, "10⁻⁶"), (12, "10¹²")])
def test_the_label_of_a_decade(exponent: int, label: str) -> None:
    assert decade_label(exponent) == label
