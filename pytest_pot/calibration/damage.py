"""Damage of single parts of a model: mistakes of conversions, adapters, and values that were lost.

The changes of :mod:`~pytest_pot.calibration.perturbations` are as large everywhere, and make the ladder on which limits are
chosen. Those here are local, and serve to see whether a diagnosis names the part.

The *middle layer* is the one in the middle of the longest list of layers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from pytest_pot.calibration.perturbations import NotApplicable, Perturbation

__all__ = ["DAMAGE"]

FACTOR = 1.25
RANK = 8
ADAPTER_SIZE = 0.05
"""The norm of a merged adapter over that of the matrix."""
ROWS = 3
SMALL, MEDIUM = 1e-3, 1e-2
"""The norm of noise over that of the tensor."""


# --- conversions ---


def _permute_heads(model: nn.Module, _: torch.Generator) -> None:
    """From the order of the halves to that of the pairs of rotary encodings, as from Hugging Face's to Meta's format."""
    projections = [
        (module, heads)
        for name, module in model.named_modules()
        if (heads := _n_heads(model, name)) and isinstance(module, nn.Linear) and module.out_features % (2 * heads) == 0
    ]
    if not projections:
        raise NotApplicable("the model has no linear layers named q_proj and k_proj, whose rows could be permuted")
    for module, heads in projections:
        for tensor in module.parameters():
            halves = tensor.unflatten(0, (heads, 2, tensor.shape[0] // heads // 2))
            tensor.copy_(halves.transpose(1, 2).flatten(0, 2).clone())


def _n_heads(model: nn.Module, name: str) -> int:
    """How many heads the projection ``name`` is for; 0 if it is not of queries or keys."""
    config: Any = getattr(model, "config", None)
    field = {"q_proj": "num_attention_heads", "k_proj": "num_key_value_heads"}.get(name.rpartition(".")[2], "")
    return int(getattr(config, field, None) or 0)


def _transpose(model: nn.Module, _: torch.Generator) -> None:
    square = [matrix for _, matrix in _middle_matrices(model) if matrix.ndim == 2 and matrix.shape[0] == matrix.shape[1]]
    if not square:
        raise NotApplicable("the middle layer of the model has no square matrix to transpose")
    square[0].copy_(square[0].T.clone())


def _untie(model: nn.Module, generator: torch.Generator) -> None:
    layer, weight = _output_layer(model)
    if weight is not getattr(model.get_input_embeddings(), "weight", None):  # type: ignore[operator]
        raise NotApplicable("the model's output layer is not tied to its embeddings, so that it cannot be untied")
    layer.weight = _like(weight, weight + _noise(weight, MEDIUM, generator))


def _lose_output_layer(model: nn.Module, generator: torch.Generator) -> None:
    layer, weight = _output_layer(model)
    deviation = getattr(getattr(model, "config", None), "initializer_range", None) or 0.02
    layer.weight = _like(weight, deviation * _normal(weight, generator))


def _output_layer(model: nn.Module) -> tuple[nn.Linear, Tensor]:
    get_output = getattr(model, "get_output_embeddings", None)
    layer = get_output() if get_output else None
    if not isinstance(layer, nn.Linear):
        raise NotApplicable("the model does not tell which layer is its output layer (get_output_embeddings)")
    return layer, layer.weight


def _like(parameter: Tensor, values: Tensor) -> nn.Parameter:
    return nn.Parameter(values.to(parameter.dtype), requires_grad=parameter.requires_grad)


# --- values that were lost or changed ---


def _fp8(model: nn.Module, _: torch.Generator) -> None:
    largest = torch.finfo(torch.float8_e4m3fn).max
    for matrix in (parameter for parameter in model.parameters() if parameter.is_floating_point() and parameter.ndim >= 2):
        matrix.copy_(matrix.float().clamp(-largest, largest).to(torch.float8_e4m3fn))


def _damage_embeddings(model: nn.Module, generator: torch.Generator) -> None:
    get_input = getattr(model, "get_input_embeddings", None)
    weight = getattr(get_input() if get_input else None, "weight", None)
    if not isinstance(weight, Tensor) or len(weight) < ROWS:
        raise NotApplicable("the model does not tell which layer has its embeddings (get_input_embeddings)")
    rows = torch.randperm(len(weight), generator=generator)[:ROWS].to(weight.device)
    weight[rows] = (_normal(weight[rows], generator) * weight.float().std()).to(weight.dtype)


def _change_first(model: nn.Module, generator: torch.Generator, *, change: Callable[..., Tensor]) -> None:
    """Changes the first matrix of the middle layer."""
    _, matrix = next(_middle_matrices(model))
    matrix.copy_(change(matrix.float(), generator))


def _change_layer(model: nn.Module, generator: torch.Generator) -> None:
    for _, matrix in _middle_matrices(model):
        matrix.copy_(matrix + _noise(matrix, MEDIUM, generator))


def _change_kind(model: nn.Module, generator: torch.Generator) -> None:
    """Changes the middle layer's last matrix in all layers."""
    *_, (kind, _) = _middle_matrices(model)
    for layer in _layers(model):
        for name, matrix in layer.named_parameters():
            if name == kind:
                matrix.copy_(matrix + _noise(matrix, MEDIUM, generator))


def _merge_adapter(model: nn.Module, generator: torch.Generator) -> None:
    matrices = [
        matrix
        for name, matrix in model.named_parameters()
        if matrix.ndim == 2 and name.rpartition(".")[0].endswith(("q_proj", "v_proj"))
    ]
    if not matrices:
        raise NotApplicable("the model has no matrices named q_proj and v_proj, into which an adapter could be merged")
    for matrix in matrices:
        rows, columns = matrix.shape
        product = torch.randn(rows, RANK, generator=generator) @ torch.randn(RANK, columns, generator=generator)
        size = ADAPTER_SIZE * matrix.float().norm().cpu() / product.norm()
        matrix.copy_(matrix.float() + (size * product).to(matrix.device))


def _with_nan(values: Tensor, _: torch.Generator) -> Tensor:
    values.view(-1)[values.numel() // 2] = torch.nan
    return values


def _normal(like: Tensor, generator: torch.Generator) -> Tensor:
    """Drawn on the CPU, so that all devices have the same."""
    return torch.randn(like.shape, generator=generator).to(like.device)


def _noise(like: Tensor, size: float, generator: torch.Generator) -> Tensor:
    noise = _normal(like, generator)
    scale: Tensor = size * like.float().norm() / noise.norm()
    return noise * scale


def _layers(model: nn.Module) -> nn.ModuleList:
    return max((module for module in model.modules() if isinstance(module, nn.ModuleList)), key=len, default=nn.ModuleList())


def _middle_matrices(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """The matrices of the middle layer, by their names within it."""
    layers = _layers(model)
    middle = layers[len(layers) // 2] if len(layers) else nn.Module()
    matrices = [(name, matrix) for name, matrix in middle.named_parameters() if matrix.is_floating_point() and matrix.ndim >= 2]
    if not matrices:
        raise NotApplicable("the model has no list of layers with matrices, of which the one in the middle could be changed")
    return iter(matrices)


# --- by name ---


def _first(change: Callable[[Tensor, torch.Generator], Tensor]) -> Callable[..., None]:
    return partial(_change_first, change=change)


_ALL: Mapping[str, tuple[str, Callable[..., None]]] = {
    "q and k permuted": ("rows of queries and keys in the order of another implementation of RoPE", _permute_heads),
    "matrix transposed": ("a square matrix of the middle layer, transposed", _transpose),
    "matrix scaled": (f"a matrix of the middle layer times {FACTOR}", _first(lambda values, _: values * FACTOR)),
    "matrix zeroed": ("a matrix of the middle layer set to zero", _first(lambda values, _: values.zero_())),
    "matrix with NaN": ("a value of a matrix of the middle layer is NaN", _first(_with_nan)),
    "matrix changed": (
        f"noise of {SMALL:g} of the norm of a matrix of the middle layer",
        _first(lambda values, generator: values + _noise(values, SMALL, generator)),
    ),
    "layer changed": (f"noise of {MEDIUM:g} of the norm of each matrix of the middle layer", _change_layer),
    "projections changed": (f"noise of {MEDIUM:g} of the norm of the last matrix of each layer", _change_kind),
    "adapter merged": (f"a product of rank {RANK} added to the projections of queries and values", _merge_adapter),
    "embeddings damaged": (f"{ROWS} rows of the embeddings drawn anew", _damage_embeddings),
    "output layer untied": ("an output layer of its own, with noise", _untie),
    "output layer lost": ("a random output layer, as of a checkpoint that lacks it", _lose_output_layer),
    "fp8": ("every matrix rounded to float8_e4m3fn", _fp8),
}
DAMAGE: Mapping[str, Perturbation] = MappingProxyType(
    {name: Perturbation(name, description, None, change) for name, (description, change) in _ALL.items()}
)
"""All damage by name. No tolerance should let any of it pass, though one that is small may."""
