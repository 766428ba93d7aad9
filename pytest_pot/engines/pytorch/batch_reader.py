"""Run a batch through a model: as one padded forward pass, after a cached shared prefix, or one prompt at a time."""

from __future__ import annotations

from collections.abc import Callable, Container, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pytest_pot.engines.pytorch.memory import is_out_of_memory
from pytest_pot.engines.pytorch.model_facts import ModelFacts
from pytest_pot.engines.pytorch.model_traits import accepted, is_causal, reads_alone, takes_columns
from pytest_pot.engines.pytorch.output_layer import Hidden, Logits, OutputLayer, Rows, joined
from pytest_pot.engines.pytorch.prefix_cache import PrefixCaches, shared_prefix
from pytest_pot.engines.pytorch.rounding import same_distributions
from pytest_pot.engines.pytorch.transfer import to_device
from pytest_pot.engines.tokens import Tokens

__all__ = ["Reader", "each_alone", "padded"]

_PAD_ID = 0
"""Any id of the vocabulary works. In a causal model no token attends to the padding on its right, and the attention mask hides
padding from models that count positions or carry a recurrent state. We do not need the tokenizer's padding token, which may be
an EOS token that the text contains too."""


class Forward(Protocol):
    """A forward pass of a model that also checks the shape of the logits."""

    def __call__(self, ids: Tensor, mask: Tensor | None, lengths: Container[int] = (), **optional: Any) -> Tensor:
        """Logits [batch, length, vocab] of ``ids`` [batch, length]; their length may also be one of ``lengths``.

        ``optional``: more arguments for the model's forward; those that it does not accept are left out.
        """


def padded(
    rows: Sequence[Sequence[int]], device: torch.device, *, left: bool = False, pad_id: int = _PAD_ID
) -> tuple[Tensor, Tensor]:
    """Token ids and attention mask, both [batch, length], padded on the right, or on the left if ``left``."""
    lengths = np.fromiter(map(len, rows), dtype=np.int64)
    place = np.arange(lengths.max())
    kept = place >= lengths.max() - lengths[:, None] if left else place < lengths[:, None]
    ids = np.full(kept.shape, pad_id, dtype=np.int64)
    ids[kept] = np.fromiter(chain.from_iterable(rows), dtype=np.int64)
    both = to_device(np.stack([ids, kept.astype(np.int64)]), device)
    return both[0], both[1]


def each_alone(batch: Sequence[Tokens], forward: Forward, device: torch.device) -> Rows:
    """Unoptimised path: run each prompt alone, compute all its logits, and keep those that predict the continuation.

    The faster paths are tested against this one.
    """
    rows = []
    for tokens in batch:
        ids = torch.tensor([tokens.ids], device=device)
        logits = forward(ids, torch.ones_like(ids))
        rows.append(logits[0, tokens.prompt_len - 1 : len(tokens.ids) - 1])
    return Logits(torch.cat(rows))


class Reader:
    """Runs batches through a model, using every shortcut that is known to be correct for this model."""

    def __init__(
        self,
        facts: ModelFacts,
        forward: Forward,
        device: torch.device,
        autocast: Callable[[], AbstractContextManager[Any]],
        eps: float,
        *,
        share_prefixes: bool,
    ) -> None:
        """``eps``: machine epsilon of the model's dtype. ``share_prefixes``: whether to use :class:`PrefixCaches`."""
        self._model = model = facts.model
        self._forward = forward
        self._device = device
        self._eps = eps
        self.output_layer = OutputLayer.of(model, autocast)
        self.prefixes = PrefixCaches.of(model, accepted(model)) if share_prefixes and self.output_layer is not None else None
        # Prefixes without (False) or with (True) the model's padding id: those for which the cache passed our check.
        self._prefixes_confirmed: set[bool] = set()
        self._pad_id: Any = getattr(getattr(model, "get_input_embeddings", lambda: None)(), "padding_idx", None)
        self.hides_padding = device.type == "cpu" or not is_causal(facts)
        """Whether the model gets a mask. One that is known to be causal needs none, because padding is on the right. On a GPU
        the host would wait for the device to look at it, and a faster kernel takes none; on a CPU it makes no difference."""
        self._causal = is_causal(facts)
        # Some models warn of their own padding token where they get no mask.
        own_pad_id = getattr(getattr(model, "config", None), "pad_token_id", None)
        self._any_id = 1 if own_pad_id == _PAD_ID and not self.hides_padding else _PAD_ID

    def rows(self, batch: Sequence[Tokens]) -> Rows:
        """The logits that predict each position of ``batch``, prompt after prompt."""
        if len(batch) > 1 and reads_alone(self._model, max(len(tokens.ids) for tokens in batch)):
            return joined([self._rows_without_cache([tokens]) for tokens in batch])
        prefix = shared_prefix(batch) if self.prefixes is not None else ()
        rows = self._rows_with_cache(prefix, batch) if prefix else None
        return self._rows_without_cache(batch) if rows is None else rows

    def _rows_with_cache(self, prefix: tuple[int, ...], batch: Sequence[Tokens]) -> Rows | None:
        """As :meth:`_rows_without_cache`, but compute ``prefix``, with which all of ``batch`` start, once; None if that fails.

        The first use also runs the last prompt of the batch without a cache. If its distributions differ by more than
        rounding, or if the model fails with a cache, no prefix is shared from then on. The first prefix that contains the
        model's padding id gets the same check: RoBERTa and similar models skip this id when they count positions, but they
        do not skip it when the cache counts them.
        """
        has_pad_id = self._pad_id in prefix
        try:
            rows = self._hidden_after_prefix(prefix, batch)
        except Exception as error:  # a model that does not support our cache may raise anything
            if is_out_of_memory(error):
                raise
            rows = None
        if rows is not None and has_pad_id not in self._prefixes_confirmed:
            expected = self._rows_without_cache(batch[-1:])
            actual = rows.last(len(expected))
            pairs = zip(actual.chunks(), expected.chunks(), strict=True)
            if all(same_distributions(cached, uncached, self._eps) for cached, uncached in pairs):
                self._prefixes_confirmed.add(has_pad_id)
        if rows is None or has_pad_id not in self._prefixes_confirmed:
            self.prefixes = None
            return None
        return rows

    def _hidden_after_prefix(self, prefix: tuple[int, ...], batch: Sequence[Tokens]) -> Hidden | None:
        """Hidden states of ``batch`` after a cached ``prefix``; None if the model's cache or output layer is unsuitable."""
        if self.prefixes is None:
            return None

        def read(prefix_ids: tuple[int, ...], cache: Any) -> None:
            ids = torch.tensor([prefix_ids], device=self._device)
            self._states(ids[:, cache.get_seq_length() :], torch.ones_like(ids), cache)

        cache = self.prefixes.get(prefix, len(batch), read)
        if cache is None:
            return None
        ids, mask, places = self._layout(batch)
        return self._hidden(self._states(ids[:, len(prefix) :], mask, cache), places.after(len(prefix)))

    def _rows_without_cache(self, batch: Sequence[Tokens]) -> Rows:
        """Run ``batch`` in one forward pass, padded on the right, and keep what predicts a position of some prompt."""
        ids, mask, places = self._layout(batch)
        hidden = self._hidden(self._states(ids, mask), places)
        if hidden is not None:
            return hidden
        # The model has to compute the logits itself. If its forward allows, ask only for the columns that some prompt needs.
        start, stop = int(places.column.min()), int(places.column.max()) + 1
        columns = torch.arange(start, stop, device=self._device)
        optional = {"logits_to_keep": columns} if takes_columns(self._model) else {}
        logits = self._forward(ids, mask, {stop - start}, **optional)
        offset = start if logits.shape[1] == stop - start else 0
        return Logits(places.after(offset).of_each(logits))

    def _layout(self, batch: Sequence[Tokens]) -> tuple[Tensor, Tensor, _Places]:
        """Ids and mask, both [batch, length], and the inputs that predict the positions.

        The last token of each prompt predicts no position, so models that are known to be causal do not read it.
        """
        end = -1 if self._causal and self.output_layer is not None else None
        ids, mask = padded([tokens.ids[:end] for tokens in batch], self._device, pad_id=self._any_id)
        return ids, mask, _Places.of(batch)

    def _states(self, ids: Tensor, mask: Tensor, cache: Any = None) -> Tensor | None:
        """Hidden states [batch, length, d] that enter the output layer; None if its output does not give the logits.

        ``cache``: key-value cache of the tokens before ``ids``; the model adds ``ids`` to it. ``mask`` covers both.
        """
        layer = self.output_layer
        if layer is None:
            return None
        optional = {} if cache is None or self.prefixes is None else {"use_cache": True, self.prefixes.argument: cache}
        seen = mask if self.hides_padding or cache is not None else None
        states = layer.states(lambda: self._forward(ids, seen, {layer.n_columns}, **optional), ids.shape)
        if states is None:
            self.output_layer = None
        return states

    def _hidden(self, states: Tensor | None, places: _Places) -> Hidden | None:
        if states is None or self.output_layer is None:
            return None
        return Hidden(places.of_each(states), self.output_layer)


@dataclass(frozen=True)
class _Places:
    """The inputs of a batch that predict its n positions."""

    row: npt.NDArray[np.int64]
    """[n]"""
    column: npt.NDArray[np.int64]
    """[n]"""

    @classmethod
    def of(cls, batch: Sequence[Tokens]) -> _Places:
        counts = np.array([tokens.n_positions for tokens in batch])
        ends = np.array([len(tokens.ids) - 1 for tokens in batch])
        row = np.repeat(np.arange(len(batch)), counts)
        return cls(row, np.arange(counts.sum()) + np.repeat(ends - counts.cumsum(), counts))

    def after(self, n: int) -> _Places:
        """The same in sequences without their first ``n`` tokens."""
        return replace(self, column=self.column - n)

    def of_each(self, tensor: Tensor) -> Tensor:
        """[n, d]: of ``tensor`` [batch, length, d], what is at these places."""
        index = to_device(self.row * tensor.shape[1] + self.column, tensor.device)
        return tensor.flatten(0, 1).index_select(0, index)
