"""Traits of a model: the arguments of its forward, whether it is causal, and whether it must read prompts alone."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any, cast

import numpy as np
import pytest
import torch
import transformers
from transformers import (
    AutoModelForCausalLM,
    BertConfig,
    CpmAntConfig,
    GemmaConfig,
    GraniteMoeConfig,
    MistralConfig,
    Phi3Config,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    XLMConfig,
    XLNetConfig,
)

from pytest_pot import Prompt, ScoringConfig, TeacherForcedScorer
from pytest_pot.engines.pytorch.model_traits import accepted, is_causal

from ...models import ATTENTION, HEADS, VOCAB, changed, tiny
from .test_output_layer import prophetnet

VERSION = int(transformers.__version__.partition(".")[0])


def build(config: PretrainedConfig, scale: float = 3.0) -> PreTrainedModel:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model: PreTrainedModel = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim >= 2:
                parameter.mul_(scale)
    return model


def bert(*, is_decoder: bool) -> PreTrainedModel:
    sizes: dict[str, Any] = {
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 48,
        "max_position_embeddings": 160,
    }
    return build(BertConfig(vocab_size=VOCAB, hidden_size=32, is_decoder=is_decoder, **sizes), scale=8.0)


def longrope() -> PreTrainedModel:
    """A model whose rotary angles change if a batch is longer than 48 tokens."""
    rope: dict[str, Any] = {"type": "longrope", "short_factor": [1.0] * 4, "long_factor": [4.0] * 4}
    if VERSION >= 5:  # older versions take these three fields and no other
        rope |= {"rope_type": "longrope", "rope_theta": 1e4, "original_max_position_embeddings": 48}
    return build(Phi3Config(**{**ATTENTION, "rope_scaling": rope}, original_max_position_embeddings=48, sliding_window=None))


CAUSAL: dict[str, Callable[[], PreTrainedModel]] = {
    **{name: partial(tiny, name) for name in ("gpt2", "opt", "llama", "qwen3", "gemma3", "gemma2-softcap", "phi")},
    "qwen2": lambda: build(Qwen2Config(**ATTENTION)),
    "mistral": lambda: build(MistralConfig(**ATTENTION)),
    "gemma": lambda: build(GemmaConfig(**ATTENTION, **HEADS)),
    # Before version 5, BERT does not tell whether it is one: it is read without shortcuts.
    **({"bert, a decoder": lambda: bert(is_decoder=True)} if VERSION >= 5 else {}),
}
UNKNOWN: dict[str, Callable[[], torch.nn.Module]] = {
    "bert": lambda: bert(is_decoder=False),
    "xlnet": lambda: build(XLNetConfig(vocab_size=VOCAB, d_model=32, n_layer=2, n_head=4, d_inner=48)),
    "llama told not to be": lambda: tiny("llama", is_causal=False),
    "its angles depend on the length": longrope,
    "no word of it": lambda: torch.nn.Linear(2, 2),
}


@pytest.mark.parametrize("name", CAUSAL)
def test_models_known_to_be_causal(name: str) -> None:
    assert is_causal(CAUSAL[name]())


@pytest.mark.parametrize("name", UNKNOWN)
def test_models_not_known_to_be_causal(name: str) -> None:
    assert not is_causal(UNKNOWN[name]())


@pytest.mark.parametrize("name", ["bert", "xlnet"])
def test_a_model_that_looks_ahead_reads_all_tokens(
    name: str, prompts: list[Prompt], tokenizer: PreTrainedTokenizerFast
) -> None:
    model, other = UNKNOWN[name](), UNKNOWN[name]()
    assert isinstance(other, PreTrainedModel)
    pair = model, changed(other)
    plain = TeacherForcedScorer(ScoringConfig.preset("original")).score_batch(*pair, prompts, tokenizer)
    report = TeacherForcedScorer(ScoringConfig(top_k=None, batch_size=8)).score_batch(*pair, prompts, tokenizer)
    assert plain.mean > 0.01
    np.testing.assert_allclose(report.scores, plain.scores, atol=1e-6)


ALONE: dict[str, Callable[[], PreTrainedModel]] = {
    "longrope": longrope,
    "cpmant": lambda: build(
        CpmAntConfig(vocab_size=VOCAB, hidden_size=32, num_attention_heads=4, dim_head=8, dim_ff=48, num_hidden_layers=2)
    ),
    "xlm": lambda: build(XLMConfig(vocab_size=VOCAB, emb_dim=32, n_layers=2, n_heads=4)),
    "prophetnet": prophetnet,
}


@pytest.mark.parametrize("name", ALONE)
def test_a_model_whose_scores_depend_on_the_batch_reads_prompts_alone(
    name: str, prompts: list[Prompt], tokenizer: PreTrainedTokenizerFast
) -> None:
    """Prompts shorter than, longer than and exactly as long as 48 tokens."""
    pair = ALONE[name](), changed(ALONE[name]())
    texts = [*prompts, Prompt("x" * 45, "abc"), Prompt("x" * 46, "abc"), Prompt("x" * 90, " and on")]
    plain = TeacherForcedScorer(ScoringConfig.preset("original")).score_batch(*pair, texts, tokenizer)
    for fields in ({"batch_size": 8}, {"batch_size": "auto"}, {"batch_size": 1}):
        report = TeacherForcedScorer(ScoringConfig(top_k=None, **fields)).score_batch(*pair, texts, tokenizer)
        # On some CPUs, CPM-Ant's plain scores round by 3e-6; read in one batch with others, its scores are off by 1e-2.
        np.testing.assert_allclose(report.scores, plain.scores, atol=1e-6, rtol=1e-5)


def test_short_prompts_of_a_longrope_model_share_a_forward(tokenizer: PreTrainedTokenizerFast) -> None:
    model = longrope()
    batch_sizes: list[int] = []
    model.get_input_embeddings().register_forward_pre_hook(lambda module, inputs: batch_sizes.append(len(inputs[0])))
    TeacherForcedScorer(ScoringConfig(batch_size=4)).record(model, [Prompt("abc" * n, "xyz") for n in (1, 2, 3, 4)], tokenizer)
    assert batch_sizes == [4]


class Wrapping(torch.nn.Module):
    """A user's module that may do anything with its other arguments."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.module = model

    def forward(self, ids: torch.Tensor, attention_mask: torch.Tensor | None = None, **rest: object) -> object:
        return self.module(ids, attention_mask=attention_mask)


def test_accepted_arguments_are_those_that_the_forward_uses() -> None:
    llama = tiny("llama")
    compiled, wrapped = (cast(torch.nn.Module, torch.compile(model, backend="eager")) for model in (llama, Wrapping(llama)))
    named = set(inspect.signature(llama.forward).parameters) - {"kwargs"}
    assert accepted(llama) == named | {"use_cache"}
    assert accepted(compiled) == named | {"use_cache"}
    assert accepted(Wrapping(llama)) == {"ids", "attention_mask"}
    assert accepted(torch.nn.DataParallel(llama)) == set()
    assert accepted(wrapped) == {"ids", "attention_mask"}
    assert "use_cache" in accepted(build(GraniteMoeConfig(**ATTENTION, num_local_experts=4)))


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # torch's own, of masks in version 4
def test_a_compiled_model_computes_only_the_logits_that_are_needed(tokenizer: PreTrainedTokenizerFast) -> None:
    model = tiny("llama")
    texts = [Prompt("abc" * 20, "xyz"), Prompt("abc" * 20, "uvw")]
    shapes = []
    model.lm_head.register_forward_hook(lambda module, inputs, output: shapes.append(tuple(output.shape)))
    compiled = torch.compile(model, backend="eager")
    report = TeacherForcedScorer().score_batch(model, compiled, texts, tokenizer)
    assert report.max < 1e-6
    assert {shape[:2] for shape in shapes} == {(2, 3)}
