"""One run of all examples: what a terminal of 80 columns shows of them, and their reports, also in a real browser.

Where the terminal's words are meant to change, write the stored text anew: ``PYTHONPATH=. python -m tests.real.test_examples``.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jsonschema
import pytest

from pytest_pot.core.text import columns
from pytest_pot.report.json_report import SCHEMA_FILE
from tests.browser.chromium import CUT, SCHEMES, WIDTHS, opened, requests_and_messages, script, show, texts, too_wide
from tests.environment import without_outer_run
from tests.unit.report.commonmark import OURS, rendered

if TYPE_CHECKING:
    from selenium.webdriver import Chrome

pytestmark = [pytest.mark.real, pytest.mark.slow]

ROOT = Path(__file__).parents[2]
STORED = Path(__file__).with_name("examples_terminal.txt")


@dataclass(frozen=True)
class Run:
    """What a run of all examples left."""

    lines: list[str]
    folder: Path

    @property
    def page(self) -> Path:
        return self.folder / "out.html"

    @property
    def document(self) -> dict[str, Any]:
        document: dict[str, Any] = json.loads((self.folder / "out.json").read_text(encoding="utf-8"))
        return document


def run_of_all(folder: Path) -> Run:
    """All pass, and the messages of those that are expected to fail are shown."""
    for package in ("onnxruntime", "xllamacpp"):
        pytest.importorskip(package, reason="examples run ONNX Runtime and llama-server")
    reports = [f"--pot-report={folder / name}" for name in ("out.html", "out.json", "out.md")]
    plugins = ("-p", "no:xdist", "-p", "tests.real.unhurried_diagnosis")
    options = ["--xfail-tb", "--no-header", *plugins, "-o", f"cache_dir={folder / 'cache'}"]
    environment = {**without_outer_run(), "PYTHONPATH": str(ROOT), "COLUMNS": "80"}
    command = [sys.executable, "-m", "pytest", "examples", *options, *reports]
    run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, encoding="utf-8", check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    return Run(run.stdout.replace(f"{folder}{os.sep}", "").splitlines(), folder)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return run_of_all(tmp_path_factory.mktemp("examples"))


def words(lines: list[str]) -> list[str]:
    """The words, wherever lines end, with ``#`` for figures: times and the last digits of scores differ between machines.

    So does whether noise is seen. The table's columns of tests and models are left out: where their names are cut depends on
    how wide figures are.
    """
    text = " ".join(" ".join(_without_names(lines)).split())
    text = re.sub(r"\d[\d.,]*(?:e[-+]?\d+)?", "#", re.sub(r"=+|_{2,}", " ", text))
    return re.sub(r"noise floor #|no noise seen", "noise", re.sub(r"noise floor # · ", "", text)).split()


def _without_names(lines: list[str]) -> Iterator[str]:
    start = 0
    for line in lines:
        if line.startswith("test ") and "score / limit" in line:
            start = line.index("score / limit")
        elif line.startswith(("pot: ", "===")):
            start = 0
        yield line[start:]


def test_no_line_of_the_terminal_is_longer_and_the_words_are_pinned(run: Run) -> None:
    assert [line for line in run.lines if columns(line) > 80 and len(line.split()) > 1] == []
    assert words(run.lines) == words(STORED.read_text(encoding="utf-8").splitlines())


def test_the_report_is_valid_by_its_schema(run: Run) -> None:
    schema = json.loads(SCHEMA_FILE.read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator(schema, format_checker=jsonschema.FormatChecker()).validate(run.document)


def test_all_text_that_is_not_ours_is_code_in_markdown(run: Run) -> None:
    page = rendered((run.folder / "out.md").read_text(encoding="utf-8"))
    assert set(page.tags) <= OURS


@pytest.mark.browser
def test_the_page_asks_for_nothing_and_logs_nothing(browser: Chrome, run: Run) -> None:
    assert requests_and_messages(browser, run.page) == []


@pytest.mark.browser
def test_all_gates_are_on_the_page(browser: Chrome, run: Run) -> None:
    opened(browser, run.page)
    shown = [name.splitlines() for name in texts(browser, ".gates tbody th")]
    gates = sorted((gate["test"], gate["gate"]) for gate in run.document["gates"])
    assert sorted((test, f"pot_{models.partition(':')[0]}") for test, models, *_ in shown) == gates
    assert texts(browser, "article h3") == [test for test, *_ in shown]
    table = run.lines[next(n for n, line in enumerate(run.lines) if "score / limit" in line) + 1 :]
    assert len(gates) == next(n for n, line in enumerate(table) if line.startswith(("pot: ", "===")))


@pytest.mark.browser
@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("width", WIDTHS)
def test_the_page_is_no_wider_than_its_window(browser: Chrome, run: Run, width: int, scheme: str) -> None:
    opened(browser, run.page)
    assert too_wide(browser, width, scheme) == []


@pytest.mark.browser
@pytest.mark.parametrize("width", [1200, 720, 360])
def test_every_label_is_within_its_plot(browser: Chrome, run: Run, width: int) -> None:
    show(browser, width, "light")
    opened(browser, run.page)
    assert script(browser, CUT) == []


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        shown = run_of_all(Path(temporary)).lines
    STORED.write_text("\n".join(line.rstrip() for line in shown) + "\n", encoding="utf-8")
