from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import nn

from pytest_pot import ScoringConfig
from pytest_pot.engines.pytorch.module_trace.recording import record
from pytest_pot.engines.pytorch.module_trace.replay import Replay, Rounding

from ....models import tiny
from .tracing import ALL, AUTO, BF16, IDS, first_of, larger, traced


def test_values_that_are_not_finite_are_told() -> None:
    reference = tiny("llama")
    candidate = copy.deepcopy(reference)
    candidate.model.layers[1].self_attn.v_proj.weight.data[3, 4] = float("nan")
    trace = traced(reference, candidate)
    assert first_of(trace).name == "model.layers.1.self_attn.v_proj"
    assert first_of(trace).after == float("inf")
    assert trace.n_differing == 1
    assert trace.note == "model.layers.1.self_attn.v_proj returns values that are not finite"


def test_a_value_that_is_too_large_for_float16_starts_where_it_is_computed() -> None:
    reference = tiny("llama")
    reference.model.layers[1].mlp.gate_proj.weight.data *= 300
    reference.model.layers[1].mlp.up_proj.weight.data *= 300
    trace = traced(reference, copy.deepcopy(reference), (AUTO, ScoringConfig(dtype="float16")))
    assert (first_of(trace).name, first_of(trace).itself) == ("model.layers.1.mlp", True)


def test_fewer_experts_get_no_index_that_they_do_not_have() -> None:
    """torch would read beyond their weights, and a GPU would be unusable afterwards."""
    trace = traced(tiny("mixtral"), tiny("mixtral", num_local_experts=2))
    assert trace.largest is None
    assert trace.note is not None
    assert "raised" not in trace.note
    assert "model.layers.0.mlp.experts" in trace.note


def test_an_error_in_a_module_of_the_candidate_is_told_beside_what_came_before() -> None:
    reference = tiny("llama")
    candidate = copy.deepcopy(reference)

    def forward(states: torch.Tensor) -> torch.Tensor:
        raise ValueError("no kernel\nfor this device")

    candidate.model.layers[1].mlp.forward = forward
    candidate.model.layers[0].mlp.up_proj.weight.data *= 1.01
    trace = traced(reference, candidate)
    assert first_of(trace).name == "model.layers.0.mlp.up_proj"
    assert trace.note == "the candidate's model.layers.1.mlp raised ValueError: no kernel, and no module after it was compared"


def test_a_module_that_fails_on_the_reference_s_inputs_gets_its_own() -> None:
    reference = tiny("llama")
    candidate = copy.deepcopy(reference)
    candidate.model.embed_tokens.weight.data *= 1.5
    own = candidate.model.embed_tokens.weight.data[list(IDS)][None]

    def strict(module: nn.Module, arguments: tuple[torch.Tensor, ...], named: dict[str, torch.Tensor]) -> None:
        given = arguments[0] if arguments else named["hidden_states"]
        if not torch.equal(given, own):
            raise RuntimeError("not these")

    candidate.model.layers[0].input_layernorm.register_forward_pre_hook(strict, with_kwargs=True)
    candidate.model.layers[1].mlp.register_forward_hook(larger)
    reference_norm = "model.layers.0.input_layernorm"
    candidate.model.layers[0].forward = _fed_with(candidate.model.layers[0].forward, own)
    trace = traced(reference, candidate)
    assert first_of(trace).name == "model.embed_tokens"
    assert f"the candidate's {reference_norm} raised RuntimeError: not these on the reference's inputs" in str(trace.note)
    assert trace.n_modules == 31
    assert trace.n_differing >= 2


def _fed_with(forward: Callable[..., Any], states: torch.Tensor) -> Callable[..., Any]:
    return lambda hidden_states, **named: forward(states.clone(), **named)


def test_an_error_of_the_reference_is_told() -> None:
    reference = tiny("llama")
    candidate = copy.deepcopy(reference)
    del reference.model.layers[1].mlp.act_fn
    trace = traced(reference, candidate)
    assert trace.n_modules == 0
    assert "the reference raised AttributeError" in str(trace.note)


def test_ids_that_the_candidate_does_not_have_are_told() -> None:
    trace = traced(tiny("llama"), tiny("llama", vocab_size=60))
    assert trace.n_modules == 0
    assert "the candidate's vocabulary has only 60 tokens" in str(trace.note)


def test_modules_that_are_called_twice_are_compared_by_call() -> None:
    reference = tiny("llama")
    reference.model.layers[1] = reference.model.layers[0]
    candidate = copy.deepcopy(reference)
    assert traced(reference, candidate).first is None
    candidate.model.layers[0].mlp.register_forward_hook(larger)
    trace = traced(reference, candidate)
    assert (first_of(trace).name, trace.n_differing) == ("model.layers.0.mlp", 1)


def test_hooks_that_change_inputs_or_work_in_place_are_seen() -> None:
    reference = tiny("llama")
    candidate = copy.deepcopy(reference)
    handle = candidate.model.layers[1].mlp.register_forward_pre_hook(lambda module, arguments: (arguments[0] * 1.01,))
    assert first_of(traced(reference, candidate)).name == "model.layers.1.mlp"
    handle.remove()

    def in_place(module: nn.Module, arguments: object, output: torch.Tensor) -> None:
        output.mul_(1.01)

    candidate.model.layers[1].mlp.register_forward_hook(in_place)
    assert first_of(traced(reference, candidate)).name == "model.layers.1.mlp"


@contextmanager
def unchanged(*models: nn.Module) -> Iterator[None]:
    """Models and torch's state are afterwards as before."""

    def state() -> list[object]:
        hooks = [(len(module._forward_hooks), len(module._forward_pre_hooks)) for model in models for module in model.modules()]
        buffers = [id(buffer) for model in models for buffer in model.buffers()]
        sums = [float(tensor.detach().double().sum()) for model in models for tensor in model.state_dict().values()]
        return [hooks, buffers, sums, torch.get_rng_state().tolist(), torch.is_grad_enabled(), torch.get_num_threads()]

    before = state()
    yield
    assert state() == before


@pytest.mark.parametrize("fails", [False, True])
def test_nothing_is_left_behind(fails: bool) -> None:
    reference = tiny("llama")
    candidate = copy.deepcopy(reference).bfloat16()
    candidate.model.layers[0].mlp.up_proj.weight.data *= 2

    def fail(*_: object) -> None:
        torch.rand(1)
        if fails:
            raise KeyboardInterrupt

    candidate.model.layers[1].register_forward_hook(fail)
    with unchanged(reference, candidate):
        if fails:
            with pytest.raises(KeyboardInterrupt):
                traced(reference, candidate, (AUTO, BF16))
        else:
            assert first_of(traced(reference, candidate, (AUTO, BF16))).name == "model.layers.0.mlp.up_proj"


def test_a_model_can_be_compared_with_itself() -> None:
    model = tiny("llama")
    model.model.layers[1].register_forward_hook(larger)
    assert traced(model, model).first is None


@pytest.mark.parametrize("name", ALL)
def test_rounding_errors_of_what_is_returned_do_not_reach_modules_without_others_inside(name: str) -> None:
    """So their noise is measured with one kind of signs."""
    model = tiny(name)
    modules = dict(model.named_modules())

    def run() -> object:
        with torch.no_grad():
            return model(torch.tensor([IDS]), use_cache=False)

    recording = record(run, modules, 1 << 30)
    replays = [Replay(recording, frozenset(modules), rounding=Rounding(1e-3, opposite=opposite)) for opposite in (False, True)]
    for replay in replays:
        assert replay.run(run, modules) is None
    outputs = [{module: seen.output for module, seen in replay.seen.items()} for replay in replays]
    alone = [module for module in outputs[0] if not any(True for _ in modules[module].children())]
    assert len(alone) > 5
    assert [outputs[0][module] for module in alone] == [outputs[1][module] for module in alone]
    assert outputs[0] != outputs[1]
