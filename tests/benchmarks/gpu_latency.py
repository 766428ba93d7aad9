"""The section of gpu.py on latency gates: real runs of pytest, with a model against its copy and against a slower one.

pytest-pot calls :func:`reference`, :func:`same` and :func:`slower` by name.
"""

from __future__ import annotations

import copy
import io
import os
import statistics
import tempfile
import time
from collections.abc import Mapping
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from bench import Rows
from gpu_bench import GpuBench
from latency_gates import with_layers

__all__ = ["latency", "reference", "same", "slower"]

_GATES, _FEWER_GATES = {"same": 6, "slower": 4}, {"same": 1, "slower": 1}
_SLOWDOWN, _LIMIT = 1.4, 1.25
_MODELS: dict[str, Any] = {}
_NAMES = ("reference", "same", "slower")

_TESTS = """
import pytest

{tests}
"""
_TEST = """
@pytest.mark.pot_latency(
    max_slowdown={limit}, preset="balanced", max_seconds=20,
    reference="gpu_latency:reference", candidate="gpu_latency:{candidate}",
)
def test_{candidate}_{index}():
    pass
"""


def reference() -> Any:
    return _MODELS["reference"]


def same() -> Any:
    return _MODELS["same"]


def slower() -> Any:
    return _MODELS["slower"]


class Gates:
    """A pytest plugin that keeps the result of every gate and the seconds of every test."""

    def __init__(self) -> None:
        self.results: dict[str, Any] = {}
        self.seconds: dict[str, float] = {}

    def pytest_pot_gate(self, item: pytest.Item, result: Any) -> None:
        self.results[item.name] = result

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Any:
        started = time.perf_counter()
        outcome = yield
        self.seconds[item.name] = time.perf_counter() - started
        return outcome


def latency(bench: GpuBench) -> Rows:
    """Gates of ``max_slowdown=1.25`` on the smallest shape, against a copy and against a model with 1.4 times the layers."""
    pair = bench.pair(bench.smallest)
    n_layers = round(_SLOWDOWN * pair.model.config.num_hidden_layers)
    twin, slow = copy.deepcopy(pair.model), with_layers(pair.model, n_layers)
    _MODELS.update({name: (model, pair.tokenizer) for name, model in zip(_NAMES, (pair.model, twin, slow), strict=True)})
    try:
        gates = _run(_GATES if bench.on_cuda else _FEWER_GATES)
    finally:
        _MODELS.clear()
    for candidate in _GATES:
        names = [name for name in gates.results if name.startswith(f"test_{candidate}_")]
        verdicts = [str(gates.results[name].verdict) for name in names]
        reports = [gates.results[name].report for name in names]
        yield {
            "candidate": candidate,
            "layers": n_layers if candidate == "slower" else pair.model.config.num_hidden_layers,
            "gates": len(names),
            **{verdict: verdicts.count(verdict) for verdict in ("pass", "fail", "inconclusive")},
            "slowdown": statistics.median(report.slowdown for report in reports),
            "least": min(report.slowdown for report in reports),
            "most": max(report.slowdown for report in reports),
            "s per gate": statistics.median(gates.seconds[name] for name in names),
        }


def _run(numbers: Mapping[str, int]) -> Gates:
    tests = [_TEST.format(limit=_LIMIT, candidate=name, index=i) for name, n in numbers.items() for i in range(n)]
    gates, output = Gates(), io.StringIO()
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "pytest.ini").write_text("[pytest]\n", encoding="utf-8")
        path = Path(folder) / "test_gpu_gates.py"
        path.write_text(_TESTS.format(tests="\n".join(tests)), encoding="utf-8")
        # Only this plugin: others have a cost of their own.
        environment = mock.patch.dict(os.environ, {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"})
        arguments = ["-q", "-p", "pytest_pot.plugin", "-p", "no:cacheprovider", f"--rootdir={folder}", str(path)]
        with environment, redirect_stdout(output):
            pytest.main(arguments, plugins=[gates])
    finished = [name for name, result in gates.results.items() if result.report is not None]
    if len(finished) < sum(numbers.values()):
        raise RuntimeError(f"only {len(finished)} gates came to a verdict:\n{output.getvalue()[-4000:]}")
    return gates
