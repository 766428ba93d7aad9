"""Where two models first differ, on SmolLM2."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, Literal

import pytest
import torch
from torch import nn
from transformers import PreTrainedModel

from pytest_pot import ScoringConfig
from pytest_pot.engines.module_differences import ModuleTrace
from pytest_pot.engines.pytorch.engine import TorchEngine
from pytest_pot.engines.tokens import Tokens
from pytest_pot.prompts.builtin import builtin_prompts

from .conftest import ModelAndTokenizer

pytestmark = pytest.mark.real

Trace = Callable[..., ModuleTrace]


@pytest.fixture
def candidate(reference: ModelAndTokenizer) -> PreTrainedModel:
    """The reference's weights, not copied, in modules of its own."""
    model, _ = reference
    shared = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    twin: PreTrainedModel = copy.deepcopy(model, shared)
    return twin


@pytest.fixture
def trace(reference: ModelAndTokenizer) -> Trace:
    model, tokenizer = reference

    def trace(candidate: PreTrainedModel, dtype: Literal["auto", "bfloat16"] = "auto", prompt_index: int = 3) -> ModuleTrace:
        prompt = builtin_prompts()[prompt_index]
        ids = tuple(tokenizer(f"{prompt.text}{prompt.continuation}")["input_ids"])[:40]
        with (
            TorchEngine.opened(model, "reference", ScoringConfig()) as first,
            TorchEngine.opened(candidate, "candidate", ScoringConfig(dtype=dtype)) as second,
        ):
            return second.trace(first, Tokens(ids, len(ids) - 8))

    return trace


def larger(module: nn.Module, arguments: object, output: Any) -> Any:
    """A forward hook that adds 1 % to the output."""
    return (output[0] * 1.01, *output[1:]) if isinstance(output, tuple) else output * 1.01


def test_the_same_weights_do_not_differ(candidate: PreTrainedModel, trace: Trace) -> None:
    assert trace(candidate) == ModuleTrace(first=None, largest=None, n_modules=396, n_differing=0)


def test_rounding_is_no_start_and_1_percent_is(candidate: PreTrainedModel, trace: Trace) -> None:
    same = trace(candidate, "bfloat16", prompt_index=0)  # where errors cancel in one layer if they have one sign only
    assert (same.first, same.n_modules, same.precision) == (None, 396, "bfloat16")
    assert same.within > 0.004, "without rounding there is nothing to tell from"
    candidate.get_submodule("model.layers.7.mlp").register_forward_hook(larger)
    result = trace(candidate, "bfloat16")
    assert result.first is not None
    assert (result.first.name, result.n_differing) == ("model.layers.7.mlp", 1)


@pytest.mark.parametrize("name", ["", ".mlp", ".self_attn", ".self_attn.q_proj"])
def test_the_module_that_adds_1_percent_to_its_output_is_named(candidate: PreTrainedModel, trace: Trace, name: str) -> None:
    candidate.get_submodule(f"model.layers.17{name}").register_forward_hook(larger)
    result = trace(candidate)
    assert result.first is not None
    assert result.first.name == f"model.layers.17{name}"
    assert result.first.after == pytest.approx(0.01, rel=0.01)
    assert result.first.before < 1e-6
    assert result.n_differing == 1


def test_another_base_of_the_rotary_encoding_starts_at_its_frequencies(candidate: PreTrainedModel, trace: Trace) -> None:
    config = copy.deepcopy(candidate.config)
    config.rope_parameters = {**config.rope_parameters, "rope_theta": 10_000.0}
    candidate.model.rotary_emb = type(candidate.model.rotary_emb)(config)
    result = trace(candidate)
    assert result.first is not None
    assert (result.first.name, result.n_differing) == ("model.rotary_emb", 1)


def test_in_a_quantised_model_the_damaged_matrix_stands_out(candidate: PreTrainedModel, trace: Trace) -> None:
    rows = torch.arange(candidate.config.hidden_size).flip(0)
    with torch.no_grad():
        for name, module in candidate.named_modules():
            if isinstance(module, nn.Linear) and name != "lm_head":
                scale = module.weight.abs().amax(dim=1, keepdim=True) / 127
                module.weight = nn.Parameter(torch.round(module.weight / scale) * scale)
        damaged = candidate.model.layers[9].self_attn.o_proj
        damaged.weight = nn.Parameter(damaged.weight[rows])
    result = trace(candidate)
    assert result.first is not None
    assert result.first.name == "model.layers.0.self_attn.q_proj"
    assert result.first.after < 0.05
    assert result.n_differing == 210
    assert result.largest is not None
    assert result.largest.name == "model.layers.9.self_attn.o_proj"
    assert result.largest.after > 1
