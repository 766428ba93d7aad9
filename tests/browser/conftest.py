"""A headless Chromium, and the report of a run of real gates, which it opens."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import pytest

if TYPE_CHECKING:
    from selenium.webdriver import Chrome

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
GATES = [
    f"{EXAMPLES}/test_failing_gates.py::test_a_conversion_with_the_wrong_rope_base",
    f"{EXAMPLES}/test_failing_gates.py::test_an_update_that_changed_nothing",
    f"{EXAMPLES}/test_latency.py::test_a_copy_is_the_same_and_as_fast",
]
N_GATES = 8
FLAGS = (
    "--headless",
    "--no-sandbox",  # containers run as root, and the page is our own
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
)
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


@pytest.fixture(scope="session")
def report(browser: Chrome, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of some of the examples and of ``more_gates.py``, written by a real run of pytest."""
    folder = tmp_path_factory.mktemp("report")
    path, more = folder / "gates.html", folder / "test_more_gates.py"
    shutil.copy(Path(__file__).with_name("more_gates.py"), more)
    settings = ("-c", f"{EXAMPLES}/pytest.ini", "-p", "no:cacheprovider", f"--pot-report={path}", "-q")
    variables = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "POT_"))}
    environment = {**variables, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "pytest", "--rootdir", str(ROOT), *settings, *GATES, str(more)]
    result = subprocess.run(command, cwd=EXAMPLES, env=environment, capture_output=True, text=True, timeout=900, check=False)
    assert path.is_file(), result.stdout + result.stderr
    assert result.returncode == pytest.ExitCode.TESTS_FAILED, result.stdout + result.stderr
    return path
