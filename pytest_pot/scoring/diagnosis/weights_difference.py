"""Compare the weights of two models, tensor by tensor."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from pytest_pot.core.text import count, shorten, some_of
from pytest_pot.engines.weights import ChangeKind, TensorChange, Weights, WeightsPrint
from pytest_pot.scoring.diagnosis.diagnosis import WeightsDifference
from pytest_pot.scoring.diagnosis.groups import summary
from pytest_pot.scoring.diagnosis.known_weights import KnownWeights
from pytest_pot.scoring.diagnosis.matching import Matching, comparable_shapes
from pytest_pot.scoring.diagnosis.moved import with_moved
from pytest_pot.scoring.diagnosis.prefixes import counterparts
from pytest_pot.scoring.diagnosis.rounded_together import without_hidden_damage
from pytest_pot.scoring.diagnosis.tensor_names import TensorName
from pytest_pot.scoring.diagnosis.time_budget import TimeBudget

__all__ = ["ComparedWeights", "compare_weights", "computed_buffers"]

_SEARCH = 2 / 3
"""The share of the time for the kinds of changes; the rest is for the modules."""
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
    budget: TimeBudget
    changes: list[TensorChange] = field(default_factory=list)
    equal: set[str] = field(default_factory=set)
    failures: dict[str, str] = field(default_factory=dict)

    def change(self, name: str, reference_name: str) -> TensorChange | None:
        """As :meth:`Weights.change`; without looking for the kind, once the time for that is spent."""
        if self.budget.spent(_SEARCH):
            return self.candidate.brief_change(name, self.reference, reference_name)
        with self.budget.counted():
            return self.candidate.change(name, self.reference, reference_name)

    def relative(self, name: str, reference_name: str) -> float | None:
        """How far two tensors are apart: 0 where they are equal, None where that is not known."""
        try:
            change = self.change(name, reference_name)
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
            change = self.change(name, reference_name)
        except Exception as error:  # one tensor that cannot be read says nothing of the others
            self.failures[reference_name] = _reason(error)
            return
        if change is None:
            self.equal.add(reference_name)
        else:
            self.changes.append(replace(change, name=reference_name, candidate_name=other_name))


def compare_weights(
    candidate: Weights,
    reference: Weights | WeightsPrint,
    matching: Matching,
    step: Callable[[], None],
    budget: TimeBudget | None = None,
) -> ComparedWeights:
    """How the tensors in ``matching`` differ. ``step`` is called after each pair. Once most of ``budget`` is spent, tensors are
    only measured."""
    known, known_candidate = KnownWeights(reference), KnownWeights(candidate)
    comparison = _Comparison(candidate, reference, step, budget or TimeBudget())
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
    untied = {tie.name for tie in matching.untied}
    ties = {name: first for name, first in known.ties.items() if name not in untied}
    difference = WeightsDifference(
        n_tensors=len(known.saved),
        n_equal=len(comparison.equal),
        changes=tuple(changes),
        summary=summary(changes, known.saved, ties, extra, recorded=known.recorded),
        recorded=known.recorded,
        unconfirmed=matching.unconfirmed,
    )
    notes = (*_notes_on_places(matching), *_not_searched(changes), *_notes(comparison.failures))
    return ComparedWeights(difference, notes)


def computed_buffers(candidate: Weights, reference: Weights | WeightsPrint) -> list[TensorChange]:
    """How those buffers differ that no checkpoint holds and both models have under one name, but for wrappers."""
    known = KnownWeights(reference)
    shapes = [{name: info.shape for name, info in tensors.items()} for tensors in (known.tensors, candidate.tensors)]
    changes = []
    for name, other_name in counterparts(*shapes).items():
        info, other = known.tensors[name], candidate.tensors[other_name]
        if not info.saved and not other.saved and other.shape == info.shape:
            change = candidate.change(other_name, reference, name)
            if change is not None and not _by_precision(change, known, other.dtype):
                changes.append(replace(change, name=name, candidate_name=other_name if other_name != name else None))
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


def _not_searched(changes: Iterable[TensorChange]) -> Iterator[str]:
    n = sum(not change.searched for change in changes)
    if n:
        kinds = "the kind of the change of one tensor was" if n == 1 else f"the kinds of the changes of {n} tensors were"
        yield f"{kinds} not looked for, to save time: python -m pytest_pot explain does"


def _notes_on_places(matching: Matching) -> Iterator[str]:
    ours, theirs, unconfirmed = matching.unmatched, matching.unmatched_of_candidate, matching.unconfirmed
    if ours:
        numbers = count(len(ours), "tensor") + (f" (in the candidate {len(theirs)})" if len(ours) != len(theirs) else "")
        yield (
            f"{numbers} could not be matched, because the candidate has other names for tensors of these shapes: "
            f"{some_of(ours, 2)}; there {some_of(theirs, 2)}"
        )
    if unconfirmed:
        yield (
            f"{count(len(unconfirmed), 'tensor')} could be matched by equal values alone, so that the names do not tell "
            f"whether some are swapped: {some_of(unconfirmed, 2)}"
        )


def _notes(failures: Mapping[str, str]) -> Iterator[str]:
    by_reason: dict[str, list[str]] = {}
    for name, reason in failures.items():
        by_reason.setdefault(reason, []).append(name)
    for reason, names in by_reason.items():
        which = shorten(names[0], 100) if len(names) == 1 else f"{count(len(names), 'tensor')} ({shorten(names[0], 60)}, …)"
        yield f"{which} could not be compared: {reason}"


def _reason(error: Exception) -> str:
    return shorten(str(error) or type(error).__name__, 160)
