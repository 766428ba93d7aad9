"""A headless Chromium, and what any report must be like in it."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import pytest

if TYPE_CHECKING:
    from selenium.webdriver import Chrome

WIDTHS = (360, 768, 1280)
SCHEMES = ("light", "dark")
FLAGS = (
    "--headless",
    "--no-sandbox",  # containers run as root, and the page is our own
    "--disable-dev-shm-usage",  # a container's /dev/shm may be too small for a page
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
)
LOADED_S = 60.0
REQUIRED = "POT_BROWSER"
"""The environment variable that, with the value ``required``, turns a missing browser into a failure."""


def _missing(what: str) -> NoReturn:
    """Skip, or fail where a browser must be there."""
    message = f"needs {what}: apt-get install chromium chromium-driver, and pip install selenium"
    if os.environ.get(REQUIRED) == "required":
        pytest.fail(f"{REQUIRED}=required, and the test {message}", pytrace=False)
    pytest.skip(message)


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    """A new Chromium, which logs each request and each message of a page."""
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or driver is None:
        _missing("chromium and chromedriver")
    try:
        from selenium import webdriver
        from selenium.webdriver.chrome.service import Service
    except ImportError:
        _missing("selenium")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('chromium')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    # With the path of a driver, selenium looks for none to download.
    driven = webdriver.Chrome(options=options, service=Service(driver))
    try:
        yield driven
    finally:
        driven.quit()


def show(browser: Chrome, width: int, scheme: str, media: str = "screen") -> None:
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    feature = {"name": "prefers-color-scheme", "value": scheme}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": media, "features": [feature]})


def opened(browser: Chrome, page: Path) -> None:
    """Open a page, and wait until all of it is there.

    On a busy machine the driver may be back while the page before is still shown, or before the new one is read to its end.
    """
    from selenium.webdriver.support.wait import WebDriverWait

    browser.get(page.as_uri())
    whole = "return location.href === arguments[0] && document.readyState === 'complete'"
    WebDriverWait(browser, LOADED_S).until(lambda browser: script(browser, whole, page.as_uri()), f"{page} was not loaded")


def script(browser: Chrome, body: str, *arguments: Any) -> Any:
    """Run JavaScript from outside of the page, whose own policy allows none."""
    return browser.execute_script(body, *arguments)


def events(browser: Chrome) -> list[dict[str, Any]]:
    """Events of Chrome's DevTools since the last call."""
    return [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]  # type: ignore[no-untyped-call]


def texts(browser: Chrome, selector: str) -> list[str]:
    """What a person sees of each element."""
    found: list[str] = script(browser, "return [...document.querySelectorAll(arguments[0])].map(e => e.innerText)", selector)
    return found


def overflow(page: Chrome) -> int:
    """By how many pixels the page is wider than its window."""
    by: int = script(page, "const e = document.scrollingElement; return e.scrollWidth - e.clientWidth")
    return by


def requests_and_messages(browser: Chrome, report: Path) -> list[object]:
    """What a page asks for beside itself, and what it logs, while it is opened and scrolled to its end."""
    browser.get("about:blank")
    events(browser)
    browser.get_log("browser")  # type: ignore[no-untyped-call]
    opened(browser, report)
    script(browser, "window.scrollTo(0, document.body.scrollHeight)")
    asked = [event["params"]["request"]["url"] for event in events(browser) if event["method"] == "Network.requestWillBeSent"]
    assert report.as_uri() in asked, "requests were not seen"
    others = [url for url in asked if url != report.as_uri() and not url.startswith("data:")]
    return [*others, *browser.get_log("browser")]  # type: ignore[no-untyped-call]


OUTSIDE = """
for (const each of document.querySelectorAll('details')) each.open = true;
const beyond = [...document.querySelectorAll('article *')].filter(e => e.getBoundingClientRect().right > innerWidth + 1);
return beyond.map(e => e.outerHTML.slice(0, 200));
"""


def too_wide(page: Chrome, width: int, scheme: str) -> list[str]:
    """What is beyond the right edge of a window of this width, with all details open."""
    show(page, width, scheme)
    beyond: list[str] = script(page, OUTSIDE)
    assert script(page, "return innerWidth") == width, "the window has another width"
    return [*beyond, *([f"the page, by {by} pixels"] if (by := overflow(page)) > 0 else [])]


CUT = """
const cut = [];
for (const each of document.querySelectorAll('details')) each.open = true;
for (const label of document.querySelectorAll('svg.plot text')) {
  const box = label.getBoundingClientRect(), plot = label.closest('svg').getBoundingClientRect();
  if (!plot.width) continue;  // of the two plots of a scale, one is shown
  const beyond = [plot.left - box.left, box.right - plot.right, plot.top - box.top, box.bottom - plot.bottom];
  if (Math.max(...beyond) > 0.5) cut.push([label.textContent, ...beyond.map(Math.round)]);
}
return cut;
"""
"""Labels that are cut by the edge of their plot, and by how much."""
