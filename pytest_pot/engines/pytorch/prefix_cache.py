"""Tokens that all prompts of a batch begin with (a system prompt, a few-shot head), read once through the model's own cache.

Keys and values of a causal model's tokens depend on what stands before them only, so those of a shared beginning are the same
for all. That holds for a cache that keeps every token in every layer, and for no other: no window, no recurrent state.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Container, Sequence
from typing import Any

from torch import Tensor, nn

from pytest_pot.engines.tokens import Tokens

__all__ = ["PrefixCaches", "shared_prefix"]

_STEP = 16
"""Beginnings are read up to a multiple of this many tokens, and the rest of one on top of that: batches whose prompts happen to
have a few more in common have the larger part together."""

_LEAST = 64
"""Tokens that sharing must save in a batch, and sharing the rest as well: it takes a forward more."""

_ARGUMENTS = ("past_key_values", "cache")
"""What transformers calls a forward's cache, in this version or that."""

_KEPT = 4
"""Beginnings whose keys and values are kept, with and without the rest."""


def shared_prefix(batch: Sequence[Tokens]) -> tuple[int, ...]:
    """The ids that the sequences of ``batch`` begin with and that predict nothing; empty where sharing them does not pay.

    It depends on the batch alone, so that the same weights come to the same bits whatever was run before.
    """
    first = batch[0].ids
    length = min(tokens.prompt_len for tokens in batch) - 1
    for tokens in batch[1:]:
        length = next((i for i in range(length) if tokens.ids[i] != first[i]), length)
    rest = length % _STEP
    if rest * (len(batch) - 1) < _LEAST:
        length -= rest
    return first[:length] if length * (len(batch) - 1) >= _LEAST else ()


class PrefixCaches:
    """The keys and values of beginnings that were read, for any number of sequences."""

    def __init__(self, config: Any, argument: str) -> None:
        """``config``: the model's, which says what kind of cache its layers need. ``argument``: what its forward calls one."""
        self._config = config
        self.argument = argument
        self._read: OrderedDict[tuple[int, ...], list[tuple[Tensor, Tensor]]] = OrderedDict()

    @classmethod
    def of(cls, model: nn.Module, accepts: Container[str]) -> PrefixCaches | None:
        """For ``model``, a transformers model whose forward ``accepts`` these arguments.

        None where its cache is of another kind, or it says nothing of one.
        """
        argument = next((name for name in _ARGUMENTS if name in accepts), None)
        if argument is None or "use_cache" not in accepts or getattr(model, "_is_stateful", True):
            return None
        caches = cls(getattr(model, "config", None), argument)
        return caches if _keeps_everything(caches._new()) else None

    def get(self, ids: tuple[int, ...], n: int, read: Callable[[tuple[int, ...], Any], None]) -> Any:
        """A cache as after ``ids``, for ``n`` sequences; ``read(ids, cache)`` has the model read those that it does not hold.

        None where the model left something else in it than keys and values of all these tokens.
        """
        if not self._has_read(ids, read):
            return None
        return self._holding(self._read[ids], n)

    def _has_read(self, ids: tuple[int, ...], read: Callable[[tuple[int, ...], Any], None]) -> bool:
        """Whether the keys and values of ``ids`` are kept now."""
        if ids in self._read:
            self._read.move_to_end(ids)
            return True
        whole_steps = ids[: len(ids) - len(ids) % _STEP]
        cache = self._new()
        if 0 < len(whole_steps) < len(ids):
            if not self._has_read(whole_steps, read):
                return False
            cache = self._holding(self._read[whole_steps], 1)
        read(ids, cache)
        if not _keeps_everything(cache) or cache.get_seq_length() != len(ids):
            return False
        self._read[ids] = [(layer.keys, layer.values) for layer in cache.layers]
        if len(self._read) > _KEPT:
            self._read.popitem(last=False)
        return True

    def _holding(self, read: Sequence[tuple[Tensor, Tensor]], n: int) -> Any:
        cache = self._new()
        for index, states in enumerate(read):
            cache.update(*(tensor.expand(n, *tensor.shape[1:]) for tensor in states), index)
        return cache

    def _new(self) -> Any:
        from transformers import DynamicCache

        return DynamicCache(config=self._config)


def _keeps_everything(cache: Any) -> bool:
    """Whether each layer, if there are any yet, keeps keys and values of all tokens."""
    from transformers.cache_utils import DynamicLayer

    return all(type(layer) is DynamicLayer for layer in cache.layers)
