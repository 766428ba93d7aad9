"""Contradictions between the figures of one run: none on trained models, however they were changed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean
from types import SimpleNamespace
from typing import Any

import pytest

from pytest_pot.core.config import ScoringConfig
from pytest_pot.gates.verdict.evidence import contradictions
from pytest_pot.gates.verdict.limits import identity_limits
from pytest_pot.gates.verdict.settings import ScoreSettings

RESULTS = Path(__file__).parents[3] / "benchmarks" / "results"


def settings(metric: str = "tv") -> ScoreSettings:
    config = ScoringConfig(metric=metric)
    return ScoreSettings(gate="pot_identity", preset="auto", config=config, limits=identity_limits(metric, max_score=0.01))


def report(tail_mass: float = 0.1, **metrics: float) -> Any:
    values = {"tv": 0.001, "top1_flip": 0.0, "delta_ce": 0.0, **metrics}
    return SimpleNamespace(metrics=values, tail_mass=tail_mass)


def rungs() -> Iterator[tuple[str, dict[str, float]]]:
    """The metrics of every rung of the ladder of two trained models, under the presets that merge or leave out cells."""
    for name in ("smollm2", "stories15m"):
        document = json.loads((RESULTS / f"ladder_{name}.json").read_text(encoding="utf-8"))
        for rung, ways in document["rungs"].items():
            for way in ("balanced", "fastest"):
                scores = ways[way]["scores"]
                yield f"{name}, {rung}, {way}", {metric: fmean(values) for metric, values in scores.items()}


def test_no_known_change_of_a_trained_model_is_a_contradiction() -> None:
    found = {name: contradictions(report(**metrics), settings()) for name, metrics in rungs()}
    assert len(found) > 80
    assert {name: warning for name, warning in found.items() if warning} == {}


@pytest.mark.parametrize(
    ("metrics", "said"),
    [
        ({"top1_flip": 1.0}, "the likeliest token differs at 100% of the positions (top1_flip), which contradicts"),
        ({"delta_ce": 0.9}, "the logarithm of the next token's probability changed by 0.9 on average (delta_ce), which"),
        ({"top1_flip": 1.0, "delta_ce": 0.9}, "(top1_flip) and the logarithm of"),
    ],
)
def test_exact_metrics_that_say_otherwise_are_told(metrics: dict[str, float], said: str) -> None:
    [warning] = contradictions(report(**metrics), settings())
    assert said in warning
    assert warning.endswith(
        "contradicts so small a tv as 0.001; 10.0% of the reference's probability is not compared token by token. Compare the "
        "whole vocabulary with preset='accurate' before you trust this pass"
    )


def test_a_gate_on_an_exact_metric_has_seen_it_already() -> None:
    assert contradictions(report(top1_flip=1.0), settings("top1_flip")) == ()
