"""The tensors in what modules get and return: nested tuples, lists, mappings, and data classes."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, MutableMapping
from dataclasses import fields, is_dataclass
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

__all__ = ["Path", "leaves", "with_leaves"]

Path = tuple[Any, ...]
"""The keys and indices that lead to a value: ``("position_embeddings", 0)``."""

_DEPTH = 8
"""Deeper values are left alone."""


def leaves(value: Any, path: Path = ()) -> Iterator[tuple[Path, Tensor | None]]:
    """The plain tensors in ``value``, and where there is ``None`` in a tensor's place.

    Parameters are left out, and tensors that hold no numbers or pack them: they are weights, not results. So are objects of
    other classes, such as caches.
    """
    if value is None or (type(value) is Tensor and value.layout == torch.strided and not value.is_meta):
        yield path, value
    elif len(path) < _DEPTH:
        for key, item in _items(value):
            yield from leaves(item, (*path, key))


def with_leaves(value: Any, new: Mapping[Path, Any], path: Path = ()) -> Any:
    """``value`` with other leaves at the paths in ``new``; a copy where that changes it. ``value`` itself stays as it is."""
    if path in new:
        return new[path]
    if not any(other[: len(path)] == path for other in new):
        return value
    changed = {key: with_leaves(item, new, (*path, key)) for key, item in _items(value)}
    if isinstance(value, tuple):
        parts = list(changed.values())
        return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)
    duplicate = copy.copy(value)
    for key, item in changed.items():
        if isinstance(duplicate, list | MutableMapping):
            duplicate[key] = item
        else:
            object.__setattr__(duplicate, key, item)
    return duplicate


def _items(value: Any) -> Iterator[tuple[Any, Any]]:
    if isinstance(value, tuple | list):
        yield from enumerate(value)
    elif isinstance(value, MutableMapping):
        yield from value.items()
    elif is_dataclass(value) and not isinstance(value, type):
        yield from ((field.name, getattr(value, field.name)) for field in fields(value) if hasattr(value, field.name))
    elif isinstance(value, SimpleNamespace):
        yield from vars(value).items()
