"""``print`` of a result fits on a screen, however many numbers and texts it holds."""

from __future__ import annotations

import dataclasses
import importlib
import pkgutil
import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from transformers import PreTrainedTokenizerFast

import pytest_pot
from pytest_pot import Baseline, LatencyReport, PotResult, Prompt, ScoreReport, ScoringConfig, TeacherForcedScorer
from pytest_pot.calibration.ladder import Calibration, Rung
from pytest_pot.core.brief import MOST, Brief
from pytest_pot.engines.weights import ChangeKind, TensorChange
from pytest_pot.gates.latency.latency_report import Check, Outcome, RequestFigures
from pytest_pot.gates.verdict.gate import ScoreResult
from pytest_pot.gates.verdict.limits import Verdict, identity_limits
from pytest_pot.gates.verdict.sequential import SequentialTest
from pytest_pot.gates.verdict.settings import ScoreSettings
from pytest_pot.scoring.baseline_comparison import compare
from pytest_pot.scoring.diagnosis.diagnosis import Diagnosis, WeightsDifference

from .models import changed, tiny

LONG = "a text of the user's own that is long\n\x1b[31m" * 200
NOT_RESULTS = {
    "ADDED_TOKENS": "prompts",
    "PRESETS": "configurations",
    "PotError": "an error, whose text is its message",
    "Prompt": "what a user wrote",
    "ScoringConfig": "what a user wrote",
    "TeacherForcedScorer": "no dataclass",
    "Verdict": "a name",
}


@pytest.fixture(scope="module")
def results(tokenizer: PreTrainedTokenizerFast) -> dict[str, Any]:
    """Large results by the name of their type."""
    scorer = TeacherForcedScorer()
    prompts = [Prompt(LONG, LONG, kind=f"{LONG}{i}") for i in range(4)] + [Prompt(f"number {i}", " abc") for i in range(20)]
    reference, candidate = tiny(), changed(tiny())
    report = scorer.score_batch(reference, candidate, prompts, tokenizer)
    one, other = (scorer.record(model, prompts, tokenizer, name=LONG) for model in (reference, candidate))
    times = tuple(0.1 * i for i in range(400))
    requests = RequestFigures(times, times, times, times)
    check = Check("max_slowdown", "slowdown", 1.0, 1.0, 2.0, Outcome.PASS)
    test = SequentialTest(0.01)
    test.update([0.001] * 400)
    lines = (LONG,) * 300
    changes = tuple(TensorChange(f"layer {i} {LONG}", ChangeKind.CHANGED) for i in range(200))
    diagnosis = Diagnosis(None, WeightsDifference(9, 3, changes, lines, False), None, notes=lines, what_changed=lines)
    rungs = [Rung(f"{LONG}{i}", np.arange(300.0), dict(report.metrics)) for i in range(30)]
    settings = ScoreSettings(gate="pot_identity", preset="auto", config=ScoringConfig(), limits=identity_limits("tv"))
    result = ScoreResult(
        settings, (LONG, LONG), report, Verdict.DIFFERENT, test.decision(), notes=lines, warnings=lines, diagnosis=diagnosis
    )
    made = [
        report,
        one,
        one.recorded,
        one.provenance,
        one.top_k(),
        one.weights_print,
        compare(one, other),
        LatencyReport("decode", times, times, (check,) * 9, 1, 1, lead=times, requests=requests, label=LONG),
        requests,
        test.decision(),
        diagnosis,
        diagnosis.weights,
        Calibration("tv", 300, LONG, 0.1, rungs, {LONG: LONG}),
        rungs[0],
        result,
        PotResult([result] * 50),
    ]
    return {type(each).__name__: each for each in made}


def test_every_result_is_shown_in_a_few_characters(results: dict[str, Any]) -> None:
    for name, result in results.items():
        for text in (repr(result), f"{result}" if name != "ScoreReport" else repr(result)):
            assert len(text) <= MOST, (name, len(text))
            assert text.isprintable()
            assert name in text


def test_all_public_results_are_among_them(results: dict[str, Any]) -> None:
    public = {name for name in pytest_pot.__all__ if isinstance(getattr(pytest_pot, name), type)}
    assert public - set(NOT_RESULTS) <= set(results)
    assert {Baseline, LatencyReport, PotResult, ScoreReport} <= {type(each) for each in results.values()}


def test_the_beginning_of_each_field_is_shown(results: dict[str, Any]) -> None:
    text = repr(results["Rung"])
    assert re.fullmatch(r"Rung\(name='a text of the.*', scores=<float64 \[300\]>, metrics=\{'delta_ce': .*\}\)", text), text


def classes_of_results() -> Iterator[type[Any]]:
    """Public ones, but for those that only an engine has."""
    for module in pkgutil.walk_packages(pytest_pot.__path__, "pytest_pot."):
        if re.match(r"pytest_pot\.(engines\.(pytorch|tensors)|testing|__main__)", module.name):
            continue
        for name, kind in vars(importlib.import_module(module.name)).items():
            if isinstance(kind, type) and kind.__module__ == module.name and not name.startswith("_"):
                yield kind


def test_what_holds_arrays_has_a_short_repr() -> None:
    arrays = re.compile(r"\b(Floats|Ints|Flags|NDArray|TopK|Recorded)\b|tuple\[float, \.\.\.\]")
    holders: list[type[Any]] = [
        kind
        for kind in classes_of_results()
        if dataclasses.is_dataclass(kind)
        and any(field.repr and arrays.search(str(field.type)) for field in dataclasses.fields(kind))
    ]
    assert len(holders) > 8
    assert [kind for kind in holders if not issubclass(kind, Brief)] == []
