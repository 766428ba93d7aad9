from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from pytest_pot import ScoringConfig
from pytest_pot.engines.module_differences import ModuleTrace
from pytest_pot.engines.pytorch.engine import TorchEngine
from pytest_pot.engines.pytorch.module_trace import trace as module_trace
from pytest_pot.engines.tokens import Tokens

from ....models import changed, tiny
from .tracing import ALL, AUTO, BF16, IDS, called, first_of, larger, like, traced


@pytest.mark.parametrize("name", ALL)
def test_the_same_weights_do_not_differ(name: str) -> None:
    reference = tiny(name)
    trace = traced(reference, copy.deepcopy(reference))
    assert trace.within <= 1e-6  # experts may be summed in another order
    assert replace(trace, within=0.0) == ModuleTrace(None, None, n_modules=len(called(reference)), n_differing=0)


@pytest.mark.parametrize("name", ALL)
def test_the_module_that_adds_1_percent_to_its_output_is_named_whichever_it_is(name: str) -> None:
    reference = tiny(name)
    candidate = copy.deepcopy(reference)
    names = called(candidate)
    # The modules of the second layer that are called, the layer itself, and all above: norms, linears, attention, experts.
    layer = next(key for key in names if key.endswith(".1"))
    for key in (key for key in names if key.startswith(layer) or layer.startswith(key) or "." not in key):
        handle = candidate.get_submodule(key).register_forward_hook(larger)
        trace = traced(reference, candidate)
        handle.remove()
        first = first_of(trace)
        assert first.name == key
        assert first.after == pytest.approx(0.01, rel=0.01)
        assert first.before < 1e-6
        assert first.noise < 1e-5
        assert first.itself == any(other != key and other.startswith(key and f"{key}.") for other in names)
        assert trace.n_differing == 1
        assert trace.largest is None


@pytest.mark.parametrize("name", ALL)
def test_a_changed_weight_is_in_the_module_that_has_it(name: str) -> None:
    reference = tiny(name)
    names = [key for key in called(reference) if next(reference.get_submodule(key).parameters(recurse=False), None) is not None]
    tied = {id(reference.get_input_embeddings().weight)}
    for key in (key for key in names if ".1." in key):
        candidate = copy.deepcopy(reference)
        for parameter in candidate.get_submodule(key).parameters(recurse=False):
            assert id(parameter) not in tied
            parameter.data = parameter.data * 1.001 + 1e-4
        trace = traced(reference, candidate)
        assert first_of(trace).name == key
        assert trace.n_differing == 1


@pytest.mark.parametrize("configs", [(AUTO, BF16), (BF16, AUTO), (BF16, BF16)], ids=["candidate", "reference", "both"])
@pytest.mark.parametrize("name", ALL)
def test_another_precision_is_no_start(name: str, configs: tuple[ScoringConfig, ScoringConfig]) -> None:
    reference = tiny(name)
    trace = traced(reference, copy.deepcopy(reference), configs)
    assert trace.first is None
    assert trace.n_differing == 0


@pytest.mark.parametrize("configs", [(AUTO, BF16), (BF16, AUTO)], ids=["candidate", "reference"])
@pytest.mark.parametrize("key", ["model.embed_tokens", "model.layers.1.mlp", "model.layers.1.mlp.down_proj", "lm_head"])
def test_1_percent_is_found_beside_the_rounding_of_another_precision(
    key: str, configs: tuple[ScoringConfig, ScoringConfig]
) -> None:
    reference = tiny("llama")
    candidate = copy.deepcopy(reference)
    candidate.get_submodule(key).register_forward_hook(larger)
    trace = traced(reference, candidate, configs)
    assert (first_of(trace).name, trace.n_differing) == (key, 1)
    same = traced(reference, copy.deepcopy(reference), configs)
    assert same.precision == "bfloat16"
    assert 0.001 < same.within < 2**-7


@pytest.mark.parametrize("name", ALL)
def test_weights_that_are_kept_in_bfloat16_are_no_start(name: str) -> None:
    reference = tiny(name)
    assert traced(reference, copy.deepcopy(reference).bfloat16()).first is None
    assert traced(copy.deepcopy(reference).bfloat16(), reference).first is None


def test_rounded_rotary_frequencies_are_no_start_but_another_base_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """``to(bfloat16)`` rounds them, which turns the keys of tokens far away by other angles."""
    monkeypatch.setattr(module_trace, "_MOST_TOKENS", 1000)
    reference = tiny("llama", max_position_embeddings=1024)
    ids = IDS * 20
    assert traced(reference, copy.deepcopy(reference).bfloat16(), ids=ids).first is None
    assert traced(copy.deepcopy(reference).bfloat16(), reference, ids=ids).first is None
    candidate = like(reference, "llama", rope_parameters={"rope_type": "default", "rope_theta": 100.0}).bfloat16()
    assert first_of(traced(reference, candidate, ids=ids)).name == "model.rotary_emb"


def test_masks_fit_into_float16() -> None:
    reference = tiny("llama")
    reference.set_attn_implementation("eager")
    trace = traced(reference, copy.deepcopy(reference), (AUTO, ScoringConfig(dtype="float16")))
    assert 0 < trace.within < 2**-10
    assert (trace.first, trace.n_modules, trace.n_differing, trace.note) == (None, len(called(reference)), 0, None)


def test_1_percent_is_seen_where_both_compute_in_bfloat16() -> None:
    reference = tiny("llama")
    candidate = copy.deepcopy(reference)
    for name in ("model.layers.1.self_attn", "model.layers.1.mlp", "model.layers.0", "model.layers.0.mlp.up_proj"):
        handle = candidate.get_submodule(name).register_forward_hook(larger)
        trace = traced(reference, candidate, (BF16, BF16))
        handle.remove()
        assert (first_of(trace).name, trace.n_differing) == (name, 1)


@pytest.mark.parametrize(
    ("name", "overrides", "module", "itself", "note"),
    [
        ("llama", {"rope_parameters": {"rope_type": "default", "rope_theta": 5e3}}, "model.rotary_emb", False, None),
        ("llama", {"rms_norm_eps": 1e-5}, "model.layers.0.input_layernorm", False, None),
        ("mistral-window", {"sliding_window": 4}, "model", True, "model gives model.layers.0 another attention_mask"),
        ("mistral-window", {"sliding_window": 4096}, "model", True, "model gives model.layers.0 another attention_mask"),
        ("gemma3", {"sliding_window": 4}, "model", True, "model gives model.layers.0 another attention_mask"),
        ("gemma2-softcap", {"final_logit_softcapping": 6.0}, "", True, None),
        ("gemma2-softcap", {"final_logit_softcapping": None}, "", True, None),
        ("gemma2-softcap", {"attn_logit_softcapping": 2.0}, "model.layers.0.self_attn", True, "o_proj another input"),
        ("gemma2-softcap", {"query_pre_attn_scalar": 16}, "model.layers.0.self_attn", True, "o_proj another input"),
        ("llama", {"hidden_act": "gelu"}, "model.layers.0.mlp.act_fn", False, "GELUActivation in the candidate"),
        ("mixtral", {"num_experts_per_tok": 1}, "model.layers.0.mlp.gate", False, "returns a tensor of another shape"),
    ],
)
def test_a_changed_configuration_starts_where_it_is_used(
    name: str, overrides: dict[str, Any], module: str, itself: bool, note: str | None
) -> None:
    reference = tiny(name)
    trace = traced(reference, like(reference, name, **overrides))
    first = first_of(trace)
    assert (first.name, first.itself) == (module, itself)
    assert trace.note is None if note is None else note in str(trace.note)


def test_a_window_that_only_long_prompts_reach_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module_trace, "_MOST_TOKENS", 20)
    reference = tiny("mistral-window", sliding_window=30)
    trace = traced(reference, like(reference, "mistral-window", sliding_window=25))
    assert first_of(trace).name == "model"


@pytest.mark.parametrize("name", ["mistral-window", "llama", "gemma3", "falcon-alibi"])
def test_another_implementation_of_attention_is_no_start(name: str) -> None:
    """One masks by a tensor of numbers, another by booleans or not at all."""
    reference = tiny(name)
    candidate = copy.deepcopy(reference)
    candidate.set_attn_implementation("eager")
    assert traced(reference, candidate).first is None
    assert traced(candidate, reference).first is None


@pytest.mark.parametrize("kind", ["eager", "batched_mm", "grouped_mm"])
def test_experts_that_are_computed_in_another_order_are_no_start(kind: str) -> None:
    reference = tiny("mixtral")
    candidate = copy.deepcopy(reference)
    candidate.set_experts_implementation(kind)
    assert traced(reference, candidate).first is None
    assert traced(candidate, reference).first is None
    candidate.model.layers[1].mlp.experts.down_proj.data *= 1.01
    trace = traced(reference, candidate)
    assert (first_of(trace).name, trace.n_differing) == ("model.layers.1.mlp.experts", 1)


def test_swapped_layers_start_at_the_first_of_them() -> None:
    reference = tiny("llama", num_hidden_layers=4)
    candidate = copy.deepcopy(reference)
    layers = candidate.model.layers
    layers[1], layers[2] = layers[2], layers[1]
    trace = traced(reference, candidate)
    assert first_of(trace).name == "model.layers.1.self_attn.q_proj"
    assert trace.n_differing == 14  # all linears of both


def test_a_lost_layer_starts_in_the_model_that_leaves_it_out() -> None:
    reference = tiny("llama")
    candidate = copy.deepcopy(reference)
    candidate.config.num_hidden_layers = 1
    candidate.model.layers = candidate.model.layers[:1]
    trace = traced(reference, candidate)
    assert (first_of(trace).name, trace.n_differing) == ("model", 1)
    assert "model gives model.norm another hidden_states" in str(trace.note)
    assert "13 modules only in the reference (model.layers.1, " in str(trace.note)


def test_the_largest_is_told_beside_the_first_where_it_stands_out() -> None:
    reference = tiny("llama", num_hidden_layers=4)
    candidate = changed(reference, 0.01)
    trace = traced(reference, candidate)
    assert first_of(trace).name == "model.embed_tokens"
    assert trace.largest is None
    weight = candidate.model.layers[2].mlp.up_proj.weight
    weight.data = weight.data.roll(1, 0)
    trace = traced(reference, candidate)
    assert first_of(trace).name == "model.embed_tokens"
    assert trace.largest is not None
    assert trace.largest.name == "model.layers.2.mlp.up_proj"
    assert trace.largest.after > 1
    assert 0.005 < trace.largest.before < 0.02


def test_a_record_that_takes_too_much_memory_is_made_of_fewer_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    lengths: list[int] = []
    reference = tiny("llama")
    candidate = copy.deepcopy(reference)
    candidate.model.layers[1].register_forward_hook(larger)
    candidate.lm_head.register_forward_hook(lambda module, arguments, output: lengths.append(output.shape[1]))
    monkeypatch.setattr(module_trace, "_MOST_BYTES", 100_000)
    assert first_of(traced(reference, candidate)).name == "model.layers.1"
    assert set(lengths) == {20}
    monkeypatch.setattr(module_trace, "_MOST_BYTES", 100)
    assert "memory" in str(traced(reference, candidate).note)


def test_an_engine_without_modules_is_told() -> None:
    class Other:
        max_positions = None
        label = "elsewhere"

        def top_k(self, batch: object, k: object) -> Any: ...

        def sample(self, contexts: object, n_tokens: int, seed: int) -> Any: ...

    with TorchEngine.opened(tiny("llama"), "candidate", AUTO) as engine:
        trace = engine.trace(Other(), Tokens(IDS, 30))
    assert trace.note == "the reference does not run in PyTorch, so its modules cannot be seen"


def test_a_module_around_one_that_differs_does_not_differ_by_itself() -> None:
    reference = tiny("llama")
    candidate = copy.deepcopy(reference)
    candidate.model.layers[1].self_attn.q_proj.register_forward_hook(larger)
    candidate.model.layers[1].register_forward_hook(lambda module, arguments, output: output * 1.5)
    trace = traced(reference, candidate)
    assert first_of(trace).name == "model.layers.1.self_attn.q_proj"
    assert trace.largest is not None
    assert (trace.largest.name, trace.largest.itself, trace.n_differing) == ("model.layers.1", False, 2)


class Router(nn.Module):
    """The numbers and the indices of the largest of each token; all are nearly equal."""

    def forward(self, states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        scores = 1 + 1e-6 * states
        return scores, scores.argmax(-1)


class Routed(nn.Module):
    def __init__(self, error: float) -> None:
        super().__init__()
        self.embed = nn.Embedding(97, 16)
        self.router = Router()
        self.router.register_forward_pre_hook(lambda module, arguments: (arguments[0] + error * arguments[0].flip(-1),))

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        scores, indices = self.router(self.embed(ids))
        logits: torch.Tensor = nn.functional.one_hot(indices, 97).float() + scores[..., :1]
        return logits


def test_a_choice_between_nearly_equal_numbers_is_no_start() -> None:
    reference, candidate = Routed(0.0), Routed(0.3)
    candidate.load_state_dict(reference.state_dict())
    with torch.no_grad():
        unlike = reference(torch.tensor([IDS])).argmax(-1) != candidate(torch.tensor([IDS])).argmax(-1)
    assert unlike.any()
    assert traced(reference, candidate).first is None


def test_the_random_state_stays_while_the_engines_are_open() -> None:
    model = tiny("llama")
    model.model.layers[0].register_forward_hook(lambda *_: None if torch.rand(1) < 2 else 0)
    with TorchEngine.opened(model, "reference", AUTO) as first, TorchEngine.opened(tiny("llama"), "candidate", AUTO) as second:
        before = torch.get_rng_state()
        second.trace(first, Tokens(IDS, 30))
        assert torch.equal(torch.get_rng_state(), before)
