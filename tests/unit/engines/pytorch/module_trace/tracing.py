"""Compare two tiny models module by module."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from pytest_pot import ScoringConfig
from pytest_pot.engines.module_differences import ModuleDifference, ModuleTrace, Traceable
from pytest_pot.engines.pytorch.engine import TorchEngine
from pytest_pot.engines.tokens import Tokens

from ....models import CONFIGS, MORE_CONFIGS, tiny

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


def like(reference: PreTrainedModel, name: str, **overrides: Any) -> PreTrainedModel:
    """The weights of ``reference`` with another configuration."""
    candidate = tiny(name, **overrides)
    candidate.load_state_dict(reference.state_dict())
    return candidate
