"""Find out what changed between two models, and where the difference starts."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

from pytest_pot.core.config import ScoringConfig
from pytest_pot.core.text import shorten
from pytest_pot.engines.base import Engine
from pytest_pot.engines.module_differences import ModuleTrace, Traceable
from pytest_pot.engines.registry import opened, weights
from pytest_pot.engines.tokens import Tokens
from pytest_pot.engines.weights import ChangeKind, TensorChange, Weights, WeightsPrint
from pytest_pot.scoring.diagnosis.config_changes import config_changes
from pytest_pot.scoring.diagnosis.constant_changes import constant_changes, explains_buffer
from pytest_pot.scoring.diagnosis.diagnosis import ConfigChange, Diagnosis, WeightsDifference
from pytest_pot.scoring.diagnosis.known_weights import KnownWeights
from pytest_pot.scoring.diagnosis.lines import what_changed, where_it_starts
from pytest_pot.scoring.diagnosis.matching import UnmatchedWeights, match
from pytest_pot.scoring.diagnosis.time_budget import TimeBudget
from pytest_pot.scoring.diagnosis.weights_difference import compare_weights, computed_buffers

__all__ = ["ModelPair", "diagnose"]

Progress = Callable[[int, int], None]
"""Called with (steps done, steps in all); a step is a tensor, or one reading of the prompt."""

_READINGS = 2
_WRAPPERS = {"OptimizedModule", "DataParallel", "DistributedDataParallel", "FullyShardedDataParallel"}
_PRECISIONS = {"float64", "float32", "bfloat16", "float16"}


@dataclass(frozen=True)
class ModelPair:
    """What is compared."""

    candidate: Any
    """A live model, or an :class:`~pytest_pot.engines.base.Engine`."""
    candidate_config: ScoringConfig
    """How the candidate is opened."""
    config: ScoringConfig
    """How the reference is opened."""
    reference: Any = None
    """The same; not used where it is recorded."""
    is_recorded: bool = False
    """Whether the reference is a recording."""
    recorded: WeightsPrint | None = None
    """What the recording knows of the reference's weights; None where it holds nothing of them."""
    tokens: Tokens | None = None
    """The prompt on which the models are compared module by module; None: they are not."""
    labels: tuple[str, str] | None = None
    """Where and in which precision reference and candidate ran, as their engines say; None: not known."""
    seconds: float | None = None
    """How long to look for the kinds of changes, and for where they start, beside one pass over the weights; None: as long as
    it takes."""


def diagnose(pair: ModelPair, progress: Progress | None = None) -> Diagnosis:
    """Compare configurations, weights and, where both are live, modules.

    What cannot be told becomes a note. Nothing is raised but what ends the process, such as ``KeyboardInterrupt``.
    """
    work = _Work(pair, progress)
    diagnosis = work.diagnosis()
    return replace(diagnosis, what_changed=tuple(what_changed(diagnosis)), where_it_starts=tuple(where_it_starts(diagnosis)))


class _Work:
    """One diagnosis: what is found out, part by part."""

    def __init__(self, pair: ModelPair, progress: Progress | None) -> None:
        self._pair = pair
        self._progress = progress
        self._steps = self._done = 0
        self._notes: list[str] = []
        self._labels = pair.labels
        self._budget = TimeBudget(pair.seconds)

    def diagnosis(self) -> Diagnosis:
        candidate = self._attempt("the candidate's weights", lambda: weights(self._pair.candidate))
        reference = self._attempt("the reference's weights", self._reference)
        if not self._notes:
            self._say_what_is_unknown(candidate, reference)
        config = difference = None
        if candidate is not None and reference is not None:
            config = self._attempt("the configurations", lambda: _config(reference, candidate))
            difference = self._attempt("the weights", lambda: self._weights(reference, candidate))
            if difference is not None:
                constants = self._attempt("the modules' numbers", lambda: _constants(reference, candidate, config or ()))
                difference = self._with_computed(difference, reference, candidate, (*(config or ()), *(constants or ())))
                if constants:
                    config = (*(config or ()), *constants)
        trace = self._trace_or_why_not()
        return Diagnosis(
            config=config,
            weights=difference,
            trace=trace,
            same_weights=difference is not None and not config and _is_same(difference),
            precisions=self._precisions(),
            classes=None if difference is None else _classes(reference, candidate),
            notes=tuple(dict.fromkeys(self._notes)),
        )

    def _reference(self) -> Weights | WeightsPrint | None:
        return self._pair.recorded if self._pair.is_recorded else weights(self._pair.reference)

    def _attempt(self, what: str, part: Callable[[], Any]) -> Any:
        """What ``part`` returns; None and a note where it fails."""
        try:
            return part()
        except UnmatchedWeights as error:
            self._notes.append(str(error))
        except Exception as error:  # a diagnosis is made of a failing gate, and must not fail itself
            self._notes.append(f"{what} could not be compared: {_text(error)}")
        return None

    def _say_what_is_unknown(self, candidate: Weights | None, reference: Weights | WeightsPrint | None) -> None:
        labels = self._labels or (None, None)
        without = [
            f"the {role} ({_engine_name(model, label)})"
            for role, known, model, label in (
                ("candidate", candidate, self._pair.candidate, labels[1]),
                ("reference", reference, self._pair.reference, labels[0]),
            )
            if known is None and not (role == "reference" and self._pair.is_recorded)
        ]
        if without:
            verb, whose = ("shows", "its") if len(without) == 1 else ("show", "their")
            self._notes.append(f"{' and '.join(without)} {verb} no weights; a gate compares {whose} answers")
        if self._pair.is_recorded and self._pair.recorded is None:
            self._notes.append(
                "the recording holds nothing of the reference's weights (recorded by an earlier version, or from an engine "
                "without weights): record it anew with --pot-update"
            )

    def _weights(self, reference: Weights | WeightsPrint, candidate: Weights) -> WeightsDifference | None:
        known = KnownWeights(reference)
        for role, one in (("candidate", KnownWeights(candidate)), ("reference", known)):
            if one.unreadable is not None:
                self._notes.append(f"the {role}'s weights cannot be read: {one.unreadable}")
                return None
        matching = match(known, KnownWeights(candidate))
        self._steps = len(matching.pairs) + (_READINGS if self._may_be_traced else 0)
        compared = compare_weights(candidate, reference, matching, self._step, self._budget)
        self._notes += compared.notes
        return compared.difference

    def _with_computed(
        self,
        difference: WeightsDifference,
        reference: Weights | WeightsPrint,
        candidate: Weights,
        config: tuple[ConfigChange, ...],
    ) -> WeightsDifference:
        changes: list[TensorChange] = (
            self._attempt("buffers that are computed", lambda: computed_buffers(candidate, reference)) or []
        )
        told = tuple(change for change in changes if not explains_buffer(change.name, config))
        return replace(difference, computed=told)

    @property
    def _may_be_traced(self) -> bool:
        return self._pair.tokens is not None and not self._pair.is_recorded

    def _trace_or_why_not(self) -> ModuleTrace | None:
        try:
            return self._trace()
        except Exception as error:  # as above; where a difference starts is another question than what changed
            return ModuleTrace.of_nothing(_text(error))

    def _trace(self) -> ModuleTrace | None:
        if self._pair.tokens is None or not self._may_be_traced:
            return None
        if self._budget.spent():
            self._notes.append("where it starts was not looked for, to save time: python -m pytest_pot explain does")
            self._step(_READINGS)
            return None
        with ExitStack() as stack:
            reference: Engine = stack.enter_context(opened(self._pair.reference, "reference", self._pair.config))
            candidate: Engine = stack.enter_context(opened(self._pair.candidate, "candidate", self._pair.candidate_config))
            self._labels = self._labels or (reference.label, candidate.label)
            trace = None
            if isinstance(candidate, Traceable) and isinstance(reference, Traceable):
                trace = candidate.trace(reference, self._pair.tokens)
        self._step(_READINGS)
        return trace

    def _step(self, n: int = 1) -> None:
        self._done += n
        if self._progress is not None:
            self._progress(self._done, max(self._steps, self._done))

    def _precisions(self) -> tuple[str, str] | None:
        if self._labels is None:
            return None
        one, other = (label.partition(" on ")[0] for label in self._labels)
        known = all(precision.split(" ")[0] in _PRECISIONS for precision in (one, other))
        return (one, other) if known and one != other else None


def _text(error: Exception) -> str:
    return shorten(str(error) or type(error).__name__, 200)


def _engine_name(model: object, label: str | None) -> str:
    name = label or getattr(model, "label", None)
    return shorten(name, 100) if isinstance(name, str) else shorten(type(model).__name__, 60)


def _config(reference: Weights | WeightsPrint, candidate: Weights) -> tuple[ConfigChange, ...] | None:
    if reference.config is None or candidate.config is None:
        return None
    return config_changes(reference.config, candidate.config)


def _constants(
    reference: Weights | WeightsPrint, candidate: Weights, config: tuple[ConfigChange, ...]
) -> tuple[ConfigChange, ...]:
    """Of live models; a recording does not hold them."""
    if isinstance(reference, WeightsPrint):
        return ()
    return constant_changes(reference.constants, candidate.constants, config)


def _is_same(difference: WeightsDifference) -> bool:
    """Whether all values are equal; what was tied and no longer is may be."""
    changed = [change for change in difference.changes if change.kind is not ChangeKind.UNTIED or change.relative != 0]
    all_equal = not changed and not difference.computed and difference.n_equal == difference.n_tensors
    return all_equal and not difference.unconfirmed


def _classes(reference: Weights | WeightsPrint, candidate: Weights) -> tuple[str, str] | None:
    """Those of both models, where they differ and neither is of a mere wrapper, whose forward is that of the model inside."""
    one, other = (weights.model_class.removeprefix("FSDP") for weights in (reference, candidate))
    return None if one == other or {one, other} & _WRAPPERS else (one, other)
