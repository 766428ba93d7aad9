from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

from ....models import tiny
from .tracing import first_of, larger, like, traced


def test_another_architecture_is_told_in_one_line() -> None:
    trace = traced(tiny("llama"), tiny("gpt2"))
    assert (trace.first, trace.n_modules) == (None, 0)
    assert trace.note == "only 2 of the reference's 33 modules have their names in the candidate"


def test_another_class_with_the_same_names_is_compared() -> None:
    reference = tiny("llama")
    candidate = like(reference, "mistral-window", sliding_window=None)
    trace = traced(reference, candidate)
    assert trace.first is None
    assert trace.note == "the models are of different classes"


@pytest.mark.parametrize("overrides", [{"hidden_size": 64}, {"intermediate_size": 96}, {"vocab_size": 101}])
def test_modules_of_other_sizes_are_left_out_and_named(overrides: dict[str, Any]) -> None:
    reference, candidate = tiny("llama"), tiny("llama", **overrides)
    with torch.no_grad():
        for key, parameter in candidate.named_parameters():
            if parameter.shape == reference.get_parameter(key).shape:
                parameter.copy_(reference.get_parameter(key))
    trace = traced(reference, candidate)
    assert trace.first is None
    assert "of another size" in str(trace.note)
    assert trace.n_modules < 32


class Wrapped(nn.Module):
    """A model in code of one's own."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.inner = model

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.inner(ids).logits
        return logits


def test_what_wraps_a_model_is_seen_through() -> None:
    reference = tiny("llama")
    candidate = copy.deepcopy(reference)
    candidate.model.layers[0].mlp.up_proj.weight.data *= 1.01
    name = "model.layers.0.mlp.up_proj"
    assert first_of(traced(reference, Wrapped(candidate))).name == name
    assert first_of(traced(Wrapped(reference), candidate)).name == f"inner.{name}"
    assert first_of(traced(Wrapped(reference), Wrapped(candidate))).name == f"inner.{name}"
    assert traced(reference, Wrapped(reference)).wrapper == "the candidate (Wrapped)"
    assert traced(Wrapped(reference), reference).wrapper == "the reference (Wrapped)"
    assert traced(Wrapped(reference), Wrapped(reference)).wrapper is None


def test_compiled_modules_are_compared_by_their_code() -> None:
    reference = tiny("llama")
    candidate = copy.deepcopy(reference)
    candidate.model.layers[0].mlp = torch.compile(candidate.model.layers[0].mlp, backend="eager")
    candidate.model.layers[0].mlp.up_proj.register_forward_hook(larger)
    assert first_of(traced(reference, candidate)).name == "model.layers.0.mlp.up_proj"
    whole = torch.compile(copy.deepcopy(reference), backend="eager")
    assert isinstance(whole, nn.Module)
    assert traced(reference, whole).first is None


@pytest.mark.filterwarnings("ignore::FutureWarning")  # peft asks models for what transformers has renamed
def test_an_adapter_is_the_module_that_it_changes() -> None:
    peft = pytest.importorskip("peft")
    reference = tiny("llama")
    adapter = peft.LoraConfig(target_modules=["q_proj"], layers_to_transform=[1], init_lora_weights=False)
    candidate = peft.get_peft_model(copy.deepcopy(reference), adapter).eval()
    trace = traced(reference, candidate)
    assert (first_of(trace).name, trace.n_differing) == ("model.layers.1.self_attn.q_proj", 1)


class Quantised(nn.Module):
    """A linear of another class, with another name for its input, rounded to 8 bits."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.scale = float(linear.weight.detach().abs().max()) / 127
        self.register_buffer("packed", (linear.weight.detach() / self.scale).round().to(torch.int8))
        self.bias = linear.bias

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        assert isinstance(self.packed, torch.Tensor)
        return nn.functional.linear(x, self.packed.to(x.dtype) * self.scale, self.bias)


def test_linears_of_another_class_are_compared() -> None:
    reference = tiny("llama")
    candidate = copy.deepcopy(reference)
    for layer in candidate.model.layers:
        layer.mlp.down_proj = Quantised(layer.mlp.down_proj)
    trace = traced(reference, candidate)
    assert first_of(trace).name == "model.layers.0.mlp.down_proj"
    assert (trace.n_modules, trace.n_differing) == (32, 2)
    assert "is a Quantised in the candidate, a Linear in the reference" in str(trace.note)
