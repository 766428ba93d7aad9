"""Each damage changes the tensors that its name says, and no others."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pytest_pot.calibration.damage import DAMAGE
from pytest_pot.calibration.perturbations import PERTURBATIONS, NotApplicable

from ..models import CONFIGS, tiny

PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj")
LAYER = {
    "model.layers.1." + name
    for name in (
        *(f"self_attn.{projection}.weight" for projection in PROJECTIONS),
        *(f"mlp.{projection}_proj.weight" for projection in ("gate", "up", "down")),
    )
}
FIRST = "model.layers.1.self_attn.q_proj.weight"
EXPECTED: dict[str, set[str]] = {
    "q and k permuted": {f"model.layers.{i}.self_attn.{name}_proj.weight" for i in (0, 1) for name in "qk"},
    "matrix transposed": {FIRST},
    "matrix scaled": {FIRST},
    "matrix zeroed": {FIRST},
    "matrix with NaN": {FIRST},
    "matrix changed": {FIRST},
    "layer changed": LAYER,
    "projections changed": {f"model.layers.{i}.mlp.down_proj.weight" for i in (0, 1)},
    "adapter merged": {f"model.layers.{i}.self_attn.{name}_proj.weight" for i in (0, 1) for name in "qv"},
    "embeddings damaged": {"model.embed_tokens.weight", "lm_head.weight"},
    "output layer untied": {"lm_head.weight"},
    "output layer lost": {"lm_head.weight"},
}


def tensors(model: nn.Module) -> dict[str, Tensor]:
    named = {**dict(model.named_parameters(remove_duplicate=False)), **dict(model.named_buffers())}
    return {name: tensor.detach() for name, tensor in named.items()}


def tied_llama() -> Any:
    model = tiny("llama", tie_word_embeddings=True)
    model.tie_weights()
    return model


@pytest.mark.parametrize("name", EXPECTED)
def test_only_the_tensors_that_are_named_change(name: str) -> None:
    model = tied_llama()
    before, after = tensors(model), tensors(DAMAGE[name](model))
    assert {key for key in before if not torch.equal(before[key], after[key])} == EXPECTED[name]


def test_fp8_changes_all_matrices() -> None:
    model = tied_llama()
    after = tensors(DAMAGE["fp8"](model))
    for name, tensor in tensors(model).items():
        expected = tensor.to(torch.float8_e4m3fn).float() if tensor.ndim >= 2 else tensor
        assert torch.equal(after[name], expected)


def test_all_damage_is_tested_and_has_a_name_of_its_own() -> None:
    assert EXPECTED.keys() | {"fp8"} == DAMAGE.keys()
    assert not DAMAGE.keys() & PERTURBATIONS.keys()


def test_heads_are_permuted_as_in_a_conversion_and_back() -> None:
    """By the function that converts Meta's checkpoints: it undoes the damage."""
    model = tiny("llama")
    damaged: Any = DAMAGE["q and k permuted"](model)
    for name, heads in (("q_proj", 4), ("k_proj", 2)):
        weight = getattr(damaged.model.layers[0].self_attn, name).weight
        rows, columns = weight.shape
        undone = weight.view(heads, rows // heads // 2, 2, columns).transpose(1, 2).reshape(rows, columns)
        assert torch.equal(undone, getattr(model.model.layers[0].self_attn, name).weight)


def test_biases_are_permuted_like_their_rows() -> None:
    model: Any = tiny("llama", attention_bias=True)
    for parameter in model.parameters():
        if parameter.ndim == 1:
            parameter.data = torch.arange(len(parameter)).float()
    damaged: Any = DAMAGE["q and k permuted"](model)
    bias = damaged.model.layers[0].self_attn.q_proj.bias
    assert bias[:8].tolist() == [0, 4, 1, 5, 2, 6, 3, 7]
    rows = model.model.layers[0].self_attn.q_proj.weight[bias.long()]
    assert torch.equal(damaged.model.layers[0].self_attn.q_proj.weight, rows)


@pytest.mark.parametrize(("name", "size"), [("matrix changed", 1e-3), ("projections changed", 1e-2), ("adapter merged", 0.05)])
def test_the_size_is_the_stated_one(name: str, size: float) -> None:
    model = tied_llama()
    before, after = tensors(model), tensors(DAMAGE[name](model))
    for key in EXPECTED[name]:
        assert float((after[key] - before[key]).norm() / before[key].norm()) == pytest.approx(size, rel=1e-4)


def test_an_adapter_has_rank_8() -> None:
    model: Any = tiny("llama")
    damaged: Any = DAMAGE["adapter merged"](model)
    difference = (damaged.model.layers[0].self_attn.q_proj.weight - model.model.layers[0].self_attn.q_proj.weight).double()
    sizes = torch.linalg.svdvals(difference)
    assert sizes[7] > 0.05 * sizes[0] > 1e3 * sizes[8]


def test_a_lost_output_layer_is_as_large_as_a_new_one() -> None:
    model = tied_llama()
    damaged: Any = DAMAGE["output layer lost"](model)
    assert float(damaged.lm_head.weight.detach().std()) == pytest.approx(model.config.initializer_range, rel=0.05)
    assert torch.equal(damaged.model.embed_tokens.weight, model.model.embed_tokens.weight)


@pytest.mark.parametrize("architecture", CONFIGS)
@pytest.mark.parametrize("name", DAMAGE)
def test_models_of_all_kinds_are_damaged_or_told_why_not(architecture: str, name: str) -> None:
    model = tiny(architecture)
    before = {key: tensor.detach().clone() for key, tensor in tensors(model).items()}
    try:
        damaged = DAMAGE[name](model)
    except NotApplicable as error:
        reason = str(error)
    else:
        reason = ""
        assert any(not torch.equal(before[key], tensor) for key, tensor in tensors(damaged).items())
    assert reason.startswith(("the model ", "the model's ", "the middle layer ")) or not reason
    assert all(torch.equal(before[key], tensor) for key, tensor in tensors(model).items())


@pytest.mark.parametrize("name", DAMAGE)
def test_a_seed_repeats_it_and_a_bare_module_is_refused_or_damaged(name: str) -> None:
    model = tied_llama()
    first, second = (tensors(DAMAGE[name](model, seed=3)) for _ in range(2))
    assert all(torch.equal(first[key].nan_to_num(), second[key].nan_to_num()) for key in first)
    if name != "fp8":
        with pytest.raises(NotApplicable):
            DAMAGE[name](nn.Linear(4, 4))
