"""Contrasts of the style's colours, computed as WCAG 2.2 defines them, in both themes."""

from __future__ import annotations

import re
from importlib import resources

import pytest

STYLE = resources.files("pytest_pot.report.html").joinpath("templates", "style.css").read_text(encoding="utf-8")
STATUSES = ("failed", "error", "expected", "doubtful", "passed", "skipped")
TEXT_PAIRS = [
    *((words, ground) for words in ("text", "muted", "link") for ground in ("bg", "panel")),
    *((status, "bg") for status in STATUSES),
    *(("text", f"d{shade}") for shade in range(6)),
    *(("text", ground) for ground in ("good", "poor")),
    *((curve, "bg") for curve in ("curve", "second", "third")),
    ("tip-text", "tip"),
]


def themes() -> dict[str, dict[str, str]]:
    """The colours by name, light and dark."""
    roots = re.findall(r":root \{(.*?)\}", STYLE, re.DOTALL)
    colours = [dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6});", root)) for root in roots]
    return {"light": colours[0], "dark": colours[0] | colours[1]}


def luminance(colour: str) -> float:
    """Relative luminance of ``#rrggbb``."""
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_the_contrast_of_black_and_white_is_21() -> None:
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize(("words", "ground"), TEXT_PAIRS)
def test_text_has_enough_contrast(theme: str, words: str, ground: str) -> None:
    colours = themes()[theme]
    assert contrast(colours[words], colours[ground]) >= 4.5


def test_every_colour_of_text_is_checked() -> None:
    """And no rule has a colour that is no variable."""
    rules = re.sub(r":root \{.*?\}", "", STYLE, flags=re.DOTALL)
    assert not re.findall(r"#[0-9a-fA-F]{3,8}\b|rgba?\(|hsl", rules)
    used = set(re.findall(r"(?<![\w-])(?:color|fill): var\(--([\w-]+)\)", rules))
    assert used - {"good", "poor"} <= {words for words, _ in TEXT_PAIRS}
    grounds = set(re.findall(r"background: var\(--([\w-]+)\)", rules))
    assert grounds <= {ground for _, ground in TEXT_PAIRS}


def test_both_themes_have_the_same_colours() -> None:
    light, dark = re.findall(r":root \{(.*?)\}", STYLE, re.DOTALL)
    names = [re.findall(r"--([\w-]+):", theme) for theme in (light, dark)]
    assert names[0] == names[1]
