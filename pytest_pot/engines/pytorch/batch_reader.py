"""How a batch of tokens is read: padded into one forward, after a beginning that is read once, or each prompt alone."""

from __future__ import annotations

from collections.abc import Callable, Container, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from pytest_pot.engines.pytorch.device import is_out_of_memory
from pytest_pot.engines.pytorch.model_traits import accepted, is_causal, reads_alone, takes_columns
from pytest_pot.engines.pytorch.output_layer import Hidden, Logits, OutputLayer, Rows, joined
from pytest_pot.engines.pytorch.prefix_cache import PrefixCaches, shared_prefix
from pytest_pot.engines.pytorch.rounding import same_distributions
from pytest_pot.engines.tokens import Tokens

__all__ = ["Reader", "each_alone", "padded"]

_PAD_ID = 0
"""Any id of the vocabulary will do: no causal model lets a token see what stands to its right, and the mask hides it from
those that count positions or carry a state. The tokenizer's pad token is not needed, and may be an eos that the text holds."""


class Forward(Protocol):
    """A model's forward, its outcome checked."""

    def __call__(self, ids: Tensor, mask: Tensor, lengths: Container[int] = (), **optional: Any) -> Tensor:
        """Logits [batch, length, vocab] of ``ids`` [batch, length]; in place of the length, they may have one of ``lengths``.

        ``optional``: arguments for the forward, of which it is given those that it takes.
        """


def padded(rows: Sequence[Sequence[int]], device: torch.device, *, left: bool = False) -> tuple[Tensor, Tensor]:
    """Token ids and attention mask, both [batch, length], padded on the right or the left."""
    length = max(map(len, rows))

    def filled(row: Sequence[int], fill: int) -> list[int]:
        padding = [fill] * (length - len(row))
        return [*padding, *row] if left else [*row, *padding]

    ids = [filled(row, _PAD_ID) for row in rows]
    mask = [filled([1] * len(row), 0) for row in rows]
    return torch.tensor(ids, device=device), torch.tensor(mask, device=device)


def each_alone(batch: Sequence[Tokens], forward: Forward, device: torch.device) -> Rows:
    """The yardstick: each prompt alone, logits at every position, of which those that predict the continuation."""
    rows = []
    for tokens in batch:
        ids = torch.tensor([tokens.ids], device=device)
        logits = forward(ids, torch.ones_like(ids))
        rows.append(logits[0, tokens.prompt_len - 1 : len(tokens.ids) - 1])
    return Logits(torch.cat(rows))


class Reader:
    """Reads batches with a model, as cheaply as what is known of it allows."""

    def __init__(
        self,
        model: nn.Module,
        forward: Forward,
        device: torch.device,
        autocast: Callable[[], AbstractContextManager[Any]],
        eps: float,
        *,
        share_prefixes: bool,
    ) -> None:
        """``eps``: the machine epsilon of the model's precision. ``share_prefixes``: see :class:`PrefixCaches`."""
        self._model = model
        self._forward = forward
        self._device = device
        self._eps = eps
        self.output_layer = OutputLayer.of(model, autocast)
        self.prefixes = PrefixCaches.of(model, accepted(model)) if share_prefixes and self.output_layer is not None else None
        self._prefixes_confirmed: set[bool] = set()
        self._pad_id: Any = getattr(getattr(model, "get_input_embeddings", lambda: None)(), "padding_idx", None)
        self._causal = is_causal(model)

    def rows(self, batch: Sequence[Tokens]) -> Rows:
        """The logits that predict each position of ``batch``, prompt after prompt."""
        if len(batch) > 1 and reads_alone(self._model, max(len(tokens.ids) for tokens in batch)):
            return joined([self._whole([tokens]) for tokens in batch])
        prefix = shared_prefix(batch) if self.prefixes is not None else ()
        shared = self._after(prefix, batch) if prefix else None
        return self._whole(batch) if shared is None else shared

    def _after(self, prefix: tuple[int, ...], batch: Sequence[Tokens]) -> Rows | None:
        """What :meth:`_whole` gives, with ``prefix``, which all of ``batch`` begin with, read once; None where it cannot be.

        At the first use, the last prompt of the batch is also run whole: where its scores would differ by more than rounding,
        or the model does not get along with the cache, no beginning is shared any more. So it is at the first use of one that
        holds the model's padding id, which RoBERTa and its like leave out of the positions, but not where a cache counts them.
        """
        padding = self._pad_id in prefix
        try:
            rows = self._with_cache(prefix, batch)
        except Exception as error:  # whatever a model raises that was given a cache
            if is_out_of_memory(error):
                raise
            rows = None
        if rows is not None and padding not in self._prefixes_confirmed:
            whole = self._whole(batch[-1:])
            alone = rows.last(len(whole))
            pairs = zip(alone.chunks(), whole.chunks(), strict=True)
            if all(same_distributions(ours, theirs, self._eps) for ours, theirs in pairs):
                self._prefixes_confirmed.add(padding)
        if rows is None or padding not in self._prefixes_confirmed:
            self.prefixes = None
            return None
        return rows

    def _with_cache(self, prefix: tuple[int, ...], batch: Sequence[Tokens]) -> Hidden | None:
        if self.prefixes is None:
            return None

        def read(beginning: tuple[int, ...], cache: Any) -> None:
            ids = torch.tensor([beginning], device=self._device)
            self._states(ids[:, cache.get_seq_length() :], torch.ones_like(ids), cache)

        cache = self.prefixes.get(prefix, len(batch), read)
        if cache is None:
            return None
        ids, mask, row, column = self._layout(batch)
        return self._hidden(self._states(ids[:, len(prefix) :], mask, cache), row, column - len(prefix))

    def _whole(self, batch: Sequence[Tokens]) -> Rows:
        """All of ``batch`` in one forward, padded on the right, and of its hidden states those that some position needs."""
        ids, mask, row, column = self._layout(batch)
        hidden = self._hidden(self._states(ids, mask), row, column)
        if hidden is not None:
            return hidden
        # The model makes its logits itself, at the columns that some prompt needs: where it can, at no others.
        start, stop = int(column.min()), int(column.max()) + 1
        columns = torch.arange(start, stop, device=self._device)
        kept = {"logits_to_keep": columns} if takes_columns(self._model) else {}
        logits = self._forward(ids, mask, {stop - start}, **kept)
        offset = start if logits.shape[1] == stop - start else 0
        return Logits(logits[row.to(logits.device), (column - offset).to(logits.device)])

    def _layout(self, batch: Sequence[Tokens]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Ids and mask, [batch, length], and row and column of every needed position.

        The last token of each prompt predicts nothing that is compared: models that are known to be causal do not read it.
        """
        end = -1 if self._causal and self.output_layer is not None else None
        ids, mask = padded([tokens.ids[:end] for tokens in batch], self._device)
        row = torch.tensor([i for i, t in enumerate(batch) for _ in range(t.n_positions)])
        column = torch.tensor([c for t in batch for c in range(t.prompt_len - 1, len(t.ids) - 1)])
        return ids, mask, row, column

    def _states(self, ids: Tensor, mask: Tensor, cache: Any = None) -> Tensor | None:
        """The hidden states [batch, length, d] that the output layer would get; None where it is not the end of it all.

        ``cache``: holds what was read before ``ids``, and takes them in; ``mask`` is of both.
        """
        layer = self.output_layer
        if layer is None:
            return None
        optional = {} if cache is None or self.prefixes is None else {"use_cache": True, self.prefixes.argument: cache}
        states = layer.states(lambda: self._forward(ids, mask, {layer.n_columns}, **optional), ids.shape)
        if states is None:
            self.output_layer = None
        return states

    def _hidden(self, states: Tensor | None, row: Tensor, column: Tensor) -> Hidden | None:
        if states is None or self.output_layer is None:
            return None
        return Hidden(states[row.to(states.device), column.to(states.device)], self.output_layer)
