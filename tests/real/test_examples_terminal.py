"""What a terminal of 80 columns shows of the examples: no line is longer, and the words are those of the stored text.

Where the words are meant to change, write that text anew: ``PYTHONPATH=. python -m tests.real.test_examples_terminal``.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from pytest_pot.core.text import columns

pytestmark = [pytest.mark.real, pytest.mark.slow]

ROOT = Path(__file__).parents[2]
STORED = Path(__file__).with_name("examples_terminal.txt")
FILES = ("test_markers.py", "test_recorded.py", "test_failing_gates.py", "test_latency.py", "test_scorer.py", "demo")
OF_PYTEST = re.compile(r"(FAILED|ERROR|platform|rootdir:|configfile:|plugins:) ?")
"""Lines that pytest writes as long as they are."""


def shown() -> list[str]:
    """The lines of a run in which the gates that are expected to fail do so, messages and all."""
    names = [f"examples/{name}" for name in FILES]
    command = [
        sys.executable,
        "-m",
        "pytest",
        *names,
        "--runxfail",
        "--no-header",
        "-p",
        "no:cacheprovider",
        "-k",
        "not foreign",
    ]
    others = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_") and name != "CI"}
    environment = {**others, "PYTHONPATH": str(ROOT), "COLUMNS": "80"}
    run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode in (0, 1), run.stdout + run.stderr
    return run.stdout.splitlines()


def words(lines: list[str]) -> list[str]:
    """The words, wherever lines end, with ``#`` for figures: times and the last digits of scores differ between machines."""
    text = re.sub(r"\d[\d.,]*(?:e[-+]?\d+)?", "#", " ".join(lines))
    return re.sub(r"noise floor #|no noise seen", "noise floor", re.sub(r"=+|_{2,}", " ", text)).split()


def test_no_line_of_the_examples_is_longer_and_the_words_are_pinned() -> None:
    lines = shown()
    assert [line for line in lines if columns(line) > 80 and len(line.split()) > 1 and not OF_PYTEST.match(line)] == []
    assert words(lines) == words(STORED.read_text(encoding="utf-8").splitlines())


if __name__ == "__main__":
    STORED.write_text("\n".join(line.rstrip() for line in shown()) + "\n", encoding="utf-8")
