"""vLLM, through ``/v1/completions`` with ``prompt_logprobs``."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pytest_pot.core.config import ScoringConfig
from pytest_pot.core.errors import PotError
from pytest_pot.engines.base import PositionError
from pytest_pot.engines.distributions import UNKNOWN_VOCAB
from pytest_pot.engines.server.answers import Row
from pytest_pot.engines.server.completions import PATH, CompletionsEngine, choice_of, same_ids
from pytest_pot.engines.server.engine import ServerModel
from pytest_pot.engines.server.http import Client
from pytest_pot.engines.tokens import Tokens

__all__ = ["VllmEngine", "prompt_rows"]

_STABLE = ("id", "root", "parent", "max_model_len")
"""The fields of an entry of ``/v1/models`` that do not change while a server runs. ``created`` is the time of the request."""
_PROBE = [0, 0]
"""A prompt with one position, of ids that every vocabulary has."""
_is_number = re.compile(r"0|[1-9][0-9]*").fullmatch
_ROUND_LIMITS = (1000, 500, 200, 100, 50, 20, 10, 5, 1)
"""Limits that people set, for a server whose refusal does not tell its own."""


class VllmEngine(CompletionsEngine):
    """Asks for ``prompt_logprobs``: at each token of a prompt the server's likeliest ids, and the token that came.

    They are the log-probabilities of the model itself, whatever the temperature of the request is. Each request is one prompt:
    the server makes batches by itself of what comes side by side, and an error is about one prompt.

    Its level stays the server's own top-k also where the server tells its whole vocabulary (``--max-logprobs -1``). So the
    preset ``fastest`` is refused, which needs ids of our choice. Those take ``--enable-scale-out``, and
    :class:`~pytest_pot.engines.server.vllm_given_ids.VllmGivenIdsEngine`.
    """

    title = "vLLM"
    untouched: Mapping[str, Any] = {
        "top_p": 1.0,
        "top_k": -1,
        "min_p": 0.0,
        "repetition_penalty": 1.0,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
    }
    # min_tokens would forbid the end of text, and so change what is sampled.
    endless: Mapping[str, Any] = {"ignore_eos": True}
    asks_for_ids: Mapping[str, Any] = {"return_token_ids": True}

    def __init__(self, model: ServerModel, role: str, config: ScoringConfig) -> None:
        super().__init__(model, role, config)
        self._version = _version(self.client)
        self._max_model_len = self._entry().get("max_model_len")
        self._limits = _limits(self.client, model.name)

    @property
    def max_positions(self) -> int | None:
        # One token is generated, because vLLM refuses a request that generates none.
        return None if self._max_model_len is None else int(self._max_model_len) - 1

    @property
    def vocab_size(self) -> int:
        return self._limits.vocab_size

    @property
    def most_ids(self) -> int:
        return self._limits.most_ids

    @property
    def version(self) -> str | None:
        return self._version

    @property
    def to_tell_more(self) -> str | None:
        if self.most_ids >= self.vocab_size:
            return None
        return "restart it with --max-logprobs N, N being the ids per position to tell (-1: the whole vocabulary)"

    def identity(self) -> Mapping[str, Any]:
        entry = self._entry()
        return {**{name: entry.get(name) for name in _STABLE}, "version": _version(self.client)}

    def read(self, tokens: Tokens, k: int) -> list[Row]:
        return prompt_rows(self._asked(tokens, k), tokens, k, self.who)

    def _asked(self, tokens: Tokens, k: int) -> dict[str, Any]:
        """The choice with the ``k`` likeliest ids at each token of ``tokens``."""
        body = self.request(tokens.ids, 1, temperature=0.0, prompt_logprobs=k, return_token_ids=True)
        choice = choice_of(self.client.post(PATH, body).body, self.who)
        same_ids(tokens.ids, choice.get("prompt_token_ids"), self.who)
        return choice

    def sampled_ids(self, choice: Mapping[str, Any]) -> list[int]:
        ids = choice.get("token_ids")
        if not (isinstance(ids, list) and all(isinstance(each, int) for each in ids)):
            raise PotError(f"{self.who} ignored 'return_token_ids': it did not return the ids that it generated")
        return ids

    def generation(self, ids: Sequence[int], n_tokens: int) -> tuple[str, dict[str, Any]]:
        path, body = super().generation(ids, n_tokens)
        # Ids are counted, because a token that ends in the middle of a character has no text.
        return path, {**body, "return_token_ids": True}

    def tokens_in(self, event: Any) -> int:
        if isinstance(event, dict) and "error" not in event:
            choices = event.get("choices")
            if isinstance(choices, list):
                return sum(len(choice.get("token_ids") or ()) for choice in choices)
        raise PotError(f"{self.who} broke off its stream: {str(event)[:200]}")

    def _entry(self) -> dict[str, Any]:
        body = self.client.get("/v1/models").body
        entries = body.get("data") if isinstance(body, dict) else None
        named: dict[Any, dict[str, Any]] = {entry.get("id"): entry for entry in entries or () if isinstance(entry, dict)}
        if self.model.name in named:
            return named[self.model.name]
        names = ", ".join(map(repr, named)) or "none"
        raise PotError(f"{self.client.url} does not serve the model {self.model.name!r}; it serves {names}")


def prompt_rows(choice: Mapping[str, Any], tokens: Tokens, k: int, who: str) -> list[Row]:
    """What the ``prompt_logprobs`` of a choice say at the positions of ``tokens``.

    Each entry holds the ``k`` likeliest ids and the token that came, so it has ``k`` ids, or ``k + 1`` where that token is not
    among them.

    Raises:
        PotError: there is not one entry per token, or the first of them is not null.
        PositionError: an entry lacks the ids that were asked for.
    """
    entries = choice.get("prompt_logprobs")
    if entries is None:
        raise PotError(f"{who} ignored 'prompt_logprobs': it told no log-probabilities of the prompt. Is it vLLM?")
    if not isinstance(entries, list) or len(entries) != len(tokens.ids) or entries[0] is not None:
        n = len(entries) if isinstance(entries, list) else "no list of"
        raise PotError(
            f"{who} told {n} 'prompt_logprobs' for a prompt of {len(tokens.ids)} tokens, where one per token is expected, the "
            "first of them null"
        )
    own = entries[tokens.prompt_len :]
    try:
        return [_row(entry, target, k) for entry, target in zip(own, tokens.targets, strict=True)]
    except _Bad as error:
        position = next(j for j, entry in enumerate(own) if entry is error.entry)
        raise PositionError(f"{who} {error}", position) from None


class _Bad(Exception):
    def __init__(self, entry: Any, what: str) -> None:
        super().__init__(what)
        self.entry = entry


def _row(entry: Any, target: int, k: int) -> Row:
    """``entry`` is megabytes of JSON for a few prompts, so nothing is done id by id in Python that a list can do at once."""
    if not isinstance(entry, dict) or not all(map(_is_number, entry)):
        raise _Bad(entry, f"told no log-probabilities by id, but {str(entry)[:100]}")
    try:
        log_probs = [each["logprob"] for each in entry.values()]
    except (TypeError, LookupError):
        bad = next((key for key, each in entry.items() if not isinstance(each, dict) or "logprob" not in each), "?")
        raise _Bad(entry, f"told no log-probability of the id {bad}, but {str(entry[bad])[:100]}") from None
    ids = list(map(int, entry))
    if target not in ids:
        raise _Bad(entry, f"told no log-probability of the token that came, id {target}")
    at = ids.index(target)
    told = log_probs[at]
    if len(ids) == k + 1:
        del ids[at], log_probs[at]
    elif len(ids) != k or _rank(entry, target) > k:  # then the token that came stands for one that is missing
        raise _Bad(entry, f"told {len(ids)} ids where it was asked for the {k} likeliest and the token that came")
    return Row(ids, log_probs, told)


def _rank(entry: Mapping[str, Any], target: int) -> int:
    """Where the token that came is among the likeliest, from 1 on; 1 where the server does not tell."""
    rank = entry[str(target)].get("rank")
    return rank if isinstance(rank, int) else 1


@dataclass(frozen=True)
class _Limits:
    vocab_size: int
    most_ids: int


def _limits(client: Client, name: str) -> _Limits:
    """The vocabulary, and how many ids per position the server tells.

    The whole vocabulary is asked for. A server that may not tell it says so without running the model, with both numbers.

    Raises:
        PotError: the server tells no log-probabilities of a prompt.
    """
    body = _probe(client, name, -1)
    if (entries := _entries(body)) is not None:
        return _Limits(len(entries), len(entries))
    match = re.search(r"logprobs of (\d+).* max(?:imum)? allowed: (\d+)", str(body))
    if match is not None:
        return _Limits(int(match[1]), int(match[2]))
    for limit in _ROUND_LIMITS:
        body = _probe(client, name, limit)
        if _entries(body) is not None:
            return _Limits(UNKNOWN_VOCAB, limit)
    raise PotError(f"{client.url}{PATH} tells no log-probabilities of a prompt: {str(body)[:300]}")


def _probe(client: Client, name: str, k: int) -> Any:
    body = {"model": name, "prompt": _PROBE, "max_tokens": 1, "temperature": 0.0, "prompt_logprobs": k}
    return client.post(PATH, body, allow=(400, 422)).body


def _entries(body: Any) -> dict[str, Any] | None:
    """What the answer to a probe tells of its one position; None if it is a refusal, or tells nothing."""
    if not isinstance(body, dict) or "choices" not in body:
        return None
    try:
        entries = body["choices"][0]["prompt_logprobs"][1]
    except (LookupError, TypeError):
        return None
    return entries if isinstance(entries, dict) else None


def _version(client: Client) -> str | None:
    body = client.get("/version", allow=(404,)).body
    version = body.get("version") if isinstance(body, dict) else None
    return version if isinstance(version, str) else None
