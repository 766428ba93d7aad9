"""Compare the weights of two models, tensor by tensor."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from pytest_pot.core.text import count, shorten
from pytest_pot.engines.weights import ChangeKind, TensorChange, TensorInfo, Weights, WeightsPrint
from pytest_pot.scoring.diagnosis.diagnosis import WeightsDifference
from pytest_pot.scoring.diagnosis.groups import summary
from pytest_pot.scoring.diagnosis.known_weights import KnownWeights
from pytest_pot.scoring.diagnosis.matching import Matching, comparable_shapes
from pytest_pot.scoring.diagnosis.moved import with_moved
from pytest_pot.scoring.diagnosis.rounded_together import without_hidden_damage
from pytest_pot.scoring.diagnosis.tensor_names import TensorName

__all__ = ["ComparedWeights", "compare_weights", "computed_buffers"]

_ROUNDING = {"bfloat16": 2**-8, "float16": 2**-11, "float32": 2**-24}
"""The largest relative error of rounding to each precision."""
_ESTIMATE = 1.7
"""How much larger than the real size a recorded one may be told, three standard deviations."""


@dataclass
class ComparedWeights:
    """The weights' difference, and what could not be compared."""

    difference: WeightsDifference
    notes: tuple[str, ...] = ()


@dataclass
class _Comparison:
    candidate: Weights
    reference: Weights | WeightsPrint
    step: Callable[[], None]
    changes: list[TensorChange] = field(default_factory=list)
    equal: set[str] = field(default_factory=set)
    failures: dict[str, str] = field(default_factory=dict)

    def relative(self, name: str, reference_name: str) -> float | None:
        """How far two tensors are apart: 0 where they are equal, None where that is not known."""
        try:
            change = self.candidate.change(name, self.reference, reference_name)
        except Exception as error:
            self.failures[reference_name] = _reason(error)
            return None
        return 0.0 if change is None else change.relative

    def compare(self, reference_name: str, name: str, shapes: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
        other_name = name if name != reference_name else None
        if not comparable_shapes(*shapes):
            what = f"{list(shapes[0])} -> {list(shapes[1])}"
            self.changes.append(TensorChange(reference_name, ChangeKind.SHAPE, what, candidate_name=other_name))
            return
        try:
            change = self.candidate.change(name, self.reference, reference_name)
        except Exception as error:  # one tensor that cannot be read says nothing of the others
            self.failures[reference_name] = _reason(error)
            return
        if change is None:
            self.equal.add(reference_name)
        else:
            self.changes.append(replace(change, name=reference_name, candidate_name=other_name))


def compare_weights(
    candidate: Weights, reference: Weights | WeightsPrint, matching: Matching, step: Callable[[], None]
) -> ComparedWeights:
    """How the tensors in ``matching`` differ. ``step`` is called after each pair."""
    known, known_candidate = KnownWeights(reference), KnownWeights(candidate)
    comparison = _Comparison(candidate, reference, step)
    for name, other in matching.pairs.items():
        comparison.compare(name, other, (known.saved[name].shape, known_candidate.saved[other].shape))
        step()
    comparison.changes = without_hidden_damage(comparison.changes, known)
    in_place = tuple(_moved(comparison, matching, known))
    tied = list(_ties(comparison, matching))
    missing = [TensorChange(name, ChangeKind.MISSING) for name in matching.missing]
    order = {name: index for index, name in enumerate(known.saved)}
    changes = sorted((*in_place, *missing, *tied), key=lambda change: order.get(change.name, len(order)))
    changes += [TensorChange(name, ChangeKind.EXTRA) for name in matching.extra]
    extra = {name: known_candidate.saved[name] for name in matching.extra}
    difference = WeightsDifference(
        n_tensors=len(known.saved),
        n_equal=len(comparison.equal),
        changes=tuple(changes),
        summary=summary(changes, known.saved, known.ties, extra, recorded=known.recorded),
        recorded=known.recorded,
    )
    return ComparedWeights(difference, tuple(_notes(comparison.failures)))


def computed_buffers(candidate: Weights, reference: Weights | WeightsPrint) -> list[TensorChange]:
    """How those buffers differ that no checkpoint holds and both models have under one name."""
    known = KnownWeights(reference)
    changes = []
    for name, info in known.tensors.items():
        other: TensorInfo | None = candidate.tensors.get(name)
        if not info.saved and other is not None and not other.saved and other.shape == info.shape:
            change = candidate.change(name, reference, name)
            if change is not None and not _by_precision(change, known, other.dtype):
                changes.append(replace(change, name=name))
    return changes


def _by_precision(change: TensorChange, known: KnownWeights, dtype: str) -> bool:
    """Whether the two are as far apart as rounding to the coarser of two precisions explains."""
    before = known.tensors[change.name].dtype
    error = max(_ROUNDING.get(before, 0.0), _ROUNDING.get(dtype, 0.0))
    if before == dtype or not error:
        return False
    if change.relative is not None:
        return change.relative <= (_ESTIMATE if known.recorded else 1.0) * error
    # A print does not tell how small a size is that its projections do not resolve; NaN and infinite values have none.
    return change.kind in (ChangeKind.CHANGED, ChangeKind.ROUNDED) and known.has_size(change.name)


def _moved(comparison: _Comparison, matching: Matching, known: KnownWeights) -> tuple[TensorChange, ...]:
    try:
        return with_moved(comparison.changes, matching.pairs, known, comparison.candidate.digest)
    except Exception as error:
        comparison.failures["which tensors hold the values of others"] = _reason(error)
        return tuple(comparison.changes)


def _ties(comparison: _Comparison, matching: Matching) -> Iterator[TensorChange]:
    for tie in matching.untied:
        if tie.candidate_name is None:
            yield TensorChange(tie.name, ChangeKind.MISSING)
            continue
        relative = comparison.relative(tie.candidate_name, tie.shared_with)
        other_name = tie.candidate_name if tie.candidate_name != tie.name else None
        yield TensorChange(tie.name, ChangeKind.UNTIED, tie.shared_with, relative=relative, candidate_name=other_name)
    for tie in matching.tied:
        if tie.candidate_name is not None:
            relative = comparison.relative(tie.candidate_name, tie.name)
            if relative == 0:
                comparison.equal.add(tie.name)
            elif TensorName.of(tie.name).layer is not None and tie.shared_with in comparison.equal:
                yield TensorChange(tie.name, ChangeKind.MOVED, tie.shared_with, relative=relative)
            else:
                yield TensorChange(tie.name, ChangeKind.MISSING, tie.shared_with, relative=relative)


def _notes(failures: Mapping[str, str]) -> Iterator[str]:
    by_reason: dict[str, list[str]] = {}
    for name, reason in failures.items():
        by_reason.setdefault(reason, []).append(name)
    for reason, names in by_reason.items():
        which = shorten(names[0], 100) if len(names) == 1 else f"{count(len(names), 'tensor')} ({shorten(names[0], 60)}, …)"
        yield f"{which} could not be compared: {reason}"


def _reason(error: Exception) -> str:
    return shorten(str(error) or type(error).__name__, 160)
