"""The protocol of an engine: whatever turns token ids into next-token log-probabilities.

The scorer knows nothing else of a model, so a server, another runtime or a recording can stand in for one by having the methods
of :class:`Engine`. Batches are lists of :class:`~pytest_pot.engines.tokens.Tokens`; how they are padded, split or sent is up to
the engine. The rows of a result are the batch's positions, one prompt after the other.

What only some engines can do is a protocol of its own, so that others need not pretend: :class:`GivenIds` for log-probabilities
of any ids, :class:`Decoding` for ``path="decode"``, :class:`Generating` and :class:`Timeable` for gates on latency.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from pytest_pot.core.errors import PotError
from pytest_pot.engines.tokens import Tokens

if TYPE_CHECKING:  # numpy takes long to import
    from pytest_pot.core.config import ScoringConfig
    from pytest_pot.engines.distributions import Ints, TopK

__all__ = [
    "Backend",
    "CpuThreads",
    "Decoding",
    "Described",
    "Engine",
    "Generating",
    "Generation",
    "GivenIds",
    "Level",
    "LoadedModel",
    "ModelDescription",
    "OutOfMemory",
    "PeakMemory",
    "PositionError",
    "Remote",
    "RequestTimes",
    "Restartable",
    "Room",
    "Streamed",
    "Timeable",
    "description_of",
    "in_own_process",
    "level_of",
]


class Level(StrEnum):
    """What an engine can tell of a position."""

    GIVEN_IDS = "given ids"
    """The log-probability of any id."""
    OWN_TOP_K = "own top-k"
    """Its own likeliest ids, and the continuation's token, at every position of a prompt."""
    LAST_POSITION = "last position"
    """The same, but only after the last token of what it reads: one request per position."""


@runtime_checkable
class Engine(Protocol):
    """What the scorer asks of a model."""

    @property
    def max_positions(self) -> int | None:
        """The longest sequence that the model takes, or None where it has no limit."""

    @property
    def label(self) -> str:
        """Where and in which precision the model runs, for people: ``"float32 on cpu"``."""

    def top_k(self, batch: Sequence[Tokens], k: int | None) -> TopK:
        """The k likeliest ids at every position (``None``: the whole vocabulary, ``ids`` None), and all else as the tail.

        An engine that is no :class:`GivenIds` may return fewer ids than ``k``, as many at every position, if it does not know
        more.

        Raises:
            OutOfMemory: the batch does not fit; the caller may try a smaller one.
        """

    def sample(self, contexts: Sequence[Sequence[int]], n_tokens: int, seed: int) -> list[list[int]]:
        """``n_tokens`` continuing each context, sampled at temperature 1; the same for a context whatever its neighbours.

        Raises:
            OutOfMemory: one context alone does not fit.
        """


@runtime_checkable
class GivenIds(Engine, Protocol):
    """An engine that knows the log-probability of any id: level :attr:`Level.GIVEN_IDS`."""

    def at(self, batch: Sequence[Tokens], ids: Ints | int) -> TopK:
        """The distributions at given ids: ``[n_positions, m]`` of them, or the first m of the vocabulary.

        Where m is more than the vocabulary holds, all of it comes back.

        Raises:
            OutOfMemory: the batch does not fit; the caller may try a smaller one.
            PotError: an id of ``ids`` is outside the model's vocabulary.
        """


def level_of(engine: Engine) -> Level:
    """What ``engine`` can tell: :attr:`Level.GIVEN_IDS` if it has the method ``at``, else its attribute ``level``, or own
    top-k."""
    return Level.GIVEN_IDS if isinstance(engine, GivenIds) else Level(getattr(engine, "level", Level.OWN_TOP_K))


@runtime_checkable
class Decoding(GivenIds, Protocol):
    """What ``path="decode"`` asks of the candidate's engine beyond scoring.

    An engine may say as its attribute ``decoding_note`` what else a reader of the results should know.
    """

    def decode(self, batch: Sequence[Tokens], ids: Ints | int) -> TopK:
        """As :meth:`at`, but the model reads each prompt in one pass, and its continuation token by token, as it generates.

        The distribution at position j comes from a step that read token j - 1 of the continuation, and all tokens before it
        from the model's key-value cache or recurrent state. That at position 0 comes from reading the prompt.

        Raises:
            OutOfMemory: the batch does not fit; the caller may try a smaller one.
            PotError: the model generates without a cache, or its generation fails; or as :meth:`at`.
        """


@runtime_checkable
class Generating(Engine, Protocol):
    """What ``what="decode"`` of a gate on latency asks of an engine beyond scoring."""

    def generate(self, batch: Sequence[Tokens]) -> Generation:
        """Greedy generation of as many tokens as each of ``batch`` has positions, after its prompt.

        Raises:
            PotError: the model has no key-value cache to go on with.
        """


@runtime_checkable
class Remote(Engine, Protocol):
    """An engine that asks a model elsewhere: its times have the network in them, and only requests can be timed.

    An engine may have an attribute ``own_process`` that is true: what it asks is a process on this machine that was started for
    it, and that nobody else uses.
    """

    def unread(self, batch: Sequence[Tokens]) -> list[Tokens]:
        """``batch`` with other tokens near the beginning of each prompt, so that no cache of prompts has read it before."""


def in_own_process(engine: object) -> bool:
    """Whether ``engine`` asks a process of its own, see :class:`Remote`."""
    return bool(getattr(engine, "own_process", False))


@runtime_checkable
class Timeable(Generating, Protocol):
    """What a gate on latency asks of an engine in this process beyond scoring; without it, ``what="prefill"``, peak memory and
    CPU threads cannot be measured."""

    @property
    def on_cpu(self) -> bool:
        """Whether the model computes on the CPU, where other processes compete for the cores."""

    @property
    def cpu_threads(self) -> CpuThreads:
        """The CPU threads that the engine computes with."""

    @property
    def splits_output(self) -> bool:
        """Whether logits are made for the needed positions only. Known for certain after the first batch."""

    def use_whole_output(self) -> None:
        """Make all logits from now on, as for a model whose output layer cannot be split off."""

    def read_whole_prompts(self) -> None:
        """Read every token of every batch from now on, instead of keeping what prompts have in common."""

    def synchroniser(self) -> Callable[[], None]:
        """A function that waits until the device has finished its work. It is called between timings, so it has to be fast."""

    def prefill(self, batch: Sequence[Tokens]) -> Callable[[], object]:
        """A function that runs the bare forward pass over ``batch``, with all logits; ids are on the device already."""

    def peak_memory(self, run: Callable[[], object]) -> PeakMemory | None:
        """The most memory in use during ``run``, the model's weights included; None where it cannot be measured."""


@dataclass(frozen=True)
class ModelDescription:
    """What ran: a verdict is about this, and not about the same weights elsewhere."""

    format: str
    """How the weights are kept: ``"safetensors"``, ``"GGUF Q4_1"``, ``"bitsandbytes int8"``; ``"in memory"`` for an object."""
    dtype: str
    """The precision of the forward pass: ``"float32"``."""
    device: str
    stored_dtype: str | None = None
    """The precision that the weights are kept in, where that is another one than ``dtype``."""
    dequantised: bool = False
    """Whether quantised weights were turned into ``dtype`` first, so that other kernels ran than those of the format."""
    notes: tuple[str, ...] = ()
    """Anything else that a reader of the verdict should know, one line each."""


@runtime_checkable
class Described(Protocol):
    """An engine that says what it runs."""

    @property
    def description(self) -> ModelDescription: ...


def description_of(engine: object) -> ModelDescription | None:
    """What ``engine`` runs; None where it does not say."""
    return engine.description if isinstance(engine, Described) else None


@runtime_checkable
class Restartable(Engine, Protocol):
    """An engine that learns about its model from the batches that it runs."""

    def restart(self) -> None:
        """Forget that, so that two engines of the same weights take the same path from here and round alike."""


class Generation(Protocol):
    """Greedy generation, in two parts that are timed apart."""

    def first_token(self) -> None:
        """Read the prompts and choose the first token."""

    def other_tokens(self) -> None:
        """Choose all other tokens, one after the other."""

    def forget(self) -> None:
        """Free the keys and values of the last run."""


@dataclass(frozen=True)
class RequestTimes:
    """What one request took whose tokens were streamed, in seconds."""

    first_token: float
    """From sending the request until its first token was there."""
    per_token: float
    """Between one token and the next, on average."""
    tokens: int
    """How many tokens came after those that came first; ``per_token`` is an average over these."""
    waited: float = 0.0
    """From the start of the run until the request was sent: 0 unless others had to end first."""
    all_at_once: bool = False
    """Whether all tokens came together, so that ``per_token`` has the time to the first token in it: an upper bound, which no
    other time may be compared with as if it were the reference's."""


@runtime_checkable
class Streamed(Generation, Protocol):
    """A generation in which each prompt is a request of its own, with times of its own."""

    @property
    def requests(self) -> Sequence[RequestTimes]:
        """Those of the last run, in the order of the batch."""


class CpuThreads(Protocol):
    """How many CPU threads an engine computes with."""

    count: int


@dataclass(frozen=True)
class PeakMemory:
    """A model's peak memory during one run, in bytes, its weights included."""

    bytes: int
    weights: int
    kind: str
    """What was counted: ``"resident"`` or ``"allocated on cuda:0"``."""


@dataclass(frozen=True)
class Room:
    """How large a batch should be, and what it costs; all in tokens with their padding. An engine may offer it as its attribute
    ``room``."""

    most: int
    """The most tokens per forward pass: more do not fit, or do not make it faster."""
    fixed: int = 0
    """What a forward pass costs besides its tokens: less padding than this is cheaper than another forward pass."""
    launch: int = 0
    """What a forward pass costs at least. A GPU computes while the host starts the rest of the pass, so that a pass costs the
    longer of the two times: up to this many tokens, the host's."""
    padded: bool = True
    """Whether each sequence of a batch costs as much as the longest; False: no more than its own tokens."""
    settled: bool = True
    """Whether more batches would not change the other figures much. False: the engine still measures its device."""

    def tokens(self, lengths: Sequence[int]) -> int:
        """What a batch of sequences counts, in tokens."""
        return max(lengths) * len(lengths) if self.padded else sum(lengths)

    def cost(self, tokens: int) -> int:
        """What a forward pass over ``tokens`` costs, in tokens."""
        return max(self.launch, self.fixed + tokens)


class OutOfMemory(PotError):
    """A batch did not fit into the device's memory."""


class PositionError(PotError):
    """What an engine said of one position cannot be used. Whoever knows the suite's prompts names the prompt."""

    def __init__(self, what: str, position: int, prompt: int | None = None) -> None:
        """``what``: a clause that names the engine. ``prompt``: its index in the batch that the engine was asked for."""
        super().__init__(f"{what}, at {'' if prompt is None else f'prompt {prompt} of its batch, '}position {position}")
        self.what = what
        self.position = position
        self.prompt = prompt


@dataclass(frozen=True)
class LoadedModel:
    """A model and, where it came with one, its tokenizer."""

    model: Any
    tokenizer: Any = None
    movable: bool = False
    """Whether pytest-pot chose the device, and may choose another: not for a model that a fixture or factory made."""
    close: Callable[[], None] | None = None
    """Ends what was started for the model, such as a process; using the model starts it again. None: there is nothing."""

    @classmethod
    def of(cls, value: Any) -> LoadedModel:
        """``value`` itself if it is one, a (model, tokenizer) pair taken apart, or anything else as a model."""
        if isinstance(value, cls):
            return value
        if isinstance(value, tuple) and len(value) == 2:
            return cls(*value)
        return cls(value)


class Backend(Protocol):
    """One way of running models: which specs and objects it takes, and how to load and run them.

    :mod:`pytest_pot.engines.registry` lists the backends and asks them in turn.
    """

    def loads(self, spec: str) -> bool:
        """Whether ``spec`` names a model of this kind."""

    def load(self, spec: str, role: str, config: ScoringConfig) -> LoadedModel:
        """The model that ``spec`` names, on the device and in the precision of ``config``.

        Raises:
            PotError: it cannot be loaded; the message says why and what to do.
        """

    def runs(self, model: object) -> bool:
        """Whether ``model``, loaded here or made by a fixture or factory, is run by this backend."""

    def opened(self, model: Any, role: str, config: ScoringConfig) -> AbstractContextManager[Engine]:
        """An engine for ``model``; when the context ends, the model is as it was."""

    def max_positions(self, model: Any) -> int | None:
        """The longest sequence that ``model`` takes, without opening it; None where it has no limit."""

    def device(self, model: Any) -> str | None:
        """Where ``model`` is, as ``config.device`` names it (``"cuda:0"``); None where devices mean nothing to it."""

    def pinned(self, model: Any) -> bool:
        """Whether ``model`` cannot run anywhere else, not even as a copy."""

    def weights_digest(self, model: Any) -> str | None:
        """SHA-256 over all weights of ``model``, or None where they cannot be read."""

    def content(self, model: Any) -> Mapping[str, Any] | None:
        """What identifies ``model``: equal content means equal results. None where content does not tell all of it.

        A backend may have a method ``why_no_content(model)`` beside this one, which says why it is None."""

    def files_tell_all(self, spec: str) -> bool:
        """Whether the files that ``spec`` names identify the model that :meth:`load` makes of them."""
