"""Numbers that modules keep beside their tensors and that differ, where no field of the configuration explains it."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pytest_pot.scoring.diagnosis.diagnosis import ConfigChange
from pytest_pot.scoring.diagnosis.prefixes import counterparts
from pytest_pot.scoring.diagnosis.tensor_names import template

__all__ = ["constant_changes", "explains_buffer"]

_ROTARY = ("rope", "rotary", "theta", "inv_freq")
_SIZES = ("hidden_size", "head_dim", "num_attention_heads", "num_key_value_heads", "n_head", "n_embd")
_BY_LAYER_TYPE = re.compile(r"\.(layer_type|attention_type|is_sliding|is_local|sliding_window|use_rope)$")
_PRECISION = 1e-9


def constant_changes(
    reference: Mapping[str, Any], candidate: Mapping[str, Any], config: Sequence[ConfigChange]
) -> tuple[ConfigChange, ...]:
    """The numbers that differ among those that both models keep; one change where all modules of a kind changed alike."""
    names = counterparts(dict.fromkeys(reference, ()), dict.fromkeys(candidate, ()))
    pairs = {name: (reference[name], candidate[other]) for name, other in names.items()}
    differing = {
        name: pair for name, pair in pairs.items() if not _same(*pair) and not _is_explained(name, *pair, config=config)
    }
    in_all: dict[str, int] = defaultdict(int)
    for name in pairs:
        in_all[template(name)] += 1
    by_kind: dict[str, list[str]] = defaultdict(list)
    for name in differing:
        by_kind[template(name)].append(name)
    return tuple(_changes(differing, by_kind, in_all))


def _changes(
    differing: Mapping[str, tuple[Any, Any]], by_kind: Mapping[str, Sequence[str]], in_all: Mapping[str, int]
) -> Iterator[ConfigChange]:
    for kind, names in by_kind.items():
        first = differing[names[0]]
        if len(names) > 1 and len(names) == in_all[kind] and all(differing[name] == first for name in names):
            yield ConfigChange(kind, *first, n_modules=len(names))
        else:
            for name in names:
                yield ConfigChange(name, *differing[name], n_modules=1)


def explains_buffer(name: str, config: Sequence[ConfigChange]) -> bool:
    """Whether a field that differs is what the computed buffer ``name`` is made from."""
    if not any(word in name for word in _ROTARY):
        return bool(config)
    return any(_is_about_rope(change.field) or change.field.endswith(_SIZES) for change in config)


def _is_explained(name: str, one: Any, other: Any, *, config: Sequence[ConfigChange]) -> bool:
    """Whether both values follow from a field of the configuration: it itself, or what scales are computed by."""
    if any(word in name for word in _ROTARY) and any(_is_about_rope(change.field) for change in config):
        return True
    if isinstance(one, str) and isinstance(other, str) and any("act" in change.field for change in config):
        return "act" in name  # the class of an activation, whose name is not the field's value
    if _BY_LAYER_TYPE.search(name) and any(change.field.endswith("layer_types") for change in config):
        return True
    if "scal" in name.rpartition(".")[2] and any(
        "scale" in change.field and isinstance(change.candidate, bool) for change in config
    ):
        return True  # a switch that scales are computed by
    for change in config:
        if _same(one, change.reference) and _same(other, change.candidate):
            return True
        values = one, other, change.reference, change.candidate
        if all(isinstance(value, int | float) and value > 0 for value in values):
            ratio, of_field = math.log(other / one), math.log(change.candidate / change.reference)
            # x, 1/x, and the roots that scale embeddings and attention
            if of_field and any(math.isclose(ratio, power * of_field, rel_tol=1e-6) for power in (1, -1, 0.5, -0.5)):
                return True
    return False


def _is_about_rope(field: str) -> bool:
    return any(word in field for word in (*_ROTARY, "max_position_embeddings"))


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, int | float) and isinstance(other, int | float):
        return math.isclose(one, other, rel_tol=_PRECISION) or (one != one and other != other)
    return bool(one == other)
