"""The report of a run of real gates, which a headless Chromium opens."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ..environment import without_outer_run
from .chromium import browser as browser

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


@pytest.fixture(scope="session")
def report(browser: Chrome, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of some of the examples and of ``more_gates.py``, written by a real run of pytest."""
    folder = tmp_path_factory.mktemp("report")
    path, more = folder / "gates.html", folder / "test_more_gates.py"
    shutil.copy(Path(__file__).with_name("more_gates.py"), more)
    settings = ("-c", f"{EXAMPLES}/pytest.ini", "-p", "no:cacheprovider", f"--pot-report={path}", "-q")
    environment = {**without_outer_run(), "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "pytest", "--rootdir", str(ROOT), *settings, *GATES, str(more)]
    result = subprocess.run(command, cwd=EXAMPLES, env=environment, capture_output=True, text=True, timeout=900, check=False)
    assert path.is_file(), result.stdout + result.stderr
    assert result.returncode == pytest.ExitCode.TESTS_FAILED, result.stdout + result.stderr
    return path
