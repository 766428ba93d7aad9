"""Models in modules of one's own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from torch import nn

from pytest_pot.core.config import ScoringConfig
from pytest_pot.engines.pytorch.weights.named import NamedWeights
from pytest_pot.engines.weights import ChangeKind
from pytest_pot.scoring.diagnosis.diagnose import ModelPair, diagnose
from pytest_pot.scoring.diagnosis.diagnosis import Diagnosis
from pytest_pot.scoring.diagnosis.prefixes import stripped

from ...models import changed, tiny

CONFIG = ScoringConfig()


def compared(reference: nn.Module, candidate: nn.Module, recorded: bool) -> Diagnosis:
    weights = NamedWeights(reference).print() if recorded else None
    return diagnose(
        ModelPair(candidate, CONFIG, CONFIG, None if recorded else reference, is_recorded=recorded, recorded=weights)
    )


def test_prefixes_and_wrappers_are_stripped() -> None:
    assert stripped("module._orig_mod.model.layers.3.mlp.up_proj.base_layer.weight") == "layers.3.mlp.up_proj.weight"
    assert stripped("model.layers.3.mlp.up_proj.parametrizations.weight.original") == "layers.3.mlp.up_proj.weight"
    assert stripped("lm_head.weight") == "lm_head.weight"


class Wrapped(nn.Module):
    """A module of one's own around a model."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.m = model
        self.config: Any = model.config if hasattr(model, "config") else model[0].config


@pytest.mark.parametrize("recorded", [False, True])
@pytest.mark.parametrize(
    ("name", "tied"), [("llama", False), ("llama", True), ("gpt2", True), ("mixtral", False), ("mamba", True)]
)
def test_a_model_in_a_module_of_ones_own_is_the_same(name: str, tied: bool, recorded: bool) -> None:
    reference = tiny(name, tie_word_embeddings=tied)
    candidate, other = tiny(name, tie_word_embeddings=tied), Wrapped(changed(reference))
    pairs: list[tuple[nn.Module, nn.Module]] = [
        (reference, Wrapped(candidate)),
        (Wrapped(reference), candidate),
        (reference, Wrapped(Wrapped(candidate))),
        (Wrapped(reference), Wrapped(Wrapped(candidate))),
    ]
    for one, wrapped in pairs:
        diagnosis = compared(one, wrapped, recorded)
        lines = [line for line in diagnosis.what_changed if not line.startswith("class ")]
        assert len(lines) == 1, lines
        assert diagnosis.same_weights
    weights = compared(reference, other, recorded).weights
    assert weights is not None
    kinds = {change.kind for change in weights.changes}
    assert not kinds & {ChangeKind.MISSING, ChangeKind.EXTRA, ChangeKind.UNTIED}, kinds


@pytest.mark.parametrize("wrapper", [Wrapped, nn.DataParallel, lambda model: Wrapped(nn.Sequential(model))])
def test_what_a_wrapped_model_keeps_beside_its_tensors_is_compared(wrapper: Callable[[Any], nn.Module]) -> None:
    candidate = tiny("llama")
    for layer in candidate.model.layers:
        layer.self_attn.scaling *= 1.1
    (line,) = compared(tiny("llama"), wrapper(candidate), recorded=False).what_changed[:1]
    assert line.startswith("scaling of all 2 self_attn: 0.354 -> 0.389")
    other = tiny("llama")
    other.model.rotary_emb.inv_freq.mul_(0.5)
    for recorded in (False, True):
        for one, two in ((tiny("llama"), wrapper(other)), (wrapper(other), tiny("llama"))):
            assert compared(one, two, recorded).what_changed[0].startswith("the computed buffer has other values")
