from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import nn
from transformers import PreTrainedModel

from pytest_pot import ScoringConfig
from pytest_pot.engines.module_differences import ModuleDifference, ModuleTrace, Traceable
from pytest_pot.engines.pytorch.engine import TorchEngine
from pytest_pot.engines.pytorch.module_trace import trace as module_trace
from pytest_pot.engines.tokens import Tokens

from ....models import CONFIGS, MORE_CONFIGS, changed, tiny

ALL = (*CONFIGS, *MORE_CONFIGS)
IDS = tuple(torch.randint(3, 97, (40,), generator=torch.Generator().manual_seed(5)).tolist())
AUTO = ScoringConfig()
BF16 = ScoringConfig(dtype="bfloat16")


def traced(
    reference: nn.Module,
    candidate: nn.Module,
    configs: tuple[ScoringConfig, ScoringConfig] = (AUTO, AUTO),
    ids: tuple[int, ...] = IDS,
) -> ModuleTrace:
    with (
        TorchEngine.opened(reference, "reference", configs[0]) as first,
        TorchEngine.opened(candidate, "candidate", configs[1]) as second,
    ):
        assert isinstance(second, Traceable)
        return second.trace(first, Tokens(ids, len(ids) - 10))


def first_of(trace: ModuleTrace) -> ModuleDifference:
    assert trace.first is not None, trace.note
    return trace.first


def larger(module: nn.Module, arguments: object, output: Any) -> Any:
    """A forward hook that adds 1 % to the output."""
    if isinstance(output, torch.Tensor):
        return output * 1.01
    if isinstance(output, tuple):
        return output[0] * 1.01, *output[1:]
    key = "logits" if "logits" in output else "last_hidden_state"
    output[key] = output[key] * 1.01
    return output


def called(model: nn.Module) -> list[str]:
    """The modules that run, by name."""
    names: list[str] = []
    handles = [module.register_forward_hook(lambda *_, name=name: names.append(name)) for name, module in model.named_modules()]
    with torch.no_grad():
        model(torch.tensor([IDS]))
    for handle in handles:
        handle.remove()
    return list(dict.fromkeys(names))


@pytest.mark.parametrize("name", ALL)
def test_the_same_weights_do_not_differ(name: str) -> None:
    reference = tiny(name)
    trace = traced(reference, copy.deepcopy(reference))
    assert trace == ModuleTrace(first=None, largest=None, n_modules=len(called(reference)), n_differing=0)


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


@pytest.mark.parametrize("name", ALL)
def test_weights_that_are_kept_in_bfloat16_are_no_start(name: str) -> None:
    reference = tiny(name)
    assert traced(reference, copy.deepcopy(reference).bfloat16()).first is None
    assert traced(copy.deepcopy(reference).bfloat16(), reference).first is None


def test_rounded_rotary_frequencies_are_no_start_but_another_base_is() -> None:
    """``to(bfloat16)`` rounds them, which turns the keys of tokens far away by other angles."""
    reference = tiny("llama", max_position_embeddings=1024)
    ids = IDS * 6
    assert traced(reference, copy.deepcopy(reference).bfloat16(), ids=ids).first is None
    candidate = like(reference, "llama", rope_parameters={"rope_type": "default", "rope_theta": 100.0}).bfloat16()
    assert first_of(traced(reference, candidate, ids=ids)).name == "model.rotary_emb"


def test_1_percent_is_seen_where_both_compute_in_bfloat16() -> None:
    reference = tiny("llama")
    candidate = copy.deepcopy(reference)
    for name in ("model.layers.1.self_attn", "model.layers.1.mlp", "model.layers.0", "model.layers.0.mlp.up_proj"):
        handle = candidate.get_submodule(name).register_forward_hook(larger)
        trace = traced(reference, candidate, (BF16, BF16))
        handle.remove()
        assert (first_of(trace).name, trace.n_differing) == (name, 1)


def like(reference: PreTrainedModel, name: str, **overrides: Any) -> PreTrainedModel:
    """The weights of ``reference`` with another configuration."""
    candidate = tiny(name, **overrides)
    candidate.load_state_dict(reference.state_dict())
    return candidate


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


def test_another_architecture_is_told_in_one_line() -> None:
    trace = traced(tiny("llama"), tiny("gpt2"))
    assert (trace.first, trace.n_modules) == (None, 0)
    assert trace.note == "2 of the reference's 33 modules have their names in the candidate: too few to compare"


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
    assert traced(reference, Wrapped(reference)).note == "what wraps the models was not compared"


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
