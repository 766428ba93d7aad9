"""A right engine in its plainest form, and engines that each make one mistake."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import nn

from pytest_pot.core.errors import PotError
from pytest_pot.engines.distributions import Floats, Ints, TopK
from pytest_pot.engines.tokens import Tokens
from pytest_pot.testing import EngineProblems, check_engine

BOS = 1
PAD = 0


class OwnTopK:
    """A right engine that tells its own likeliest ids only."""

    max_positions: Any = 128
    label: Any = "plain torch on cpu"

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.calls = 0

    def top_k(self, batch: Sequence[Tokens], k: int | None) -> TopK:
        logits = self.rows(batch)
        if k is None or k >= logits.shape[1]:
            return self.reduced(batch, logits, None, logits.shape[1])
        return self.reduced(batch, logits, np.argsort(-logits, axis=1, kind="stable")[:, :k], k)

    def sample(self, contexts: Sequence[Sequence[int]], n_tokens: int, seed: int) -> list[list[int]]:
        return [self.continued(list(context), n_tokens, self.generator(context, seed)) for context in contexts]

    def generator(self, context: Sequence[int], seed: int) -> np.random.Generator:
        digest = hashlib.sha256(f"{seed}:{list(context)}".encode()).digest()
        return np.random.default_rng(int.from_bytes(digest[:8], "big"))

    def continued(self, ids: list[int], n_tokens: int, generator: np.random.Generator) -> list[int]:
        start = len(ids)
        for _ in range(n_tokens):
            probabilities = np.exp(self.normalised(self.forward([ids])[0][-1:])[0])
            ids.append(int(generator.choice(len(probabilities), p=probabilities / probabilities.sum())))
        return ids[start:]

    def rows(self, batch: Sequence[Tokens]) -> Floats:
        """[n, vocab]: the logits that predict each position."""
        self.calls += 1
        sequences = self.forward([self.read(tokens) for tokens in batch])
        parts = [self.chosen(logits, tokens) for logits, tokens in zip(sequences, batch, strict=True)]
        return np.concatenate(parts)

    def read(self, tokens: Tokens) -> list[int]:
        """The ids that the model reads."""
        return list(tokens.ids)

    def chosen(self, logits: Floats, tokens: Tokens) -> Floats:
        """The rows of ``logits`` [length, vocab] that predict the continuation."""
        return logits[tokens.prompt_len - 1 : -1]

    def forward(self, sequences: Sequence[Sequence[int]]) -> list[Floats]:
        """The logits of each sequence, read alone."""
        with torch.no_grad():
            return [self.model(torch.tensor([list(ids)])).logits[0].double().numpy() for ids in sequences]

    def normalised(self, logits: Floats) -> Floats:
        shifted = logits - logits.max(axis=1, keepdims=True)
        rows: Floats = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
        return rows

    def reduced(self, batch: Sequence[Tokens], logits: Floats, ids: Ints | None, m: int) -> TopK:
        """The cells at ``ids``, or at the first ``m``."""
        log_probs, n = self.normalised(logits), np.arange(len(logits))
        targets = list(chain.from_iterable(tokens.targets for tokens in batch))
        columns = np.broadcast_to(np.arange(m), (len(logits), m)) if ids is None else ids
        tail = None
        if m < logits.shape[1]:
            rest = np.exp(log_probs)
            np.put_along_axis(rest, columns, 0.0, axis=1)
            tail = np.log(rest.sum(axis=1))
        best = log_probs.argmax(axis=1)
        return TopK(
            ids=ids,
            log_probs=np.take_along_axis(log_probs, columns, axis=1),
            log_tail=tail,
            targets=log_probs[n, targets],
            top_ids=best,
            top_log_probs=log_probs[n, best],
            clear=np.ones(len(logits), dtype=bool),
            log_normalisers=np.zeros(len(logits)),
            vocab_size=logits.shape[1],
        )


class Right(OwnTopK):
    """A right engine that tells the log-probability of any id."""

    def at(self, batch: Sequence[Tokens], ids: Ints | int) -> TopK:
        logits = self.rows(batch)
        size = logits.shape[1]
        if isinstance(ids, int):
            return self.reduced(batch, logits, None, min(ids, size))
        if ids.min() < 0 or ids.max() >= size:
            raise PotError(f"id {ids.max()} is outside the vocabulary of {size}")
        return self.reduced(batch, logits, ids, ids.shape[1])


class OffByOne(Right):
    def chosen(self, logits: Floats, tokens: Tokens) -> Floats:
        return logits[tokens.prompt_len :]


class OneTooEarly(Right):
    def chosen(self, logits: Floats, tokens: Tokens) -> Floats:
        return np.roll(logits, 1, axis=0)[tokens.prompt_len - 1 : -1]


class AddsBos(Right):
    def read(self, tokens: Tokens) -> list[int]:
        return [BOS, *tokens.ids]

    def chosen(self, logits: Floats, tokens: Tokens) -> Floats:
        return logits[tokens.prompt_len : -1]


class AddsBosUncounted(Right):
    def read(self, tokens: Tokens) -> list[int]:
        return [BOS, *tokens.ids]

    def chosen(self, logits: Floats, tokens: Tokens) -> Floats:
        return logits[tokens.prompt_len - 1 : -2]


class DropsFirst(Right):
    def read(self, tokens: Tokens) -> list[int]:
        return list(tokens.ids[1:] if tokens.prompt_len > 1 else tokens.ids)

    def chosen(self, logits: Floats, tokens: Tokens) -> Floats:
        return logits[-1 - tokens.n_positions : -1]


class SeesPadding(Right):
    """Pads on the left, without a mask."""

    def forward(self, sequences: Sequence[Sequence[int]]) -> list[Floats]:
        longest = max(map(len, sequences))
        padded = [[PAD] * (longest - len(ids)) + list(ids) for ids in sequences]
        return [logits[longest - len(ids) :] for logits, ids in zip(super().forward(padded), sequences, strict=True)]


class TailMissing(Right):
    def reduced(self, batch: Sequence[Tokens], logits: Floats, ids: Ints | None, m: int) -> TopK:
        return replace(super().reduced(batch, logits, ids, m), log_tail=None)


class TailIsProbability(Right):
    def reduced(self, batch: Sequence[Tokens], logits: Floats, ids: Ints | None, m: int) -> TopK:
        top = super().reduced(batch, logits, ids, m)
        return top if top.log_tail is None else replace(top, log_tail=np.exp(top.log_tail))


class TailIsEmpty(Right):
    def reduced(self, batch: Sequence[Tokens], logits: Floats, ids: Ints | None, m: int) -> TopK:
        top = super().reduced(batch, logits, ids, m)
        return top if top.log_tail is None else replace(top, log_tail=np.full(len(top), -750.0))


class Unnormalised(Right):
    """Returns logits."""

    def normalised(self, logits: Floats) -> Floats:
        return logits


class OverChoice(Right):
    """Normalises over the k ids."""

    def reduced(self, batch: Sequence[Tokens], logits: Floats, ids: Ints | None, m: int) -> TopK:
        top = super().reduced(batch, logits, ids, m)
        log_sum = np.logaddexp.reduce(top.log_probs, axis=1, keepdims=True)
        tail = None if top.log_tail is None else np.full(len(top), -750.0)
        return replace(top, log_probs=top.log_probs - log_sum, log_tail=tail)


class Probabilities(Right):
    def reduced(self, batch: Sequence[Tokens], logits: Floats, ids: Ints | None, m: int) -> TopK:
        top = super().reduced(batch, logits, ids, m)
        return replace(top, log_probs=np.exp(top.log_probs))


class Base2(Right):
    def normalised(self, logits: Floats) -> Floats:
        return np.asarray(super().normalised(logits) / np.log(2))


class Constant(Right):
    """Log-probabilities that are too high by a constant."""

    def normalised(self, logits: Floats) -> Floats:
        return np.asarray(super().normalised(logits) + 0.3)


class Hot(Right):
    def rows(self, batch: Sequence[Tokens]) -> Floats:
        return np.asarray(super().rows(batch) / 1.3)


class LeastLikelyFirst(Right):
    def top_k(self, batch: Sequence[Tokens], k: int | None) -> TopK:
        top = super().top_k(batch, k)
        return top if top.ids is None else replace(top, ids=top.ids[:, ::-1].copy(), log_probs=top.log_probs[:, ::-1].copy())


class SortedById(Right):
    def top_k(self, batch: Sequence[Tokens], k: int | None) -> TopK:
        top = super().top_k(batch, k)
        if top.ids is None:
            return top
        order = np.argsort(top.ids, axis=1)
        return replace(top, ids=np.take_along_axis(top.ids, order, 1), log_probs=np.take_along_axis(top.log_probs, order, 1))


class OnlyIdsSorted(Right):
    def top_k(self, batch: Sequence[Tokens], k: int | None) -> TopK:
        top = super().top_k(batch, k)
        return top if top.ids is None else replace(top, ids=np.sort(top.ids, axis=1))


class NotLikeliest(Right):
    """Right numbers of ids that are not the likeliest."""

    def top_k(self, batch: Sequence[Tokens], k: int | None) -> TopK:
        logits = self.rows(batch)
        if k is None or k >= logits.shape[1]:
            return super().top_k(batch, k)
        order = np.argsort(-logits, axis=1, kind="stable")
        return self.reduced(batch, logits, order[:, 1 : k + 1], k)


class CountsFromOne(Right):
    def top_k(self, batch: Sequence[Tokens], k: int | None) -> TopK:
        top = super().top_k(batch, k)
        return top if top.ids is None else replace(top, ids=np.where(top.ids == 0, top.vocab_size, top.ids))


class OutOfRange(Right):
    def top_k(self, batch: Sequence[Tokens], k: int | None) -> TopK:
        top = super().top_k(batch, k)
        return top if top.ids is None else replace(top, ids=top.ids + top.vocab_size)


class IdTwice(Right):
    def top_k(self, batch: Sequence[Tokens], k: int | None) -> TopK:
        top = super().top_k(batch, k)
        return top if top.ids is None else replace(top, ids=np.repeat(top.ids[:, ::2], 2, axis=1)[:, : top.ids.shape[1]])


class Random(Right):
    def rows(self, batch: Sequence[Tokens]) -> Floats:
        rows = super().rows(batch)
        return rows + np.random.default_rng(self.calls).normal(scale=0.2, size=rows.shape)


class Mixed(Right):
    """Sorts prompts by length, and does not put them back."""

    def rows(self, batch: Sequence[Tokens]) -> Floats:
        return super().rows(sorted(batch, key=lambda tokens: len(tokens.ids)))


class ReversedPositions(Right):
    def chosen(self, logits: Floats, tokens: Tokens) -> Floats:
        return super().chosen(logits, tokens)[::-1]


class StatefulCache(Right):
    """Keeps the answer for a number of prompts, whatever they are."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        self.kept: dict[int, Floats] = {}

    def rows(self, batch: Sequence[Tokens]) -> Floats:
        key = sum(tokens.n_positions for tokens in batch) if len(batch) > 1 else -hash(batch[0])
        if key not in self.kept:
            self.kept[key] = super().rows(batch)
        return self.kept[key]


class ReusesArrays(Right):
    buffer: Floats | None = None

    def top_k(self, batch: Sequence[Tokens], k: int | None) -> TopK:
        top = super().top_k(batch, k)
        if self.buffer is None or self.buffer.shape != top.log_probs.shape:
            self.buffer = np.empty_like(top.log_probs)
        self.buffer[:] = top.log_probs
        return replace(top, log_probs=self.buffer)


class OneRowWrong(Right):
    """Wrong at the first position of prompts alone."""

    def chosen(self, logits: Floats, tokens: Tokens) -> Floats:
        rows = super().chosen(logits, tokens).copy()
        rows[0] = np.roll(rows[0], 7)
        return rows


class WrongWeights(Right):
    def forward(self, sequences: Sequence[Sequence[int]]) -> list[Floats]:
        return [np.roll(logits, 7, axis=1) for logits in super().forward(sequences)]


class PrefixCache(Right):
    """Keeps the rows of a prompt, whatever its continuation is."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        self.kept: dict[tuple[tuple[int, ...], int], Floats] = {}

    def rows(self, batch: Sequence[Tokens]) -> Floats:
        return np.concatenate([self.of_prompt(tokens) for tokens in batch])

    def of_prompt(self, tokens: Tokens) -> Floats:
        key = tokens.ids[: tokens.prompt_len], tokens.n_positions
        if key not in self.kept:
            self.kept[key] = super().rows([tokens])
        return self.kept[key]


class WithoutAt:
    """An engine that hides the method ``at`` of another."""

    def __init__(self, engine: OwnTopK) -> None:
        self.max_positions, self.label = engine.max_positions, engine.label
        self.top_k, self.sample = engine.top_k, engine.sample


def problems(engine: Any, model: nn.Module, tokenizer: Any, **arguments: Any) -> tuple[str, ...]:
    """What is wrong with ``engine``; empty if nothing is."""
    try:
        check_engine(engine, model, tokenizer, **arguments)
    except EngineProblems as error:
        return error.problems
    return ()
