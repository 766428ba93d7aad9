"""Each perturbation makes the change that its name says, of that size, and no other."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from pytest_pot.calibration.perturbations import PERTURBATIONS, NotApplicable, perturb
from pytest_pot.gates.verdict.limits import TOLERANCES

from ..models import CONFIGS, tiny

WITH_ROPE = ("llama", "qwen3", "gemma3", "gemma2-softcap", "phi", "mixtral")
ON_MATRICES = [name for name in PERTURBATIONS if name.startswith(("int", "pruned", "noise"))]


def weights(model: nn.Module) -> dict[str, torch.Tensor]:
    """Parameters under all their names, and buffers."""
    return {**dict(model.named_parameters(remove_duplicate=False)), **dict(model.named_buffers())}


def snapshot(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in weights(model).items()}


def logits(model: nn.Module) -> torch.Tensor:
    with torch.inference_mode():
        output: torch.Tensor = model(torch.arange(3, 23)[None]).logits
    return output


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def matrices(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: parameter.detach() for name, parameter in model.named_parameters() if parameter.ndim >= 2}


@pytest.mark.parametrize("architecture", CONFIGS)
@pytest.mark.parametrize("name", PERTURBATIONS)
def test_a_perturbed_copy_differs_and_the_original_does_not_change(architecture: str, name: str) -> None:
    model = tiny(architecture)
    before, config = snapshot(model), model.config.to_dict()
    if name == "wrong RoPE base" and architecture not in WITH_ROPE:
        with pytest.raises(NotApplicable, match="rope_theta"):
            perturb(model, name)
        return
    copy = perturb(model, name)
    assert same(weights(model), before)
    assert model.config.to_dict() == config
    assert not {id(tensor) for tensor in weights(model).values()} & {id(tensor) for tensor in weights(copy).values()}
    assert type(copy) is type(model)
    assert copy.training == model.training
    if name not in ("pruned 1 %",):  # in matrices this small, perhaps no weight is pruned
        assert not torch.equal(logits(copy), logits(model))
    assert torch.isfinite(logits(copy)).all()


@pytest.mark.parametrize("name", PERTURBATIONS)
def test_the_same_seed_gives_the_same_copy(name: str) -> None:
    model = tiny("llama")
    first = snapshot(perturb(model, name, seed=3))
    state = torch.random.get_rng_state()
    assert same(first, weights(perturb(model, name, seed=3)))
    assert torch.equal(torch.random.get_rng_state(), state)
    other = same(first, weights(perturb(model, name, seed=4)))
    assert other is not name.startswith("noise")


@pytest.mark.parametrize("name", ON_MATRICES)
def test_vectors_and_buffers_do_not_change(name: str) -> None:
    model = tiny("gpt2")
    before, after = snapshot(model), weights(perturb(model, name))
    assert all(torch.equal(before[one], after[one]) for one in before if before[one].ndim < 2)


@pytest.mark.parametrize("name", PERTURBATIONS)
def test_tied_weights_stay_tied(name: str) -> None:
    model = tiny("llama", tie_word_embeddings=True)
    model.tie_weights()
    assert model.lm_head.weight is model.model.embed_tokens.weight
    copy: Any = perturb(model, name)
    assert copy.lm_head.weight is copy.model.embed_tokens.weight


@pytest.mark.parametrize(("name", "dtype"), [("bf16", torch.bfloat16), ("fp16", torch.float16)])
def test_a_cast_gives_the_weights_of_a_checkpoint_of_that_type(name: str, dtype: torch.dtype) -> None:
    model = tiny("llama")
    expected = {key: value.to(dtype).float() for key, value in model.named_parameters()}
    assert same(dict(perturb(model, name).named_parameters()), expected)


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "mixtral", "mamba"])
def test_int8_per_row_rounds_to_the_nearest_of_255_levels(architecture: str) -> None:
    model = tiny(architecture)
    copy = matrices(perturb(model, "int8 per row"))
    for name, matrix in matrices(model).items():
        for row, rounded in zip(matrix.flatten(0, -2), copy[name].flatten(0, -2), strict=True):
            step = (row.abs().max() / 127).clamp_min(1e-30)  # a padding row is all zeros
            assert len(rounded.unique()) <= 255
            torch.testing.assert_close(rounded / step, torch.round(rounded / step), atol=1e-3, rtol=0)
            assert (rounded - row).abs().max() <= 0.5001 * step


def test_int8_per_tensor_has_one_grid_for_all_rows() -> None:
    model = tiny("llama")
    copy = matrices(perturb(model, "int8 per tensor"))
    for name, matrix in matrices(model).items():
        step = matrix.abs().max() / 127
        assert len(copy[name].unique()) <= 255
        assert (copy[name] - matrix).abs().max() <= 0.5001 * step


def test_int4_has_15_levels_per_group_of_32_and_per_shorter_last_group() -> None:
    model = tiny("llama")
    copy = matrices(perturb(model, "int4 in groups"))
    assert {matrix.shape[-1] % 32 for matrix in copy.values()} == {0, 16}
    for name, matrix in matrices(model).items():
        for row, rounded in zip(matrix, copy[name], strict=True):
            for group, rounded_group in zip(row.split(32), rounded.split(32), strict=True):
                assert len(rounded_group.unique()) <= 15
                assert (rounded_group - group).abs().max() <= 0.5001 * group.abs().max() / 7


@pytest.mark.parametrize("bits", ["int8 per row", "int8 per tensor", "int4 in groups"])
def test_rows_of_zeros_stay_zeros(bits: str) -> None:
    model = tiny("llama")
    with torch.no_grad():
        model.lm_head.weight[:5] = 0.0
        model.model.layers[0].mlp.up_proj.weight.zero_()
    copy: Any = perturb(model, bits)
    assert not copy.lm_head.weight[:5].any()
    assert not copy.model.layers[0].mlp.up_proj.weight.any()
    assert torch.isfinite(logits(copy)).all()


@pytest.mark.parametrize("share", [1, 5, 20])
@pytest.mark.parametrize("ties", [False, True])
def test_pruning_removes_exactly_the_named_share_of_smallest_weights(share: int, ties: bool) -> None:
    model: nn.Module = tiny("llama")
    if ties:
        model = perturb(model, "int4 in groups")
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim >= 2:
                    parameter.copy_(torch.where(parameter == 0, 1.0, parameter.sign()))  # all weights have one size
    copy = matrices(perturb(model, f"pruned {share} %"))
    for name, matrix in matrices(model).items():
        is_zero = copy[name] == 0
        assert int(is_zero.sum()) == max(int(matrix.numel() * share / 100), int((matrix == 0).sum()))
        assert torch.equal(copy[name][~is_zero], matrix[~is_zero])
        if is_zero.any():
            assert matrix[is_zero].abs().max() <= matrix[~is_zero].abs().min()


@pytest.mark.parametrize("n", range(3, 13))
def test_noise_has_the_size_in_its_name(n: int) -> None:
    model = tiny("llama", hidden_size=128, head_dim=32)
    copy = matrices(perturb(model, f"noise 2^-{n}"))
    for name, matrix in matrices(model).items():
        noise = (copy[name] - matrix) / matrix.std()
        assert noise.std().item() == pytest.approx(2.0**-n, rel=0.05), name
        assert abs(noise.mean().item()) < 0.1 * 2.0**-n


def test_swapping_layers_changes_nothing_else() -> None:
    model = tiny("llama", num_hidden_layers=5)
    before, after = snapshot(model), weights(perturb(model, "layers swapped"))
    other = {"model.layers.1.": "model.layers.2.", "model.layers.2.": "model.layers.1."}
    for name, tensor in after.items():
        start = name[: len("model.layers.1.")]
        assert torch.equal(tensor, before[name.replace(start, other.get(start, start), 1)])


def test_layers_of_other_shapes_are_not_swapped() -> None:
    model = tiny("llama", num_hidden_layers=4)
    model.model.layers[1].mlp.up_proj = nn.Linear(32, 7)
    before, after = snapshot(model), weights(perturb(model, "layers swapped"))
    swapped_layers = {name.split(".")[2] for name in before if not torch.equal(before[name], after[name])}
    assert swapped_layers == {"2", "3"}


@pytest.mark.parametrize("layers", [1, 2])
def test_a_model_without_two_different_layers_has_nothing_to_swap(layers: int) -> None:
    model = tiny("llama", num_hidden_layers=layers)
    model.model.layers[-1] = model.model.layers[0]  # if there are two, both are the same object
    with pytest.raises(NotApplicable, match="no two layers"):
        perturb(model, "layers swapped")


@pytest.mark.parametrize("architecture", WITH_ROPE)
def test_another_rope_base_changes_later_positions_but_no_weight(architecture: str) -> None:
    model = tiny(architecture)
    copy = perturb(model, "wrong RoPE base")
    assert same(dict(model.named_parameters()), dict(copy.named_parameters()))
    difference = (logits(copy) - logits(model)).abs().amax(dim=-1)[0]
    assert difference[0] < 1e-4 < difference[-1]


def test_the_wrong_rope_base_is_500000_and_a_second_change_restores_the_first() -> None:
    model = tiny("llama")
    copy: Any = perturb(model, "wrong RoPE base")
    theta = 1.0 / copy.model.rotary_emb.inv_freq[1] ** (8 / 2)
    assert theta.item() == pytest.approx(500_000.0, rel=1e-3)
    again = perturb(perturb(model, "wrong RoPE base"), "wrong RoPE base")
    assert torch.equal(logits(again), logits(model))


def test_a_model_without_a_config_has_no_rope() -> None:
    with pytest.raises(NotApplicable, match="rope_theta"):
        perturb(nn.Sequential(nn.Embedding(7, 4), nn.Linear(4, 7)), "wrong RoPE base")


def test_a_half_precision_model_stays_in_half_precision() -> None:
    model = tiny("llama").bfloat16()
    for name in PERTURBATIONS:
        assert {parameter.dtype for parameter in perturb(model, name).parameters()} == {torch.bfloat16}
    assert same(dict(perturb(model, "bf16").named_parameters()), dict(model.named_parameters()))


def test_each_perturbation_has_a_name_a_one_line_description_and_a_known_tolerance() -> None:
    for name, perturbation in PERTURBATIONS.items():
        assert perturbation.name == name
        assert perturbation.description
        assert "\n" not in perturbation.description
        assert perturbation.tolerance is None or perturbation.tolerance in TOLERANCES
