"""Continuations read token by token give what one forward pass gives, whatever shares the batch, and show a wrong cache."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
import torch
from transformers import GPT2LMHeadModel, OpenAIGPTConfig, OpenAIGPTLMHeadModel, PreTrainedModel

from pytest_pot import PotError, ScoringConfig
from pytest_pot.engines.base import OutOfMemory
from pytest_pot.engines.distributions import Floats, TopK
from pytest_pot.engines.pytorch import forced_steps
from pytest_pot.engines.pytorch.engine import TorchEngine
from pytest_pot.engines.tokens import Tokens

from ...models import DECODED, VOCAB, tiny, with_rolled_cache
from ...oracle import full_log_probs
from .test_model_traits import longrope

WHOLE = ScoringConfig(top_k=None)


def tokens(prompt_len: int, n_positions: int, seed: int = 0) -> Tokens:
    generator = torch.Generator().manual_seed(100 * prompt_len + n_positions + seed)
    ids = torch.randint(3, VOCAB, (prompt_len + n_positions,), generator=generator)
    return Tokens(tuple(ids.tolist()), prompt_len)


RAGGED = [tokens(1, 7), tokens(20, 5), tokens(9, 12), tokens(33, 1), tokens(9, 3)]
"""Prompts and continuations of different lengths, beyond the sliding windows of 8 tokens."""


def decoded(model: torch.nn.Module, batch: list[Tokens] = RAGGED, config: ScoringConfig = WHOLE) -> TopK:
    with TorchEngine.opened(model, "candidate", config) as engine:
        return engine.decode(batch, VOCAB)


def expected(model: Any, batch: list[Tokens] = RAGGED) -> Floats:
    """One prompt at a time, in one forward pass without a cache, in float64."""
    if hasattr(model, "set_experts_implementation"):
        model.set_experts_implementation("eager")  # the others have no float64
    model.double()
    return np.array([row for item in batch for row in full_log_probs(model, item)])


def distance(first: Floats, second: Floats) -> float:
    """The largest total variation at any position."""
    return float(0.5 * np.abs(np.exp(first) - np.exp(second)).sum(axis=1).max())


def prompt_batches(model: torch.nn.Module) -> list[tuple[int, int]]:
    """A list that gets (sequences, tokens) of each forward pass with a cache."""
    shapes: list[tuple[int, int]] = []

    def note(_: torch.nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
        if named.get("use_cache"):
            shapes.append(tuple(named["input_ids"].shape))

    model.register_forward_pre_hook(note, with_kwargs=True)
    return shapes


@pytest.mark.parametrize("name", DECODED)
def test_a_padded_batch_read_token_by_token_is_one_forward_pass_of_each_prompt(name: str) -> None:
    model = tiny(name)
    shapes = prompt_batches(model)
    top = decoded(model)
    assert shapes[:12] == [(5, 33), *[(5, 1)] * 11]
    # A recurrence adds up the rounding of all steps.
    assert distance(top.log_probs, expected(tiny(name))) < (1e-4 if name == "mamba" else 1e-5)


@pytest.mark.parametrize("name", ["gpt2", "llama", "mistral-window", "mamba"])
def test_in_float64_no_more_than_the_float32_of_generated_logits_is_lost(name: str) -> None:
    top = decoded(tiny(name), config=ScoringConfig(top_k=None, dtype="float64"))
    assert distance(top.log_probs, expected(tiny(name))) < 1e-6


@pytest.mark.parametrize("name", DECODED)
def test_a_cache_that_is_rolled_by_one_position_shows_there_and_nowhere_else(name: str) -> None:
    model, broken = tiny(name), with_rolled_cache(tiny(name))
    with TorchEngine.opened(model, "reference", WHOLE) as engine:
        reference = engine.top_k(RAGGED, None).in_order()
    with TorchEngine.opened(broken, "candidate", WHOLE) as engine:
        assert distance(engine.at(RAGGED, VOCAB).log_probs, reference.log_probs) < 1e-6
        assert distance(engine.decode(RAGGED, VOCAB).log_probs, reference.log_probs) > 1e-3


@pytest.mark.parametrize(
    "config",
    [
        ScoringConfig(top_k=10),
        ScoringConfig(top_k=10, temperature=0.5),
        ScoringConfig(top_k=10, tail="renormalise"),
        ScoringConfig(top_k=10, use_amp=True, dtype="float32"),
        ScoringConfig(top_k=10, every_position=True),
    ],
    ids=lambda config: f"{config.tail}, {config.temperature}, {config.use_amp}, {config.every_position}",
)
def test_the_result_has_the_cells_that_one_forward_pass_has(config: ScoringConfig) -> None:
    with TorchEngine.opened(tiny("llama"), "candidate", config) as engine:
        ids = engine.top_k(RAGGED, 10).ids
        assert ids is not None
        at, decode = engine.at(RAGGED, ids), engine.decode(RAGGED, ids)
    allowed = 0.05 if config.use_amp else 1e-5
    assert np.array_equal(at.ids, decode.ids)  # type: ignore[arg-type]
    assert np.abs(at.log_probs - decode.log_probs).max() < allowed
    assert np.abs(at.targets - decode.targets).max() < allowed
    assert (at.log_tail is None) == (decode.log_tail is None)
    assert at.log_tail is None or np.abs(at.log_tail - decode.log_tail).max() < allowed  # type: ignore[operator]


CACHES: dict[str, dict[str, Any]] = {
    "StaticCache": {"cache_implementation": "static"},
    "DynamicCache": {"cache_implementation": "dynamic"},
    "DynamicCache in chunks": {"prefill_chunk_size": 4},
}


@pytest.mark.parametrize("name", CACHES)
@pytest.mark.parametrize("architecture", ["gpt2", "llama", "gemma3"])
def test_the_cache_is_the_one_that_the_models_generation_config_names(name: str, architecture: str) -> None:
    model = tiny(architecture)
    for field, value in CACHES[name].items():
        setattr(model.generation_config, field, value)
    kinds = set()

    def note(_: torch.nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
        cache = named.get("cache", named.get("past_key_values"))
        kinds.add(type(cache).__name__ if cache is not None else None)

    model.register_forward_pre_hook(note, with_kwargs=True)
    top = decoded(model, RAGGED[1:3])
    assert kinds - {None} == {name.split()[0]}
    assert distance(top.log_probs, expected(tiny(architecture), RAGGED[1:3])) < 1e-5


def test_a_model_is_left_as_it_was() -> None:
    model = tiny("llama")
    model.generation_config.cache_implementation = "static"
    before, own, hooks = set(vars(model)), model.generation_config, dict(model._forward_pre_hooks)
    settings, state = own.to_dict(), torch.random.get_rng_state()
    decoded(model)
    assert set(vars(model)) == before
    assert model.generation_config is own
    assert own.to_dict() == settings
    assert dict(model._forward_pre_hooks) == hooks
    assert torch.equal(torch.random.get_rng_state(), state)


def test_settings_that_choose_tokens_change_nothing() -> None:
    plain, model = tiny(), tiny()
    for name, value in {
        "repetition_penalty": 3.0,
        "eos_token_id": list(range(VOCAB)),
        "do_sample": True,
        "temperature": 0.2,
        "num_beams": 4,
        "max_new_tokens": 1,
        "use_cache": False,
    }.items():
        setattr(model.generation_config, name, value)
    assert np.array_equal(decoded(model).log_probs, decoded(plain).log_probs)


def test_prompts_whose_steps_would_pass_the_longest_sequence_are_read_apart() -> None:
    batch = [tokens(120, 8), tokens(4, 40), tokens(100, 3)]  # GPT-2 has 128 positions here
    model = tiny()
    shapes = prompt_batches(model)
    assert distance(decoded(model, batch).log_probs, expected(tiny(), batch)) < 1e-5
    assert [shape for shape in shapes if shape[1] > 1] == [(2, 120), (1, 4)]


def test_a_prompt_is_read_alone_where_the_length_of_the_batch_changes_its_positions() -> None:
    batch = [tokens(20, 8), tokens(40, 20)]  # beyond 48 tokens, all angles change
    alone = decoded(longrope(), batch[:1])
    top = decoded(longrope(), batch)
    assert np.array_equal(top.rows(0, 8).log_probs, alone.log_probs)
    assert distance(alone.log_probs, expected(longrope(), batch[:1])) < 1e-5


def test_the_plain_path_reads_one_prompt_at_a_time() -> None:
    model = tiny()
    shapes = prompt_batches(model)
    top = decoded(model, config=ScoringConfig(top_k=None, every_position=True))
    assert {rows for rows, _ in shapes} == {1}
    assert distance(top.log_probs, expected(tiny())) < 1e-5


class SeesPadding(GPT2LMHeadModel):
    """A model that attends to padding, as recurrent models without masks do."""

    def forward(self, input_ids: Any = None, attention_mask: Any = None, **named: Any) -> Any:
        mask = None if attention_mask is None else torch.ones_like(attention_mask)
        return super().forward(input_ids, attention_mask=mask, **named)


def like_gpt2(cls: type[GPT2LMHeadModel]) -> PreTrainedModel:
    gpt2 = tiny()
    model: Any = cls(gpt2.config)  # type: ignore[arg-type]
    model.load_state_dict(gpt2.state_dict())
    return model.eval()  # type: ignore[no-any-return]


def test_prompts_of_different_length_are_read_apart_where_padding_changes_results() -> None:
    with TorchEngine.opened(like_gpt2(SeesPadding), "candidate", WHOLE) as engine:
        notes = [engine.decoding_note]
        top = engine.decode(RAGGED, VOCAB)
        notes.append(engine.decoding_note)
        again = engine.decode(RAGGED, VOCAB)
    assert notes == [None, "prompts of different length apart, because padding changes its results"]
    assert distance(top.log_probs, expected(tiny())) < 1e-5
    assert np.array_equal(top.log_probs, again.log_probs)


class KeepsTensors(GPT2LMHeadModel):
    """A user's model that keeps tensors, which must not be inference tensors."""

    def forward(self, input_ids: Any = None, **named: Any) -> Any:
        self.kept = input_ids
        return super().forward(input_ids, **named)


def test_a_users_own_module_is_called_outside_inference_mode() -> None:
    model = like_gpt2(KeepsTensors)
    seen: list[bool] = []
    model.register_forward_pre_hook(lambda *_: seen.append(torch.is_inference_mode_enabled()))
    decoded(model)
    assert not any(seen)
    kept: Any = model.kept
    assert not kept.is_inference()


def test_a_wrapped_model_generates_through_its_wrapper() -> None:
    batch = [tokens(6, 4), tokens(6, 2)]
    compiled: Any = torch.compile(tiny(), backend="eager")
    assert distance(decoded(compiled, batch).log_probs, expected(tiny(), batch)) < 1e-5


def test_a_plain_module_cannot_be_read_token_by_token() -> None:
    message = (
        "path='decode' cannot read the candidate token by token: Embedding has no generate() of transformers, which prepares a "
        "key-value cache. Use path='prefill', which reads each continuation in one forward pass"
    )
    with pytest.raises(PotError, match=f"^{re.escape(message)}$"):
        decoded(torch.nn.Embedding(VOCAB, VOCAB))


def test_a_model_that_generates_without_a_cache_is_refused() -> None:
    model = OpenAIGPTLMHeadModel(OpenAIGPTConfig(vocab_size=VOCAB, n_embd=32, n_layer=1, n_head=2)).eval()
    message = (
        "the candidate generates without a key-value cache: OpenAIGPTLMHeadModel read the whole text again for each token, so "
        "path='decode' would show nothing that path='prefill' does not. Use path='prefill'"
    )
    with pytest.raises(PotError, match=f"^{re.escape(message)}$"):
        decoded(model)


class FailsLater(GPT2LMHeadModel):
    """Fails at the fourth token that it generates."""

    error: Exception = ValueError("no such cache\nand more")

    def forward(self, input_ids: Any = None, **named: Any) -> Any:
        if named.get("use_cache") and named["attention_mask"].shape[1] > 35:
            raise self.error
        return super().forward(input_ids, **named)


def test_a_generation_that_fails_says_where_and_why() -> None:
    message = (
        "the candidate cannot be read token by token (path='decode'): its generate() failed after 3 of 12 tokens with "
        "ValueError: no such cache"
    )
    with pytest.raises(PotError, match=f"^{re.escape(message)}$"):
        decoded(like_gpt2(FailsLater))


def test_running_out_of_memory_while_generating_is_told_as_such(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FailsLater, "error", torch.OutOfMemoryError("CUDA out of memory"))
    with pytest.raises(OutOfMemory, match=r"^the candidate ran out of memory on cpu: CUDA out of memory$"):
        decoded(like_gpt2(FailsLater))


def test_ids_outside_the_vocabulary_are_refused() -> None:
    outside = [Tokens((5, 6, VOCAB), 2)]
    with pytest.raises(PotError, match=f"the tokenizer gives id {VOCAB}"):
        decoded(tiny(), outside)
    ids = np.full((7, 3), VOCAB + 4)
    with TorchEngine.opened(tiny(), "candidate", WHOLE) as engine, pytest.raises(PotError, match=f"include id {VOCAB + 4}"):
        engine.decode(RAGGED[:1], ids)


class StopsEarly(GPT2LMHeadModel):
    """Generates fewer tokens than it is asked for."""

    def generate(self, *arguments: Any, **named: Any) -> Any:
        named["generation_config"].max_new_tokens = 2
        return super().generate(*arguments, **named)


class OwnLoop(GPT2LMHeadModel):
    """Has a generate() of its own."""

    def generate(self, ids: Any, **named: Any) -> Any:
        return ids


@pytest.mark.parametrize(("cls", "n_tokens"), [(StopsEarly, 2), (OwnLoop, 0)])
def test_a_generation_that_ends_early_is_refused(cls: type[GPT2LMHeadModel], n_tokens: int) -> None:
    message = (
        f"the candidate cannot be read token by token (path='decode'): its generate() stopped after {n_tokens} of 12 tokens, "
        "or chooses tokens without the logits processors that it is given. Use path='prefill'"
    )
    with pytest.raises(PotError, match=f"^{re.escape(message)}$"):
        decoded(like_gpt2(cls))


@pytest.mark.parametrize("most", [1, 5 * VOCAB * 3])
def test_how_many_steps_are_reduced_together_changes_nothing(monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    together = decoded(tiny())
    monkeypatch.setitem(forced_steps._LOGITS_PER_REDUCTION, "cpu", most)
    assert np.array_equal(decoded(tiny()).log_probs, together.log_probs)
