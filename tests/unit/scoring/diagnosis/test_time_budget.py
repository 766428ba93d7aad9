"""Diagnoses that have no time to look for the kinds of changes."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from transformers import PreTrainedModel

from pytest_pot.core.config import ScoringConfig
from pytest_pot.engines.pytorch.weights.named import NamedWeights
from pytest_pot.engines.tokens import Tokens
from pytest_pot.engines.weights import ChangeKind
from pytest_pot.scoring.diagnosis.diagnose import ModelPair, diagnose
from pytest_pot.scoring.diagnosis.diagnosis import Diagnosis
from pytest_pot.scoring.diagnosis.time_budget import TimeBudget

from ...models import tiny

CONFIG = ScoringConfig()
MLP = "model.layers.1.mlp"
TO_SAVE_TIME = "not looked for, to save time: python -m pytest_pot explain does"
STARTS = f"where it starts was {TO_SAVE_TIME}"


def changed() -> PreTrainedModel:
    """One tensor rounded, one scaled, one zero and one spoilt."""
    model = tiny("llama")
    with torch.no_grad():
        gate = model.get_parameter(f"{MLP}.gate_proj.weight")
        gate.copy_(gate.bfloat16().float())
        model.get_parameter(f"{MLP}.up_proj.weight").mul_(1.5)
        model.get_parameter(f"{MLP}.down_proj.weight").zero_()
        model.get_parameter("model.layers.0.mlp.up_proj.weight")[0, 0] = torch.nan
    return model


def pair(candidate: PreTrainedModel, seconds: float | None, *, recorded: bool = False) -> ModelPair:
    reference = tiny("llama")
    if recorded:
        return ModelPair(candidate, CONFIG, CONFIG, None, True, NamedWeights(reference).print(), seconds=seconds)
    return ModelPair(candidate, CONFIG, CONFIG, reference, tokens=Tokens((3, 4, 5, 6), 3), seconds=seconds)


def kinds(diagnosis: Diagnosis) -> dict[str, tuple[ChangeKind, bool]]:
    assert diagnosis.weights is not None
    return {change.name: (change.kind, change.searched) for change in diagnosis.weights.changes}


@pytest.mark.parametrize("recorded", [False, True])
def test_without_time_all_tensors_are_measured_and_what_shows_at_once_is_named(recorded: bool) -> None:
    candidate = changed()
    whole, brief = (diagnose(pair(candidate, seconds, recorded=recorded)) for seconds in (None, 0.0))
    assert kinds(whole) == {
        "model.layers.0.mlp.up_proj.weight": (ChangeKind.NOT_FINITE, True),
        f"{MLP}.gate_proj.weight": (ChangeKind.ROUNDED, True),
        f"{MLP}.up_proj.weight": (ChangeKind.SCALED, True),
        f"{MLP}.down_proj.weight": (ChangeKind.ZERO, True),
    }
    assert kinds(brief) == {
        "model.layers.0.mlp.up_proj.weight": (ChangeKind.NOT_FINITE, True),
        f"{MLP}.gate_proj.weight": (ChangeKind.CHANGED, False),
        f"{MLP}.up_proj.weight": (ChangeKind.CHANGED, False),
        f"{MLP}.down_proj.weight": (ChangeKind.ZERO, True),
    }
    assert whole.weights is not None
    assert brief.weights is not None
    assert brief.weights.n_equal == whole.weights.n_equal
    sizes, expected = ([change.relative for change in each.weights.changes] for each in (brief, whole) if each.weights)
    if recorded:  # a kind may tell the size better than the projections do
        sizes, expected = sizes[3:], expected[3:]
    assert sizes == expected
    note = f"the kinds of the changes of 2 tensors were {TO_SAVE_TIME}"
    assert brief.notes == ((note,) if recorded else (note, STARTS))
    assert brief.what_changed[-len(brief.notes) :] == brief.notes
    for name in ("gate_proj", "up_proj"):
        words = f"one tensor: {MLP}.{name}.weight changed in a way that was not looked for (relative change "
        assert any(line.startswith(words) for line in brief.what_changed), brief.what_changed
    assert brief.trace is None
    assert (whole.trace is None) == recorded
    assert not any(TO_SAVE_TIME in line for line in whole.what_changed)
    json.dumps(brief.to_dict(), allow_nan=False)


@pytest.mark.parametrize("recorded", [False, True])
def test_equal_models_are_equal_without_time(recorded: bool) -> None:
    diagnosis = diagnose(pair(tiny("llama"), 0.0, recorded=recorded))
    assert diagnosis.same_weights
    assert diagnosis.notes == (() if recorded else (STARTS,))


def test_other_shapes_are_told_without_time() -> None:
    candidate = tiny("llama", intermediate_size=48)
    whole, brief = (diagnose(pair(candidate, seconds)) for seconds in (None, 0.0))
    assert replace(brief, trace=None, notes=(), what_changed=()) == replace(
        whole, trace=None, notes=(), what_changed=(), where_it_starts=()
    )


def test_progress_goes_on_without_time() -> None:
    calls: list[tuple[int, int]] = []
    diagnose(pair(changed(), 0.0), lambda done, of: calls.append((done, of)))
    assert calls[-1] == (23, 23)
    assert {of for _, of in calls} == {23}


def test_waiting_for_the_processor_takes_nothing_from_the_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    for clock in ("monotonic", "perf_counter", "time", "process_time"):  # other processes and threads are computing
        monkeypatch.setattr(f"time.{clock}", lambda: now)
    budget = TimeBudget(20.0)
    with budget.counted():
        now += 1000.0
    assert not budget.spent(0.5)


def test_only_what_is_counted_takes_from_the_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("time.thread_time", lambda: now)
    budget = TimeBudget(6.0)
    now = 100.0
    assert not budget.spent(0.5)
    with budget.counted():
        now += 3.0
    assert budget.spent(0.5)
    assert not budget.spent()
    with budget.counted():
        now += 3.0
    assert budget.spent()
    assert not TimeBudget().spent()
