"""A diagnosis in words."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from pytest_pot.core.text import count, number, shorten, some_of
from pytest_pot.engines.weights import ChangeKind, TensorChange
from pytest_pot.scoring.diagnosis.tensor_names import template

if TYPE_CHECKING:
    from pytest_pot.engines.module_differences import ModuleDifference, ModuleTrace
    from pytest_pot.scoring.diagnosis.diagnosis import ConfigChange, Diagnosis, WeightsDifference

__all__ = ["config_lines", "what_changed", "where_it_starts"]

_WIDTH = 150
"""Characters up to which fields share a line."""

_WHY = 180
"""Characters of why it is not known where a difference starts."""

_MOST_ENTRIES = 4
_MAX_VALUE = 60
_OF_PLACES = {ChangeKind.MISSING, ChangeKind.EXTRA, ChangeKind.UNTIED}
_TOLD_BY_TENSORS = ("tie_word_embeddings", "num_hidden_layers", "num_layers", "n_layer", "n_layers", "layer_types")


def what_changed(diagnosis: Diagnosis) -> Sequence[str]:
    """See :attr:`Diagnosis.what_changed`; of a diagnosis that has none yet."""
    config = list(config_lines(diagnosis.config or ()))
    weights = [] if diagnosis.weights is None else [*diagnosis.weights.summary, *_computed(diagnosis.weights.computed)]
    notes = [shorten(note, 400) for note in diagnosis.notes]
    classes = [] if diagnosis.classes is None else [f"class {' -> '.join(shorten(name, 80) for name in diagnosis.classes)}"]
    if diagnosis.same_weights:
        return [*_same(diagnosis, classes), *weights, *notes]
    equal = _equal(diagnosis.weights)
    if config and not weights and equal:
        config[0] += f"; {equal}"
        equal = None
    # The first line of each matters more than the second of either. Which tensors are tied, or gone, says more than the field.
    told = _tell_fields(diagnosis.weights, diagnosis.config or ())
    lines = [*weights[:1], *config, *weights[1:]] if told else [*config[:1], *weights, *config[1:]]
    lines += classes
    if equal:
        lines.append(equal + (", and so is the configuration" if diagnosis.config == () else ""))
    if diagnosis.precisions is not None:
        lines.append(_precisions(diagnosis.precisions))
    return [*lines, *notes] or ["nothing is known of what changed"]


def where_it_starts(diagnosis: Diagnosis) -> Sequence[str]:
    """See :attr:`Diagnosis.where_it_starts`; of a diagnosis that has none yet."""
    trace = diagnosis.trace
    if trace is None:
        return []
    if trace.first is None:
        return list(_no_start(trace, changed=bool(diagnosis.changed)))
    lines = [_first_difference(trace.first, hidden=_is_hidden(diagnosis, trace))]
    if trace.largest is not None and trace.largest.name != trace.first.name:
        lines.append(
            f"the largest difference arises in {_module(trace.largest)}: {number(trace.largest.after)} for the same inputs"
        )
    if trace.n_differing > 1:
        lines.append(f"{trace.n_differing} of {trace.n_modules} modules differ by more than rounding")
    if trace.note is not None:
        lines.append(shorten(trace.note, 400))
    return lines


def config_lines(changes: Iterable[ConfigChange]) -> Iterator[str]:
    """The fields, as many to a line as are short enough, then the numbers that modules keep."""
    fields: list[ConfigChange] = []
    modules: list[ConfigChange] = []
    for change in changes:
        (modules if change.n_modules else fields).append(change)
    line = ""
    for change in fields:
        words = _field(change)
        if line and len(line) + len(words) > _WIDTH:
            yield line
            line = ""
        line += f", {words}" if line else words
    if line:
        yield line
    by_kind: dict[str, list[ConfigChange]] = defaultdict(list)
    for change in modules:
        by_kind[template(change.field)].append(change)
    for group in by_kind.values():
        yield _constant(group)


def _same(diagnosis: Diagnosis, classes: list[str]) -> list[str]:
    n = 0 if diagnosis.weights is None else diagnosis.weights.n_tensors
    config = ", and so is the configuration" if diagnosis.config == () else " (of a configuration, nothing is known)"
    equal = f"all {count(n, 'tensor')} are equal{config}"
    precisions = None if diagnosis.precisions is None else _precisions(diagnosis.precisions)
    if classes and not _all_modules_agree(diagnosis.trace):
        # Another class may compute something else with the same weights.
        return [*classes, equal, *([precisions] if precisions else [])]
    return [equal if precisions is None else f"same weights, {precisions}: {equal}", *classes]


def _tell_fields(weights: WeightsDifference | None, config: Iterable[ConfigChange]) -> bool:
    """Whether the tensors show themselves what changed in the configuration: what is tied, and how many layers there are."""
    kinds = set() if weights is None else {change.kind for change in weights.changes}
    return bool(kinds & _OF_PLACES) and all(change.field.endswith(_TOLD_BY_TENSORS) for change in config)


def _precisions(precisions: tuple[str, str]) -> str:
    return f"computed in another precision ({' and '.join(precisions)})"


def _all_modules_agree(trace: ModuleTrace | None) -> bool:
    return trace is not None and trace.first is None and trace.n_modules > 0 and trace.note is None


def _equal(weights: WeightsDifference | None) -> str | None:
    if weights is None or weights.n_equal == 0:
        return None
    n = weights.n_tensors
    if weights.n_equal < n:
        return f"{weights.n_equal} of {n} tensors are equal"
    # What changed is none of the tensors that are counted: a further name of one, an extra one, or a computed buffer.
    beside = any(change.kind is not ChangeKind.UNTIED or change.relative != 0 for change in weights.changes)
    others = "the other tensor is equal" if n == 1 else f"the other {n} tensors are equal"
    equal = others if beside else f"all {count(n, 'saved tensor' if weights.computed else 'tensor')} are equal"
    return equal + (", if each is in its place" if weights.unconfirmed else "")


def _computed(changes: Sequence[TensorChange]) -> Iterator[str]:
    """Buffers that are computed when the model is made."""
    groups: dict[tuple[bool, str], list[TensorChange]] = defaultdict(list)
    for change in changes:  # often two copies of the same
        size = "" if change.relative is None else f" (relative change {number(change.relative)})"
        groups[change.kind is ChangeKind.NOT_FINITE, size].append(change)
    for (not_finite, size), group in groups.items():
        names = some_of([change.name for change in group], 2)
        kind = "NaN or infinite values" if not_finite else "other values"
        verb = "s have" if len(group) > 1 else " has"
        yield f"the computed buffer{verb} {kind}{size}, which no field of the configuration explains: {names}"


def _field(change: ConfigChange) -> str:
    name = shorten(change.field, 80)
    one, other = change.reference, change.candidate
    if isinstance(one, list) and isinstance(other, list) and len(one) == len(other) > _MOST_ENTRIES:
        differing = [index for index, pair in enumerate(zip(one, other, strict=True)) if pair[0] != pair[1]]
        first = differing[0]
        return (
            f"{name}: {len(differing)} of {len(one)} entries differ, "
            f"the first at {first}: {' -> '.join(_values(one[first], other[first]))}"
        )
    return f"{name} {' -> '.join(_values(one, other))}"


def _constant(group: Sequence[ConfigChange]) -> str:
    module, _, attribute = template(group[0].field).rpartition(".")
    values = {_values(change.reference, change.candidate) for change in group}
    if group[0].n_modules > 1:
        what = f"{attribute} of all {group[0].n_modules} {shorten(module.rpartition('.')[2], 60)}"
    elif len(group) == 1:
        what = shorten(group[0].field, 100)
    else:
        what = f"{attribute} of {len(group)} {shorten(module.rpartition('.')[2], 60)}"
    one, other = _values(group[0].reference, group[0].candidate)
    first = "" if len(values) == 1 else f" in {shorten(group[0].field.rpartition('.')[0], 80)}, others elsewhere"
    return f"{what}: {one} -> {other}{first} (kept by the modules, not by the configuration)"


def _values(one: Any, other: Any) -> tuple[str, str]:
    """Two values as short as they can be told apart."""
    short = _value(one), _value(other)
    if short[0] != short[1]:
        return short
    return shorten(repr(one), _MAX_VALUE), shorten(repr(other), _MAX_VALUE)


def _value(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return number(value)
    return shorten(str(value), _MAX_VALUE)


def _no_start(trace: ModuleTrace, *, changed: bool) -> Iterator[str]:
    """``changed``: what changed is known, so that nothing can be told of other causes."""
    note = shorten(trace.note or "", _WHY)
    if trace.n_modules == 0 or trace.incomplete:
        if note:
            yield f"not known: {note}"
    elif not changed:
        to_what = f"{number(trace.within)}, which rounding to {trace.precision} explains"
        if trace.wrapper is not None:
            agree = f"agree to {to_what}" if trace.within else "are equal"
            yield f"in what wraps {shorten(trace.wrapper, 80)}: all {trace.n_modules} modules inside {agree}"
        elif trace.within:
            yield f"in no module: none of {trace.n_modules} differs for the same inputs by more than {to_what}"
        else:
            yield f"in no module: all {trace.n_modules} are equal for the same inputs"
        if note:
            yield note


def _is_hidden(diagnosis: Diagnosis, trace: ModuleTrace) -> bool:
    """Whether tensors changed before the first module, in modules whose difference is too small to be told from rounding."""
    first = trace.first
    if first is None or first.before == 0 or first.name not in trace.order or diagnosis.weights is None:
        return False
    before = set(trace.order[: trace.order.index(first.name)])
    return any(
        change.relative != 0 and change.name.rpartition(".")[0] in before
        for change in (*diagnosis.weights.changes, *diagnosis.weights.computed)
        if change.relative is not None
    )


def _first_difference(first: ModuleDifference, *, hidden: bool) -> str:
    above = ", the first above rounding" if hidden else ""
    inside = f"; {shorten(first.own_code, 200)}" if first.own_code is not None else ""
    if first.itself:
        own = ", in what its own forward computes: each module inside it agrees"
        inside = f"{inside}; each module inside it agrees" if inside else own
    noise = f" (noise {number(first.noise)})"
    before = f"agree to {number(first.before)}" if first.before else "are equal"
    apart = f"its output differs by {number(first.after)} of its norm for the same inputs{noise}{inside}"
    return f"{_module(first)}{above}: {apart}; the modules before it {before}"


def _module(difference: ModuleDifference) -> str:
    name = shorten(difference.name, 80) or "the model itself"
    return f"{name} ({shorten(difference.module_class, 60)})"
