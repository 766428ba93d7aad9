"""The benchmark for a GPU, tried on a CPU with tiny shapes."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

FOLDER = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The module tests/benchmarks/gpu.py."""
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module("gpu")


@pytest.mark.slow
def test_every_section_runs_on_tiny_shapes(gpu: ModuleType, tmp_path: Path) -> None:
    command = [sys.executable, str(FOLDER / "gpu.py"), "--out", str(tmp_path)]
    options = ["--device", "cpu", "--shapes", "tiny", "--prompts", "4", "--rounds", "1", "--limit-s", "3600"]
    paths = os.pathsep.join([str(FOLDER.parents[1]), os.environ.get("PYTHONPATH", "")])
    process = subprocess.run([*command, *options], env={**os.environ, "PYTHONPATH": paths}, capture_output=True, text=True)
    assert process.returncode == 0, process.stdout + process.stderr
    document = json.loads((tmp_path / "gpu.json").read_text(encoding="utf-8"))
    page = (tmp_path / "gpu.md").read_text(encoding="utf-8")
    titles = gpu.gpu_report.TITLES
    assert set(document["sections"]) == set(titles)
    for name, rows in document["sections"].items():
        assert rows
        assert f"## {titles[name]}\n" in page
    assert {row["preset"] for row in document["sections"]["identity"]} >= {"auto", "original"}
    assert {row["recorded"] for row in document["sections"]["identity"]} == {0.0}
    assert [row["candidate"] for row in document["sections"]["latency"]] == ["same", "slower"]
    assert "| identity: recorded, exactly 0 | 18 of 18 |" in process.stdout
    assert "The host, by cumulative" in (tmp_path / "profile.txt").read_text(encoding="utf-8")


def test_without_a_gpu_it_says_so(
    gpu: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--out", str(tmp_path / "results")])
    assert gpu.main() == 1
    assert capsys.readouterr().err.startswith("gpu.py needs a CUDA device, and torch sees none here")
    assert not (tmp_path / "results").exists()


def test_a_section_that_fails_keeps_its_rows_and_the_others_go_on(
    gpu: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def failing(bench: Any) -> Iterator[dict[str, Any]]:
        yield {"what": "first", "TFLOP/s": 1.5}
        raise ZeroDivisionError("on purpose")

    def working(bench: Any) -> Iterator[dict[str, Any]]:
        yield {"shape": "7b", "recorded / bare": 1.5, "recorded, share": 0.7}
        yield {"shape": "135m", "recorded / bare": 1.2, "recorded, share": 0.1}

    monkeypatch.setattr(gpu, "sections", lambda folder: {"peak": failing, "bare": working})
    options = ["--device", "cpu", "--shapes", "tiny", "--sections", "peak", "bare", "--out", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["gpu.py", *options])
    assert gpu.main() == 1
    document = json.loads((tmp_path / "gpu.json").read_text(encoding="utf-8"))
    assert document["errors"] == {"peak": "ZeroDivisionError: on purpose"}
    assert document["sections"]["peak"] == [{"what": "first", "TFLOP/s": 1.5}]
    output = capsys.readouterr()
    assert "This section failed: ZeroDivisionError: on purpose" in output.out
    assert "in failing" in output.err
    page = (tmp_path / "gpu.md").read_text(encoding="utf-8")
    assert "| bare: recorded / bare, at most 1.25 | 1 of 2 | 1.2 | 1.5 |" in page
    assert "| bare: recorded, share, 7b, at least 0.6 | 1 of 1 | 0.7 | 0.7 |" in page


def test_no_section_begins_after_the_time_limit(gpu: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = ["--device", "cpu", "--shapes", "tiny", "--limit-s", "-1", "--sections", "peak", "--out", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["gpu.py", *options])
    assert gpu.main() == 1
