"""The reports of the examples are valid by the JSON Schema, and their Markdown has no text outside code that is not ours."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest

from pytest_pot.report.json_report import SCHEMA_FILE
from tests.unit.report.commonmark import OURS, rendered

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.mark.slow
@pytest.mark.real
@pytest.mark.parametrize(
    "arguments",
    [
        # Without the model that is trained first.
        ["test_markers.py", "test_recorded.py", "-k", "not foreign"],
        ["test_failing_gates.py", "-k", "not another_model"],
        ["test_latency.py"],
    ],
    ids=["markers", "failing", "latency"],
)
def test_the_reports_of_the_examples_are_valid(arguments: list[str], tmp_path: Path) -> None:
    reports = [f"--pot-report={tmp_path / name}" for name in ("out.json", "out.md")]
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "no:xdist", *arguments, *reports]
    result = subprocess.run(command, cwd=EXAMPLES, capture_output=True, text=True, encoding="utf-8")
    assert result.returncode == 0, result.stdout + result.stderr
    document = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))
    schema = json.loads(SCHEMA_FILE.read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator(schema, format_checker=jsonschema.FormatChecker()).validate(document)
    assert document["gates"]
    page = rendered((tmp_path / "out.md").read_text(encoding="utf-8"))
    assert set(page.tags) <= OURS
