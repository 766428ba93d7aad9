"""The engine for transformers models, and for any module whose forward maps token ids to logits."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cached_property
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from pytest_pot.core.config import ScoringConfig
from pytest_pot.core.errors import PotError
from pytest_pot.engines.base import Engine, ModelDescription, PeakMemory, Room
from pytest_pot.engines.distributions import Ints, TopK
from pytest_pot.engines.pytorch.absent_weights import refuse_absent_weights
from pytest_pot.engines.pytorch.batch_reader import Reader, each_alone, padded
from pytest_pot.engines.pytorch.decoding import Decoder, Reduction
from pytest_pot.engines.pytorch.description import describe
from pytest_pot.engines.pytorch.device import device_of, prepared, rng_untouched, synchroniser
from pytest_pot.engines.pytorch.embedding_bounds import lookups_checked
from pytest_pot.engines.pytorch.forward_cost import RoomForTokens, room_for
from pytest_pot.engines.pytorch.generation import GreedyGeneration
from pytest_pot.engines.pytorch.memory import memory_errors, peak_of
from pytest_pot.engines.pytorch.model_facts import ModelFacts, facts_of
from pytest_pot.engines.pytorch.model_traits import accepted, embedding_rows, has_own_code, max_positions
from pytest_pot.engines.pytorch.output_layer import Rows
from pytest_pot.engines.pytorch.reading import StepsReading, TorchReading, cells_at, on_host
from pytest_pot.engines.pytorch.reduction import Softmax
from pytest_pot.engines.pytorch.sampling import sample_continuation
from pytest_pot.engines.pytorch.threads import TorchThreads
from pytest_pot.engines.pytorch.transfer import to_device
from pytest_pot.engines.tensors import Distributions
from pytest_pot.engines.tokens import Tokens

if TYPE_CHECKING:
    from pytest_pot.engines.module_differences import ModuleTrace

__all__ = ["TorchEngine"]


class TorchEngine:
    """A causal language model in this process; :class:`~pytest_pot.engines.base.Timeable`,
    :class:`~pytest_pot.engines.base.Decoding` and :class:`~pytest_pot.engines.module_differences.Traceable`.

    Sequences are padded on the right. That is safe for absolute, rotary and ALiBi positions and for recurrent models, and
    position j of a prompt has the same index whatever the length of the other prompts. Models whose positions depend on the
    length of the batch, or that attend to tokens on the right, read one prompt at a time;
    :mod:`~pytest_pot.engines.pytorch.model_traits` recognises them.
    """

    share_prefixes = True
    """Whether a prefix that several prompts of a batch share is read only once."""

    def __init__(self, model: nn.Module | ModelFacts, role: str, config: ScoringConfig) -> None:
        """``model`` must be in evaluation mode while the engine is used; :meth:`opened` ensures that."""
        self._facts = self._source = facts = facts_of(model)
        self._model = model = facts.model
        self._role = role
        self._config = config
        self._accepts = accepted(model)
        self._own_code = has_own_code(facts)
        self._device = device_of(facts)
        self._reading: Tensor | None = None
        self._dtype = next(iter(facts.float_dtypes), torch.float32)
        self._eps = torch.finfo(self._dtype).eps
        self._n_rows = embedding_rows(model)
        self.restart()

    def restart(self) -> None:
        """Forget what earlier batches showed: whether the output layer can be split off, shared prefixes.

        What batches cost is kept: it changes no result.
        """
        self._reader: Reader | None = None
        self._decoder: Decoder | None = None
        if not self._config.every_position:
            self._reader = Reader(
                self._facts, self._forward, self._device, self._autocast, self._eps, share_prefixes=self.share_prefixes
            )

    @classmethod
    @contextmanager
    def opened(cls, model: nn.Module, role: str, config: ScoringConfig) -> Iterator[TorchEngine]:
        """Yield an engine for ``model``; on exit, restore the model, the random state and the gradient mode.

        Raises:
            PotError: ``model`` has weights that were never loaded, or cannot run as ``config`` asks.
        """
        facts = ModelFacts.of(model)
        refuse_absent_weights(facts, role)
        with prepared(facts, config) as running:
            engine = cls(running, role, config)
            engine._source = facts
            has_vocabulary = engine._n_rows is not None
            lookup_check = nullcontext() if has_vocabulary else lookups_checked(running, engine._refuse_lookup)
            with rng_untouched(engine._device), torch.inference_mode(), lookup_check:
                yield engine

    @property
    def label(self) -> str:
        return f"{self._precision} on {self._device}"

    @property
    def _precision(self) -> str:
        return str(self._dtype).removeprefix("torch.") + (" with autocast" if self._config.use_amp else "")

    @property
    def description(self) -> ModelDescription:
        return describe(self._source, self._facts, self._precision, self._device)

    @property
    def max_positions(self) -> int | None:
        return max_positions(self._model)

    @property
    def room(self) -> Room:
        return self._room.room

    @cached_property
    def _room(self) -> RoomForTokens:
        return room_for(self._source.model, self._device, self._precision)

    def reading_aside(self, batch: Sequence[Tokens], device: torch.device, *, wide_tail: bool = False) -> TorchReading:
        """As :meth:`reading`, but what the batch costs does not count for the plans of others."""
        with self._room.paused():
            return self.reading(batch, device, wide_tail=wide_tail)

    @property
    def weights_stamp(self) -> int:
        """Another number after weights were replaced or changed in place; changes that torch does not count are not seen."""
        return hash(tuple((p.data_ptr(), -1 if p.is_inference() else p._version) for p in self.source.parameters()))

    @property
    def source(self) -> nn.Module:
        """The caller's model."""
        return self._source.model

    @property
    def model(self) -> nn.Module:
        """The model that runs: a copy of the caller's model if it had to be moved or converted."""
        return self._model

    @property
    def device(self) -> torch.device:
        return self._device

    @property
    def accepts(self) -> frozenset[str]:
        """The arguments of the model's forward."""
        return self._accepts

    @property
    def reader(self) -> Reader | None:
        """The optimised reader of batches; None with ``every_position``."""
        return self._reader

    def call(self, ids: Tensor, **optional: Any) -> Any:
        """The model's output for ``ids`` [batch, length]; drops arguments in ``optional`` that its forward does not take."""
        arguments = {name: value for name, value in optional.items() if name in self._accepts}
        with self._autocast():
            if not self._own_code:
                try:
                    return self._model(ids, **arguments)
                except ImportError as error:  # kernels of a quantised format are looked for when they are needed
                    raise PotError(f"the {self._role} needs a package that is missing here: {error}") from error
            # The user's module may create and keep tensors (a table, a buffer), which must work outside inference mode too.
            with torch.inference_mode(False), torch.no_grad():
                tensors = {name: value.clone() if isinstance(value, Tensor) else value for name, value in arguments.items()}
                return self._model(ids.clone(), **tensors)

    @property
    def computing_dtypes(self) -> Sequence[torch.dtype]:
        """The floating-point dtypes that the model computes in."""
        reduced = (torch.get_autocast_dtype(self._device.type),) if self._config.use_amp else ()
        return *reduced, *self._facts.float_dtypes

    @property
    def source_dtypes(self) -> Sequence[torch.dtype]:
        """Those of the weights of the caller's model, from which they may have been converted."""
        return self._source.float_dtypes

    def trace(self, reference: Engine, tokens: Tokens) -> ModuleTrace:
        from pytest_pot.engines.module_differences import ModuleTrace  # only a gate that fails asks
        from pytest_pot.engines.pytorch.module_trace.trace import trace_modules

        if not isinstance(reference, TorchEngine):
            return ModuleTrace.of_nothing("the reference does not run in PyTorch, so its modules cannot be seen")
        return trace_modules(reference, self, tokens)

    def padded(self, rows: Sequence[Sequence[int]], *, left: bool = False) -> tuple[Tensor, Tensor]:
        """Token ids and attention mask, both [batch, length], padded on the right or the left."""
        return padded(rows, self._device, left=left)

    def top_k(self, batch: Sequence[Tokens], k: int | None) -> TopK:
        return self._on_host(lambda wide_tail: self._top_k(self.reading(batch, self._device, wide_tail=wide_tail), k))

    def at(self, batch: Sequence[Tokens], ids: Ints | int) -> TopK:
        return self._on_host(
            lambda wide_tail: cells_at(self.reading(batch, self._device, wide_tail=wide_tail), ids, self._device)
        )

    def reading(self, batch: Sequence[Tokens], device: torch.device, *, wide_tail: bool = False) -> TorchReading:  # noqa: ARG002
        with self.memory_errors():
            rows, targets = self._rows(batch)
        return TorchReading(rows, targets, self._softmax(wide_tail), self._role, self._config.tail == "renormalise")

    @property
    def decoding_note(self) -> str | None:
        return None if self._decoder is None else self._decoder.note

    def decode(self, batch: Sequence[Tokens], ids: Ints | int) -> TopK:
        return self._on_host(
            lambda wide_tail: cells_at(self.decoding(batch, self._device, wide_tail=wide_tail), ids, self._device)
        )

    def decoding(self, batch: Sequence[Tokens], device: torch.device, *, wide_tail: bool = False) -> StepsReading:  # noqa: ARG002
        self._check_batch(batch)
        if self._decoder is None:
            self._decoder = Decoder(self._facts, self._role, self._config, self._forward)
        decoder = self._decoder

        def reduce(rows: Rows, targets: Tensor, ids: Tensor | int) -> Distributions:
            self.check_ids([max(max(tokens.targets) for tokens in batch)], rows.vocab_size)
            reading = TorchReading(rows, targets, self._softmax(wide_tail), self._role, self._config.tail == "renormalise")
            return cells_at(reading, ids, rows.device)

        def read(ids: Tensor | int) -> Distributions:
            with self.memory_errors(), self._autocast(), self._room.measured(sum(len(tokens.ids) for tokens in batch)):
                return decoder.at(batch, ids, Reduction(reduce, self._device, self._eps))

        return StepsReading(read, sum(tokens.n_positions for tokens in batch))

    @property
    def on_cpu(self) -> bool:
        return self._device.type == "cpu"

    @property
    def cpu_threads(self) -> TorchThreads:
        return TorchThreads()

    @property
    def splits_output(self) -> bool:
        return self._reader is None or self._reader.output_layer is not None

    def use_whole_output(self) -> None:
        if self._reader is not None:
            self._reader.output_layer = None

    def read_whole_prompts(self) -> None:
        if self._reader is not None:
            self._reader.prefixes = None

    def synchroniser(self) -> Callable[[], None]:
        return synchroniser(self._facts)

    def prefill(self, batch: Sequence[Tokens]) -> Callable[[], object]:
        self._check_batch(batch)
        ids, mask = self.padded([tokens.ids for tokens in batch])

        def run() -> None:
            with self.memory_errors():
                self.call(ids, attention_mask=mask, use_cache=False)

        return run

    def generate(self, batch: Sequence[Tokens]) -> GreedyGeneration:
        self._check_batch(batch)
        return GreedyGeneration(self, self._role, batch)

    def peak_memory(self, run: Callable[[], object]) -> PeakMemory | None:
        return peak_of(run, self._model, self._device)

    def sample(self, contexts: Sequence[Sequence[int]], n_tokens: int, seed: int) -> list[list[int]]:
        for context in contexts:
            self.check_ids(context)
        with self._autocast(), self.memory_errors():
            return [
                sample_continuation(self._model, self._next_token_logits, list(context), n_tokens, seed, self._device)
                for context in contexts
            ]

    def _softmax(self, wide_tail: bool) -> Softmax:
        return Softmax(self._config.temperature, self._eps, wide_tail)

    def _top_k(self, reading: TorchReading, k: int | None) -> Distributions:
        return cells_at(reading, reading.vocab_size, self._device) if k is None else reading.top_k(k)

    def _on_host(self, read: Callable[[bool], Distributions]) -> TopK:
        """The result of ``read(wide_tail)`` as arrays; with wide tails if narrow ones underflow."""
        with self.memory_errors():
            return on_host(read)

    def _rows(self, batch: Sequence[Tokens]) -> tuple[Rows, Tensor]:
        """The logits that predict each position of ``batch``, and the ids to predict, [positions]."""
        self._check_batch(batch)
        with self._room.measured(len(batch) * max(len(tokens.ids) for tokens in batch)):
            reader = self._reader
            rows = each_alone(batch, self._forward, self._device) if reader is None else reader.rows(batch)
        self.check_ids([max(max(tokens.targets) for tokens in batch)], rows.vocab_size)
        targets = np.fromiter(chain.from_iterable(tokens.targets for tokens in batch), dtype=np.int64)
        return rows, to_device(targets, rows.device)

    def _forward(self, ids: Tensor, mask: Tensor | None, lengths: Container[int] = (), **optional: Any) -> Tensor:
        """A :class:`~pytest_pot.engines.pytorch.batch_reader.Forward`."""
        self._reading = ids
        try:
            with self._room.forward(ids.numel()):
                output = self.call(ids, **{"attention_mask": mask, "use_cache": False, **optional})
        except IndexError as error:  # from a lookup outside nn.Embedding; others are the model's own
            if str(error) != "index out of range in self":
                raise
            raise PotError(
                f"the {self._role} looks up a row that does not exist ({error}): it read ids up to {int(ids.max())} in "
                f"sequences of {ids.shape[1]} tokens. Either the tokenizer belongs to another model, or the sequences are "
                "too long for this model: lower max_length"
            ) from error
        logits = getattr(output, "logits", output[0] if isinstance(output, tuple) else output)
        shape = tuple(logits.shape) if isinstance(logits, Tensor) else ()
        fits = len(shape) == 3 and shape[0] == len(ids) and (shape[1] == ids.shape[1] or shape[1] in lengths)
        if not isinstance(logits, Tensor) or not fits:
            raise PotError(
                f"the {self._role}'s forward returned {shape or type(logits).__name__} for token ids of shape "
                f"{tuple(ids.shape)}; expected logits [batch, length, vocab], or an object with .logits"
            )
        return logits

    def _next_token_logits(self, ids: Tensor) -> Tensor:
        """Logits [batch, vocab] of the token after ``ids`` [batch, length]."""
        return self._forward(ids, torch.ones_like(ids))[:, -1]

    def _autocast(self) -> torch.autocast:
        kind = self._device.type
        return torch.autocast(kind, enabled=self._config.use_amp)

    def _check_batch(self, batch: Sequence[Tokens]) -> None:
        for tokens in batch:
            self.check_ids(tokens.ids)

    def check_ids(self, ids: Sequence[int], size: int | None = None) -> None:
        """Raise :class:`PotError` unless all ``ids`` are in the vocabulary.

        On CUDA, an id outside it would make the GPU unusable for the rest of the process.
        """
        size = self._n_rows if size is None else size
        if size is not None and max(ids) >= size:
            raise PotError(
                f"the tokenizer gives id {max(ids)}, but the {self._role}'s vocabulary has only {size} tokens: the tokenizer "
                "belongs to another model; or the token was added to it, and the model has no row for it "
                "(resize_token_embeddings adds one)"
            )

    def _refuse_lookup(self, row: int, size: int) -> None:
        if self._reading is not None and row == int(self._reading.max()):
            self.check_ids([row], size)
        raise PotError(
            f"the {self._role} looks up row {row} of an embedding with {size} rows, but no token id is that high: it is "
            "probably a position beyond the longest sequence that the model takes. Lower max_length"
        )

    def memory_errors(self) -> AbstractContextManager[None]:
        """Errors of memory as :class:`~pytest_pot.engines.base.OutOfMemory`, which name the model."""
        return memory_errors(f"the {self._role}", self._device)
