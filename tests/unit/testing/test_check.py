"""Engines with one mistake each: the kit finds and names it, and finds nothing in right ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from pytest_pot import PotError, Prompt, ScoringConfig
from pytest_pot.core.errors import InvalidArgument
from pytest_pot.engines import registry
from pytest_pot.engines.base import GivenIds, Level, level_of
from pytest_pot.engines.distributions import Ints, TopK
from pytest_pot.engines.tokens import Tokens
from pytest_pot.testing import check_engine

from ..conftest import make_tokenizer
from ..models import changed, tiny
from . import engines
from .engines import OwnTopK, Right, WithoutAt, problems


@pytest.mark.parametrize("kind", [Right, OwnTopK])
def test_a_right_engine_passes(kind: type[OwnTopK], model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> None:
    engine = kind(model)
    assert isinstance(engine, GivenIds) == (kind is Right)
    assert problems(engine, model, tokenizer) == ()


@pytest.mark.parametrize("architecture", ["gpt2", "gemma2-softcap", "mamba", "mixtral"])
def test_the_engine_for_torch_passes(architecture: str) -> None:
    model = tiny(architecture)
    with registry.opened(model, "candidate", ScoringConfig()) as engine:
        check_engine(engine, model, make_tokenizer(bos=architecture == "gpt2"))


@pytest.mark.parametrize(
    "config",
    [ScoringConfig(every_position=True), ScoringConfig(dtype="bfloat16"), ScoringConfig(batch_size="auto")],
    ids=["every position", "bfloat16", "auto"],
)
def test_the_engine_for_torch_passes_with_other_settings(config: ScoringConfig, tokenizer: PreTrainedTokenizerFast) -> None:
    model = tiny("llama", scale=1.5)
    with registry.opened(model, "candidate", config) as engine:
        check_engine(engine, model, tokenizer)


MISTAKES: dict[str, tuple[type[OwnTopK], str]] = {
    "off by one": (
        engines.OffByOne,
        "positions are off by one: they are taken from the sequence index prompt_len + j, one too late",
    ),
    "one too early": (
        engines.OneTooEarly,
        "positions are off by one: they are taken from the sequence index prompt_len - 2 + j",
    ),
    "BOS": (engines.AddsBos, "adds the token 1 (BOS) in front of every prompt: the ids that it gets are complete. Turn"),
    "BOS, not counted": (
        engines.AddsBosUncounted,
        "adds the token 1 (BOS) in front of every prompt: the ids that it gets are complete, and its positions are off by one",
    ),
    "first token dropped": (engines.DropsFirst, "drops the first token of every prompt"),
    "padding": (
        engines.SeesPadding,
        "sees padding: prompts are right alone, and in a batch with longer ones 7 of 8 are wrong, but "
        "not the longest, prompt 4 (69 tokens, 0)",
    ),
    "tail missing": (engines.TailMissing, "returned no tail: log_tail is None, but 77 of 97 ids are not among the cells"),
    "tail empty": (
        engines.TailIsEmpty,
        "log_probs are right and log_tail is wrong: it is -750 at most, so the tail is missing",
    ),
    "tail no logarithm": (engines.TailIsProbability, "log_probs are right and log_tail is wrong: it is a probability"),
    "logits": (engines.Unnormalised, "log_probs are the model's raw logits, not normalised"),
    "too high": (engines.Constant, "log_probs are not normalised: each row is off by a constant (from 0.3 to 0.3)"),
    "over the k": (engines.OverChoice, "log_probs are normalised over the 20 ids alone"),
    "probabilities": (engines.Probabilities, "log_probs are probabilities"),
    "base 2": (engines.Base2, "log_probs are logarithms to the base 2"),
    "temperature": (engines.Hot, "the logits are divided by a temperature of 1.3"),
    "least likely first": (
        engines.LeastLikelyFirst,
        "is sorted wrongly: at 57 of 57 positions, the first at prompt 0, position 0, "
        "a less likely id comes before a likelier one; the least likely come first",
    ),
    "sorted by id": (engines.SortedById, "a less likely id comes before a likelier one; they are sorted by id"),
    "ids sorted alone": (engines.OnlyIdsSorted, "ids and log_probs are sorted differently"),
    "not the likeliest": (engines.NotLikeliest, "does not return the likeliest ids"),
    "ids from 1": (
        engines.CountsFromOne,
        "returned the ids 97 at prompt 0, position 0 and 4 positions in all: the vocabulary has 0 to 96. Do they count from 1?",
    ),
    "ids out of range": (engines.OutOfRange, "returned the ids 97, 99, 100, 102, 103, 104 and 53 more at prompt 0, position 0"),
    "an id twice": (engines.IdTwice, "returned the id 0 twice at prompt 0, position 0"),
    "not deterministic": (
        engines.Random,
        "not deterministic: two calls of top_k(8 prompts, k=20) with the same batch differ by 0.0",
    ),
    "prompts mixed up": (
        engines.Mixed,
        "positions are mixed up: the row of prompt 0, position 0, has the distribution of prompt "
        "6, position 0, and 41 rows of 57 stand at a wrong place",
    ),
    "sorted by length": (engines.Mixed, "; here prompts are sorted by length, and not put back"),
    "positions mixed up": (
        engines.ReversedPositions,
        "positions are mixed up: the row of prompt 0, position 0, has the distribution "
        "of prompt 0, position 7, and 56 rows of 57",
    ),
    "keeps answers": (engines.StatefulCache, "top_k(8 prompts in reverse order, k=20): positions are mixed up"),
    "goes by the prompt alone": (
        engines.PrefixCache,
        "positions are mixed up: the row of prompt 7, position 2, has the distribution of prompt 3, position 2",
    ),
    "reuses arrays": (engines.ReusesArrays, "top_k writes into arrays that it returned before: log_probs of an answer changed"),
    "one position": (engines.OneRowWrong, "differs from the model at the first position of prompts"),
    "other weights": (engines.WrongWeights, "differs from the model at all 57 positions"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_named(name: str, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> None:
    kind, expected = MISTAKES[name]
    found = problems(kind(model), model, tokenizer)
    assert len(found) == 1, found  # what only follows from it is not repeated
    assert expected in found[0]


@pytest.mark.parametrize("name", ["off by one", "BOS", "padding", "temperature", "prompts mixed up"])
@pytest.mark.parametrize("architecture", ["gpt2", "mamba"])
def test_a_mistake_is_named_for_other_architectures(name: str, architecture: str, tokenizer: PreTrainedTokenizerFast) -> None:
    kind, expected = MISTAKES[name]
    model = tiny(architecture)
    found = problems(kind(model), model, tokenizer)
    assert expected.partition(":")[0].partition(" 1.3")[0] in found[0], found


@pytest.mark.parametrize("name", ["off by one", "BOS", "tail empty", "logits", "not the likeliest", "prompts mixed up"])
def test_a_mistake_of_an_engine_that_knows_its_own_likeliest_only_is_named(
    name: str, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast
) -> None:
    kind, expected = MISTAKES[name]
    narrow = WithoutAt(kind(model))
    assert level_of(narrow) is Level.OWN_TOP_K
    [found] = problems(narrow, model, tokenizer)
    assert expected in found


class AtChanged(Right):
    """``at`` answers otherwise."""

    def __init__(self, model: nn.Module, how: str) -> None:
        super().__init__(model)
        self.how = how

    def at(self, batch: Sequence[Tokens], ids: Ints | int) -> TopK:
        if self.how == "wraps" and not isinstance(ids, int):
            ids = ids % 97
        if self.how == "index error" and not isinstance(ids, int) and ids.max() >= 97:
            raise IndexError(f"index {ids.max()} is out of bounds")
        if self.how == "whole" and isinstance(ids, int):
            ids = 97
        if self.how == "sorts" and not isinstance(ids, int):
            ids = np.sort(ids, axis=1)
        top = super().at(batch, ids)
        if self.how == "no tail":
            return replace(top, log_tail=None)
        if self.how == "own top-k" and not isinstance(ids, int):
            return replace(top, ids=self.top_k(batch, ids.shape[1]).ids)
        if self.how == "unlikely":
            return replace(top, log_probs=np.maximum(top.log_probs, -6.0))
        return top


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ("wraps", "at of the id 97, which is outside the vocabulary of 97, returned numbers: raise a PotError"),
        ("index error", "raised IndexError: index 97 is out of bounds. Raise a PotError that names the id"),
        ("whole", "at(8 prompts, the first 20 ids) returned 97 ids at each position instead of 20"),
        ("sorts", "at(8 prompts, the 20 likeliest ids) returned the ids ["),
        ("no tail", "at(8 prompts, the 20 likeliest ids) returned no tail"),
        ("own top-k", "at(8 prompts, 20 ids in no order) returned the ids ["),
    ],
)
def test_mistakes_with_given_ids_are_named(
    how: str, expected: str, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast
) -> None:
    found = problems(AtChanged(model, how), model, tokenizer)
    assert expected in found[0], found


def test_log_probabilities_of_unlikely_ids_are_compared(tokenizer: PreTrainedTokenizerFast) -> None:
    """They count for nothing in total variation."""
    model = tiny("gpt2", scale=12.0)
    assert problems(Right(model), model, tokenizer) == ()
    found = problems(AtChanged(model, "unlikely"), model, tokenizer)
    assert found
    assert "at(8 prompts" in found[0]


class Samples(Right):
    """Samples otherwise."""

    def __init__(self, model: nn.Module, how: str) -> None:
        super().__init__(model)
        self.how = how
        self.n_calls = 0

    def sample(self, contexts: Sequence[Sequence[int]], n_tokens: int, seed: int) -> Any:
        self.n_calls += 1
        if self.how == "same seed":
            seed = 0
        if self.how == "no seed":
            seed = self.n_calls
        samples = super().sample(contexts, n_tokens, seed)
        if self.how == "context too":
            return [[*context, *sample] for context, sample in zip(contexts, samples, strict=True)]
        if self.how == "array":
            return np.array(samples)
        if self.how == "outside":
            return [[97, *sample[1:]] for sample in samples]
        if self.how == "short":
            return [sample[:-1] for sample in samples]
        if self.how == "greedy":
            return [self.greedy(list(context), n_tokens) for context in contexts]
        if self.how == "neighbours":
            return samples if len(contexts) == 1 else super().sample(contexts, n_tokens, seed + 7)
        if self.how == "uniform":
            return [[int(token) for token in self.generator(context, seed).integers(0, 97, n_tokens)] for context in contexts]
        if self.how == "raises":
            raise RuntimeError("no generator")
        return samples

    def greedy(self, ids: list[int], n_tokens: int) -> list[int]:
        start = len(ids)
        for _ in range(n_tokens):
            ids.append(int(self.forward([ids])[0][-1].argmax()))
        return ids[start:]


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ("same seed", "sample ignores the seed: seeds 0 and 1 give the same tokens for every context"),
        ("no seed", "sample is not deterministic: context 0 gets ["),
        ("context too", "leave out the context"),
        ("array", "sample(4 contexts, 12 tokens, seed 0) returned ndarray: return a list of ids"),
        ("outside", "sample(4 contexts, 12 tokens, seed 0) returned the id 97: the vocabulary has 0 to 96"),
        ("short", "returned a sample of 11 tokens: return 12 for each context; do not stop at an end-of-text token"),
        ("greedy", "for every context: it takes the likeliest token each time, and has to sample at temperature 1"),
        ("neighbours", "sample depends on a context's neighbours: context 0 gets ["),
        ("uniform", "sample does not follow the model at temperature 1: its tokens have"),
        ("raises", "sample(4 contexts, 12 tokens, seed 0) raised RuntimeError: no generator"),
    ],
)
def test_mistakes_of_sampling_are_named(how: str, expected: str, tokenizer: PreTrainedTokenizerFast) -> None:
    model = tiny("gpt2", scale=8.0)
    [found] = problems(Samples(model, how), model, tokenizer)
    assert expected in found


@pytest.mark.parametrize(
    ("attribute", "value", "expected"),
    [
        ("label", "", "label is '': it has to be a text"),
        ("label", None, "label is None: it has to be a text"),
        ("max_positions", 0, "max_positions is 0: it has to be the longest sequence in tokens"),
        ("max_positions", None, "max_positions is None, and the model takes 128 tokens at most"),
        ("max_positions", 4096, "max_positions is 4096, and the model takes 128 tokens at most"),
        ("sample", None, "it has no method sample: see Engine in pytest_pot.engines.base"),
    ],
)
def test_wrong_members_are_named(
    attribute: str, value: object, expected: str, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast
) -> None:
    engine = Right(model)
    setattr(engine, attribute, value)
    [found] = problems(engine, model, tokenizer)
    assert expected in found


def test_prompts_are_cut_to_what_the_engine_takes(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> None:
    class Short(Right):
        max_positions = 16
        longest = 0

        def forward(self, sequences: Sequence[Sequence[int]]) -> Any:
            self.longest = max(self.longest, *map(len, sequences))
            return super().forward(sequences)

    engine = Short(model)
    assert problems(engine, model, tokenizer) == ()
    assert engine.longest == 16


def test_own_prompts_are_used(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> None:
    texts = [Prompt("abc", "def"), "a text without a continuation", "xy"]
    assert problems(Right(model), model, tokenizer, prompts=texts) == ()
    [found] = problems(engines.OffByOne(model), model, tokenizer, prompts=texts)
    assert "positions are off by one" in found
    with pytest.raises(PotError, match="there are no prompts"):
        check_engine(Right(model), model, tokenizer, prompts=[])
    with pytest.raises(PotError, match=r"prompt 0 \('a'\) has a single token and no continuation"):
        check_engine(Right(model), model, tokenizer, prompts=["a"])


def test_the_tolerance_is_for_rounding_of_ones_own(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> None:
    """Weights that were changed a little are another model, unless the tolerance says that they need not be the same."""
    engine = Right(changed(model, 0.1))
    [found] = problems(engine, model, tokenizer, tolerance=0.005)
    assert "No known mistake explains it: are these the same weights?" in found
    assert problems(engine, model, tokenizer, tolerance=0.2) == ()
    # A mistake is named however high the tolerance is.
    [found] = problems(engines.Hot(model), model, tokenizer, tolerance=0.9)
    assert "a temperature of 1.3" in found
    for wrong in (0, 1, True, "0.1", float("nan")):
        with pytest.raises(InvalidArgument, match="tolerance is"):
            check_engine(engine, model, tokenizer, tolerance=wrong)  # type: ignore[arg-type]


def test_a_model_that_is_none_is_refused(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(InvalidArgument, match=r"model is Right, not a torch\.nn\.Module"):
        check_engine(Right(model), Right(model), tokenizer)  # type: ignore[arg-type]
    with pytest.raises(PotError, match=r"the model returned \(1, 64\) for token ids of shape \(1, 64\)"):
        check_engine(Right(model), Identity(), tokenizer)
    small = tiny("llama", vocab_size=50)
    with pytest.raises(PotError, match="but the model has 50 embeddings: it belongs to another model"):
        check_engine(Right(small), small, tokenizer)


class Identity(nn.Module):
    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return ids.float()


def test_the_model_is_left_as_it_was(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> None:
    copy = tiny("llama")
    copy.train()
    copy.model.eval()
    modes = [module.training for module in copy.modules()]
    check_engine(Right(model), copy, tokenizer)
    assert [module.training for module in copy.modules()] == modes


class ReadingShifted(Right):
    """Its arrays are right, and its distributions on the device are of another temperature."""

    def __init__(self, model: nn.Module, engine: Any) -> None:
        super().__init__(model)
        self.engine = engine

    def top_k(self, batch: Sequence[Tokens], k: int | None) -> TopK:
        return super().top_k(batch, k)

    def at(self, batch: Sequence[Tokens], ids: Ints | int) -> TopK:
        return super().at(batch, ids)

    def reading(self, batch: Sequence[Tokens], device: torch.device, *, wide_tail: bool = False) -> Any:
        return self.engine.reading(batch, device, wide_tail=wide_tail)


def test_distributions_on_the_device_are_compared_too(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> None:
    with registry.opened(model, "candidate", ScoringConfig(temperature=1.3)) as hot:
        found = problems(ReadingShifted(model, hot), model, tokenizer)
    assert "reading(…).top_k(20): the logits are divided by a temperature of 1.3" in found[0]
    with registry.opened(model, "candidate", ScoringConfig()) as same:
        assert problems(ReadingShifted(model, same), model, tokenizer) == ()
