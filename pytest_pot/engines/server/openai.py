"""Other servers that speak OpenAI's protocol: ``/v1/completions`` with ``echo`` and ``logprobs``.

Few of them tell log-probabilities of a prompt by id. Whoever does not is refused with what is missing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

from pytest_pot.core.config import ScoringConfig
from pytest_pot.core.errors import PotError
from pytest_pot.engines.base import PositionError
from pytest_pot.engines.distributions import UNKNOWN_VOCAB
from pytest_pot.engines.server.answers import Row
from pytest_pot.engines.server.completions import PATH, CompletionsEngine, choice_of, same_ids
from pytest_pot.engines.server.engine import ServerModel
from pytest_pot.engines.tokens import Tokens

__all__ = ["OpenAiEngine", "echoed_rows"]

_STABLE = ("id", "owned_by", "root", "parent", "max_model_len")
_PROBE = (0, 0)
"""A prompt with one position, of ids that every vocabulary has."""
_LIMITS = (1000, 500, 200, 100, 50, 20, 10, 5, 1)
"""How many ids per position a server is asked for, until it says yes."""
_INSTEAD = (
    "Serve the model with vLLM (vllm+http://…), SGLang (sglang+http://…) or llama-server (llamacpp+http://…), or compare it in "
    "this process"
)


class OpenAiEngine(CompletionsEngine):
    """Asks for the prompt to be echoed with ``logprobs``, and its tokens named by their ids.

    ``return_tokens_as_token_ids`` makes the names ``"token_id:123"``. Without it names are texts, and a text is not an id: two
    tokens may have the same one, and one that is a part of a character has none.
    """

    title = "OpenAI-compatible server"
    asks_for_ids: Mapping[str, Any] = {"logprobs": 1, "return_tokens_as_token_ids": True}

    def __init__(self, model: ServerModel, role: str, config: ScoringConfig) -> None:
        super().__init__(model, role, config)
        self._max_tokens = 0
        """How many tokens a request generates: some servers refuse to generate none."""

    @property
    def max_positions(self) -> int | None:
        limit = self._entry().get("max_model_len")
        return limit - 1 if isinstance(limit, int) else None  # room for a token to generate

    @property
    def vocab_size(self) -> int:
        return UNKNOWN_VOCAB

    @cached_property
    def most_ids(self) -> int:
        # Asked when it is needed: a server that tells no log-probabilities can still be timed.
        return self._asked_most_ids()

    @property
    def version(self) -> str | None:
        return None

    @property
    def to_tell_more(self) -> str | None:
        return f"raise the limit of its 'logprobs', {self.most_ids} ids per position, if it has a flag for that"

    def identity(self) -> Mapping[str, Any]:
        entry = self._entry()
        return {name: entry.get(name) for name in _STABLE}

    def read(self, tokens: Tokens, k: int) -> list[Row]:
        body = self.client.post(PATH, self._asking(tokens.ids, k)).body
        return echoed_rows(choice_of(body, self.who), tokens, k, self.who)

    def sampled_ids(self, choice: Mapping[str, Any]) -> list[int]:
        logprobs = choice.get("logprobs")
        names = logprobs.get("tokens") if isinstance(logprobs, dict) else None
        return [_id_of(name, self.who) for name in names or ()]

    def generation(self, ids: Sequence[int], n_tokens: int) -> tuple[str, dict[str, Any]]:
        path, body = super().generation(ids, n_tokens)
        return path, {**body, "logprobs": 1}  # with a list of its tokens, an event cannot hide how many it brings

    def tokens_in(self, event: Any) -> int:
        if isinstance(event, dict) and "error" not in event and isinstance(event.get("choices"), list):
            return sum(_n_tokens(choice) for choice in event["choices"])
        raise PotError(f"{self.who} broke off its stream: {str(event)[:200]}")

    def _asking(self, ids: Sequence[int], k: int) -> dict[str, Any]:
        how = {"temperature": 0.0, "echo": True, "logprobs": k, "return_tokens_as_token_ids": True}
        return self.request(ids, self._max_tokens, **how)

    def _asked_most_ids(self) -> int:
        """How many ids per position the server tells.

        Raises:
            PotError: it cannot tell what a comparison needs; the message says what is missing.
        """
        refusals = []
        for self._max_tokens in (0, 1):
            for limit in _LIMITS:
                answer = self.client.post(PATH, self._asking(_PROBE, limit), allow=(400, 404, 405, 422))
                if answer.status < 300:
                    tokens = Tokens(_PROBE, 1)
                    entries = _entries(choice_of(answer.body, self.who), tokens, self.who)
                    return _told(entries[0], tokens.targets[0], limit)
                refusals.append(f"{answer.status}: {str(answer.body)[:300]}")
        raise PotError(
            f"{self.who} refuses to echo a prompt of token ids with its log-probabilities ({refusals[-1]}). "
            f"This server cannot be compared. {_INSTEAD}"
        )

    def _entry(self) -> dict[str, Any]:
        body = self.client.get("/v1/models").body
        entries = body.get("data") if isinstance(body, dict) else None
        named = [each for each in entries or () if isinstance(each, dict) and each.get("id") == self.model.name]
        return named[0] if named else {}


def echoed_rows(choice: Mapping[str, Any], tokens: Tokens, k: int, who: str) -> list[Row]:
    """What the echoed prompt of a choice says at the positions of ``tokens``.

    Raises:
        PotError: the answer has no such prompt, or names its tokens by text.
        PositionError: a position lacks the ids that were asked for.
    """
    entries = _entries(choice, tokens, who)
    rows = []
    for position, (entry, target) in enumerate(zip(entries, tokens.targets, strict=True)):
        if target not in entry:
            raise PositionError(f"{who} told no log-probability of the token that came, id {target}", position)
        ids = sorted(entry, key=lambda each: -entry[each] if isinstance(entry[each], int | float) else 0)
        if len(ids) == k + 1:
            ids.remove(target)
        rows.append(Row(ids, [entry[each] for each in ids], entry[target]))
    return rows


def _entries(choice: Mapping[str, Any], tokens: Tokens, who: str) -> list[dict[int, Any]]:
    """By id, the log-probabilities at each position of ``tokens``."""
    logprobs = choice.get("logprobs")
    names = logprobs.get("tokens") if isinstance(logprobs, dict) else None
    top = logprobs.get("top_logprobs") if isinstance(logprobs, dict) else None
    n = len(tokens.ids)
    if not isinstance(names, list) or not isinstance(top, list) or len(names) < n:
        raise PotError(
            f"{who} ignored 'echo' or 'logprobs': its answer holds no log-probabilities of the prompt, so this server "
            f"cannot be compared. {_INSTEAD}"
        )
    same_ids(tokens.ids, [_id_of(name, who) for name in names[:n]], who)
    if len(top) != len(names) or top[0] is not None:
        raise PotError(
            f"{who} told {len(top)} 'top_logprobs' for {len(names)} tokens, where one for each, the first null, is right"
        )
    entries = []
    for position, entry in enumerate(top[tokens.prompt_len : n]):
        if not isinstance(entry, dict):
            raise PositionError(f"{who} told no log-probabilities", position)
        entries.append({_id_of(name, who): number for name, number in entry.items()})
    return entries


def _told(entry: Mapping[int, Any], target: int, asked: int) -> int:
    """How many likeliest ids a position tells that was asked for ``asked``: fewer where the server has a limit of its own."""
    if len(entry) >= asked:
        return asked
    # The token that came is there as one more if it is the least likely.
    extra = min(entry, key=lambda each: entry[each] if isinstance(entry[each], int | float) else 0.0) == target
    return max(len(entry) - extra, 1)


def _id_of(name: Any, who: str) -> int:
    match = re.fullmatch(r"token_id:(\d+)", name) if isinstance(name, str) else None
    if match is None:
        raise PotError(
            f"{who} names tokens by their text ({str(name)[:40]!r}), not by their id: two tokens may have the same text, so "
            f"this server cannot be compared. vLLM names ids with --return-tokens-as-token-ids. {_INSTEAD}"
        )
    return int(match[1])


def _n_tokens(choice: Any) -> int:
    logprobs = choice.get("logprobs") if isinstance(choice, dict) else None
    names = logprobs.get("tokens") if isinstance(logprobs, dict) else None
    if isinstance(names, list):
        return len(names)
    return 1 if isinstance(choice, dict) and choice.get("text") else 0
