"""What a person sees who opens a report in a browser: a real run of gates, a real Chromium."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pytest_pot.report.html.page import html_report
from pytest_pot.report.run_facts import run_facts

from ..unit.report.html.rows import latency_row, score_row
from .chromium import CUT, SCHEMES, WIDTHS, opened, overflow, requests_and_messages, script, show, texts, too_wide
from .conftest import N_GATES

if TYPE_CHECKING:
    from selenium.webdriver import Chrome

pytestmark = [pytest.mark.browser, pytest.mark.real]


@pytest.fixture
def page(browser: Chrome, report: Path) -> Iterator[Chrome]:
    """The report, just opened in a window of usual size."""
    show(browser, 1280, "light")
    opened(browser, report)
    yield browser
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "", "features": []})


def test_the_page_asks_for_nothing_and_logs_nothing(browser: Chrome, report: Path) -> None:
    assert requests_and_messages(browser, report) == []


def test_all_gates_are_there(page: Chrome) -> None:
    names = texts(page, ".gates tbody th")
    assert len(names) == N_GATES
    for test in ("wrong_rope_base", "changed_nothing", "same_and_as_fast", "hostile_prompts", "confidence", "slow", "missing"):
        assert any(test in name for name in names), test
    sections = texts(page, "article h3")
    assert sections == [name.splitlines()[0] for name in names]
    results = texts(page, ".gates tbody td.status")
    bad = [name for name, result in zip(names, results, strict=True) if result in ("✗ failed", "! no verdict")]
    for test in ("hostile_prompts", "confidence", "slow", "missing"):
        assert any(test in name for name in bad), test
    assert script(page, "return document.querySelector('h1').innerText") == f"{len(bad)} of {N_GATES} gates failed"
    # Each kind of plot is drawn, and is not empty.
    sizes = script(page, "return [...document.querySelectorAll('article svg.plot')].map(e => e.getBBox().height)")
    assert len(sizes) > 10
    titles = script(page, "return [...document.querySelectorAll('svg title')].map(e => e.textContent)")
    for title in (
        "scale of tv",
        "verdict was reached",
        "by position",
        "of each prompt",
        "reference and candidate",
        "pair by pair",
    ):
        assert any(title in each for each in titles), title


def test_a_link_of_the_table_leads_to_its_gate(page: Chrome) -> None:
    script(page, "document.documentElement.style.scrollBehavior = 'auto'; document.querySelectorAll('.gates a')[2].click()")
    assert abs(script(page, "return document.getElementById('gate-3').getBoundingClientRect().top")) < 100


TOKEN = "details[open] .tok"
SHOWN = """
const tip = document.querySelector(arguments[0] + ' > .tip'), box = tip.getBoundingClientRect();
return [getComputedStyle(tip).display, box.width, box.height, tip.innerText, box.left, box.right];
"""


@pytest.mark.parametrize("width", WIDTHS)
def test_hovering_a_token_shows_both_probabilities(page: Chrome, width: int) -> None:
    from selenium.webdriver import ActionChains
    from selenium.webdriver.common.by import By

    show(page, width, "light")
    token = page.find_element(By.CSS_SELECTOR, TOKEN)
    assert script(page, SHOWN, TOKEN)[0] == "none"
    script(page, "arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", token)
    ActionChains(page).move_to_element(token).perform()
    shown_well(page, width)


@pytest.mark.parametrize("width", WIDTHS)
def test_reaching_a_token_by_the_keyboard_shows_both_probabilities(page: Chrome, width: int) -> None:
    from selenium.webdriver import ActionChains, Keys

    show(page, width, "light")
    script(page, "document.querySelector('details[open] > summary').focus()")
    ActionChains(page).send_keys(Keys.TAB).perform()
    assert script(page, "return document.activeElement.matches(arguments[0])", TOKEN)
    shown_well(page, width)


def shown_well(page: Chrome, width: int) -> None:
    """The first token's details are visible, within the page, and make it no wider."""
    display, wide, high, words, left, right = script(page, SHOWN, TOKEN)
    assert display == "block"
    assert wide > 150
    assert high > 40
    assert left >= 0
    assert right <= width
    lines = words.splitlines()
    assert lines[1].startswith("reference ")
    assert lines[2].startswith("candidate ")
    assert all(line.count("%") == 2 for line in lines[1:3])
    assert overflow(page) <= 0


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("width", WIDTHS)
def test_the_page_is_no_wider_than_its_window(page: Chrome, width: int, scheme: str) -> None:
    assert too_wide(page, width, scheme) == []


@pytest.mark.parametrize("width", [1200, 720, 360])
def test_every_label_is_within_its_plot(page: Chrome, width: int) -> None:
    show(page, width, "light")
    assert script(page, CUT) == []


@pytest.mark.parametrize("width", [1200, 720, 360])
def test_labels_of_extreme_scores_are_within_their_plots(browser: Chrome, tmp_path: Path, width: int) -> None:
    scores = (0.0, 3.14e-12, 1.25e-5, 0.123, 0.638, 0.999, 1.0, 123_456.0)
    steps = [{"score": 0.1, "different": 1e-9, "same_mean": None, "same_outliers": 0.0}]
    trajectory = {"threshold": 20.0, "decided_after": None, "steps": steps}
    limits = [(limit, score) for limit in (0.0, 1e-12, 1e-4, 0.45) for score in scores]
    rows = [score_row(limit=limit, score=score, max_prompt_limit=10 * limit, trajectory=trajectory) for limit, score in limits]
    rows += [latency_row(slowdown=slowdown) for slowdown in (1e-6, 1.25, 123_456.0)]
    path = tmp_path / "gates.html"
    path.write_text(html_report(rows, run_facts(0.0)), encoding="utf-8")
    show(browser, width, "light")
    opened(browser, path)
    assert script(browser, "return document.querySelectorAll('svg.plot text').length") > 500
    assert script(browser, CUT) == []


def test_dark_and_light_differ(page: Chrome) -> None:
    grounds = []
    for scheme in SCHEMES:
        show(page, 1280, scheme)
        grounds.append(script(page, "return getComputedStyle(document.body).backgroundColor"))
    assert grounds == ["rgb(255, 255, 255)", "rgb(19, 22, 27)"]


def test_hostile_prompts_and_names_are_text(page: Chrome) -> None:
    script(page, "for (const each of document.querySelectorAll('details')) each.open = true")
    words = script(page, "return document.body.innerText")
    assert "<script>alert(1)</script>" in words
    assert "<img src=x onerror=alert(1)>" in words
    assert "\\u202eolleh\\u202c\\x00\\x07\"'" in words
    assert "word " * 100 in words
    assert "<i>kind</i>" in words
    assert script(page, "return document.querySelectorAll('script, img, article b:not(.mono, .tip b)').length") == 0
    assert texts(page, ".ws").count("↵") > 0


def test_the_page_prints_to_pdf_with_its_details_open(page: Chrome) -> None:
    heights = []
    for media in ("screen", "print"):
        show(page, 720, "dark", media)
        heights.append(script(page, "return document.querySelector('details:not([open])').getBoundingClientRect().height"))
    assert heights[1] > heights[0] + 100
    assert script(page, "return getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    pdf = base64.b64decode(page.execute_cdp_cmd("Page.printToPDF", {"printBackground": True})["data"])
    assert pdf.startswith(b"%PDF-")
    assert pdf.count(b"/Type /Page\n") + pdf.count(b"/Type /Page ") >= 5
