"""Known changes of a model: rounding, quantisation, pruning, noise, and two mistakes that conversions make.

To see what a score means, change a model in ways whose size is known. Each change here takes a model and returns a changed
copy; the original is never touched, and only one copy is in memory at a time. The same seed gives the same copy on every
device, because random numbers are drawn on the CPU. The copy's tensors are changed in place, so tied weights stay tied, and
a tensor with two names is changed once.

A *matrix* is a parameter with two or more dimensions. Vectors (norms, biases) are not changed, except by ``bf16`` and
``fp16``, because quantisers leave them alone. A *row* runs along the last dimension of a matrix. Arithmetic is in float32, and
the result is stored in the dtype of the parameter.
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
"""The default base of rotary position encodings (RoPE), and the base of a later model family."""


class NotApplicable(PotError):
    """The model does not have what a perturbation changes; the message says what is missing."""


@dataclass(frozen=True)
class Perturbation:
    """A change of a model, by name."""

    name: str
    description: str
    """What is changed, in one line."""
    tolerance: str | None
    """The tightest named tolerance that should let the change pass; None if none should."""
    change: Callable[[nn.Module, torch.Generator], None]
    """Changes a model in place, or raises :class:`NotApplicable` before it changes anything."""

    def __call__(self, model: nn.Module, seed: int = 0) -> nn.Module:
        """A changed copy of ``model``.

        Raises:
            NotApplicable: the model does not have what is changed.
        """
        changed = copy.deepcopy(model)
        with torch.no_grad():
            self.change(changed, torch.Generator().manual_seed(seed))
        return changed


def perturb(model: nn.Module, name: str, seed: int = 0) -> nn.Module:
    """A copy of ``model`` with the change ``name``, a key of :data:`PERTURBATIONS`.

    Raises:
        NotApplicable: the model does not have what is changed.
    """
    return PERTURBATIONS[name](model, seed)


def _each(tensors: Iterable[Tensor], change: Callable[[Tensor], Tensor]) -> None:
    """Replace the values of each tensor by ``change(values)``. Only one float32 copy is in memory at a time."""
    for tensor in tensors:
        tensor.copy_(change(tensor.float()))


def _parameters(model: nn.Module) -> Iterator[Tensor]:
    return (parameter for parameter in model.parameters() if parameter.is_floating_point())


def _matrices(model: nn.Module) -> Iterator[Tensor]:
    return (parameter for parameter in _parameters(model) if parameter.ndim >= 2)


# --- rounding ---


def _cast(model: nn.Module, _: torch.Generator, *, dtype: torch.dtype) -> None:
    """Rounds vectors too, because a checkpoint is published in one dtype."""
    _each(_parameters(model), lambda values: values.to(dtype).float())


def _int8(model: nn.Module, _: torch.Generator, *, per_row: bool) -> None:
    def quantise(matrix: Tensor) -> Tensor:
        return _round_to_grid(matrix, matrix.abs().amax(dim=-1, keepdim=True) if per_row else matrix.abs().max(), 127)

    _each(_matrices(model), quantise)


def _int4(model: nn.Module, _: torch.Generator) -> None:
    def quantise(matrix: Tensor) -> Tensor:
        columns = matrix.shape[-1]
        padded = nn.functional.pad(matrix, (0, -columns % INT4_GROUP))  # the last group of a row may be shorter
        groups = padded.reshape(*padded.shape[:-1], -1, INT4_GROUP)
        rounded = _round_to_grid(groups, groups.abs().amax(dim=-1, keepdim=True), 7)
        return rounded.flatten(-2)[..., :columns]

    _each(_matrices(model), quantise)


def _round_to_grid(values: Tensor, largest: Tensor, levels: int) -> Tensor:
    """Round to the nearest of 2 ``levels`` + 1 evenly spaced numbers from -``largest`` to ``largest``."""
    step = (largest / levels).clamp_min(torch.finfo(values.dtype).tiny)
    return torch.round(values / step) * step


# --- damage of a known size ---


def _prune(model: nn.Module, _: torch.Generator, *, share: float) -> None:
    def prune(matrix: Tensor) -> Tensor:
        count = int(matrix.numel() * share)
        if count == 0:
            return matrix
        flat = matrix.flatten()
        magnitudes = flat.abs()
        threshold = magnitudes.kthvalue(count).values
        flat[magnitudes < threshold] = 0.0
        # Quantised weights have many ties at the threshold: prune only as many of these as are missing from the count.
        ties = (magnitudes == threshold).nonzero()[:, 0]
        flat[ties[: count - int((magnitudes < threshold).sum())]] = 0.0
        return flat.view_as(matrix)

    _each(_matrices(model), prune)


def _noise(model: nn.Module, generator: torch.Generator, *, size: float) -> None:
    def add(matrix: Tensor) -> Tensor:
        return matrix + size * matrix.std() * torch.randn(matrix.shape, generator=generator).to(matrix.device)

    _each((matrix for matrix in _matrices(model) if matrix.numel() > 1), add)


# --- mistakes of conversions ---


def _swap_layers(model: nn.Module, _: torch.Generator) -> None:
    first, second = _middle_layers(model)
    second_parameters = dict(second.named_parameters())
    for name, parameter in first.named_parameters():
        original = parameter.clone()
        parameter.copy_(second_parameters[name])
        second_parameters[name].copy_(original)


def _middle_layers(model: nn.Module) -> tuple[nn.Module, nn.Module]:
    """The two middle layers of the longest list of layers. If their weights differ in shape or are shared: the nearest
    neighbours that can be swapped."""
    layers = max((module for module in model.modules() if isinstance(module, nn.ModuleList)), key=len, default=nn.ModuleList())
    for index in sorted(range(1, len(layers)), key=lambda index: abs(2 * index - len(layers))):
        first, second = layers[index - 1], layers[index]
        if _shapes(first) == _shapes(second) and not set(first.parameters()) & set(second.parameters()):
            return first, second
    raise NotApplicable("the model has no two layers to swap: neighbours with weights of equal shapes, not shared")


def _shapes(module: nn.Module) -> dict[str, torch.Size]:
    return {name: parameter.shape for name, parameter in module.named_parameters()}


def _wrong_rope(model: nn.Module, _: torch.Generator) -> None:
    """Rebuilds each encoding with its own class, which knows how to use the base."""
    encodings = [
        (parent, name, encoding)
        for parent in model.modules()
        for name, encoding in parent.named_children()
        if hasattr(encoding, "config") and any("inv_freq" in buffer for buffer, __ in encoding.named_buffers(recurse=False))
    ]
    bases = {
        (id(holder), key): (holder, key, base) for *_, encoding in encodings for holder, key, base in _bases(encoding.config)
    }
    if not bases:
        raise NotApplicable("the model's config has no base of a rotary position encoding (rope_theta) to change")
    for holder, key, base in bases.values():  # each base once, even if several encodings share a config
        holder[key] = OTHER_BASE if base == USUAL_BASE else USUAL_BASE
    for parent, name, encoding in encodings:
        device = next(encoding.buffers()).device
        setattr(parent, name, type(encoding)(encoding.config).to(device))


def _bases(config: Any) -> list[tuple[dict[str, Any], str, float]]:
    """All bases in ``config``: the dictionary that holds it, its key, and the base. transformers 5 keeps them in
    ``rope_parameters``, for some models one per kind of layer; in earlier versions they are attributes of the config."""
    parameters = getattr(config, "rope_parameters", None) or {}
    holders = [parameters, *(value for value in parameters.values() if isinstance(value, dict)), vars(config)]
    keys = ("rope_theta", "rope_local_base_freq")
    return [(holder, key, float(holder[key])) for holder in holders for key in keys if holder.get(key)]


# --- by name ---


_PRUNED_PERCENT = {1: "half", 5: "int8", 20: "int4"}
"""Percentage of the weights that is pruned, and the tolerance that should let it pass."""
_NOISE_POWERS = {12: "half", 11: "half", 10: "half", 9: "half", 8: "int8", 7: "int8", 6: "int8", 5: "int4", 4: "int4", 3: None}
"""n for noise of 2^-n standard deviations, and the tolerance that should let it pass."""


def _entry(name: str, description: str, tolerance: str | None, change: Callable[..., None], **options: Any) -> Perturbation:
    return Perturbation(name, description, tolerance, partial(change, **options))


_ALL = (
    _entry("bf16", "every parameter rounded to bfloat16", "half", _cast, dtype=torch.bfloat16),
    _entry("fp16", "every parameter rounded to float16", "half", _cast, dtype=torch.float16),
    _entry("int8 per row", "matrices rounded to 8-bit integers, one scale per row", "int8", _int8, per_row=True),
    _entry("int8 per tensor", "matrices rounded to 8-bit integers, one scale per matrix", "int4", _int8, per_row=False),
    _entry("int4 in groups", "matrices rounded to 4-bit integers, one scale per 32 values of a row", "int4", _int4),
    *(
        _entry(f"pruned {n} %", f"the {n} % of each matrix nearest to zero, set to zero", tolerance, _prune, share=n / 100)
        for n, tolerance in _PRUNED_PERCENT.items()
    ),
    *(
        _entry(f"noise 2^-{n}", f"noise of 2^-{n} of the standard deviation of each matrix", tolerance, _noise, size=2.0**-n)
        for n, tolerance in _NOISE_POWERS.items()
    ),
    _entry("layers swapped", "the weights of two neighbouring layers in the middle, swapped", None, _swap_layers),
    _entry("wrong RoPE base", "another base for the rotary position encoding", None, _wrong_rope),
)
PERTURBATIONS: Mapping[str, Perturbation] = MappingProxyType({perturbation.name: perturbation for perturbation in _ALL})
"""All perturbations by name, roughly from the smallest to the largest."""
