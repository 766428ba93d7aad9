"""Compute a prefix that all prompts of a batch share (a system prompt, few-shot examples) once, in a key-value cache.

In a causal model, a token's keys and values depend only on the tokens before it, so those of a shared prefix are the same for
all prompts. The cache must keep every token in every layer: a sliding window or a recurrent state does not.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Container, Sequence
from typing import Any

from torch import Tensor, nn

from pytest_pot.engines.tokens import Tokens

__all__ = ["PrefixCaches", "shared_prefix"]

_STEP = 16
"""A prefix is computed up to a multiple of this many tokens first, and its remainder on top of that. Batches whose prompts
share a few tokens more or fewer can then reuse the longer part."""

_MIN_SAVED_TOKENS = 64
"""Tokens that sharing a prefix must save in a batch, and that sharing its remainder must save: each costs a forward pass."""

_CACHE_ARGUMENTS = ("past_key_values", "cache")
"""What forwards call the argument for their cache, in the different versions of transformers."""

_MAX_PREFIXES = 4
"""How many prefixes we store; one with its remainder counts separately from the one without."""


def shared_prefix(batch: Sequence[Tokens]) -> tuple[int, ...]:
    """The ids with which all sequences of ``batch`` start, up to the first that predicts a position.

    Empty if sharing them saves too little. The result depends on the batch alone, so that the same weights give the same bits
    whatever ran before.
    """
    first = batch[0].ids
    length = min(tokens.prompt_len for tokens in batch) - 1
    for tokens in batch[1:]:
        length = next((i for i in range(length) if tokens.ids[i] != first[i]), length)
    remainder = length % _STEP
    if remainder * (len(batch) - 1) < _MIN_SAVED_TOKENS:
        length -= remainder
    return first[:length] if length * (len(batch) - 1) >= _MIN_SAVED_TOKENS else ()


class PrefixCaches:
    """Stores the keys and values of recent prefixes, and expands them to any number of sequences."""

    def __init__(self, config: Any, argument: str) -> None:
        """``config``: the model's, which sets the kind of cache of each layer. ``argument``: what its forward calls a cache."""
        self._config = config
        self.argument = argument
        self._stored: OrderedDict[tuple[int, ...], list[tuple[Tensor, Tensor]]] = OrderedDict()

    @classmethod
    def of(cls, model: nn.Module, accepts: Container[str]) -> PrefixCaches | None:
        """Prefix caches for ``model``; ``accepts``: the names of the arguments of its forward.

        None if ``model`` is not a transformers model with a cache, or does not tell. Whether its cache keeps all tokens is
        seen when the first prefix is stored: a cache has an object for each layer, and many batches share no prefix.
        """
        argument = next((name for name in _CACHE_ARGUMENTS if name in accepts), None)
        if argument is None or "use_cache" not in accepts or getattr(model, "_is_stateful", True):
            return None
        return cls(getattr(model, "config", None), argument)

    def get(self, ids: tuple[int, ...], n: int, read: Callable[[tuple[int, ...], Any], None]) -> Any:
        """A new cache that holds ``ids`` for ``n`` sequences.

        ``read(ids, cache)`` must run the model on those of ``ids`` that ``cache`` does not hold yet. None if the cache then
        holds anything but the keys and values of all of ``ids``.
        """
        if not self._store(ids, read):
            return None
        return self._expanded(self._stored[ids], n)

    def _store(self, ids: tuple[int, ...], read: Callable[[tuple[int, ...], Any], None]) -> bool:
        """Store the keys and values of ``ids`` unless they are stored already; False if the model's cache loses some."""
        if ids in self._stored:
            self._stored.move_to_end(ids)
            return True
        whole_steps = ids[: len(ids) - len(ids) % _STEP]
        cache = self._new()
        if not _keeps_all_tokens(cache):
            return False
        if 0 < len(whole_steps) < len(ids):
            if not self._store(whole_steps, read):
                return False
            cache = self._expanded(self._stored[whole_steps], 1)
        read(ids, cache)
        if not _keeps_all_tokens(cache) or cache.get_seq_length() != len(ids):
            return False
        self._stored[ids] = [(layer.keys, layer.values) for layer in cache.layers]
        if len(self._stored) > _MAX_PREFIXES:
            self._stored.popitem(last=False)
        return True

    def _expanded(self, layers: Sequence[tuple[Tensor, Tensor]], n: int) -> Any:
        """A new cache for ``n`` sequences, with the keys and values of each of ``layers``."""
        cache = self._new()
        for index, keys_and_values in enumerate(layers):
            cache.update(*(tensor.expand(n, *tensor.shape[1:]) for tensor in keys_and_values), index)
        return cache

    def _new(self) -> Any:
        from transformers import DynamicCache

        return DynamicCache(config=self._config)


def _keeps_all_tokens(cache: Any) -> bool:
    """Whether every layer that ``cache`` has so far keeps the keys and values of all tokens."""
    from transformers.cache_utils import DynamicLayer

    return all(type(layer) is DynamicLayer for layer in cache.layers)
