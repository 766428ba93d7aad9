"""llama-server, the server of llama.cpp: one request per position, because it tells nothing of a prompt's inner tokens.

The sampled token's log-probability comes with every answer, whatever its rank. So a bias on the logits makes the server sample
the continuation's own token. Log-probabilities are taken from the logits before that bias, and before any sampler.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from queue import SimpleQueue
from typing import Any

from pytest_pot.core.config import ScoringConfig
from pytest_pot.core.errors import PotError
from pytest_pot.engines.base import Level, ModelDescription, PositionError
from pytest_pot.engines.server.answers import Row
from pytest_pot.engines.server.engine import ServerEngine, ServerModel
from pytest_pot.engines.server.llama_answers import (
    Facts,
    UnusableAnswer,
    facts_of,
    generated,
    likeliest,
    log_prob_of,
    normalised,
    parse,
)
from pytest_pot.engines.tokens import Tokens

__all__ = ["LlamaServerEngine"]

_FORCING = 1000.0
"""A bias that no logit outweighs."""
_FIELDS = ("completion_probabilities", "tokens", "tokens_evaluated")
"""The fields of an answer that are read; the others are three times as long."""
_UNCHANGED = {
    "samplers": ["temperature"],
    "mirostat": 0,
    "grammar": "",
    "post_sampling_probs": False,
    "backend_sampling": False,
}
"""Samplers that the server was started with would keep a forced token from coming, or change what is told."""
_STEP = 4096
"""Ids to ask for where the continuation's token is not among the likeliest: the whole vocabulary is megabytes of JSON."""


@dataclass(frozen=True)
class Question:
    """What the server is asked about one position."""

    ids: Sequence[int]
    """All tokens before it."""
    n: int
    """How many likeliest ids it is to tell."""
    slot: int
    cached: bool
    """Whether the tokens before the last one are in the slot already."""


class LlamaServerEngine(ServerEngine):
    """Asks a llama-server. A prompt's requests go to one of its slots, one after the other, so that each finds the tokens
    before its last one in that slot's cache."""

    title = "llama.cpp"
    kernels = "llama.cpp's own kernels"
    """What the weights are multiplied by, for people: no dtype tells it."""
    level = Level.LAST_POSITION

    def __init__(self, model: ServerModel, role: str, config: ScoringConfig) -> None:
        super().__init__(model, role, config)
        self._facts = self._ask_facts()
        self._slots: SimpleQueue[int] = SimpleQueue()
        for slot in range(self._facts.n_slots):
            self._slots.put(slot)
        self._silent: set[int] = set()  # tokens that come without log-probabilities: parts of a character
        self._streams = threading.local()
        self._plain = self._plain_token()
        self._check_forcing()

    @property
    def max_positions(self) -> int | None:
        return self._facts.n_ctx

    @property
    def vocab_size(self) -> int:
        return self._facts.vocab_size

    @property
    def most_ids(self) -> int:
        return self._facts.vocab_size

    @property
    def most_at_once(self) -> int | None:
        return self._facts.n_slots

    @property
    def version(self) -> str | None:
        return self._facts.build

    @property
    def description(self) -> ModelDescription:
        kind = f" {self._facts.file_type}" if self._facts.file_type else ""
        return ModelDescription(f"GGUF{kind}", self.kernels, self.model.address.url)

    def identity(self) -> Mapping[str, Any]:
        return self._ask_facts().identity

    def read(self, tokens: Tokens, k: int) -> list[Row]:
        # llama.cpp sums probabilities in float32, in an order that depends on how many of them it tells. So both models are
        # asked for as many: a candidate for twice as many as the reference.
        n = min(max(k, 2 * (self.config.top_k or k)), self.vocab_size)
        slot = self._slots.get()
        try:
            rows = [self._row(tokens, j, n, slot) for j in range(tokens.n_positions)]
        finally:
            self._slots.put(slot)
        return [likeliest(normalised(row, whole=n == self.vocab_size), k) for row in rows]

    def _row(self, tokens: Tokens, j: int, n: int, slot: int) -> Row:
        """Position ``j``. Its first request reads the whole prompt anew: tokens that a slot still has from another prompt were
        computed in other batches, and would make the results depend on what was asked before."""
        ids, target = tokens.ids[: tokens.prompt_len + j], tokens.targets[j]
        question = Question(ids, n, slot, cached=j > 0)  # asked twice, a position is computed twice in the same way
        try:
            if target not in self._silent:
                row = self._ask(question, target)
                if row is not None:
                    return row
                self._silent.add(target)
            return self._with_plain_token(question, target)
        except UnusableAnswer as error:
            raise PositionError(f"the {self.role}, {self.label}, {error}", j) from None

    def _with_plain_token(self, question: Question, target: int) -> Row:
        """The row with another token forced, and the log-probability of ``target`` looked up among the likeliest."""
        if self._plain is None:
            raise UnusableAnswer(f"tells no log-probability of the token {target}, and has no token for the text 'a'")
        first = None
        for n in sorted({question.n, max(question.n, min(_STEP, self.vocab_size)), self.vocab_size}):
            row = self._ask(replace(question, n=n), self._plain)
            if row is None:
                raise UnusableAnswer(f"answered without log-probabilities (the token {self._plain} was forced)")
            first = first or row
            found = log_prob_of(target, row, first)
            if found is not None:
                return replace(first, target=found)
        raise UnusableAnswer(f"does not tell the log-probability of the continuation's token {target}")

    def _ask(self, question: Question, forced: int) -> Row | None:
        """What the server says, with the log-probability of ``forced`` as the target's; None where it tells none
        because ``forced`` is a part of a character.

        Raises:
            UnusableAnswer: the answer is no evidence.
        """
        answer = self.client.post(
            "/completion",
            {
                "prompt": list(question.ids),
                "n_predict": 1,
                "n_probs": question.n,
                "temperature": 0,
                "logit_bias": [[forced, _FORCING]],
                "ignore_eos": False,
                "cache_prompt": question.cached,
                "id_slot": question.slot,
                "return_tokens": True,
                "response_fields": list(_FIELDS),
                **_UNCHANGED,
                **self._name,
            },
        )
        return parse(answer.body, question.ids, forced, question.n)

    @property
    def _name(self) -> dict[str, str]:
        """A server of several models has to be told which one is meant."""
        return {} if self.model.address.model is None else {"model": self.model.name}

    def sample(self, contexts: Sequence[Sequence[int]], n_tokens: int, seed: int) -> list[list[int]]:
        def one(context: Sequence[int]) -> list[int]:
            body = {
                "prompt": list(context),
                "n_predict": n_tokens,
                "temperature": 1.0,
                "seed": seed % (2**32 - 1),  # the largest stands for a random one
                "ignore_eos": True,
                "cache_prompt": False,
                "return_tokens": True,
                "response_fields": ["tokens", "tokens_evaluated"],
                **_UNCHANGED,
                **self._name,
            }
            try:
                return generated(self.client.post("/completion", body).body, context, n_tokens)
            except UnusableAnswer as error:
                raise PotError(f"the {self.role}, {self.label}, {error}, while it continued a prompt") from None

        return self.client.side_by_side(one, contexts, self.most_at_once)

    def generation(self, ids: Sequence[int], n_tokens: int) -> tuple[str, dict[str, Any]]:
        self._streams.seen = 0
        return "/completion", {
            "prompt": list(ids),
            "n_predict": n_tokens,
            "stream": True,
            "temperature": 0,
            "ignore_eos": True,
            "cache_prompt": False,
            "return_tokens": True,
            **_UNCHANGED,
            **self._name,
        }

    def tokens_in(self, event: Any) -> int:
        """See :meth:`ServerEngine.tokens_in`. The parts of a character come with its last one, in one event."""
        if not isinstance(event, dict) or not isinstance(event.get("tokens_predicted"), int):
            error = event.get("error") if isinstance(event, dict) else event
            raise PotError(f"{self.label} stopped while it generated: {str(error)[:300]}")
        seen = getattr(self._streams, "seen", 0)
        total: int = event["tokens_predicted"]
        self._streams.seen = 0 if event.get("stop") else total
        return total - seen if total >= seen else total

    def _ask_facts(self) -> Facts:
        models, props = self.client.get("/v1/models").body, self.client.get("/props").body
        adapters = self.client.get("/lora-adapters", allow=(404, 501))
        try:
            return facts_of(models, props, self.model.name, adapters.body if adapters.status == 200 else [])
        except UnusableAnswer as error:
            raise PotError(f"the {self.role}'s server, {self.model.address.url}, {error}") from None

    def _plain_token(self) -> int | None:
        """A token that is a whole character; None where the server's tokenizer has no such one."""
        answer = self.client.post("/tokenize", {"content": "a", "add_special": False, **self._name}, allow=(400, 404, 500, 501))
        with suppress(LookupError, TypeError):
            return int(answer.body["tokens"][-1])
        return None

    def _check_forcing(self) -> None:
        """Refuse a server whose log-probabilities change with the bias: they would say what we made them say."""
        if self._plain is None:
            return
        slot = self._slots.get()
        try:
            question = Question([self._plain], 2, slot, cached=False)
            first, second = (self._ask(question, forced) for forced in (self._plain, 0))
        except UnusableAnswer as error:
            raise PotError(f"the {self.role}, {self.label}, {error}") from None
        finally:
            self._slots.put(slot)
        if first is None:
            raise PotError(
                f"the {self.role}, {self.label}, answers without log-probabilities (n_probs is ignored): it cannot be compared"
            )
        if second is not None and (first.ids[0] != second.ids[0] or abs(first.log_probs[0] - second.log_probs[0]) > 0.1):
            raise PotError(
                f"the {self.role}, {self.label}, tells log-probabilities that a bias on the logits changes: start it without "
                "samplers of its own (--backend-sampling), or use a newer llama.cpp"
            )
