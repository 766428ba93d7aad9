"""Graphs of a real model score what its weights say, and a quantised graph is told from it."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

from pytest_pot import Baseline, ScoringConfig, TeacherForcedScorer
from pytest_pot.engines.registry import load_model
from pytest_pot.prompts.builtin import builtin_prompts

from ..unit.onnx_export import Export, export
from .conftest import ModelAndTokenizer

pytestmark = pytest.mark.real

CONFIG = ScoringConfig(device="cpu")


@pytest.fixture(scope="module")
def exports(zoo: ModuleType) -> ModuleType:
    """The module examples/smollm2_onnx.py, which exports once on a machine."""
    path = Path(__file__).parents[2] / "examples" / "smollm2_onnx.py"
    spec = importlib.util.spec_from_file_location("smollm2_onnx", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "smollm2", zoo)
        spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def baseline(reference: ModelAndTokenizer) -> Baseline:
    return TeacherForcedScorer(CONFIG).record(reference[0], builtin_prompts()[:8], reference[1])


def score(baseline: Baseline, spec: Path, tokenizer: object) -> float:
    graph = load_model(str(spec), "candidate", CONFIG)
    assert graph.tokenizer is None or graph.tokenizer.get_vocab() == tokenizer.get_vocab()  # type: ignore[attr-defined]
    return TeacherForcedScorer(CONFIG).score_baseline(baseline, graph.model, tokenizer).mean


def test_a_graph_scores_as_its_source(exports: ModuleType, baseline: Baseline, reference: ModelAndTokenizer) -> None:
    assert 0 < score(baseline, exports.graph(), reference[1]) < 1e-5  # 1.7e-6 was measured


@pytest.mark.slow
def test_a_graph_with_cache_inputs_scores_as_its_source(
    baseline: Baseline, reference: ModelAndTokenizer, tmp_path: Path
) -> None:
    graph = export(reference[0], tmp_path / "model.onnx", Export(cache=True, positions=True))
    assert 0 < score(baseline, graph, reference[1]) < 1e-5  # 1.7e-6 was measured


@pytest.mark.slow
def test_dynamic_int8_is_told_from_it(exports: ModuleType, baseline: Baseline, reference: ModelAndTokenizer) -> None:
    assert 0.1 < score(baseline, exports.int8(), reference[1]) < 0.6  # 0.37 was measured
