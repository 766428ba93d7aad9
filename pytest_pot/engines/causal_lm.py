"""The engine for transformers models, and for any module whose forward maps token ids to logits."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from pytest_pot.config import ScoringConfig
from pytest_pot.distributions import Ints, TopK
from pytest_pot.engines.base import OutOfMemory, Room
from pytest_pot.engines.device import RoomForTokens, prepared, rng_untouched
from pytest_pot.engines.heads import Hidden, Logits, OutputLayer, Rows
from pytest_pot.engines.lookups import lookups_checked
from pytest_pot.engines.prefixes import PrefixCaches, distance, shared_prefix
from pytest_pot.engines.reduce import reduce_over_choice, reduce_rows
from pytest_pot.engines.sampling import sample_continuation
from pytest_pot.errors import PotError
from pytest_pot.tokens import Tokens

__all__ = ["CausalLM", "max_positions"]

_PAD_ID = 0
"""Any id of the vocabulary will do: no causal model lets a token see what stands to its right, and the mask hides it from
those that count positions or carry a state. The tokenizer's pad token is not needed, and may be an eos that the text holds."""

_SAME_SCORE = 1e-5
"""How far a prompt's distributions may be, in total variation, when its beginning is read apart; rounding: 1e-7."""


class CausalLM:
    """A causal language model in this process; an :class:`~pytest_pot.engines.base.Engine`.

    Sequences are padded on the right: that is safe for absolute, rotary and ALiBi positions and for recurrent models, and
    position j of a prompt is at the same index however long its neighbours are.
    """

    share_prefixes = True
    """Whether tokens that the prompts of a batch begin with are read once."""

    def __init__(self, model: nn.Module, role: str, config: ScoringConfig) -> None:
        """``model`` is in evaluation mode and stays so while the engine is used; :meth:`ready` sees to that."""
        self._model = model
        self._role = role
        self._config = config
        self._accepts = frozenset(inspect.signature(model.forward).parameters)
        first = next(model.parameters(), None)
        self._device = torch.device("cpu") if first is None else first.device
        self._output_layer = None if config.every_position else OutputLayer.of(model, self._autocast)
        self._prefixes = PrefixCaches.of(model) if self._output_layer is not None and self.share_prefixes else None
        self._prefixes_confirmed = False
        self._room = RoomForTokens(self._device)
        self._reading: Tensor | None = None
        self._dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)

    @classmethod
    @contextmanager
    def ready(cls, model: nn.Module, role: str, config: ScoringConfig) -> Iterator[CausalLM]:
        """An engine for ``model``; when the context ends, model, random state and gradient mode are as they were."""
        if not isinstance(model, nn.Module):
            raise PotError(
                f"the {role} is {type(model).__name__}, not a model: give a torch.nn.Module whose forward returns logits "
                "[batch, length, vocab], such as a transformers causal LM"
            )
        with prepared(model, config) as running:
            engine = cls(running, role, config)
            known = engine._vocabulary() is not None
            checked = nullcontext() if known else lookups_checked(running, engine._refuse_lookup)
            with rng_untouched(engine._device), torch.inference_mode(), checked:
                yield engine

    @property
    def label(self) -> str:
        precision = str(self._dtype).removeprefix("torch.")
        return f"{precision}{' with autocast' if self._config.use_amp else ''} on {self._device}"

    @property
    def max_positions(self) -> int | None:
        return max_positions(self._model)

    @property
    def room(self) -> Room:
        return self._room.room

    @property
    def model(self) -> nn.Module:
        """The model as it runs: a copy, where it had to be moved or converted."""
        return self._model

    @property
    def device(self) -> torch.device:
        return self._device

    @property
    def accepts(self) -> frozenset[str]:
        """The arguments of the model's forward."""
        return self._accepts

    def call(self, ids: Tensor, **optional: Any) -> Any:
        """What the model returns for ``ids`` [batch, length], and for those of ``optional`` that its forward takes."""
        with self._autocast():
            return self._model(ids, **{name: value for name, value in optional.items() if name in self._accepts})

    def padded(self, rows: Sequence[Sequence[int]], *, left: bool = False) -> tuple[Tensor, Tensor]:
        """Token ids and attention mask, both [batch, length], padded on the right or the left."""
        length = max(map(len, rows))

        def padded(row: Sequence[int], fill: int) -> list[int]:
            padding = [fill] * (length - len(row))
            return [*padding, *row] if left else [*row, *padding]

        ids = [padded(row, _PAD_ID) for row in rows]
        mask = [padded([1] * len(row), 0) for row in rows]
        return torch.tensor(ids, device=self._device), torch.tensor(mask, device=self._device)

    def top_k(self, batch: Sequence[Tokens], k: int | None) -> TopK:
        with self._memory_errors():
            rows, targets = self._rows(batch)
            top = self._reduce(rows, targets, select=k, first=rows.vocab_size if k is None else None)
            if self._config.tail == "bucket" or top.ids is None or top.log_tail is None:
                return top
            # Over again, by the way that candidates go: the same weights must come to the same bits.
            chosen = self._over_choice(rows, targets, torch.from_numpy(top.ids).to(targets.device)).most_likely_first()
            return replace(chosen, log_tail=top.log_tail)

    def at(self, batch: Sequence[Tokens], ids: Ints | int) -> TopK:
        with self._memory_errors():
            rows, targets = self._rows(batch)
            if isinstance(ids, int):
                return self._reduce(rows, targets, select=None, first=min(ids, rows.vocab_size))
            highest = int(ids.max(initial=0))
            if highest >= rows.vocab_size:
                raise PotError(
                    f"the {self._role}'s vocabulary has {rows.vocab_size} tokens, but the other model's likeliest tokens "
                    f"include id {highest}. Vocabularies may differ in padding only: every id that is used must exist in both"
                )
            select = torch.from_numpy(ids).to(targets.device)
            if self._config.tail == "renormalise":
                return self._over_choice(rows, targets, select)
            return self._reduce(rows, targets, select=select, first=None)

    def sample(self, contexts: Sequence[Sequence[int]], n_tokens: int, seed: int) -> list[list[int]]:
        for context in contexts:
            self._check_ids(context)
        with self._autocast(), self._memory_errors():
            return [
                sample_continuation(self._model, self._next_token_logits, list(context), n_tokens, seed, self._device)
                for context in contexts
            ]

    def _reduce(self, rows: Rows, targets: Tensor, *, select: int | Tensor | None, first: int | None) -> TopK:
        eps = torch.finfo(self._dtype).eps
        return reduce_rows(rows, targets, select=select, first=first, temperature=self._config.temperature, eps=eps)

    def _over_choice(self, rows: Rows, targets: Tensor, ids: Tensor) -> TopK:
        """The softmax over ``ids`` [n, m] alone: no other logits are needed, but for the continuation's tokens."""
        logits = rows.at(torch.cat([ids, targets[:, None]], dim=-1))
        eps = torch.finfo(self._dtype).eps
        return reduce_over_choice(logits[:, :-1], logits[:, -1], ids, self._config.temperature, eps, rows.vocab_size)

    def _rows(self, batch: Sequence[Tokens]) -> tuple[Rows, Tensor]:
        """The logits that predict each position of ``batch``, and the tokens to predict, [positions]."""
        for tokens in batch:
            self._check_ids(tokens.ids)
        with self._room.measured(len(batch) * max(len(tokens.ids) for tokens in batch)):
            rows = self._plainly(batch) if self._config.every_position else self._padded(batch)
        targets = torch.tensor(list(chain.from_iterable(tokens.targets for tokens in batch)), device=rows.device)
        self._check_ids([max(max(tokens.targets) for tokens in batch)], rows.vocab_size)
        return rows, targets

    def _plainly(self, batch: Sequence[Tokens]) -> Rows:
        """The yardstick: each prompt alone, logits at every position, of which those that predict the continuation."""
        rows = []
        for tokens in batch:
            ids = torch.tensor([tokens.ids], device=self._device)
            logits = self._forward(ids, torch.ones_like(ids))
            rows.append(logits[0, tokens.prompt_len - 1 : len(tokens.ids) - 1])
        return Logits(torch.cat(rows))

    def _padded(self, batch: Sequence[Tokens]) -> Rows:
        """All prompts in one forward, padded on the right, and of its hidden states those that some position needs."""
        shared = self._after_prefix(batch)
        return self._whole(batch) if shared is None else shared

    def _after_prefix(self, batch: Sequence[Tokens]) -> Rows | None:
        """What :meth:`_whole` gives, with the beginning that all of ``batch`` share read once; None where there is none.

        At the first use, the last prompt of the batch is also run whole: where its scores would differ by more than rounding,
        no beginning is shared any more.
        """
        prefix = shared_prefix(batch) if self._prefixes is not None and self._output_layer is not None else ()
        if not prefix or self._prefixes is None:
            return None

        def read(cache: Any) -> None:
            ids = torch.tensor([prefix], device=self._device)
            self._states(ids, torch.ones_like(ids), cache)

        cache = self._prefixes.get(prefix, len(batch), read)
        ids, mask, row, column = self._layout(batch)
        states = None if cache is None else self._states(ids[:, len(prefix) :], mask, cache)
        if states is None or self._output_layer is None:
            self._prefixes = None
            return None
        rows = Hidden(states[row.to(states.device), (column - len(prefix)).to(states.device)], self._output_layer)
        if not self._prefixes_confirmed:
            whole = self._whole(batch[-1:])
            alone = rows.last(len(whole))
            apart = max(distance(a, b) for a, b in zip(alone.chunks(), whole.chunks(), strict=True))
            if not apart <= max(_SAME_SCORE, 2 * torch.finfo(self._dtype).eps * (self._dtype != torch.float32)):
                self._prefixes = None
                return None
            self._prefixes_confirmed = True
        return rows

    def _states(self, ids: Tensor, mask: Tensor, cache: Any = None) -> Tensor | None:
        """The hidden states [batch, length, d] that the output layer would get; None where it is not the end of it all."""
        layer = self._output_layer
        if layer is None:
            return None
        states = layer.states(lambda: self._forward(ids, mask, n_columns=layer.n_columns, cache=cache), ids.shape)
        if states is None:
            self._output_layer = None
        return states

    def _layout(self, batch: Sequence[Tokens]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Ids and mask, [batch, length], and row and column of every needed position.

        The last token of each prompt predicts nothing that is compared: models that are known to be causal do not read it.
        """
        end = None if self._output_layer is None else -1
        ids, mask = self.padded([tokens.ids[:end] for tokens in batch])
        row = torch.tensor([i for i, t in enumerate(batch) for _ in range(t.n_positions)])
        column = torch.tensor([c for t in batch for c in range(t.prompt_len - 1, len(t.ids) - 1)])
        return ids, mask, row, column

    def _whole(self, batch: Sequence[Tokens]) -> Rows:
        ids, mask, row, column = self._layout(batch)
        states = self._states(ids, mask)
        if states is not None and self._output_layer is not None:
            return Hidden(states[row.to(states.device), column.to(states.device)], self._output_layer)
        # The model makes its logits itself, at the columns that some prompt needs: where it can, at no others.
        start, stop = int(column.min()), int(column.max()) + 1
        logits = self._forward(ids, mask, torch.arange(start, stop, device=self._device))
        offset = start if logits.shape[1] == stop - start else 0
        return Logits(logits[row.to(logits.device), (column - offset).to(logits.device)])

    def _forward(
        self, ids: Tensor, mask: Tensor, columns: Tensor | None = None, n_columns: int | None = None, cache: Any = None
    ) -> Tensor:
        """Logits [batch, length, vocab]; where the model can, only those at ``columns`` of the length.

        ``n_columns``: of how many the output layer has been cut down to make any. ``cache``: holds what was read before
        ``ids``, and takes them in; ``mask`` is of both.
        """
        optional = {"attention_mask": mask, "use_cache": cache is not None}
        if cache is not None and self._prefixes is not None:
            optional[self._prefixes.argument] = cache
        if columns is not None:
            optional["logits_to_keep"] = columns
        self._reading = ids
        try:
            output = self.call(ids, **optional)
        except IndexError as error:  # of a lookup that is no nn.Embedding's; others are the model's own
            if str(error) != "index out of range in self":
                raise
            raise PotError(
                f"the {self._role} has no row for what it looks up ({error}): it read ids up to {int(ids.max())} in sequences "
                f"of {ids.shape[1]} tokens. Either this tokenizer is not this model's, or the model takes shorter sequences: "
                "lower max_length"
            ) from error
        logits = getattr(output, "logits", output[0] if isinstance(output, tuple) else output)
        lengths = {ids.shape[1], n_columns, None if columns is None else len(columns)}
        shape = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        if not isinstance(logits, Tensor) or logits.ndim != 3 or len(logits) != len(ids) or logits.shape[1] not in lengths:
            raise PotError(
                f"the {self._role}'s forward returned {shape} for token ids of shape {tuple(ids.shape)}; expected logits "
                "[batch, length, vocab], or an object with .logits"
            )
        return logits

    def _next_token_logits(self, ids: Tensor) -> Tensor:
        """Logits [batch, vocab] of the token after ``ids`` [batch, length]."""
        return self._forward(ids, torch.ones_like(ids))[:, -1]

    def _autocast(self) -> torch.autocast:
        kind = self._device.type
        return torch.autocast(kind, enabled=self._config.use_amp)

    def _check_ids(self, ids: Sequence[int], size: int | None = None) -> None:
        """Raise unless all ``ids`` are in the vocabulary; on CUDA an id outside it would poison the whole process."""
        size = self._vocabulary() if size is None else size
        if size is not None and max(ids) >= size:
            raise PotError(
                f"the tokenizer gives id {max(ids)}, but the {self._role}'s vocabulary has only {size} tokens: this tokenizer "
                "is not this model's"
            )

    def _vocabulary(self) -> int | None:
        """How many ids the model reads; None where it does not say, as plain modules do not."""
        lookup = getattr(self._model, "get_input_embeddings", None)
        size = getattr(lookup() if lookup is not None else None, "num_embeddings", None)
        return size if isinstance(size, int) else None

    def _refuse_lookup(self, row: int, size: int) -> None:
        if self._reading is not None and row == int(self._reading.max()):
            self._check_ids([row], size)
        raise PotError(
            f"the {self._role} looks up row {row} of an embedding that has {size}, and no id that it reads is that high: a "
            "position, perhaps, beyond the longest sequence that it takes. Lower max_length"
        )

    @contextmanager
    def _memory_errors(self) -> Iterator[None]:
        """Turn what torch raises when memory runs out, on any device, into :class:`OutOfMemory`."""
        try:
            yield
        except (RuntimeError, MemoryError) as error:
            if not _is_out_of_memory(error):
                raise
            if self._device.type == "cuda":
                torch.cuda.empty_cache()
            reason = next(iter(str(error).splitlines()), type(error).__name__)
            raise OutOfMemory(f"the {self._role} ran out of memory on {self._device}: {reason}") from error


def max_positions(model: object) -> int | None:
    """The longest sequence that a transformers model takes; None where it has no limit, or does not say."""
    config: Any = getattr(model, "config", None)
    if hasattr(config, "get_text_config"):
        config = config.get_text_config()
    limit = getattr(config, "max_position_embeddings", None)
    return limit if isinstance(limit, int) and limit > 0 else None


def _is_out_of_memory(error: Exception) -> bool:
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    text = str(error).lower()
    return any(sign in text for sign in ("out of memory", "can't allocate memory", "not enough memory"))
