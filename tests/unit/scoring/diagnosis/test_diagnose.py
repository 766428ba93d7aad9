"""Whole diagnoses of tiny models, live and from what a recording keeps."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from pytest_pot.core.config import ScoringConfig
from pytest_pot.engines.pytorch.backend import PyTorchBackend
from pytest_pot.engines.pytorch.weights.named import NamedWeights
from pytest_pot.engines.registry import opened, register, unregister
from pytest_pot.engines.tokens import Tokens
from pytest_pot.engines.weights import ChangeKind
from pytest_pot.scoring.diagnosis.diagnose import ModelPair, diagnose
from pytest_pot.scoring.diagnosis.diagnosis import ConfigChange, Diagnosis

from ...models import changed, tiny

CONFIG = ScoringConfig()
LAYERS = 4


def llama(**fields: Any) -> PreTrainedModel:
    """A tiny Llama whose norms are as different as those of a trained one."""
    model = tiny("llama", num_hidden_layers=LAYERS, **fields)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model


def live(reference: object, candidate: object, **fields: Any) -> Diagnosis:
    return diagnose(ModelPair(candidate, CONFIG, CONFIG, reference, **fields))


def from_recording(reference: PreTrainedModel, candidate: object) -> Diagnosis:
    return diagnose(ModelPair(candidate, CONFIG, CONFIG, is_recorded=True, recorded=NamedWeights(reference).print()))


def swap_layers(model: PreTrainedModel) -> None:
    layers = model.model.layers
    layers[1], layers[3] = layers[3], layers[1]


def shift_layers(model: PreTrainedModel) -> None:
    with torch.no_grad():
        for layer in reversed(range(1, LAYERS)):
            model.model.layers[layer].load_state_dict(model.model.layers[layer - 1].state_dict())


def drop_a_layer(model: PreTrainedModel) -> None:
    del model.model.layers[1]


def change_a_tensor(model: PreTrainedModel) -> None:
    weight = model.model.layers[2].mlp.down_proj.weight
    with torch.no_grad():
        weight.add_(1e-3 * weight.std() * torch.randn(weight.shape, generator=torch.Generator().manual_seed(0)))


def lose_the_output_layer(model: PreTrainedModel) -> None:
    model.lm_head.weight = model.model.embed_tokens.weight


def spoil(model: PreTrainedModel) -> None:
    with torch.no_grad():
        model.model.layers[0].mlp.up_proj.weight[0, 0] = torch.nan


@pytest.mark.parametrize("compare", [live, from_recording])
@pytest.mark.parametrize(
    ("change", "words"),
    [
        (swap_layers, "layers 1 and 3 are swapped (18 tensors)"),
        (shift_layers, "layers 1 to 3 hold the weights of the layer before (27 tensors)"),
        (drop_a_layer, "layer 1 was taken out: layers 1 and 2 hold the weights of the layer after"),
        (change_a_tensor, "one tensor: model.layers.2.mlp.down_proj.weight changed (relative change "),
        (lose_the_output_layer, "lm_head.weight was lost: the candidate uses model.embed_tokens.weight in its place (tied)"),
        (spoil, "one tensor: model.layers.0.mlp.up_proj.weight: NaN or infinite values"),
    ],
)
def test_a_change_of_weights_is_named(
    compare: Callable[[Any, Any], Diagnosis], change: Callable[[PreTrainedModel], None], words: str
) -> None:
    candidate = llama()
    change(candidate)
    diagnosis = compare(llama(), candidate)
    assert any(line.startswith(words) for line in diagnosis.what_changed), diagnosis.what_changed
    assert not diagnosis.same_weights
    assert diagnosis.notes == ()
    json.dumps(diagnosis.to_dict(), allow_nan=False)


@pytest.mark.parametrize("compare", [live, from_recording])
@pytest.mark.parametrize("name", ["llama", "gpt2", "mixtral", "mamba", "gemma2-softcap", "opt"])
def test_equal_models_are_the_same(compare: Callable[[Any, Any], Diagnosis], name: str) -> None:
    diagnosis = compare(tiny(name), tiny(name))
    assert diagnosis.same_weights
    assert diagnosis.weights is not None
    n = diagnosis.weights.n_tensors
    assert diagnosis.what_changed == (f"all {n} tensors are equal, and so is the configuration",)
    assert (diagnosis.weights.n_equal, diagnosis.weights.changes, diagnosis.notes) == (n, (), ())


@pytest.mark.parametrize("compare", [live, from_recording])
@pytest.mark.parametrize(
    ("name", "field", "value", "words"),
    [
        ("llama", "rms_norm_eps", 1e-3, "rms_norm_eps 1e-06 -> 0.001"),
        ("llama", "rope_parameters", {"rope_type": "default", "rope_theta": 500.0}, "rope_theta 10000 -> 500"),
        ("gemma3", "sliding_window", 4, "sliding_window 8 -> 4"),
        ("gemma2-softcap", "final_logit_softcapping", 3.0, "final_logit_softcapping 5 -> 3"),
        ("gemma2-softcap", "query_pre_attn_scalar", 16, "query_pre_attn_scalar 8 -> 16"),
    ],
)
def test_a_change_of_the_configuration_is_one_line(
    compare: Callable[[Any, Any], Diagnosis], name: str, field: str, value: object, words: str
) -> None:
    fields: dict[str, Any] = {field: value}
    reference, candidate = tiny(name), tiny(name, **fields)
    candidate.load_state_dict(reference.state_dict())
    diagnosis = compare(reference, candidate)
    assert diagnosis.weights is not None
    assert diagnosis.what_changed == (f"{words}; all {diagnosis.weights.n_tensors} tensors are equal",)
    assert not diagnosis.same_weights


def test_a_configuration_that_changed_after_the_model_was_made_is_named() -> None:
    candidate = llama()
    candidate.config.rms_norm_eps = 1e-3
    assert live(llama(), candidate).config == (ConfigChange("rms_norm_eps", 1e-6, 1e-3),)


def test_a_number_that_a_module_keeps_is_named_where_nothing_else_changed() -> None:
    candidate = llama()
    for layer in candidate.model.layers:
        layer.self_attn.scaling = 0.1
    diagnosis = live(llama(), candidate)
    assert diagnosis.what_changed == (
        "scaling of all 4 self_attn: 0.354 -> 0.1 (kept by the modules, not by the configuration); all 39 tensors are equal",
    )
    assert not diagnosis.same_weights


@pytest.mark.parametrize("compare", [live, from_recording])
def test_computed_buffers_that_nothing_explains_are_named(compare: Callable[[Any, Any], Diagnosis]) -> None:
    candidate = llama()
    candidate.model.rotary_emb.inv_freq.mul_(0.5)
    diagnosis = compare(llama(), candidate)
    assert diagnosis.weights is not None
    assert (diagnosis.weights.n_equal, diagnosis.weights.n_tensors, diagnosis.same_weights) == (39, 39, False)
    assert "the computed buffer has other values" in diagnosis.what_changed[0]
    assert diagnosis.what_changed[0].endswith("model.rotary_emb.inv_freq")


@pytest.mark.parametrize("compare", [live, from_recording])
def test_the_same_weights_in_another_precision(compare: Callable[[Any, Any], Diagnosis]) -> None:
    reference, candidate = llama(), llama().bfloat16()  # with its rotary frequencies
    with torch.no_grad():
        for parameter in reference.parameters():
            parameter.copy_(parameter.bfloat16())
    assert compare(reference, candidate).same_weights
    assert compare(candidate, reference).same_weights
    labels = ("float32 on cuda:0", "bfloat16 on cuda:0")
    diagnosis = live(reference, candidate, labels=labels)
    assert diagnosis.precisions == ("float32", "bfloat16")
    assert diagnosis.what_changed[0].startswith("same weights, computed in another precision (float32 and bfloat16): all 39")


@pytest.mark.parametrize("compare", [live, from_recording])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_computed_buffers_in_another_precision_are_no_difference(
    compare: Callable[[Any, Any], Diagnosis], dtype: torch.dtype
) -> None:
    """Some are so near to their rounded values that a recording cannot tell how far they are."""
    frequencies = {
        "near": torch.tensor([1.0, 0.5, 2.0**-10 + 2.0**-33] * 8),
        "usual": 1e6 ** -torch.linspace(0, 1, 24),
    }
    for values in frequencies.values():
        reference, candidate = llama(), llama()
        for model in (reference, candidate):
            for layer in model.model.layers:
                layer.register_buffer("scales", values.clone(), persistent=False)
        candidate = candidate.half() if dtype == torch.float16 else candidate.bfloat16()
        with torch.no_grad():
            for parameter in reference.parameters():
                parameter.copy_(parameter.to(dtype))
        assert compare(reference, candidate).same_weights
        candidate.model.layers[1].scales.mul_(1.1)
        assert not compare(reference, candidate).same_weights


def test_rounded_weights_are_not_the_same() -> None:
    diagnosis = live(llama(), llama().bfloat16())
    assert not diagnosis.same_weights
    assert diagnosis.what_changed[0].startswith("all 39 tensors rounded to bfloat16 (relative change 0.001")


def untied(model: PreTrainedModel, factor: float) -> PreTrainedModel:
    model.lm_head.weight = nn.Parameter(factor * model.lm_head.weight.detach().clone())
    return model


@pytest.mark.parametrize("compare", [live, from_recording])
def test_an_output_layer_of_its_own(compare: Callable[[Any, Any], Diagnosis]) -> None:
    equal = compare(tiny("gpt2"), untied(tiny("gpt2"), 1.0))
    assert equal.same_weights
    assert equal.what_changed[-1].endswith("; its values are still equal")
    other = compare(tiny("gpt2"), untied(tiny("gpt2"), 1.5))
    assert not other.same_weights
    assert other.weights is not None
    (change,) = other.weights.changes
    assert (change.name, change.kind, change.what) == ("lm_head.weight", ChangeKind.UNTIED, "transformer.wte.weight")
    assert change.relative == pytest.approx(0.5, rel=0.5)


@pytest.mark.parametrize("compare", [live, from_recording])
def test_an_output_layer_that_is_shared_though_its_values_were_equal_before(compare: Callable[[Any, Any], Diagnosis]) -> None:
    reference, candidate = untied(tiny("gpt2"), 1.0), tiny("gpt2")
    diagnosis = compare(reference, candidate)
    assert diagnosis.same_weights
    assert diagnosis.what_changed == ("all 29 tensors are equal, and so is the configuration",)


def test_a_wrapped_model_is_the_same() -> None:
    model = llama()
    assert live(model, nn.DataParallel(model)).same_weights
    body = live(model, model.model)
    assert body.weights is not None
    assert body.what_changed[0] == "the output layer missing in the candidate"


@pytest.mark.parametrize("compare", [live, from_recording])
def test_models_that_cannot_be_matched_are_one_line(compare: Callable[[Any, Any], Diagnosis]) -> None:
    other_class = compare(llama(), tiny("gpt2"))
    assert other_class.weights is None
    assert other_class.what_changed[0].startswith("model_type llama -> gpt2")
    assert (
        "a GPT2LMHeadModel with 28 tensors, the reference a LlamaForCausalLM with 39: their weights cannot"
        in (other_class.what_changed[-1])
    )
    other_size = compare(llama(), llama(hidden_size=48))
    assert other_size.weights is None
    assert other_size.what_changed[0] == "hidden_size 32 -> 48"
    assert "the two models have other sizes" in other_size.what_changed[1]


class Answering:
    """An engine that answers, and shows nothing else."""

    max_positions = None
    label = "Oracle at http://127.0.0.1:1"

    def top_k(self, batch: object, k: int | None) -> Any: ...

    def sample(self, contexts: object, n_tokens: int, seed: int) -> Any: ...


def test_engines_without_weights_are_one_line() -> None:
    assert live(llama(), Answering()).what_changed == (
        "the candidate (Oracle at http://127.0.0.1:1) shows no weights; a gate compares its answers",
    )
    assert live(Answering(), Answering(), labels=("A", "B")).what_changed == (
        "the candidate (B) and the reference (A) show no weights; a gate compares their answers",
    )


def test_a_recording_that_holds_nothing_says_what_to_do() -> None:
    (line,) = diagnose(ModelPair(llama(), CONFIG, CONFIG, is_recorded=True)).what_changed
    assert "record it anew with --pot-update" in line


def test_progress_counts_tensors_and_readings() -> None:
    calls: list[tuple[int, int]] = []
    pair = ModelPair(llama(), CONFIG, CONFIG, llama(), tokens=Tokens((3, 4, 5, 6), 3))
    diagnose(pair, lambda done, of: calls.append((done, of)))
    assert [done for done, _ in calls[:39]] == list(range(1, 40))
    assert {of for _, of in calls} == {41}
    assert calls[-1] == (41, 41)


@contextmanager
def failing(candidate: PreTrainedModel, tensor: str | None, error: Exception) -> Iterator[None]:
    """Let reading one tensor of ``candidate`` fail, or, with None, anything."""

    class FailingWeights(NamedWeights):
        def values(self, name: str) -> Tensor:
            if name == tensor:
                raise error
            return super().values(name)

    class FailingBackend(PyTorchBackend):
        def runs(self, model: object) -> bool:
            return model is candidate

        def weights(self, model: Any) -> NamedWeights:
            if tensor is None:
                raise error
            return FailingWeights(model)

    backend = FailingBackend()
    register(backend)
    try:
        yield
    finally:
        unregister(backend)


def test_what_fails_in_the_middle_is_a_note_and_the_rest_is_compared() -> None:
    candidate = llama()
    change_a_tensor(candidate)
    name = "model.layers.1.mlp.up_proj.weight"
    with failing(candidate, name, MemoryError()):
        diagnosis = live(llama(), candidate)
    assert diagnosis.weights is not None
    assert [change.name for change in diagnosis.weights.changes] == ["model.layers.2.mlp.down_proj.weight"]
    assert diagnosis.weights.n_equal == 37
    assert diagnosis.notes == (f"{name} could not be compared: MemoryError",)
    assert diagnosis.what_changed[-1] == diagnosis.notes[0]
    with failing(candidate, name, MemoryError()):
        assert not live(candidate, candidate).same_weights, "one tensor was not compared"
    with failing(candidate, None, RuntimeError("CUDA error: the device is lost")):
        diagnosis = live(llama(), candidate)
    assert diagnosis.what_changed == ("the candidate's weights could not be compared: CUDA error: the device is lost",)


def test_an_interrupt_passes() -> None:
    def interrupt(done: int, of: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        diagnose(ModelPair(llama(), CONFIG, CONFIG, llama()), interrupt)


def test_models_are_as_they_were() -> None:
    reference, candidate = llama(), changed(llama())
    before = [{name: value.clone() for name, value in model.state_dict().items()} for model in (reference, candidate)]
    random_state = torch.get_rng_state()
    live(reference, candidate, tokens=Tokens((3, 4, 5, 6), 3))
    for model, values in zip((reference, candidate), before, strict=True):
        assert all(torch.equal(value, values[name]) for name, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random_state)
    with opened(reference, "reference", CONFIG) as engine:
        assert engine.label == "float32 on cpu"


def test_another_class_with_the_same_weights_is_named() -> None:
    class Scaled(type(llama())):  # type: ignore[misc]
        def forward(self, *args: Any, **kwargs: Any) -> Any:
            output = super().forward(*args, **kwargs)
            output.logits = 2 * output.logits
            return output

    candidate = llama()
    candidate.__class__ = Scaled
    labels = ("float32 on cpu", "bfloat16 on cpu")
    equal = "all 39 tensors are equal, and so is the configuration"
    for compare in (live, from_recording):
        assert compare(llama(), candidate).what_changed == ("class LlamaForCausalLM -> Scaled", equal)
    assert live(llama(), candidate, labels=labels).what_changed == (
        "class LlamaForCausalLM -> Scaled",
        equal,
        "computed in another precision (float32 and bfloat16)",
    )


def test_a_wrapper_of_torch_is_no_other_class() -> None:
    model = llama()
    for wrapper in (nn.DataParallel(model), torch.compile(model, backend="eager")):
        assert live(model, wrapper).classes is None
        assert live(wrapper, model).classes is None


def test_an_untied_output_layer_that_is_equal_did_not_change_with_the_embeddings() -> None:
    candidate = llama(tie_word_embeddings=True)
    candidate.lm_head.weight = nn.Parameter(candidate.lm_head.weight.detach().clone())
    with torch.no_grad():
        candidate.model.embed_tokens.weight[:3] += 1
    lines = live(llama(tie_word_embeddings=True), candidate).what_changed
    assert any(line.startswith("the embeddings changed") for line in lines), lines
