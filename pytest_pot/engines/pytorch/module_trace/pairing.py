"""Which module of a candidate does the work of which module of its reference: the one of the same name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn

__all__ = ["Pairing", "paired"]

_WRAPPERS = ("_orig_mod", "base_layer", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
"""Parts of names that torch.compile, peft and torch's wrappers add."""


@dataclass(frozen=True)
class Pairing:
    """The modules that two models share by name."""

    reference: Mapping[str, nn.Module]
    """By the reference's name, in the reference's order; a module with several names has its first."""
    candidate: Mapping[str, nn.Module]
    """By the same names."""
    missing: Sequence[str]
    """Modules that only the reference has."""
    extra: Sequence[str]
    """Modules that only the candidate has, by its names."""
    of_one_class: bool
    """Whether the models, without what wraps them, have the same class."""
    wrapper: str | None
    """What wraps one of the models and was left out: ``"the candidate (DataParallel)"``."""

    @property
    def resized(self) -> frozenset[str]:
        """Modules of which the candidate's has parameters of other shapes, or more or fewer modules in it."""
        return frozenset(name for name in self.reference if _shape(self.reference[name]) != _shape(self.candidate[name]))


def paired(reference: nn.Module, candidate: nn.Module) -> Pairing:
    """The modules of both models by name.

    What wraps one of them, such as an adapter, is left out: the pairing starts where both have a module of the same class.
    """
    whole, other = reference, candidate
    if type(reference) is not type(candidate):
        other = _main(candidate, type(reference)) or candidate
        if other is candidate:
            whole = _main(reference, type(candidate)) or reference
    prefix = next(name for name, module in reference.named_modules() if module is whole)
    first, second = _named(whole), _named(other)
    full = {name: ".".join(filter(None, (prefix, original))) for name, (original, _) in first.items()}
    both = [name for name in first if name in second]
    return Pairing(
        reference={full[name]: first[name][1] for name in both},
        candidate={full[name]: second[name][1] for name in both},
        missing=[full[name] for name in first if name not in second],
        extra=[original for name, (original, _) in second.items() if name not in first],
        of_one_class=type(whole) is type(other),
        wrapper=_wrapper(("reference", reference, whole), ("candidate", candidate, other)),
    )


def _wrapper(*models: tuple[str, nn.Module, nn.Module]) -> str | None:
    """``models``: who it is, the model, and the part of it that is compared."""
    return next((f"the {who} ({type(model).__name__})" for who, model, part in models if part is not model), None)


def _main(model: nn.Module, kind: type[nn.Module]) -> nn.Module | None:
    """The outermost module of class ``kind`` in ``model`` if it is most of it."""
    modules = list(model.modules())
    inner = next((module for module in modules if type(module) is kind), None)
    return inner if inner is not None and 2 * len(list(inner.modules())) > len(modules) else None


def _named(model: nn.Module) -> dict[str, tuple[str, nn.Module]]:
    """The modules of ``model`` by their name without wrappers, each with its full name; of a wrapper and the module in it, the
    wrapper."""
    modules: dict[str, tuple[str, nn.Module]] = {}
    for name, module in model.named_modules():
        if not isinstance(module, torch.jit.ScriptModule):  # its modules run without hooks
            modules.setdefault(".".join(part for part in name.split(".") if part not in _WRAPPERS), (name, module))
    return modules


def _shape(module: nn.Module) -> tuple[int, dict[str, torch.Size]]:
    shapes = {name: parameter.shape for name, parameter in module._parameters.items() if parameter is not None}
    return len(module._modules), shapes
