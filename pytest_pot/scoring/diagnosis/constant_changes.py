"""Numbers that modules keep beside their tensors and that differ, where no field of the configuration explains it."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pytest_pot.scoring.diagnosis.diagnosis import ConfigChange
from pytest_pot.scoring.diagnosis.prefixes import counterparts
from pytest_pot.scoring.diagnosis.rope_fields import ROPE
from pytest_pot.scoring.diagnosis.tensor_names import template

__all__ = ["constant_changes", "explains_buffer"]

_ROTARY = ("rope", "rotary", "theta", "inv_freq")
_SIZES = ("hidden_size", "head_dim", "num_attention_heads", "num_key_value_heads", "n_head", "n_embd")
_BY_LAYER_TYPE = re.compile(r"\.(layer_type|attention_type|is_sliding|is_local|sliding_window|use_rope)$")
_ONLY_SCALES = ("attention_factor", "mscale", "mscale_all_dim")
"""Fields of rotary embeddings that scale cosines and sines, and leave the frequencies."""
_SCALES = (
    *_ONLY_SCALES, "rope_type", "type", "factor", "original_max_position_embeddings", "max_position_embeddings",
)  # fmt: skip
"""Fields that the scale of cosines and sines follows from."""
_SAY_NOTHING = {"bias", "buffer", "cache", "cached", "mask", "matrix", "table", "values", "weight", "weights"}
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
    attribute = _last(name)
    if any(word in name for word in _ROTARY):
        return any(_makes_frequencies(change, attribute) or change.field.endswith(_SIZES) for change in config)
    words = [word for word in _words(attribute) if word not in _SAY_NOTHING]
    if "scale" in words and any(change.field.endswith(_SIZES) for change in config):
        return True  # the root of a size
    return any(words and all(_has_word(change.field, word) for word in words) for change in config)


def _last(name: str) -> str:
    return name.rpartition(".")[2]


def _words(name: str) -> list[str]:
    """The words of a field's or an attribute's name, with one word for all that means a scale."""
    words = re.findall(r"[a-z]+", name.lower())
    return ["scale" if re.match(r"scal|mult|factor", word) else word for word in words]


def _has_word(field: str, word: str) -> bool:
    """Whether a field's name has ``word``, in whatever form: ``embed`` and ``embedding``, ``logit`` and ``logits``."""
    return any(word == other or (len(word) >= 4 and other[:5] == word[:5]) for other in _words(_last(field)))


def _makes_frequencies(change: ConfigChange, attribute: str) -> bool:
    """Whether rotary frequencies follow from ``change``: cosines and sines are scaled, too, frequencies are not."""
    field = _last(change.field)
    if change.n_modules:  # a module's number: the module's name says nothing of what is made from it
        return any(word in field for word in ("theta", "base", "dim", "type")) and _is_about_rope(change.field)
    scaled = "cos" in attribute or "sin" in attribute
    return _is_about_rope(change.field) and _is_of_layers(change, attribute) and (scaled or field not in _ONLY_SCALES)


def _explains_rotary(change: ConfigChange, name: str, value: Any) -> bool:
    """Whether a number of a rotary embedding follows from ``change``."""
    attribute, field = _last(name), _last(change.field)
    if not _is_about_rope(change.field) or not _is_of_layers(change, attribute):
        return False
    if field == ROPE:  # all of it
        return True
    if "scal" in attribute or "factor" in attribute:
        return field in _SCALES
    if "type" in attribute or isinstance(value, str):
        return field in ("rope_type", "type")
    if "dim" in attribute:
        return "rotary" in field
    return any(word in attribute for word in ("theta", "base", "freq")) and field not in _ONLY_SCALES


def _is_of_layers(change: ConfigChange, attribute: str) -> bool:
    """Whether the field is about the type of layers that ``full_attention_inv_freq`` or the like is about."""
    of_attribute = re.match(r"([a-z]+_attention)_", attribute)
    of_field = re.search(rf"{ROPE}\.(\w+)\.\w+$", change.field)
    return of_attribute is None or of_field is None or of_attribute[1] == of_field[1]


def _is_explained(name: str, one: Any, other: Any, *, config: Sequence[ConfigChange]) -> bool:
    """Whether both values follow from a field of the configuration: it itself, or what scales are computed by."""
    if any(word in name for word in _ROTARY) and any(_explains_rotary(change, name, one) for change in config):
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
