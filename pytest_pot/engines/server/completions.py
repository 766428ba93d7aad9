"""What servers with OpenAI's ``/v1/completions`` have in common: ids in, sampled ids out, and streams of greedy tokens."""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

from pytest_pot.core.errors import PotError
from pytest_pot.engines.server.engine import ServerEngine

__all__ = ["PATH", "CompletionsEngine", "choice_of", "same_ids", "seed_of"]

PATH = "/v1/completions"


class CompletionsEngine(ServerEngine):
    """An engine whose server takes a list of ids as ``prompt`` of ``/v1/completions``."""

    untouched: Mapping[str, Any] = {"top_p": 1.0}
    """Beside temperature 1, what makes the server sample from the model's own distribution. Some servers take what is not sent
    from the model's ``generation_config.json``, such as a top-p of 0.9 or a repetition penalty."""
    endless: Mapping[str, Any] = {}
    """What makes the server go on after an end of text."""
    asks_for_ids: Mapping[str, Any] = {}
    """What makes the server return the ids of the tokens that it generated."""

    @property
    def who(self) -> str:
        """The subject of a message's sentence."""
        return f"the {self.role}, {self.label},"

    def sample(self, contexts: Sequence[Sequence[int]], n_tokens: int, seed: int) -> list[list[int]]:
        return self.client.side_by_side(lambda context: self._sampled(context, n_tokens, seed), contexts)

    def generation(self, ids: Sequence[int], n_tokens: int) -> tuple[str, dict[str, Any]]:
        return PATH, self.request(ids, n_tokens, temperature=0.0, stream=True, **self.endless)

    def request(self, ids: Sequence[int], max_tokens: int, **others: Any) -> dict[str, Any]:
        """The body of a request that continues ``ids`` by ``max_tokens`` tokens."""
        return {"model": self.model.name, "prompt": list(ids), "max_tokens": max_tokens, **others}

    @abstractmethod
    def sampled_ids(self, choice: Mapping[str, Any]) -> list[int]:
        """The ids of the tokens that the server generated.

        Raises:
            PotError: the answer does not hold them.
        """

    def _sampled(self, context: Sequence[int], n_tokens: int, seed: int) -> list[int]:
        how = {"temperature": 1.0, "seed": seed_of(context, seed), **self.untouched, **self.endless, **self.asks_for_ids}
        choice = choice_of(self.client.post(PATH, self.request(context, n_tokens, **how)).body, self.who)
        ids = self.sampled_ids(choice)
        if len(ids) != n_tokens:
            raise PotError(
                f"{self.who} continued a prompt by {len(ids)} tokens where {n_tokens} were asked for (finished by "
                f"{choice.get('finish_reason')!r}): give prompts with a continuation of their own, "
                "Prompt(text, continuation)"
            )
        return ids


def choice_of(body: Any, who: str) -> dict[str, Any]:
    """The only choice of an answer.

    Raises:
        PotError: there is none, or there are several.
    """
    choices = body.get("choices") if isinstance(body, dict) else None
    if not isinstance(choices, list) or len(choices) != 1 or not isinstance(choices[0], dict):
        raise PotError(f"{who} answered {PATH} without the one entry of 'choices' that was asked for: {str(body)[:200]}")
    return choices[0]


def same_ids(sent: Sequence[int], came: Any, who: str) -> None:
    """Check that the prompt's ids that a server returned are those that it was sent.

    Raises:
        PotError: they are not, with both at the first difference.
    """
    if not isinstance(came, list):
        raise PotError(f"{who} did not return the ids of the prompt that it was sent, so nobody knows what it read")
    if list(sent) == came:
        return
    length = min(len(sent), len(came))
    at = next((i for i in range(length) if sent[i] != came[i]), length)
    raise PotError(
        f"{who} read other token ids than it was sent: at index {at} {_excerpt(came, at)} in place of {_excerpt(sent, at)} "
        f"({len(came)} ids in place of {len(sent)}). A token that it puts in front, such as a BOS, or another tokenizer's ids "
        "make another prompt"
    )


def seed_of(context: Sequence[int], seed: int) -> int:
    """A seed for one context: the same wherever it stands in a list, and another one for other contexts."""
    digest = hashlib.sha256(f"{seed}:{list(context)}".encode()).digest()
    return int.from_bytes(digest[:4], "big") >> 1  # the most that every server takes are 31 bits


def _excerpt(ids: Sequence[int], at: int) -> str:
    return f"{list(ids[at : at + 4])}"
