"""What all kinds of server have in common: an engine that asks a server about prompts, side by side."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pytest_pot.core.config import ScoringConfig
from pytest_pot.core.errors import PotError
from pytest_pot.engines.base import Level, ModelDescription, PositionError, Room
from pytest_pot.engines.distributions import TopK
from pytest_pot.engines.server.address import Address
from pytest_pot.engines.server.answers import Row, top_k_of
from pytest_pot.engines.server.generation import StreamedGeneration, unread
from pytest_pot.engines.server.http import Client
from pytest_pot.engines.tokens import Tokens

__all__ = ["ServerEngine", "ServerModel"]

_TOKENS, _WHOLE_TOKENS = 512, 32
"""The most tokens of a batch per request that runs side by side; for whole vocabularies fewer, because at each token there are
megabytes."""
_USUAL_LENGTH = 64
"""Tokens of a usual prompt and its continuation."""


@dataclass(frozen=True, eq=False)
class ServerModel:
    """A model behind a URL: what a spec is loaded as."""

    address: Address
    kind: str
    """One of :data:`~pytest_pot.engines.server.address.KINDS`."""
    name: str
    """What the server calls the model, and requests name."""
    client: Client = field(repr=False)


class ServerEngine(ABC):
    """Asks a server. It tells its own likeliest ids: level :attr:`~pytest_pot.engines.base.Level.OWN_TOP_K`."""

    level = Level.OWN_TOP_K

    own_process = False
    """See :class:`~pytest_pot.engines.base.Remote`."""

    title: str
    """What the software is called: ``"vLLM"``."""

    def __init__(self, model: ServerModel, role: str, config: ScoringConfig) -> None:
        """Ask the server what it is.

        Raises:
            PotError: it does not answer, or cannot tell log-probabilities; the message says which flag would help.
        """
        self.model = model
        self.client = model.client
        self.role = role
        self.config = config
        if config.temperature != 1.0:
            raise PotError(
                f"temperature={config.temperature} cannot be compared: the {role} is a server, which tells probabilities at 1"
            )

    @property
    @abstractmethod
    def max_positions(self) -> int | None: ...

    @property
    @abstractmethod
    def vocab_size(self) -> int:
        """The size of the vocabulary, or :data:`~pytest_pot.engines.distributions.UNKNOWN_VOCAB`."""

    @property
    @abstractmethod
    def most_ids(self) -> int:
        """The most likeliest ids per position that the server tells."""

    @property
    @abstractmethod
    def version(self) -> str | None:
        """The software's version, for people."""

    @abstractmethod
    def identity(self) -> Mapping[str, Any]:
        """What identifies the model that the server runs, asked anew; equal before and after a comparison."""

    @abstractmethod
    def read(self, tokens: Tokens, k: int) -> list[Row]:
        """What the server says at each position of one prompt: its ``k`` likeliest ids.

        Raises:
            PositionError: what the server says of one position is none; its number in the prompt's positions.
            PotError: with what the server answered, and what to do.
        """

    @abstractmethod
    def sample(self, contexts: Sequence[Sequence[int]], n_tokens: int, seed: int) -> list[list[int]]:
        """See :class:`~pytest_pot.engines.base.Engine`."""

    @abstractmethod
    def generation(self, ids: Sequence[int], n_tokens: int) -> tuple[str, dict[str, Any]]:
        """Path and body of a request that streams ``n_tokens`` tokens after ``ids``, greedily and past an end of text."""

    @abstractmethod
    def tokens_in(self, event: Any) -> int:
        """How many generated tokens one event of that stream holds.

        Raises:
            PotError: the event says that something failed.
        """

    @property
    def most_at_once(self) -> int | None:
        """The most prompts that the server reads side by side; None where it takes any number of them."""
        return None

    @property
    def to_tell_more(self) -> str | None:
        """How the user makes the server tell more ids per position (``"restart it with --max-logprobs 100"``); None where it
        tells as many as are asked for."""
        return None

    @property
    def label(self) -> str:
        version = f" {self.version}" if self.version else ""
        return f"{self.title}{version} at {self.model.address.url}"

    @property
    def description(self) -> ModelDescription:
        return ModelDescription(format=f"served by {self.title}", dtype="its own precision", device=self.model.address.url)

    @property
    def room(self) -> Room:
        """Requests run side by side, and the server pads as it likes. A batch is so large that it keeps the server busy until
        its last few requests, and so small that progress shows and memory stays flat. Beside the tokens, it costs what the
        server could have done while the last request ran alone."""
        most = _TOKENS if self.config.top_k is not None else _WHOLE_TOKENS
        return Room(most=most * self.client.concurrency, fixed=_USUAL_LENGTH * self.client.concurrency, padded=False)

    def top_k(self, batch: Sequence[Tokens], k: int | None) -> TopK:
        n = min(self.vocab_size if k is None else k, self.vocab_size, self.most_ids)

        def one(index: int) -> TopK:
            try:
                return self._top_k_of_one(batch[index], n)
            except PositionError as error:
                raise PositionError(error.what, error.position, index) from None

        # The longest request last would run alone at the end.
        order = sorted(range(len(batch)), key=lambda index: -len(batch[index].ids))
        by_index = dict(zip(order, self.client.side_by_side(one, order, self.most_at_once), strict=True))
        return TopK.concatenate([by_index[index] for index in range(len(batch))])

    def _top_k_of_one(self, tokens: Tokens, n: int) -> TopK:
        """At once arrays: what JSON is parsed to takes ten times the memory."""
        rows = self.read(tokens, n)
        who = f"the {self.role}, {self.label},"
        if len(rows) != tokens.n_positions:
            raise PotError(f"{who} told {len(rows)} positions of a prompt with {tokens.n_positions} to compare")
        return top_k_of(rows, n, self.vocab_size, who=who)

    def generate(self, batch: Sequence[Tokens]) -> StreamedGeneration:
        return StreamedGeneration(self, batch)

    def unread(self, batch: Sequence[Tokens]) -> list[Tokens]:
        """See :class:`~pytest_pot.engines.base.Remote`."""
        return unread(batch)
