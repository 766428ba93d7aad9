"""Find out, for a gate that has failed, what changed between the models it compared."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from pytest_pot.core.config import ScoringConfig
from pytest_pot.core.user_code import in_short
from pytest_pot.engines.registry import device_of
from pytest_pot.gates.base import GateInputs, Progress
from pytest_pot.gates.verdict.result import ScoreOutcome
from pytest_pot.scoring.diagnosis.diagnose import ModelPair, diagnose
from pytest_pot.scoring.diagnosis.diagnosis import Diagnosis

if TYPE_CHECKING:
    from pytest_pot.baseline.baseline import Baseline

__all__ = ["diagnosis_of"]

_STAGE = "diagnosing"
_LEAST_S = 20.0
"""Seconds for the diagnosis of a gate that takes less: enough for the weights of a small model."""


def diagnosis_of(
    outcome: ScoreOutcome,
    inputs: GateInputs,
    config: ScoringConfig,
    baseline: Baseline | None,
    progress: Progress,
    seconds: float,
) -> Diagnosis:
    """The diagnosis of a gate that has failed. Whatever goes wrong here is told in it, and raises nothing; so is Ctrl-C.

    Args:
        outcome: of the gate.
        inputs: of the gate.
        config: how the reference is opened.
        baseline: the recorded reference, if the candidate was compared with one.
        progress: shown the steps of the diagnosis.
        seconds: how long the gate took, in seconds of the processor for this thread.
    """
    try:
        progress(0, 0, _STAGE)  # a reference that has yet to be loaded may take a while
        pair = replace(_pair(outcome, inputs, config, baseline), seconds=max(seconds, _LEAST_S))
        diagnosis = diagnose(pair, lambda done, total: progress(done, total, _STAGE))
        diagnosis.to_dict()  # reports will ask for it
        return diagnosis
    except KeyboardInterrupt:  # the verdict has been waited for long enough; whoever runs the gate then stops
        return replace(_undone("the diagnosis was interrupted"), interrupted=True)
    except BaseException as error:  # also a skip or a timeout of pytest: the verdict is known, and must be heard
        return _undone(f"the diagnosis itself failed: {in_short(error).splitlines()[0]}")


def _pair(outcome: ScoreOutcome, inputs: GateInputs, config: ScoringConfig, baseline: Baseline | None) -> ModelPair:
    """What was compared. A live reference that did not have to run is loaded now, so that a failing gate says the same whether
    or not an earlier run had kept its outputs."""
    reference = inputs.reference
    is_recorded = reference is None and inputs.live_reference is None
    if reference is None and inputs.live_reference is not None:
        reference = inputs.live_reference()
        if config.device == "auto":
            config = replace(config, device=device_of(inputs.candidate) or "auto")
    return ModelPair(
        candidate=inputs.candidate,
        candidate_config=outcome.settings.candidate_config(config),
        config=config,
        reference=reference,
        is_recorded=is_recorded,
        recorded=baseline.weights_print if is_recorded and baseline is not None else None,
        labels=_labels(outcome),
        tokens=outcome.report.tokens[int(outcome.report.scores.argmax())],
    )


def _labels(outcome: ScoreOutcome) -> tuple[str, str]:
    """Where and in which precision both ran, without what the report adds: that one was cached, or how one read."""
    reference, candidate = (label.partition(",")[0] for label in outcome.report.labels)
    return reference, candidate


def _undone(why: str) -> Diagnosis:
    return Diagnosis(config=None, weights=None, trace=None, notes=(why,), what_changed=(f"not known: {why}",))
