"""The few elements of SVG that the plots need, as text."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pytest_pot.core.text import columns as text_columns
from pytest_pot.core.text import printable

__all__ = ["Figure", "circle", "columns", "labels_in_lanes", "line", "middle_within", "path", "rect", "text", "text_width"]

_CHARACTER, _STRONG_CHARACTER = 7.4, 8.2
"""The widths of a digit of a label, in the plot's units, in the widest of the usual fonts (DejaVu Sans); ``strong`` is bold."""


@dataclass(frozen=True)
class Figure:
    """One plot. Everybody sees ``parts``; a screen reader reads ``title`` and ``description``."""

    width: int
    height: int
    title: str
    description: str
    parts: tuple[str, ...]

    def svg(self, name: str) -> str:
        """The element; ``name`` begins its ids, which are unique on the page."""
        heading, description = (html.escape(printable(words)) for words in (self.title, self.description))
        return (
            f'<svg class="plot" viewBox="0 0 {self.width} {self.height}" role="img" aria-labelledby="{name}-t {name}-d">'
            f'<title id="{name}-t">{heading}</title><desc id="{name}-d">{description}</desc>{"".join(self.parts)}</svg>'
        )


def text(x: float, y: float, words: str, style: str = "", anchor: str = "start") -> str:
    """A label; ``anchor`` is the end of it that is at ``x``: start, middle or end."""
    classes = " ".join(filter(None, (style, {"start": "", "middle": "am", "end": "ae"}[anchor])))
    return f'<text x="{_n(x)}" y="{_n(y)}"{_class(classes)}>{html.escape(printable(words))}</text>'


def line(x1: float, y1: float, x2: float, y2: float, style: str = "") -> str:
    """A straight line."""
    return f'<path d="M{_n(x1)} {_n(y1)}L{_n(x2)} {_n(y2)}"{_class(style)}/>'


def path(points: Sequence[tuple[float, float]], style: str = "") -> str:
    """A line through ``points``."""
    return f'<path d="M{"L".join(f"{_n(x)} {_n(y)}" for x, y in points)}"{_class(style)}/>'


def columns(boxes: Iterable[tuple[float, float, float, float]], style: str = "") -> str:
    """Rectangles (x, y, width, height) as one element."""
    drawn = "".join(f"M{_n(x)} {_n(y)}h{_n(width)}v{_n(height)}h{_n(-width)}z" for x, y, width, height in boxes)
    return f'<path d="{drawn}"{_class(style)}/>' if drawn else ""


def rect(x: float, y: float, width: float, height: float, style: str = "") -> str:
    """A rectangle."""
    return f'<rect x="{_n(x)}" y="{_n(y)}" width="{_n(width)}" height="{_n(height)}"{_class(style)}/>'


def circle(x: float, y: float, radius: float, style: str = "") -> str:
    """A dot."""
    return f'<circle cx="{_n(x)}" cy="{_n(y)}" r="{_n(radius)}"{_class(style)}/>'


def text_width(words: str, *, strong: bool = False) -> float:
    """At most how wide a label is."""
    return (_STRONG_CHARACTER if strong else _CHARACTER) * text_columns(words)


def middle_within(middle: float, words: str, width: float) -> float:
    """The place next to ``middle`` for the middle of a label, so that all of it is between 0 and ``width``."""
    half = text_width(words) / 2
    return max(half, min(middle, width - half))


def labels_in_lanes(labels: Sequence[tuple[float, str]], width: float, *, strong: bool = False) -> list[tuple[float, int]]:
    """For each label, given the middle that it would like: its start, and the lane in which it meets no other one.

    Labels stay between 0 and ``width``. Lanes are counted from 0. ``strong``: some of the labels are bold.
    """
    placed: list[tuple[float, int]] = [(0.0, 0)] * len(labels)
    ends: list[float] = []  # of the last label in each lane
    for index in sorted(range(len(labels)), key=lambda index: labels[index][0]):
        middle, words = labels[index]
        size = text_width(words, strong=strong)
        start = max(0.0, min(middle - size / 2, width - size))
        lane = next((lane for lane, end in enumerate(ends) if start >= end + _CHARACTER), len(ends))
        ends[lane : lane + 1] = [start + size]
        placed[index] = start, lane
    return placed


def _n(value: float) -> str:
    """A coordinate with one decimal at most."""
    rounded = f"{value:.1f}".removesuffix(".0")
    return "0" if rounded == "-0" else rounded


def _class(style: str) -> str:
    return f' class="{style}"' if style else ""
