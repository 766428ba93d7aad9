"""SGLang, through its own ``/generate``.

Written from the source of SGLang 0.5.23, and not seen against a live server: tests run it against a local server that answers
in the shapes of that source.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from pytest_pot.core.config import ScoringConfig
from pytest_pot.core.errors import PotError
from pytest_pot.engines.base import Level, PositionError
from pytest_pot.engines.distributions import UNKNOWN_VOCAB, Ints, TopK
from pytest_pot.engines.server.answers import Row
from pytest_pot.engines.server.completions import seed_of
from pytest_pot.engines.server.engine import ServerEngine, ServerModel
from pytest_pot.engines.server.given_ids import GivenRows, read_at
from pytest_pot.engines.tokens import Tokens

__all__ = ["SglangEngine"]

_PATH = "/generate"
_STABLE = ("model_path", "served_model_name", "weight_version", "load_format")
"""The fields of ``/model_info`` that are the same as long as the weights are."""
_MOST_IDS_PER_REQUEST = 4096
"""The server writes about 35 bytes per id and position: 5 MB for 32 positions."""
_OUTSIDE = 2**31 - 1
"""An id that no vocabulary has."""


class SglangEngine(ServerEngine):
    """Asks for the log-probabilities of ids of our choice: ``token_ids_logprob``, one list for all positions of a request.

    A prompt's list is the union of the ids at its positions. ``logprob_start_len`` is the index of the first token that has an
    entry in the answer. That token's entry is null, and each other is about the token as predicted from all before it.

    Sampled continuations are repeatable only if the server runs with ``--enable-deterministic-inference``.
    """

    level = Level.GIVEN_IDS
    title = "SGLang"

    def __init__(self, model: ServerModel, role: str, config: ScoringConfig) -> None:
        super().__init__(model, role, config)
        self._info: dict[str, Any] = {}
        self._info = self._server_info()
        self._max_positions = self._longest()
        self._vocab_size = self._asked_vocab_size()
        self._streamed: dict[str, int] = {}
        """By the id of a request that streams, the tokens that have come."""

    @property
    def max_positions(self) -> int | None:
        return self._max_positions

    @property
    def vocab_size(self) -> int:
        return self._vocab_size

    @property
    def most_ids(self) -> int:
        return self._vocab_size

    @property
    def version(self) -> str | None:
        version = self._info.get("version")
        return version if isinstance(version, str) else None

    @property
    def who(self) -> str:
        """The subject of a message's sentence."""
        return f"the {self.role}, {self.label},"

    def identity(self) -> Mapping[str, Any]:
        info = self._first_of("/model_info", "/get_model_info")
        return {**{name: info.get(name) for name in _STABLE}, "version": self._server_info().get("version")}

    def top_k(self, batch: Sequence[Tokens], k: int | None) -> TopK:
        return self.at(batch, self.vocab_size) if k is None or k >= self.vocab_size else super().top_k(batch, k)

    def read(self, tokens: Tokens, k: int) -> list[Row]:
        told = self._told(tokens, k)
        return [
            Row([entry[1] for entry in top], [entry[0] for entry in top], target[0])
            for top, target in zip(told["input_top_logprobs"], told["input_token_logprobs"], strict=True)
        ]

    def at(self, batch: Sequence[Tokens], ids: Ints | int) -> TopK:
        """See :class:`~pytest_pot.engines.base.GivenIds`."""
        if not isinstance(ids, int):
            return read_at(self, batch, ids, self._rows_at)
        self._need_vocab_size()
        m, n = min(ids, self.vocab_size), sum(tokens.n_positions for tokens in batch)
        return replace(read_at(self, batch, np.broadcast_to(np.arange(m), (n, m)), self._rows_at), ids=None)

    def sample(self, contexts: Sequence[Sequence[int]], n_tokens: int, seed: int) -> list[list[int]]:
        return self.client.side_by_side(lambda context: self._sampled(context, n_tokens, seed), contexts)

    def generation(self, ids: Sequence[int], n_tokens: int) -> tuple[str, dict[str, Any]]:
        how = {"max_new_tokens": n_tokens, "temperature": 0.0, "ignore_eos": True}
        return _PATH, {"input_ids": list(ids), "sampling_params": how, "stream": True}

    def tokens_in(self, event: Any) -> int:
        # An event tells how many tokens came up to it, whether it brings all of their ids or only the last.
        info = event.get("meta_info") if isinstance(event, dict) else None
        if not isinstance(info, dict) or not isinstance(info.get("completion_tokens"), int):
            raise PotError(f"{self.who} broke off its stream: {str(event)[:200]}")
        request, count = str(info.get("id")), info["completion_tokens"]
        new: int = count - self._streamed.get(request, 0)
        self._streamed[request] = count
        if info.get("finish_reason") is not None:
            del self._streamed[request]
        return new

    def _rows_at(self, tokens: Tokens, ids: Ints) -> GivenRows:
        """What the server says of one prompt at ``ids`` [n_positions, m]."""
        union, inverse = np.unique(ids, return_inverse=True)
        columns = [[int(column) for column in row] for row in inverse.reshape(ids.shape)]
        numbers: list[list[Any]] = [[] for _ in range(tokens.n_positions)]
        first: dict[str, list[Any]] = {}
        for start in range(0, len(union), _MOST_IDS_PER_REQUEST):
            piece = union[start : start + _MOST_IDS_PER_REQUEST].tolist()
            told = self._told(tokens, 1, piece)
            first = first or told
            for position, entries in enumerate(told["input_token_ids_logprobs"]):
                if [entry[1] for entry in entries] != piece:
                    raise PositionError(f"{self.who} told other ids than it was asked for", position)
                numbers[position] += [entry[0] for entry in entries]
        return GivenRows(
            [[row[column] for column in own] for row, own in zip(numbers, columns, strict=True)],
            [entry[0] for entry in first["input_token_logprobs"]],
            [top[0][1] for top in first["input_top_logprobs"]],
            [top[0][0] for top in first["input_top_logprobs"]],
        )

    def _told(self, tokens: Tokens, k: int, ids: Sequence[int] | None = None) -> dict[str, list[Any]]:
        """By the name of a field, its entry at each position of ``tokens``.

        Raises:
            PotError: a field is missing, or is not of the shape that SGLang's source gives it; or the server read other ids.
        """
        body = {
            "input_ids": list(tokens.ids),
            "sampling_params": {"max_new_tokens": 0, "temperature": 1.0},
            "return_logprob": True,
            "logprob_start_len": tokens.prompt_len - 1,
            "top_logprobs_num": k,
            "return_text_in_logprobs": False,
            **({} if ids is None else {"token_ids_logprob": list(ids)}),
        }
        answer = self.client.post(_PATH, body).body
        info = answer.get("meta_info") if isinstance(answer, dict) else None
        if not isinstance(info, dict):
            raise PotError(f"{self.who} answered {_PATH} without 'meta_info': {str(answer)[:200]}. Is it SGLang?")
        names = ["input_token_logprobs", "input_top_logprobs"] + ([] if ids is None else ["input_token_ids_logprobs"])
        told = {name: self._entries(info, name, tokens) for name in names}
        self._check_prompt(info, tokens)
        return told

    def _entries(self, info: Mapping[str, Any], name: str, tokens: Tokens) -> list[Any]:
        entries = info.get(name)
        if not isinstance(entries, list):
            raise PotError(f"{self.who} did not tell {name!r}, although it was asked for log-probabilities")
        if len(entries) != tokens.n_positions + 1:
            raise PotError(
                f"{self.who} told {len(entries)} {name!r} where {tokens.n_positions + 1} were asked for: one for each token "
                "of the continuation, and a null for the token before them"
            )
        first = entries[0][0] if isinstance(entries[0], list) and entries[0] else entries[0]
        if first is not None:
            raise PotError(f"{self.who} told {str(entries[0])[:100]} as the first of {name!r}, where a null is right")
        for position, entry in enumerate(entries[1:]):
            parts = [entry] if name == "input_token_logprobs" else entry
            if not (isinstance(parts, list) and parts and all(isinstance(part, list) and len(part) >= 2 for part in parts)):
                raise PositionError(f"{self.who} told {str(entry)[:100]} in {name!r}, no log-probabilities", position)
        return entries[1:]

    def _check_prompt(self, info: Mapping[str, Any], tokens: Tokens) -> None:
        """Compare what the server read with ``tokens``: the number of all ids, and the ids of the continuation."""
        if info.get("prompt_tokens") != len(tokens.ids):
            raise PotError(
                f"{self.who} read {info.get('prompt_tokens')} tokens where {len(tokens.ids)} were sent: it put something in "
                "front, or cut the prompt"
            )
        came = [entry[1] for entry in info["input_token_logprobs"][1:]]
        # SGLang writes 0 in place of the last id of the vocabulary, and of ids after it.
        sent = [0 if each >= self.vocab_size - 1 else each for each in tokens.targets]
        for position, (one, other) in enumerate(zip(sent, came, strict=True)):
            if one != other:
                raise PositionError(f"{self.who} read id {other} where {one} was sent", position)

    def _sampled(self, context: Sequence[int], n_tokens: int, seed: int) -> list[int]:
        # Everything is said: the server may prefer other settings for what is left open.
        how = {
            "max_new_tokens": n_tokens,
            "temperature": 1.0,
            "top_p": 1.0,
            "top_k": -1,
            "min_p": 0.0,
            "repetition_penalty": 1.0,
            "presence_penalty": 0.0,
            "frequency_penalty": 0.0,
            "ignore_eos": True,
            "sampling_seed": seed_of(context, seed),
        }
        body = {"input_ids": list(context), "sampling_params": how, "return_logprob": True, "logprob_start_len": -1}
        answer = self.client.post(_PATH, body).body
        try:
            ids = [entry[1] for entry in answer["meta_info"]["output_token_logprobs"]]
        except (LookupError, TypeError):
            raise PotError(f"{self.who} did not tell what it sampled: {str(answer)[:200]}") from None
        if len(ids) != n_tokens or not all(type(each) is int for each in ids):
            raise PotError(f"{self.who} sampled {len(ids)} tokens where {n_tokens} were asked for")
        return ids

    def _longest(self) -> int | None:
        """The longest prompt that the server takes."""
        limits = [self._info.get("max_req_input_len"), self._entry().get("max_model_len")]
        known = [limit - 1 for limit in limits if isinstance(limit, int)]  # both are refused themselves
        return min(known, default=None)

    def _asked_vocab_size(self) -> int:
        """The size of the vocabulary, which only an error tells: that of a bias for an id outside it. No model runs."""
        how = {"max_new_tokens": 0, "logit_bias": {str(_OUTSIDE): 1.0}}
        answer = self.client.post(_PATH, {"input_ids": [0], "sampling_params": how}, allow=(400, 422, 500)).body
        match = re.search(r"logit_bias must has? keys in \[0, (\d+)\]", str(answer))
        return UNKNOWN_VOCAB if match is None else int(match[1]) + 1

    def _need_vocab_size(self) -> None:
        if self.vocab_size == UNKNOWN_VOCAB:
            raise PotError(
                f"{self.who} does not tell the size of its vocabulary, so all of it cannot be asked for: set top_k, such as "
                "the preset 'balanced' does"
            )

    def _entry(self) -> dict[str, Any]:
        body = self.client.get("/v1/models", allow=(404,)).body
        entries = body.get("data") if isinstance(body, dict) else None
        named = [each for each in entries or () if isinstance(each, dict) and each.get("id") == self.model.name]
        return named[0] if named else {}

    def _server_info(self) -> dict[str, Any]:
        return self._first_of("/server_info", "/get_server_info")

    def _first_of(self, *paths: str) -> dict[str, Any]:
        """What the first of ``paths`` that the server has answers."""
        for path in paths[:-1]:
            answer = self.client.get(path, allow=(404,))
            if answer.status != 404:
                break
        else:
            answer = self.client.get(paths[-1])
        if not isinstance(answer.body, dict):
            raise PotError(f"{self.who} told nothing about itself: {str(answer.body)[:200]}")
        return answer.body
