"""What newcomers see first: the demo, and the README's picture of a failing gate."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from itertools import groupby
from pathlib import Path
from types import ModuleType

import pytest

from ..environment import without_outer_run

pytestmark = pytest.mark.real

ROOT = Path(__file__).parents[2]
SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def drawing() -> ModuleType:
    """The module docs/pictures/failing_gate.py."""
    pytest.importorskip("rich", reason="rich draws the picture")
    pytest.importorskip("pty", reason="the picture is of a pseudo-terminal")
    spec = importlib.util.spec_from_file_location("failing_gate", ROOT / "docs" / "pictures" / "failing_gate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_demo_passes_and_shows_a_failing_gate(tmp_path: Path) -> None:
    """By the command of `tox run -e demo`."""
    command = ["pytest", "examples/demo", "--xfail-tb"]
    assert f"commands = {' '.join(command)} {{posargs}}\n" in (ROOT / "tox.ini").read_text(encoding="utf-8")
    settings = {"PYTHONPATH": str(ROOT), "COLUMNS": "80"}
    run = subprocess.run(
        [sys.executable, "-m", *command, "-o", f"cache_dir={tmp_path}"],
        cwd=ROOT,
        env=without_outer_run() | settings,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    shown = run.stdout.partition("= XFAILURES =")[2]
    for part in (
        "\npot_identity: DIFFERENT: tv ",
        "\n  worst prompts:\n",
        "reference 22.8%, candidate 12.9%",
        "what changed: ",
    ):
        assert part in shown
    *_, next_steps, counts = shown.split("what to look at next")[1].strip().splitlines()
    assert "docs/tutorial.md" in next_steps
    assert "2 passed, 1 xfailed" in counts
    for file in ("examples/demo/test_demo.py", "README.md", "docs/tutorial.md"):
        assert file in shown
        assert (ROOT / file).exists()


@pytest.mark.slow
def test_the_picture_shows_what_a_failing_gate_prints_today(drawing: ModuleType) -> None:
    """But for figures. If this fails, draw it anew: PYTHONPATH=. python docs/pictures/failing_gate.py."""
    drawn = drawn_lines(drawing)
    now = [f"$ {drawing.COMMAND}", *(line.plain for line in drawing.screen_lines(drawing.failing_gate()))]
    assert without_figures(drawn) == without_figures(now)


def test_the_picture_depends_on_no_machine_and_fits_a_page(drawing: ModuleType) -> None:
    """It shows the whole diagnosis, and no time."""
    lines = drawn_lines(drawing)
    assert "not looked for" not in unwrapped(lines)
    assert "what changed: all 211 matrices" in unwrapped(lines)
    assert not [line for line in lines if re.search(r"\d (passed|failed)", line)]
    assert len(lines) <= 40
    assert max(map(len, lines)) <= drawing.COLUMNS


def test_the_picture_can_be_read_by_everyone(drawing: ModuleType) -> None:
    """It has a title and a description, fetches nothing, and has its own background with colours that stand out from it."""
    picture = ElementTree.parse(drawing.PICTURE).getroot()
    assert picture.tag == f"{SVG}svg"
    assert picture.attrib["role"] == "img"
    named = [picture.find(f"{SVG}{kind}") for kind in ("title", "desc")]
    assert [element is not None and bool(element.text) for element in named] == [True, True]
    assert picture.attrib["aria-labelledby"].split() == [element.attrib["id"] for element in named if element is not None]
    text = drawing.PICTURE.read_text(encoding="utf-8")
    assert set(re.findall(r"https?://[^\s\"')]+", text)) == {SVG[1:-1]}
    assert "@font-face" not in text
    background = drawing.THEME.background_color
    colours = re.findall(r"\.terminal-r\d+ \{ fill: #(\w{6})", text)
    assert len(set(colours)) > 1
    assert all(contrast(tuple(bytes.fromhex(colour)), background) >= 7 for colour in colours)


def test_markup_in_a_prompt_is_text_in_the_picture(drawing: ModuleType) -> None:
    line = "\x1b[31m<script>alert('&')</script>\x1b[0m"
    picture = ElementTree.fromstring(drawing.picture(line))
    assert text_of(picture)[1:] == ["<script>alert('&')</script>"]


def drawn_lines(drawing: ModuleType) -> list[str]:
    return text_of(ElementTree.parse(drawing.PICTURE).getroot())


def text_of(picture: ElementTree.Element) -> list[str]:
    """The picture's lines. Those that are empty have no text in it."""
    texts = [element for element in picture.iter(f"{SVG}text") if "matrix" not in element.attrib.get("class", "")]
    lines = groupby(texts, key=lambda element: float(element.attrib["y"]))
    return ["".join(element.text or "" for element in line).replace("\xa0", " ").rstrip() for _, line in lines]


def unwrapped(lines: list[str]) -> str:
    """``lines`` as one: messages are wrapped between words."""
    return " ".join(" ".join(lines).split())


def without_figures(lines: list[str]) -> list[str]:
    """The words of ``lines``, without rules and the differences that machines make."""
    text = re.sub(r"noise floor [\d.e-]+|no noise seen", "noise", unwrapped(lines))
    text = re.sub(r"\d[\d.,:]*(e-\d+)?", "#", text)
    return re.sub(r"[=_]{2,}|[ ()]", "\n", text).split()


def contrast(colour: tuple[int, ...], background: tuple[int, ...]) -> float:
    """The ratio of luminances by WCAG 2."""

    def luminance(rgb: tuple[int, ...]) -> float:
        linear = [(c / 255 / 12.92) if c <= 10 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in rgb]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    lighter, darker = sorted((luminance(colour), luminance(background)), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)
