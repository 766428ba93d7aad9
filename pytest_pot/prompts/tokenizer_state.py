"""See whether someone changed a tokenizer in memory."""

from __future__ import annotations

import ctypes
import sys
import weakref
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from typing import Any

from pytest_pot.core.hashing import digest_of_json
from pytest_pot.prompts.tokenizer_parts import COMPONENTS, small_parts, unchanged

__all__ = ["state_of", "tokenizer_state"]

_MODEL_SETTINGS = (
    "alpha",
    "byte_fallback",
    "continuing_subword_prefix",
    "dropout",
    "end_of_word_suffix",
    "fuse_unk",
    "ignore_merges",
    "max_input_chars_per_word",
    "nbest_size",
    "unk_id",
    "unk_token",
)
"""What the models of fast tokenizers let one set, whatever their kind."""
_MODELS: weakref.WeakKeyDictionary[Any, tuple[Any, int]] = weakref.WeakKeyDictionary()
"""The model of a fast tokenizer when it was last looked at, and how often it had been replaced by then.

The model is held, so that no other can have its address.
"""


def tokenizer_state(tokenizer: Any) -> str | None:
    """A digest that changes with what people change of a tokenizer in memory, and so with what it makes of texts.

    Seen are: attributes of the tokenizer, another ``backend_tokenizer``, another ``backend_tokenizer.model`` even if it has
    the same size, settings of the model, added and special tokens, normalizer, pre-tokenizer, post-processor, decoder, chat
    template, the number of tokens, and the ids of a fixed text.

    Not seen are other tokens, merges or scores in a model that stays in its place, which only ``backend_tokenizer.train`` and
    its like bring about, where the number of tokens and the ids of the fixed text stay the same.

    None where a change could not be seen: a tokenizer that is not one of transformers' fast ones, that has parts in Python,
    or some of whose methods were replaced; and where nothing tells one model from another (another Python than CPython).
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None or not _is_librarys_own(tokenizer) or _address(backend.model) is None:
        return None
    with unchanged(tokenizer):
        small = small_parts(tokenizer)
    return state_of(tokenizer, small) if small.keys() >= {"added_tokens", "encoding", *COMPONENTS} else None


def _is_librarys_own(tokenizer: Any) -> bool:
    """Whether all that ``tokenizer`` runs is transformers' own, and takes a list of texts where it takes one."""
    kind: Any = type(tokenizer)
    own = kind.__module__.startswith("transformers.") and kind.__call__.__module__ == "transformers.tokenization_utils_base"
    return own and not any(map(callable, vars(tokenizer).values()))


def state_of(tokenizer: Any, small: Mapping[str, str]) -> str:
    """As :func:`tokenizer_state`, for a fast tokenizer of any class. ``small``: the digests of its small parts."""
    backend, size = tokenizer.backend_tokenizer, 0
    with suppress(Exception):  # a class of one's own may have no length
        size = len(tokenizer)
    values = getattr(tokenizer, "__dict__", {})
    attributes = [(name, repr(value)) for name, value in values.items() if isinstance(value, str | int | float)]
    model = getattr(backend, "model", None)
    settings = [repr(getattr(model, name, None)) for name in _MODEL_SETTINGS]
    kind = [id(backend), type(model).__name__, _times_replaced(tokenizer, model), settings, size]
    return digest_of_json([*kind, sorted(attributes), sorted(small.items())])


def _times_replaced(tokenizer: Any, model: Any) -> int:
    """How often another ``model`` was put into ``tokenizer``, as far as it was looked at in between."""
    n_times = 0
    with suppress(TypeError):  # a class may allow no weak references, or no hashes
        held, n_times = _MODELS.get(tokenizer, (model, 0))
        if _address(held) != _address(model):
            n_times += 1
        _MODELS[tokenizer] = model, n_times
    return n_times


def _address(model: Any) -> int | None:
    """Where the tokenizers library has a ``model`` in memory; None where that cannot be read.

    Each access to ``backend_tokenizer.model`` makes another Python object, which nothing compares with the last one. All
    that is in it is a pointer to the model, right behind the header that all Python objects have.
    """
    return _pointer_in(model) if _pointers_tell_models_apart() else None


@cache
def _pointers_tell_models_apart() -> bool:
    """Whether the library has that layout: the same model has the same pointer each time, and another model another one."""
    from tokenizers import Tokenizer, models

    with suppress(Exception):  # another version may have none of these
        one, other = models.BPE(), models.BPE()
        backend = Tokenizer(one)
        pointers = {_pointer_in(model) for model in (one, backend.model, backend.model)}
        return len(pointers) == 1 and None not in pointers and _pointer_in(other) not in pointers
    return False


def _pointer_in(model: Any) -> int | None:
    size = type(model).__basicsize__ - object.__basicsize__
    if sys.implementation.name != "cpython" or size < ctypes.sizeof(ctypes.c_void_p):
        return None
    return ctypes.c_void_p.from_address(id(model) + object.__basicsize__).value
