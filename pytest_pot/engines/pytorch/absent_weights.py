"""What a model in memory tells of weights that were never loaded: tensors without numbers, and those that a checkpoint lacked.

The first are on torch's ``meta`` device, and such a model is refused. The second hold the numbers of before training, unless
they were set later, so we can only tell of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from typing import Any

from torch import Tensor, nn

from pytest_pot.core.errors import PotError
from pytest_pot.core.text import count, some_of
from pytest_pot.engines.pytorch.model_facts import ModelFacts, facts_of
from pytest_pot.engines.pytorch.model_traits import has_own_code

__all__ = ["not_loaded", "refuse_absent_weights"]

_SAMPLED = 1 << 18
_SPREAD_TOLERANCE = 0.15
"""Relative. The spread of a few hundred normal numbers is known to some 4 %; trained matrices have other spreads."""


def refuse_absent_weights(model: nn.Module | ModelFacts, role: str) -> None:
    """Raise :class:`PotError`, with their names, if parameters or buffers of ``model`` were never loaded.

    accelerate keeps offloaded weights on ``meta`` too, and loads them when their module runs.
    """
    facts = facts_of(model)
    absent = sorted(_absent(facts.model)) if facts.has_meta_tensors else []
    if absent:
        raise PotError(
            f"the {role} ({type(facts.model).__name__}) has {count(len(absent), 'tensor')} without numbers, on torch's meta "
            f"device: {some_of(absent)}. They were never loaded: let the fixture or factory that makes the model load all of "
            "its weights"
        )


def not_loaded(model: nn.Module) -> list[str]:
    """The parameters of ``model`` that ``from_pretrained`` did not find in its checkpoint, nor made of others there.

    transformers 5 marks those that it found. Nothing is known of a model that was not loaded by it, or with modules of other
    libraries, such as adapters. What was set later, as by a quantiser, has no mark either, but other numbers than those of
    before training.
    """
    if has_own_code(model):
        return []
    found = {name: hasattr(tensor, "_is_hf_initialized") for name, tensor in model.named_parameters()}
    if not any(found.values()):
        return []
    spread = getattr(getattr(model, "config", None), "initializer_range", None)
    parameters = dict(model.named_parameters())
    return sorted(name for name, is_found in found.items() if not is_found and _is_as_before_training(parameters[name], spread))


def _is_as_before_training(tensor: Tensor, spread: float | None) -> bool:
    """Whether ``tensor`` has the numbers that transformers gives to weights: constants, or normal ones of this ``spread``."""
    if tensor.is_meta or not tensor.is_floating_point() or tensor.numel() == 0:
        return True
    values = tensor.detach().flatten()[:_SAMPLED].float()
    if tensor.ndim < 2 or spread is None:
        return spread is None or bool((values == values[0]).all())
    return abs(float(values.std()) / spread - 1) < _SPREAD_TOLERANCE


def _absent(model: nn.Module) -> Iterator[str]:
    filled_below: tuple[str, ...] = ()
    for name, module in model.named_modules():
        if _fills(module, below=True):
            filled_below += (name,)
        if _fills(module) or any(not above or name == above or name.startswith(f"{above}.") for above in filled_below):
            continue
        prefix = f"{name}." if name else ""
        for tensor_name, tensor in chain(module.named_parameters(recurse=False), module.named_buffers(recurse=False)):
            if tensor.is_meta:
                yield prefix + tensor_name


def _fills(module: nn.Module, *, below: bool = False) -> bool:
    """Whether a hook of accelerate loads the weights of ``module`` when it runs; ``below``: those of its submodules too."""
    hook: Any = getattr(module, "_hf_hook", None)
    hooks = getattr(hook, "hooks", [hook])  # several, one after the other
    return any(getattr(one, "offload", False) and (not below or getattr(one, "place_submodules", False)) for one in hooks)
