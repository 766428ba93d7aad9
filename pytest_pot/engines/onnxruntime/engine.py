"""The engine for ONNX graphs: logits come from ONNX Runtime, and are reduced as those of torch models are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from itertools import chain
from types import SimpleNamespace

import numpy as np
import torch
from torch import Tensor

from pytest_pot.core.config import ScoringConfig
from pytest_pot.core.errors import PotError
from pytest_pot.engines.base import ModelDescription, OutOfMemory, Room
from pytest_pot.engines.distributions import Ints, TopK
from pytest_pot.engines.onnxruntime.model import OnnxModel
from pytest_pot.engines.pytorch.batch_reader import padded
from pytest_pot.engines.pytorch.memory import memory_errors
from pytest_pot.engines.pytorch.model_traits import reads_alone
from pytest_pot.engines.pytorch.output_layer import Logits
from pytest_pot.engines.pytorch.reading import TorchReading, cells_at, on_host
from pytest_pot.engines.pytorch.reduction import Softmax
from pytest_pot.engines.pytorch.sampling import sample_continuation
from pytest_pot.engines.tensors import Distributions
from pytest_pot.engines.tokens import Tokens

__all__ = ["OnnxEngine"]

_CPU = torch.device("cpu")
_ROOM = Room(most=1024, fixed=32)
"""As for torch on a CPU. Constants, because a score that is recorded on a machine must come out there again."""
_MOST_LOGITS = 1 << 27
"""A graph makes the logits of all tokens of a batch at once: half a gigabyte of them at most."""

_FEW = 8
"""Ids that every vocabulary has."""
_RELATIVE_CHANGE = 1e-3
"""Far above rounding, also in half precision, and far below what another token changes."""


class OnnxEngine:
    """An ONNX graph of a decoder.

    Sequences are padded on the right, where a causal model does not look, and the attention mask says so too. Sequences of
    different lengths share no batch if the graph has no mask. Each is read alone if padding changes its numbers, or other
    prompts do: where a graph rounds activations with one scale for everything that it reads.
    """

    def __init__(self, model: OnnxModel, role: str, config: ScoringConfig) -> None:
        self._model = model
        self._role = role
        self._config = config
        self._session = model.session(config.device, f"the {role} {str(model.path)!r}")
        dtypes = {model.facts.float_dtype, *self._session.float_dtypes}
        self._dtype = max(dtypes, key=lambda name: torch.finfo(getattr(torch, name)).eps)
        self._eps = torch.finfo(getattr(torch, self._dtype)).eps
        self._traits = SimpleNamespace(config=SimpleNamespace(**model.config))
        self._alone = config.every_position or self._session.feeds.one_by_one or model.facts.one_scale_for_all

    @classmethod
    @contextmanager
    def opened(cls, model: OnnxModel, role: str, config: ScoringConfig) -> Iterator[OnnxEngine]:
        """Yield an engine for ``model``.

        Raises:
            PotError: the graph cannot run as ``config`` asks.
        """
        engine = cls(model, role, config)
        engine._refuse_other_precision()
        with torch.inference_mode():
            yield engine

    @property
    def label(self) -> str:
        return f"{self._dtype} on {self._session.device} by ONNX Runtime"

    @property
    def description(self) -> ModelDescription:
        facts = self._model.facts
        notes = []
        if facts.one_scale_for_all:
            notes.append(
                "its activations are rounded with one scale for all that a pass reads, so each prompt is read alone; what it "
                "is served with changes its numbers"
            )
        if self._model.reads_alone:
            notes.append("padding changes its numbers, so each prompt is read alone")
        if self._config.device.startswith("mps"):
            notes.append("ONNX Runtime has no 'mps', and ran it on the CPU")
        return ModelDescription(facts.format, self._dtype, self._session.device, notes=tuple(notes))

    @property
    def max_positions(self) -> int | None:
        return self._model.max_positions

    @property
    def source(self) -> OnnxModel:
        """The model that runs, by which a noise floor is kept."""
        return self._model

    @property
    def device(self) -> torch.device:
        """Where the logits are."""
        return _CPU

    @property
    def room(self) -> Room:
        size = self._session.vocab_size or self._model.embedding_rows or 1
        return Room(most=max(1, min(_ROOM.most, _MOST_LOGITS // size)), fixed=_ROOM.fixed)

    def top_k(self, batch: Sequence[Tokens], k: int | None) -> TopK:
        def read(wide_tail: bool) -> Distributions:
            reading = self.reading(batch, _CPU, wide_tail=wide_tail)
            return cells_at(reading, reading.vocab_size, _CPU) if k is None else reading.top_k(k)

        with self._memory_errors():
            return on_host(read)

    def at(self, batch: Sequence[Tokens], ids: Ints | int) -> TopK:
        with self._memory_errors():
            return on_host(lambda wide_tail: cells_at(self.reading(batch, _CPU, wide_tail=wide_tail), ids, _CPU))

    def reading(self, batch: Sequence[Tokens], device: torch.device, *, wide_tail: bool = False) -> TorchReading:  # noqa: ARG002
        for tokens in batch:
            self._check_ids(tokens.ids, self._model.embedding_rows)
        with self._memory_errors():
            rows = Logits(self._rows(batch))
        targets = np.fromiter(chain.from_iterable(tokens.targets for tokens in batch), dtype=np.int64)
        self._check_ids(targets.tolist(), rows.vocab_size)
        softmax = Softmax(self._config.temperature, self._eps, wide_tail)
        return TorchReading(rows, torch.from_numpy(targets), softmax, self._role, self._config.tail == "renormalise")

    def sample(self, contexts: Sequence[Sequence[int]], n_tokens: int, seed: int) -> list[list[int]]:
        def next_token_logits(ids: Tensor) -> Tensor:
            return self._logits([ids[0].tolist()])[:, -1]

        for context in contexts:
            self._check_ids(context, self._model.embedding_rows)
        with self._memory_errors():
            return [
                sample_continuation(self._model, next_token_logits, list(context), n_tokens, seed, _CPU) for context in contexts
            ]

    def examine(self, what: str) -> None:
        """See with a few tokens whether the graph is one of a decoder, and whether padding changes what it says.

        Where activations are rounded with one scale for all tokens, every token changes all numbers, and this shows nothing.

        Raises:
            PotError: the logits at one token change with the next token; ``what``: the model, for the message.
        """
        if self._model.facts.one_scale_for_all:
            return
        size = self._model.embedding_rows or _FEW
        first, second, other = size // 2, size // 3, size // 4
        logits = self._logits([[first, second, second]])[0]
        if _differ(logits[:2], self._logits([[first, second, other]])[0, :2]):
            raise PotError(
                f"{what} is no causal language model: what it predicts for a token depends on the tokens after it. A masked "
                "language model cannot be compared this way"
            )
        if self._alone or not self._session.feeds.has_mask:
            return
        with suppress(OutOfMemory):  # then a batch of two is halved anyway
            alone, both = self._logits([[first, second]])[0], self._logits([[first, second], [first, second, second]])
            self._model.reads_alone = _differ(alone, both[0, :2]) or _differ(logits, both[1])

    def _rows(self, batch: Sequence[Tokens]) -> Tensor:
        """[positions, vocab]: the logits that predict each position of ``batch``, prompt after prompt."""
        # The last token of a prompt predicts no position. The unoptimised path reads it, as a plain script would.
        end = None if self._config.every_position else -1
        rows = [tokens.ids[:end] for tokens in batch]
        parts: dict[int, Tensor] = {}
        for group in self._groups([len(row) for row in rows]):
            logits = self._logits([rows[index] for index in group])
            for place, index in enumerate(group):
                tokens = batch[index]
                parts[index] = logits[place, tokens.prompt_len - 1 : len(tokens.ids) - 1].clone()  # so that the rest is freed
        return torch.cat([parts[index] for index in range(len(batch))])

    def _groups(self, lengths: Sequence[int]) -> list[list[int]]:
        """The indices of the sequences that are read together."""
        if self._alone or self._model.reads_alone or reads_alone(self._traits, max(lengths)):
            return [[index] for index in range(len(lengths))]
        if self._session.feeds.has_mask:
            return [list(range(len(lengths)))]
        groups: dict[int, list[int]] = {}
        for index, length in enumerate(lengths):
            groups.setdefault(length, []).append(index)
        return list(groups.values())

    def _logits(self, rows: Sequence[Sequence[int]]) -> Tensor:
        """Logits [batch, length, vocab] of ``rows``, padded on the right."""
        ids, mask = padded(rows, _CPU)
        return self._session.logits(ids.numpy(), mask.numpy(), f"the {self._role} {str(self._model.path)!r}")

    def _check_ids(self, ids: Sequence[int], size: int | None) -> None:
        """Raise :class:`PotError` unless all ``ids`` are in a vocabulary of ``size``: CUDA would read other memory."""
        if size is not None and max(ids) >= size:
            raise PotError(
                f"the tokenizer gives id {max(ids)}, but the {self._role}'s vocabulary has only {size} tokens: the tokenizer "
                "belongs to another model, or a token was added to it after the graph was exported"
            )

    def _refuse_other_precision(self) -> None:
        config, what = self._config, f"the {self._role} {str(self._model.path)!r}"
        if config.dtype not in ("auto", self._dtype):
            raise PotError(
                f"cannot score {what} with dtype={config.dtype!r}: it is an ONNX graph in {self._dtype}, and a graph has its "
                f"precision built in. Export it in {config.dtype}, or set dtype='auto' (candidate_dtype='auto' for a candidate "
                "alone)"
            )
        if config.use_amp:
            raise PotError(
                f"cannot score {what} with use_amp: an ONNX graph has its precision built in. Leave use_amp at False"
            )

    def _memory_errors(self) -> AbstractContextManager[None]:
        return memory_errors(f"the {self._role}", "cpu")


def _differ(one: Tensor, other: Tensor) -> bool:
    """Whether logits differ by more than rounding."""
    return bool((one - other).abs().max() > _RELATIVE_CHANGE * one.abs().max())
