"""Known changes of a model: rounding, quantisation, pruning, noise, and two slips that conversions make.

What a score means is seen by changing a model in ways whose size is known. Each change here takes a model and returns a
changed copy; the original is never touched, and one copy is in memory at a time. The same seed gives the same copy on every
device, because random numbers are drawn on the CPU. Tensors are changed in place, so what was tied stays tied, and a tensor
that is there under two names is changed once.

A *matrix* is a parameter with two dimensions or more; vectors (norms, biases) are left alone, as quantisers do. A *row* is
what a matrix has along its last dimension. Arithmetic is in float32, and the result is stored in the matrix's own type.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from pytest_pot.core.errors import PotError

__all__ = ["PERTURBATIONS", "NotApplicable", "Perturbation", "perturb"]

INT4_GROUP = 32
USUAL_BASE, OTHER_BASE = 10_000.0, 500_000.0
"""The base of rotary position encodings that a config gets where none is written, and one that a later family uses."""


class NotApplicable(PotError):
    """A model has not got what a perturbation changes; the message says what is missing."""


@dataclass(frozen=True)
class Perturbation:
    """A change of a model, by name."""

    name: str
    description: str
    """What is changed, in one line."""
    tolerance: str | None
    """The tightest of the named tolerances that is meant to let it pass; None where none is."""
    change: Callable[[nn.Module, torch.Generator], None]
    """Changes a model in place; raises :class:`NotApplicable` before it touches anything."""

    def __call__(self, model: nn.Module, seed: int = 0) -> nn.Module:
        """A changed copy of ``model``.

        Raises:
            NotApplicable: the model has not got what is changed.
        """
        changed = copy.deepcopy(model)
        with torch.no_grad():
            self.change(changed, torch.Generator().manual_seed(seed))
        return changed


def perturb(model: nn.Module, name: str, seed: int = 0) -> nn.Module:
    """A copy of ``model`` with the change ``name``, a key of :data:`PERTURBATIONS`.

    Raises:
        NotApplicable: the model has not got what is changed.
    """
    return PERTURBATIONS[name](model, seed)


def _each(tensors: Iterable[Tensor], change: Callable[[Tensor], Tensor]) -> None:
    """Replace each tensor's values by ``change`` of them; the float32 copies live one at a time."""
    for tensor in tensors:
        tensor.copy_(change(tensor.float()))


def _parameters(model: nn.Module) -> Iterator[Tensor]:
    return (parameter for parameter in model.parameters() if parameter.is_floating_point())


def _matrices(model: nn.Module) -> Iterator[Tensor]:
    return (parameter for parameter in _parameters(model) if parameter.ndim >= 2)


# --- rounding ---


def _cast(model: nn.Module, _: torch.Generator, *, dtype: torch.dtype) -> None:
    """Vectors too: a checkpoint is published in one type."""
    _each(_parameters(model), lambda values: values.to(dtype).float())


def _int8(model: nn.Module, _: torch.Generator, *, per_row: bool) -> None:
    def quantise(matrix: Tensor) -> Tensor:
        return _on_grid(matrix, matrix.abs().amax(dim=-1, keepdim=True) if per_row else matrix.abs().max(), 127)

    _each(_matrices(model), quantise)


def _int4(model: nn.Module, _: torch.Generator) -> None:
    def quantise(matrix: Tensor) -> Tensor:
        columns = matrix.shape[-1]
        padded = nn.functional.pad(matrix, (0, -columns % INT4_GROUP))  # a row's last group may be shorter
        groups = padded.reshape(*padded.shape[:-1], -1, INT4_GROUP)
        rounded = _on_grid(groups, groups.abs().amax(dim=-1, keepdim=True), 7)
        return rounded.flatten(-2)[..., :columns]

    _each(_matrices(model), quantise)


def _on_grid(values: Tensor, largest: Tensor, levels: int) -> Tensor:
    """Rounded to the nearest of 2 ``levels`` + 1 numbers between -``largest`` and ``largest``, equally far apart."""
    step = (largest / levels).clamp_min(torch.finfo(values.dtype).tiny)
    return torch.round(values / step) * step


# --- damage of a known size ---


def _prune(model: nn.Module, _: torch.Generator, *, share: float) -> None:
    def prune(matrix: Tensor) -> Tensor:
        count = int(matrix.numel() * share)
        if count == 0:
            return matrix
        flat = matrix.flatten()
        size = flat.abs()
        least = size.kthvalue(count).values
        flat[size < least] = 0.0
        ties = (size == least).nonzero()[:, 0]  # quantised weights have many: just as many of them as are missing
        flat[ties[: count - int((size < least).sum())]] = 0.0
        return flat.view_as(matrix)

    _each(_matrices(model), prune)


def _noise(model: nn.Module, generator: torch.Generator, *, size: float) -> None:
    def add(matrix: Tensor) -> Tensor:
        return matrix + size * matrix.std() * torch.randn(matrix.shape, generator=generator).to(matrix.device)

    _each((matrix for matrix in _matrices(model) if matrix.numel() > 1), add)


# --- slips ---


def _swap_layers(model: nn.Module, _: torch.Generator) -> None:
    first, second = _middle_layers(model)
    others = dict(second.named_parameters())
    for name, parameter in first.named_parameters():
        kept = parameter.clone()
        parameter.copy_(others[name])
        others[name].copy_(kept)


def _middle_layers(model: nn.Module) -> tuple[nn.Module, nn.Module]:
    """The two in the middle of the longest list of layers, or the pair nearest to them whose weights have equal shapes."""
    layers = max((module for module in model.modules() if isinstance(module, nn.ModuleList)), key=len, default=nn.ModuleList())
    for at in sorted(range(1, len(layers)), key=lambda at: abs(2 * at - len(layers))):
        first, second = layers[at - 1], layers[at]
        if _shapes(first) == _shapes(second) and not set(first.parameters()) & set(second.parameters()):
            return first, second
    raise NotApplicable("the model has no two layers whose weights have the same shapes and are not the same weights")


def _shapes(module: nn.Module) -> dict[str, torch.Size]:
    return {name: parameter.shape for name, parameter in module.named_parameters()}


def _wrong_rope(model: nn.Module, _: torch.Generator) -> None:
    """The encodings are built anew by their own class, which knows how the base is used."""
    encodings = [
        (parent, name, encoding)
        for parent in model.modules()
        for name, encoding in parent.named_children()
        if hasattr(encoding, "config") and any("inv_freq" in buffer for buffer, __ in encoding.named_buffers(recurse=False))
    ]
    bases = {(id(at), key): (at, key, base) for *_, encoding in encodings for at, key, base in _bases(encoding.config)}
    if not bases:
        raise NotApplicable("the model's config names no base of a rotary position encoding (rope_theta)")
    for at, key, base in bases.values():  # each once, where several encodings share a config
        at[key] = OTHER_BASE if base == USUAL_BASE else USUAL_BASE
    for parent, name, encoding in encodings:
        device = next(encoding.buffers()).device
        setattr(parent, name, type(encoding)(encoding.config).to(device))


def _bases(config: Any) -> list[tuple[dict[str, Any], str, float]]:
    """Where ``config`` names a base: the dictionary, the key, and the base. transformers 5 has them in ``rope_parameters``,
    for some models one per kind of layer; before it they were attributes."""
    parameters = getattr(config, "rope_parameters", None) or {}
    holders = [parameters, *(value for value in parameters.values() if isinstance(value, dict)), vars(config)]
    keys = ("rope_theta", "rope_local_base_freq")
    return [(holder, key, float(holder[key])) for holder in holders for key in keys if holder.get(key)]


# --- by name ---


_SHARES = {1: "half", 5: "int8", 20: "int4"}
"""Pruned, in percent, and the tolerance."""
_NOISE = {12: "half", 11: "half", 10: "half", 9: "half", 8: "int8", 7: "int8", 6: "int8", 5: "int4", 4: "int4", 3: None}
"""Noise of 2^-n standard deviations, and the tolerance."""


def _named(name: str, description: str, tolerance: str | None, change: Callable[..., None], **options: Any) -> Perturbation:
    return Perturbation(name, description, tolerance, partial(change, **options))


_ALL = (
    _named("bf16", "every parameter rounded to bfloat16", "half", _cast, dtype=torch.bfloat16),
    _named("fp16", "every parameter rounded to float16", "half", _cast, dtype=torch.float16),
    _named("int8 per row", "matrices rounded to 8-bit integers, one scale per row", "int8", _int8, per_row=True),
    _named("int8 per tensor", "matrices rounded to 8-bit integers, one scale per matrix", "int4", _int8, per_row=False),
    _named("int4 in groups", "matrices rounded to 4-bit integers, one scale per 32 of a row", "int4", _int4),
    *(
        _named(f"pruned {n} %", f"the {n} % of a matrix nearest to zero, set to zero", tolerance, _prune, share=n / 100)
        for n, tolerance in _SHARES.items()
    ),
    *(
        _named(f"noise 2^-{n}", f"noise of 2^-{n} of a matrix's standard deviation", tolerance, _noise, size=2.0**-n)
        for n, tolerance in _NOISE.items()
    ),
    _named("layers swapped", "the weights of two neighbours in the middle, exchanged", None, _swap_layers),
    _named("wrong RoPE base", "another base of the rotary position encoding", None, _wrong_rope),
)
PERTURBATIONS: Mapping[str, Perturbation] = MappingProxyType({one.name: one for one in _ALL})
"""All perturbations by name, in about the order of their size."""
